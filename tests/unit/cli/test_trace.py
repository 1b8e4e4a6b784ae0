"""`terrazzo trace` and `terrazzo calibrate`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

from terrazzo.cli import main
from terrazzo.costs import load_costs
from terrazzo.trace import load_trace

SIMULATE = ["trace", "--simulate", "h100", "--shape", "llama-3.2-1b", "--num-layers", "4"]


def test_a_simulated_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    assert main([*SIMULATE, "--step", "200@64", "--gpus", "2", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "llama-3.2-1b on 2 GPUs, 200@64" in text
    assert "gate_up_silu" in text
    assert "roofline" in text
    assert sorted(path.name for path in out.iterdir()) == [
        "page.html", "perfetto.json.gz", "picture.svg", "trace.npz",
    ]  # fmt: skip
    recipe = load_trace(out / "trace.npz").recipe
    assert recipe is not None
    assert recipe.programs().num_gpus == 2


def test_a_simulated_step_with_o_sharded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--step", "9@64", "--gpus", "2", "--o-proj", "sharded", "--out", str(tmp_path)]
    assert main([*SIMULATE, *options]) == 0
    text = capsys.readouterr().out
    assert "llama-3.2-1b on 2 GPUs, O sharded, 9@64" in text
    assert "o_partial.small" in text
    assert "reduce_o" in text
    recipe = load_trace(tmp_path / "trace.npz").recipe
    assert recipe is not None
    assert recipe.shape["o_sharded"] is True  # as the core's ModelShape takes it
    assert recipe.programs().num_gpus == 2


def test_the_woven_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SIMULATE, "--step", "512@600", "--order", "woven"]) == 0
    assert "llama-3.2-1b, 512@600, woven" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--simulate", "h900"], "expected a cost file or one of"),
        (["--simulate", "h100", "--shape", "x"], "expected one of llama-3.1-8b"),
        (["--simulate", "h100", "--step", "1"], "expected COUNT@CONTEXT"),
        ([*SIMULATE[1:], "--layers", "3:1"], "expected FIRST:LAST or all"),
        (["--order", "woven"], "--order woven: only for a step that is simulated"),
        (["--order", "woven", *SIMULATE[1:], "--recorded", "x"], "--order woven: only for a step"),
    ],
)
def test_bad_options(options: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", *options]) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1


def test_calibrate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = []
    for i, step in enumerate(("200@64", "40@500")):
        folder = tmp_path / str(i)
        main([*SIMULATE, "--step", step, "--out", str(folder)])
        folders.append(str(folder / "trace.npz"))
    capsys.readouterr()
    out = tmp_path / "device.json"
    assert main(["calibrate", *folders, "--device", "mine", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(abs(float(line.split("%")[0])) < 3 for line in lines)
    costs = load_costs(str(out))
    assert costs.device == "mine"
    assert costs.calibrated
    assert "200@64" in costs.source
