"""The other subcommands, and what holds for all: exit codes, errors, a cheap start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from unit.cli.conftest import FakeModel

import terrazzo
from terrazzo.cli import generate, main
from terrazzo.cli.info import cpu_features
from terrazzo.cli.verify_shapes import SHAPES, fits
from terrazzo.models.errors import ModelNotFoundError

HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "numpy", "tqdm"}


def run_python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_start_is_cheap() -> None:
    code = (
        "import sys, json; before = set(sys.modules); import terrazzo.cli;"
        "terrazzo.cli.main(['--help']);"
        "print(); print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    loaded = json.loads(run_python(code).stdout.splitlines()[-1])
    assert not {name.split(".")[0] for name in loaded} & HEAVY
    assert "terrazzo._core" not in loaded


@pytest.mark.parametrize(
    "command", ["", "generate", "chat", "batch", "bench", "verify", "info", "config"]
)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"usage: terrazzo {command}".strip() in capsys.readouterr().out


def test_verify(fake_model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(SHAPES)
    runner = fake_model.runner
    fitting = [name for name, sequences in SHAPES if fits(runner, sequences)]
    assert len(runner.verified) == len(fitting) == len(SHAPES) - 1
    assert [line for line in lines if line.endswith(": ok")] == [f"{name}: ok" for name in fitting]
    assert lines[-1].endswith("left out, larger than the context or the KV cache")


def test_verify_with_problems(fake_model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    fake_model.runner.problems = ["a wait that nobody meets"]
    assert main(["verify"]) == 1
    assert "first token: 1 problems\n  a wait that nobody meets\n" in capsys.readouterr().out


def test_verified_steps_run(fake_model: FakeModel) -> None:
    main(["verify"])
    for batch in fake_model.runner.verified:
        assert len(set(batch.page_ids.tolist())) == len(batch.page_ids)
        assert batch.num_logit_rows == batch.num_sequences


def test_config(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        include_dir = terrazzo.include_dir()
    except FileNotFoundError:
        assert main(["config", "--include-dir"]) == 2
        assert "install the package with pip" in capsys.readouterr().err
        return
    assert main(["config", "--include-dir"]) == 0
    assert capsys.readouterr().out == f"{include_dir}\n"
    assert main(["config", "--includes"]) == 0
    assert capsys.readouterr().out == f"-I{include_dir}\n"
    assert main(["config", "--cmake-dir"]) == 0
    cmake_dir = Path(capsys.readouterr().out.strip())
    assert (cmake_dir / "terrazzoConfig.cmake").is_file()


def test_config_asks_for_one_thing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 2
    assert "one of the arguments --includes --include-dir" in capsys.readouterr().err
    assert main(["config", "--includes", "--cuda"]) == 2


def test_config_cuda_is_what_the_extension_says(capsys: pytest.CaptureFixture[str]) -> None:
    core = pytest.importorskip("terrazzo._core", reason="needs the compiled extension")
    assert main(["config", "--cuda"]) == 0
    assert capsys.readouterr().out == ("on\n" if core.cuda_built() else "off\n")


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("terrazzo._core", reason="needs the compiled extension")
    assert main(["info"]) == 0
    names = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["version", "package", "python", "machines", "cuda", "gpu", "cpu", "cache"]


def test_cpu_features(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2 fma avx512f\n")
    assert cpu_features(cpuinfo) == ["avx2", "fma", "avx512f"]
    cpuinfo.write_text("Features : fp asimd bf16\n")
    assert cpu_features(cpuinfo) == ["asimd", "bf16"]
    cpuinfo.write_text("processor : 0\n")
    assert cpu_features(cpuinfo) == []
    assert cpu_features(tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ModelNotFoundError("[hub] no such model"), "[hub] no such model"),
        (FileNotFoundError("[gguf] x.gguf\n is missing"), "[gguf] x.gguf is missing"),
        (ImportError("no extension"), "no extension"),
        (ValueError(), "ValueError"),
    ],
)
def test_user_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    line: str,
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(generate, "open_llm", fail)
    monkeypatch.delenv("TERRAZZO_TRACEBACK", raising=False)
    assert main(["generate", "hi"]) == 2
    assert capsys.readouterr().err == f"terrazzo: error: {line}\n"
    monkeypatch.setenv("TERRAZZO_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["generate", "hi"])
    monkeypatch.setenv("TERRAZZO_TRACEBACK", "perhaps")
    assert main(["generate", "hi"]) == 2
    assert "TERRAZZO_TRACEBACK='perhaps'" in capsys.readouterr().err


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("the machine stopped")

    monkeypatch.setattr(generate, "open_llm", fail)
    with pytest.raises(RuntimeError, match="the machine stopped"):
        main(["generate", "hi"])


SLOW_COMMAND = """
import sys, time
from terrazzo.cli import generate, main
def wait(options):
    print("ready", flush=True)
    time.sleep(60)
generate.open_llm = wait
sys.exit(main(["generate", "hi"]))
"""


def test_interrupt() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_COMMAND],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that a shell runs in the background inherits an ignored SIGINT; a user's does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == "\n"


TALKATIVE_COMMAND = """
import sys
from terrazzo.cli import generate, main
generate.open_llm = lambda options: [print("x" * 1000) for _ in range(10000)]
sys.exit(main(["generate", "hi"]))
"""


def test_a_reader_that_leaves() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.run(
        [sys.executable, "-c", TALKATIVE_COMMAND],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write_end)
    assert process.returncode == 141
    assert process.stderr == ""


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "terrazzo", "generate", "--top-k=x"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == "terrazzo generate: error: argument --top-k: invalid int value: 'x'\n"


def test_a_failed_launch_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The machine's diagnosis without a traceback, and a code of its own."""

    class LaunchError(RuntimeError):
        pass

    def fail(*_: object, **__: object) -> None:
        raise LaunchError("[watchdog] no progress\n  gpu 0 sm 1 loader waits")

    monkeypatch.setattr(generate, "run", fail)
    assert main(["generate", "hello"]) == 1
    assert "error: [watchdog] no progress gpu 0 sm 1 loader waits" in capsys.readouterr().err
