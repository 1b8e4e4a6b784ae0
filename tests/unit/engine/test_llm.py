"""LLM: prompts in, texts out, on a fake runner and tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from unit.engine.fake_runner import FakeRunner, MachineStoppedError, reference_tokens, tiny_config
from unit.engine.fake_tokenizer import END, FakeTokenizer

from terrazzo.capacity import kv_page_bytes
from terrazzo.engine import RequestUpdate
from terrazzo.llm import LLM, CacheSizes
from terrazzo.sampling import SamplingParams

TOKENIZER = FakeTokenizer()
PARAMS = SamplingParams(max_tokens=30, ignore_eos=True)


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def llm(runner: FakeRunner) -> LLM:
    return LLM.on(runner, TOKENIZER, [END])


def expected_tokens(text: str, count: int = 30) -> tuple[int, ...]:
    return tuple(reference_tokens(TOKENIZER.encode(text), count))


def idle(llm: LLM) -> bool:
    metrics = llm.metrics()
    return metrics.running == metrics.waiting == 0 and metrics.free_pages == metrics.num_pages


def test_one_prompt(llm: LLM) -> None:
    (output,) = llm.generate("hello", PARAMS)
    assert output.token_ids == expected_tokens("hello")
    assert output.text == TOKENIZER.decode(output.token_ids)
    assert idle(llm)


def test_outputs_come_in_the_order_of_prompts(llm: LLM) -> None:
    prompts = ["a long prompt comes first", "b", "c d"]
    lengths = [5, 30, 1]
    params = [SamplingParams(max_tokens=length, ignore_eos=True) for length in lengths]
    outputs = llm.generate(prompts, params)
    for output, prompt, length in zip(outputs, prompts, lengths, strict=True):
        assert output.token_ids == expected_tokens(prompt, length)


def test_token_ids_as_prompts(llm: LLM) -> None:
    outputs = llm.generate([TOKENIZER.encode("ab"), TOKENIZER.encode("cd")], PARAMS)
    assert [output.token_ids for output in outputs] == [
        expected_tokens("ab"),
        expected_tokens("cd"),
    ]


def test_no_prompts(llm: LLM) -> None:
    assert llm.generate([]) == []


def test_prompts_from_an_iterator(llm: LLM) -> None:
    outputs = llm.generate((letter for letter in "abc"), PARAMS)
    assert [output.token_ids for output in outputs] == [expected_tokens(a) for a in "abc"]


def test_each_comes_when_it_ends(llm: LLM) -> None:
    lengths = [30, 5, 1]
    params = (SamplingParams(max_tokens=length, ignore_eos=True) for length in lengths)
    seen = list(llm.generate_each(iter("abc"), params))
    assert [index for index, _ in seen] == [2, 1, 0]
    for index, output in seen:
        assert output.token_ids == expected_tokens("abc"[index], lengths[index])
    assert idle(llm)


def test_an_endless_iterable_is_drawn_as_it_is_served(llm: LLM) -> None:
    num_drawn = 0

    def prompts() -> Iterator[str]:
        nonlocal num_drawn
        while True:
            num_drawn += 1
            yield "hello"

    outputs = llm.generate_each(prompts(), PARAMS, max_waiting=3)
    for _, (_, output) in zip(range(50), outputs, strict=False):
        assert output.token_ids == expected_tokens("hello")
    assert num_drawn < 50 + 3 + 2 * llm.runner.max_sequences
    outputs.close()  # type: ignore[attr-defined]
    assert idle(llm)


def test_bulk_and_streams_do_not_meet(llm: LLM) -> None:
    each = llm.generate_each(iter("abcdef"), PARAMS, max_waiting=2)
    stream = llm.stream("one", PARAMS)
    next(stream)
    seen = dict([next(each)])
    assert llm.generate("two", PARAMS)[0].token_ids == expected_tokens("two")
    tokens = [update.token_id for update in stream]
    seen.update(each)
    assert {index: seen[index].token_ids for index in range(6)} == {
        index: expected_tokens(letter) for index, letter in enumerate("abcdef")
    }
    assert tuple(tokens) == expected_tokens("one")[1:]
    assert idle(llm)


def test_chat(llm: LLM) -> None:
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    output = llm.chat(messages, PARAMS)
    prompt = TOKENIZER.apply_chat_template(messages)
    assert output.prompt_token_ids == tuple(TOKENIZER.encode(prompt))
    assert output.token_ids == expected_tokens(prompt)


def test_stream(llm: LLM) -> None:
    updates = list(llm.stream("hello", PARAMS))
    assert tuple(update.token_id for update in updates) == expected_tokens("hello")
    assert updates[-1].output is not None
    assert "".join(update.text for update in updates) == updates[-1].output.text
    assert idle(llm)


def test_a_closed_stream_aborts_its_request(llm: LLM) -> None:
    stream = llm.stream("hello", PARAMS)
    next(iter(stream))
    assert not idle(llm)
    assert isinstance(stream, Iterator)
    stream.close()  # type: ignore[attr-defined]
    assert idle(llm)


def test_a_stream_may_pause_while_others_are_served(llm: LLM) -> None:
    first, second = llm.stream("one", PARAMS), llm.stream("two", PARAMS)
    tokens: dict[str, list[int]] = {"one": [], "two": []}

    def read(name: str, updates: Iterator[RequestUpdate], count: int) -> None:
        tokens[name] += [update.token_id for _, update in zip(range(count), updates, strict=False)]

    read("one", first, 3)
    read("two", second, 10)
    (output,) = llm.generate("three", PARAMS)
    assert output.token_ids == expected_tokens("three")
    read("two", second, 99)
    read("one", first, 99)
    assert {name: tuple(ids) for name, ids in tokens.items()} == {
        "one": expected_tokens("one"),
        "two": expected_tokens("two"),
    }
    assert idle(llm)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([""], "prompt 0: .*empty prompt"),
        (["a", "b" * 5000], "prompt 1: .*the prompt has 5000 tokens"),
        ([[1], [99]], "prompt 1: .*token id 99"),
        ([[1], []], "prompt 1: .*empty prompt"),
        ([1, 2], "prompt 0: .*expected a flat list"),
    ],
)
def test_bad_prompts(llm: LLM, prompts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        llm.generate(prompts, PARAMS)
    assert idle(llm)
    assert llm.metrics().steps == 0


def test_params_for_each_prompt(llm: LLM) -> None:
    with pytest.raises(ValueError, match="params: expected 2, one for each prompt, got 1"):
        llm.generate(["a", "b"], [PARAMS])


def test_a_failure_leaves_the_llm_usable(llm: LLM, runner: FakeRunner) -> None:
    runner.fail_next = True
    with pytest.raises(MachineStoppedError):
        llm.generate(["a", "b"], PARAMS)
    assert idle(llm)
    (output,) = llm.generate("hello", PARAMS)
    assert output.token_ids == expected_tokens("hello")


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
def test_progress(
    llm: LLM, capsys: pytest.CaptureFixture[str], progress: bool | None, shown: bool
) -> None:
    llm.generate(["a", "b"], PARAMS, progress=progress)
    captured = capsys.readouterr()
    assert ("generating" in captured.err) == shown
    assert captured.out == ""


def test_a_seed_for_requests_without_one() -> None:
    sampled = SamplingParams(max_tokens=20, temperature=1.0)

    def texts(seed: int, params: SamplingParams = sampled) -> Sequence[str]:
        llm = LLM.on(FakeRunner(), TOKENIZER, [], seed=seed)
        return [output.text for output in llm.generate(["a", "a"], params)]

    assert texts(3) == texts(3)
    assert len({*texts(3), *texts(4)}) == 4
    assert len({*texts(3, replace(sampled, seed=1)), *texts(4, replace(sampled, seed=1))}) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"kv_gib": 1.0}, CacheSizes(4096, 65536)),
        ({"kv_gib": 16384 * 4 / 2**30}, CacheSizes(256, 4)),
        ({"kv_gib": 1e-9}, CacheSizes(64, 1)),
        ({"kv_gib": 1.0, "kv_pages": 10}, CacheSizes(640, 10)),
        ({"kv_gib": 1.0, "kv_pages": 1000}, CacheSizes(4096, 1000)),
        ({"kv_gib": 1.0, "max_model_len": 100, "kv_pages": 3}, CacheSizes(100, 3)),
    ],
)
def test_cache_sizes(given: dict[str, Any], expected: CacheSizes) -> None:
    assert CacheSizes.choose(tiny_config(64), **given) == expected


def test_a_context_longer_than_the_model() -> None:
    with pytest.raises(ValueError, match="max_model_len: the model has 4096 positions, got 4097"):
        CacheSizes.choose(tiny_config(64), kv_gib=1.0, max_model_len=4097)


@pytest.mark.parametrize(
    "name",
    [
        "gpus",
        "max_batch_tokens",
        "max_sequences",
        "num_sms",
        "num_threads",
        "max_model_len",
        "kv_pages",
    ],
)
def test_counts(name: str) -> None:
    counts: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=rf"\[LLM\] {name}: expected at least 1, got 0"):
        LLM("some-model", **counts)
    with pytest.raises(ValueError, match=rf"\[LLM\] {name}: expected at most .*, got 4294967296"):
        LLM("some-model", **{name: 2**32})


def test_a_cache_beyond_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise MemoryError

    opened = SimpleNamespace(config=tiny_config(64), checkpoint=None)
    monkeypatch.setattr("terrazzo.llm._open", lambda *_: opened)
    monkeypatch.setattr("terrazzo.runner.ModelRunner", too_much)
    message = r"out of memory: .* 65536 KV pages \(1\.0 GiB\) do not fit; lower kv_pages"
    with pytest.raises(ValueError, match=message):
        LLM("some-model", kv_pages=65536)


def test_bytes_of_a_page() -> None:
    assert kv_page_bytes(tiny_config(64)) == 2 * 64 * 64 * 2  # K and V, tokens, head_dim, bf16


def test_a_device_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="got 'tpu'"):
        LLM("some-model", device="tpu")
    monkeypatch.setenv("TERRAZZO_DEVICE", "gpu")
    with pytest.raises(ValueError, match="TERRAZZO_DEVICE='gpu': expected auto, host or cuda"):
        LLM("some-model")
