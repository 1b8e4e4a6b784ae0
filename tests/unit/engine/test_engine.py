"""The engine's interface: how requests end, what is refused, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from unit.engine.fake_runner import FakeRunner, MachineStoppedError, reference_tokens
from unit.engine.fake_tokenizer import FakeTokenizer

from terrazzo.engine import Engine, RequestOutput, SchedulerLimits, derived_seed
from terrazzo.sampling import SamplingParams

PROMPT = [7, 8, 9]
EOS = 0
MANY = SamplingParams(max_tokens=40, ignore_eos=True)


def drain(engine: Engine) -> dict[int, RequestOutput]:
    outputs = {}
    while engine.has_work():
        for update in engine.step():
            if update.output is not None:
                outputs[update.request_id] = update.output
        engine.check()
    return outputs


def run_one(engine: Engine, prompt: Sequence[int], params: SamplingParams) -> RequestOutput:
    request_id = engine.add_request(prompt, params)
    return drain(engine)[request_id]


def test_length() -> None:
    output = run_one(Engine(FakeRunner(), [EOS]), PROMPT, MANY)
    assert output.finish_reason == "length"
    assert output.token_ids == tuple(reference_tokens(PROMPT, 40))
    assert output.prompt_token_ids == tuple(PROMPT)
    assert output.logprobs is None
    assert output.text == ""


def test_any_end_token_ends() -> None:
    expected = reference_tokens(PROMPT, 40)
    end = expected[10]
    first = expected.index(end)
    output = run_one(Engine(FakeRunner(), [end]), PROMPT, SamplingParams(max_tokens=40))
    assert output.finish_reason == "stop"
    assert output.token_ids == tuple(expected[: first + 1])


def test_the_end_token_is_not_in_the_text() -> None:
    tokenizer = FakeTokenizer()
    end = reference_tokens(PROMPT, 6)[5]
    engine = Engine(FakeRunner(), [end], decoder=tokenizer)
    output = run_one(engine, PROMPT, SamplingParams(max_tokens=40))
    assert output.token_ids[-1] == end
    assert output.text == tokenizer.decode(output.token_ids[:-1])


def test_stop_string() -> None:
    tokenizer = FakeTokenizer()
    whole = tokenizer.decode(reference_tokens(PROMPT, 40))
    stop = whole[9:12]
    engine = Engine(FakeRunner(), [], decoder=tokenizer)
    streamed = ""
    engine.add_request(PROMPT, SamplingParams(max_tokens=40, stop=("never", stop)))
    while engine.has_work():
        for update in engine.step():
            streamed += update.text
            output = update.output
    assert output is not None
    assert output.finish_reason == "stop"
    assert output.text == streamed == whole[: whole.index(stop)]
    assert stop in tokenizer.decode(output.token_ids)


def streamed_text(stop: str, max_tokens: int) -> tuple[str, RequestOutput]:
    """All text of the updates of one request, and its output."""
    engine = Engine(FakeRunner(), [], decoder=FakeTokenizer())
    engine.add_request(PROMPT, SamplingParams(max_tokens=max_tokens, stop=(stop,)))
    streamed = ""
    while True:
        (update,) = engine.step()
        streamed += update.text
        if update.output is not None:
            return streamed, update.output


def test_text_that_might_have_begun_a_stop_string_comes_at_the_end() -> None:
    whole = FakeTokenizer().decode(reference_tokens(PROMPT, 40))
    streamed, output = streamed_text(whole[-2:] + "never", 40)
    assert streamed == output.text == whole
    assert output.finish_reason == "length"


def test_an_incomplete_character_at_the_end_may_complete_a_stop_string() -> None:
    tokens = reference_tokens(PROMPT, 40)
    count = next(i for i in range(1, 40) if FakeTokenizer().decode(tokens[:i]).endswith("\ufffd"))
    streamed, output = streamed_text("\ufffd", count)
    assert output.finish_reason == "stop"
    assert streamed == output.text == FakeTokenizer().decode(tokens[:count]).rstrip("\ufffd")


def test_stop_strings_need_a_decoder() -> None:
    with pytest.raises(ValueError, match="stop strings need an engine with a decoder"):
        Engine(FakeRunner()).add_request(PROMPT, SamplingParams(stop=("x",)))


def test_the_context_ends_the_output() -> None:
    output = run_one(Engine(FakeRunner(max_model_len=20)), [1] * 17, MANY)
    assert output.finish_reason == "length"
    assert len(output.token_ids) == 3


def test_logprobs() -> None:
    engine = Engine(FakeRunner(), [])
    engine.add_request(PROMPT, SamplingParams(max_tokens=5, logprobs=True))
    updates = [update for _ in range(5) for update in engine.step()]
    assert updates[-1].output is not None
    assert updates[-1].output.logprobs == tuple(update.logprob for update in updates)
    assert all(update.logprob <= 0 for update in updates)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "empty prompt: expected at least one token"),
        ([1, 64], r"token id 64: expected one in \[0, 63\]"),
        ([1, -1], r"token id -1: expected one in \[0, 63\]"),
        ([1, 2**40], r"token id 1099511627776: expected one"),
        ([1, 2**70], "expected a flat list of integer token ids"),
        ([1.0, 2.0], "expected a flat list of integer token ids"),
        ([True], "expected a flat list of integer token ids"),
        (["a"], "expected a flat list of integer token ids"),
        ([[1, 2]], "expected a flat list of integer token ids"),
        ([[1], [1, 2]], "expected a flat list of integer token ids"),
        (5, "expected a flat list of integer token ids"),
        ([1] * 1024, "the prompt has 1024 tokens, but the context of 1024 .* room for 1023"),
    ],
)
def test_a_refused_prompt_disturbs_nobody(prompt: Any, message: str) -> None:
    engine = Engine(FakeRunner(), [EOS])
    first = engine.add_request(PROMPT, MANY)
    engine.step()
    with pytest.raises(ValueError, match=message):
        engine.add_request(prompt, MANY)
    second = engine.add_request(PROMPT[1:], MANY)
    outputs = drain(engine)
    assert outputs[first].token_ids == tuple(reference_tokens(PROMPT, 40))
    assert outputs[second].token_ids == tuple(reference_tokens(PROMPT[1:], 40))
    assert (first, second) == (0, 1)


def test_more_pages_than_there_are() -> None:
    engine = Engine(FakeRunner(num_pages=2))
    with pytest.raises(ValueError, match="may need 3 KV pages, but there are 2"):
        engine.add_request([1] * 100, SamplingParams(max_tokens=30))
    assert not engine.has_work()


def test_abort() -> None:
    engine = Engine(FakeRunner(), [])
    kept = engine.add_request(PROMPT, MANY)
    running = engine.add_request(PROMPT, MANY)
    for _ in range(3):
        engine.step()
    waiting = engine.add_request(PROMPT, MANY)
    output = engine.abort(running)
    assert output is not None
    assert output.finish_reason == "abort"
    assert output.token_ids == tuple(reference_tokens(PROMPT, 3))
    assert engine.abort(running) is None
    output = engine.abort(waiting)
    assert output is not None
    assert output.token_ids == ()
    outputs = drain(engine)
    assert list(outputs) == [kept]
    assert engine.abort(kept) is None
    with pytest.raises(ValueError, match="no request ever had the id 3"):
        engine.abort(3)
    assert engine.metrics().free_pages == engine.metrics().num_pages


def test_a_failed_step_loses_nothing() -> None:
    runner = FakeRunner()
    engine = Engine(runner, [])
    engine.add_request(PROMPT, MANY)
    engine.add_request(PROMPT * 50, MANY)
    engine.step()
    before = engine.metrics()
    runner.fail_next = True
    with pytest.raises(MachineStoppedError):
        engine.step()
    assert engine.metrics() == before
    outputs = drain(engine)
    assert outputs[0].token_ids == tuple(reference_tokens(PROMPT, 40))
    assert outputs[1].token_ids == tuple(reference_tokens(PROMPT * 50, 40))


def test_seeds() -> None:
    sampled = SamplingParams(max_tokens=20, temperature=1.0)

    def two_outputs(seed: int, params: SamplingParams) -> list[tuple[int, ...]]:
        engine = Engine(FakeRunner(), [], seed=seed)
        for _ in range(2):
            engine.add_request(PROMPT, params)
        return [output.token_ids for _, output in sorted(drain(engine).items())]

    assert two_outputs(1, sampled) == two_outputs(1, sampled)
    assert len({*two_outputs(1, sampled), *two_outputs(2, sampled)}) == 4
    seeded = SamplingParams(max_tokens=20, temperature=1.0, seed=5)
    assert len({*two_outputs(1, seeded), *two_outputs(2, seeded)}) == 1
    with pytest.raises(ValueError, match="seed: expected an integer in"):
        Engine(FakeRunner(), seed=-1)


def test_the_rule_for_seeds_is_fixed() -> None:
    assert derived_seed(0, 0) == 1041621211125469266
    assert derived_seed(2**64 - 1, 12) == 4424744886525026470


def test_steps_carry_the_sampling_in_row_order() -> None:
    runner = FakeRunner()
    engine = Engine(runner, [], limits=SchedulerLimits(64, 63, 8, 8))
    engine.add_request([1] * 70, SamplingParams(temperature=0.5, top_k=3, top_p=0.25, seed=4))
    engine.add_request([1], SamplingParams(temperature=2.0, top_k=5, top_p=0.75, seed=6))
    engine.step()
    engine.step()
    first, second = runner.batches
    assert first.seq_lens.tolist() == [1, 63], "sequences of one row come first"
    assert first.logit_rows.tolist() == [0]
    assert first.seed.tolist() == [6]
    assert second.seq_lens.tolist() == [1, 7]
    assert second.logit_rows.tolist() == [0, 7]
    assert second.temperature.tolist() == [2.0, 0.5]
    assert second.top_k.tolist() == [5, 3]
    assert second.top_p.tolist() == [0.75, 0.25]
    assert second.seed.tolist() == [6, 4]
    assert second.output_position.tolist() == [1, 0]


def test_limits_beyond_the_runner() -> None:
    with pytest.raises(ValueError, match="max_sequences: expected at most the runner's 16, got 17"):
        Engine(FakeRunner(), limits=SchedulerLimits(256, 256, 17, 64))


def test_two_engines_do_not_meet() -> None:
    first, second = Engine(FakeRunner(), []), Engine(FakeRunner(), [])
    first.add_request(PROMPT, MANY)
    second.add_request(PROMPT * 2, MANY)
    updates = [(first.step(), second.step()) for _ in range(40)]
    assert not first.has_work()
    assert not second.has_work()
    assert [own.token_id for (own,), _ in updates] == reference_tokens(PROMPT, 40)
    assert [own.token_id for _, (own,) in updates] == reference_tokens(PROMPT * 2, 40)


def test_metrics() -> None:
    limits = SchedulerLimits(64, 64, 1, 8)
    engine = Engine(FakeRunner(), [], limits=limits)
    for _ in range(2):
        engine.add_request([1] * 70, SamplingParams(max_tokens=2))
    engine.step()
    metrics = engine.metrics()
    assert (metrics.steps, metrics.computed_rows, metrics.generated_tokens) == (1, 64, 0)
    assert (metrics.running, metrics.waiting) == (1, 1)
    assert (metrics.free_pages, metrics.num_pages) == (6, 8)
    drain(engine)
    metrics = engine.metrics()
    # The second prompt finds the first page of the first one.
    assert (metrics.computed_rows, metrics.generated_tokens) == (71 + 71 - 64, 4)
    assert (metrics.prompt_tokens, metrics.reused_tokens) == (140, 64)
    assert (metrics.finished, metrics.aborted, metrics.preemptions) == (2, 0, 0)


def test_nothing_to_do() -> None:
    engine = Engine(FakeRunner())
    assert not engine.has_work()
    assert engine.step() == []


def test_page_size() -> None:
    runner = FakeRunner()
    runner.page_size = 16
    with pytest.raises(ValueError, match=r"runner\.page_size: expected 64, got 16"):
        Engine(runner)


def test_prompts_may_be_arrays() -> None:
    engine = Engine(FakeRunner(), [])
    engine.add_request(np.array(PROMPT, np.uint16), MANY)
    assert drain(engine)[0].token_ids == tuple(reference_tokens(PROMPT, 40))
