"""Bad input to a real LLM: the error says what is wrong, and other requests go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from unit.models.write_gguf import write_gguf

from terrazzo.llm import LLM
from terrazzo.models.errors import ModelError
from terrazzo.runner import ModelRunner
from terrazzo.sampling import SamplingParams

PARAMS = SamplingParams(max_tokens=40, temperature=1.0, seed=5, ignore_eos=True, logprobs=True)


@pytest.fixture(scope="module")
def llm(small_llama: Path) -> LLM:
    return LLM(str(small_llama), max_model_len=200, kv_pages=4)


@pytest.fixture
def folder(small_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_llama, tmp_path / "model"))


# --- requests


def _too_long(llm: LLM) -> None:
    llm.generate("x" * 200)


def _empty(llm: LLM) -> None:
    llm.generate("")


def _no_tokens(llm: LLM) -> None:
    llm.generate([[1, 2], []])


def _outside_the_vocabulary(llm: LLM) -> None:
    llm.generate([[1, 300]])


def _bad_temperature(llm: LLM) -> None:
    llm.generate("a", SamplingParams(temperature=-1.0))


def _bad_top_p(llm: LLM) -> None:
    llm.generate("a", SamplingParams(top_p=0.0))


def _bad_params_for_one_of_two(llm: LLM) -> None:
    llm.generate(["a", "b"], [PARAMS])


def _chat_without_end(llm: LLM) -> None:
    llm.chat([{"role": "user", "content": "word " * 100}])


@pytest.mark.parametrize(
    ("request_badly", "message"),
    [
        (_too_long, "the prompt has 200 tokens, but the context of 200 tokens"),
        (_empty, "empty prompt"),
        (_no_tokens, "prompt 1: .*empty prompt"),
        (_outside_the_vocabulary, r"token id 300: expected one in \[0, 299\]"),
        (_bad_temperature, r"temperature = -1.0: expected 0 \(greedy\)"),
        (_bad_top_p, r"top_p = 0.0: expected"),
        (_bad_params_for_one_of_two, "params: expected 2, one for each prompt, got 1"),
        (_chat_without_end, "but the context of 200 tokens"),
    ],
)
def test_a_bad_request_disturbs_no_other(
    llm: LLM, request_badly: Callable[[LLM], None], message: str
) -> None:
    (alone,) = llm.generate("A floor", PARAMS)
    stream = llm.stream("A floor", PARAMS)
    updates = [next(stream) for _ in range(10)]
    with pytest.raises(ValueError, match=message):
        request_badly(llm)
    updates += stream
    output = updates[-1].output
    assert output is not None
    assert replace(output, request_id=alone.request_id) == alone
    assert llm.metrics().free_pages == llm.metrics().num_pages


def test_a_request_larger_than_the_cache(small_llama: Path) -> None:
    llm = LLM(str(small_llama), max_model_len=500, kv_pages=2)
    stream = llm.stream("A floor", PARAMS)
    first = next(stream)
    with pytest.raises(ValueError, match=r"may need 4 KV pages, but there are 2: lower max_tokens"):
        llm.generate("y" * 180, PARAMS)
    (alone,) = LLM(str(small_llama)).generate("A floor", PARAMS)
    assert (first.token_id, *(update.token_id for update in stream)) == alone.token_ids


# --- models


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _other_hidden_size(folder: Path) -> None:
    _change_config(folder, hidden_size=144)


def _another_layer(folder: Path) -> None:
    _change_config(folder, num_hidden_layers=3)


def _other_architecture(folder: Path) -> None:
    _change_config(folder, architectures=["MambaForCausalLM"])


def _other_rope(folder: Path) -> None:
    _change_config(folder, rope_parameters={"rope_type": "yarn", "factor": 4.0})


def _other_head_dim(folder: Path) -> None:
    _change_config(folder, head_dim=96)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_weights, r"model\.safetensors"),
        (_no_weights, r"model\.safetensors"),
        (_no_config, r"config\.json"),
        (_other_hidden_size, r"expected shape \(300, 144\) by the configuration, got \(300, 136\)"),
        (_another_layer, r"expected tensor model\.layers\.2\."),
        (_other_architecture, "'MambaForCausalLM' is not supported"),
        (_other_rope, "rotary type 'yarn' is not supported"),
        (_other_head_dim, r"head_dim: expected one of \(64, 128\), got 96"),
    ],
)
def test_a_bad_folder(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message):
        LLM(str(folder))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_gguf_file_cut_short(small_llama: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(small_llama, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"model\.gguf"):
        LLM(str(path))


def test_a_model_that_is_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="nobody/no-such-llama"):
        LLM("nobody/no-such-llama")


@pytest.mark.parametrize("gpus", [3, 5, 8])
def test_gpus_that_do_not_divide_the_kv_heads(small_llama: Path, gpus: int) -> None:
    message = rf"gpus={gpus} does not divide the model's 4 KV heads; possible: 1, 2, 4$"
    with pytest.raises(ValueError, match=message):
        LLM(str(small_llama), gpus=gpus)


# --- the runner's own limits


def test_a_step_beyond_the_limits_leaves_the_runner_usable(small_llama: Path) -> None:
    from unit.model.drive import Part, step_input, teacher_forced

    from terrazzo.models.hf_folder import HfFolder

    runner = ModelRunner(
        HfFolder(small_llama), max_batch_tokens=32, max_model_len=128, num_pages=2, num_sms=2
    )
    ids = list(range(40))
    before = teacher_forced(runner.step, ids, [20])
    bad = {
        "at most 32 rows, got 33": Part(ids[:33], 0, [0]),
        r"in \[0, 2\), got 2": Part(ids[:5], 0, [2]),
        "expected at most 128 tokens": Part(ids[:5], 126, [0, 1, 0]),
        "written in this step by another": Part(ids[:5], 62, [0, 0]),
        r"expected a token in .*, got 300": Part([300], 0, [0]),
    }
    for message, part in bad.items():
        with pytest.raises(ValueError, match=message):
            runner.step(step_input([part]))
    after = teacher_forced(runner.step, ids, [20])
    assert (after.logits == before.logits).all()
