"""Steps that are submitted before the results of the one before are known; and prefix reuse."""

from __future__ import annotations

from typing import Any

import pytest
from unit.engine.fake_runner import FakeRunner, MachineStoppedError, reference_tokens
from unit.engine.fake_tokenizer import FakeTokenizer
from unit.engine.test_engine import EOS, MANY, PROMPT, drain, run_one

from terrazzo.engine import Engine
from terrazzo.sampling import SamplingParams


def ahead(**options: Any) -> FakeRunner:
    """A runner that takes a step while another one runs."""
    return FakeRunner(max_in_flight=2, **options)


def test_a_step_is_submitted_before_the_one_before_is_collected() -> None:
    runner = ahead()
    engine = Engine(runner, [])
    engine.add_request(PROMPT, SamplingParams(max_tokens=4, ignore_eos=True))
    updates = [update for _ in range(4) for update in engine.step()]
    assert [update.token_id for update in updates] == reference_tokens(PROMPT, 4)
    assert not engine.has_work()
    tokens = [batch.token_ids.tolist() for batch in runner.batches]
    assert tokens == [PROMPT, [-1], [-1], [-1]], "each names the token of the step before"


def test_idle_means_that_nothing_is_in_flight_or_lost() -> None:
    runner = ahead()
    engine = Engine(runner, [reference_tokens(PROMPT, 5)[4]])
    run_one(engine, PROMPT, SamplingParams(max_tokens=40))
    assert not runner._in_flight
    engine._scheduler.pool.allocate(1)
    engine.add_request(PROMPT, SamplingParams(max_tokens=1))
    with pytest.raises(RuntimeError, match=r"page \d+: free 0 times"):
        engine.step()


def test_not_ahead_if_not_wanted() -> None:
    runner = ahead()
    engine = Engine(runner, [], run_ahead=False)
    run_one(engine, PROMPT, SamplingParams(max_tokens=4, ignore_eos=True))
    assert all(batch.token_ids.min() >= 0 for batch in runner.batches)


def test_an_end_token_is_seen_one_step_late() -> None:
    expected = reference_tokens(PROMPT, 40)
    count = expected.index(expected[10]) + 1
    runner = ahead()
    engine = Engine(runner, [expected[10]])
    output = run_one(engine, PROMPT, SamplingParams(max_tokens=40))
    assert output.token_ids == tuple(expected[:count])
    assert engine.metrics().generated_tokens == count
    assert engine.metrics().steps == count + 1
    engine.check()


def test_a_stop_string_ends_the_tokens_where_it_is_complete() -> None:
    whole = FakeTokenizer().decode(reference_tokens(PROMPT, 40))
    params = SamplingParams(max_tokens=40, stop=(whole[9:12],), logprobs=True)
    at_once, later = (
        run_one(Engine(runner, [], decoder=FakeTokenizer()), PROMPT, params)
        for runner in (FakeRunner(), ahead())
    )
    assert at_once == later
    assert at_once.logprobs is not None
    assert len(at_once.logprobs) == len(at_once.token_ids) < 30


@pytest.mark.parametrize("stop", [(), ("never",)])
@pytest.mark.parametrize("make_runner", [FakeRunner, ahead])
def test_without_a_stream_there_is_one_update(make_runner: Any, stop: tuple[str, ...]) -> None:
    params = SamplingParams(max_tokens=40, ignore_eos=True, stop=stop)
    updates, outputs = [], []
    for stream in (False, True):
        engine = Engine(make_runner(), [EOS], decoder=FakeTokenizer())
        engine.add_request(PROMPT, params, stream=stream)
        updates.append([])
        while engine.has_work():
            updates[-1] += engine.step()
        outputs.append(updates[-1][-1].output)
    assert [len(each) for each in updates] == [1, 40]
    assert outputs[0] == outputs[1]
    assert updates[0][0].text == outputs[0].text == "".join(each.text for each in updates[1])


def test_a_failure_voids_all_steps_in_flight() -> None:
    runner = ahead()
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


def test_a_refused_step_leaves_the_one_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = ahead()
    engine = Engine(runner, [])
    engine.add_request(PROMPT, MANY)
    engine.step()

    def refuse(batch: object) -> None:
        raise ValueError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "submit", refuse)
        with pytest.raises(ValueError, match="refused"):
            engine.step()
    assert drain(engine)[0].token_ids == tuple(reference_tokens(PROMPT, 40))


def test_abort_of_a_request_with_a_step_in_flight() -> None:
    engine = Engine(ahead(), [], decoder=FakeTokenizer())
    aborted, kept = (engine.add_request(PROMPT, MANY) for _ in range(2))
    for _ in range(5):
        engine.step()
    output = engine.abort(aborted)
    assert output is not None
    assert output.token_ids == tuple(reference_tokens(PROMPT, 5))
    assert output.text == FakeTokenizer().decode(output.token_ids)
    outputs = drain(engine)
    assert list(outputs) == [kept]
    assert engine.metrics().free_pages == engine.metrics().num_pages


def test_abort_of_a_request_whose_end_was_not_reported_yet() -> None:
    """Its text is still being made on the other thread."""
    engine = Engine(ahead(), [], decoder=FakeTokenizer())
    ended = engine.add_request(PROMPT, SamplingParams(max_tokens=1))
    kept = engine.add_request(PROMPT, MANY)
    engine.step()
    output = engine.abort(ended)
    assert output is not None
    assert output.finish_reason == "length"
    assert list(drain(engine)) == [kept]
    assert engine.metrics().aborted == 0


def test_aborting_one_of_many_that_wait() -> None:
    engine = Engine(FakeRunner(max_sequences=1), [])
    ids = [engine.add_request(PROMPT, SamplingParams(max_tokens=2)) for _ in range(30)]
    engine.step()
    for request_id in ids[1::2]:
        engine.abort(request_id)
    assert engine.metrics().waiting == 14
    assert list(drain(engine)) == ids[::2]


def test_forgotten_prefixes_are_computed_again() -> None:
    engine = Engine(FakeRunner(), [])
    for _ in range(2):
        run_one(engine, [5] * 100, SamplingParams(max_tokens=2))
    assert engine.metrics().reused_tokens == 64
    engine.forget_prefixes()
    run_one(engine, [5] * 100, SamplingParams(max_tokens=2))
    assert engine.metrics().reused_tokens == 64
    engine.check()


def test_a_conversation_reuses_its_answers() -> None:
    """Pages of outputs are found as well as those of prompts."""
    engine = Engine(FakeRunner(), [])
    first = run_one(engine, [5] * 60, SamplingParams(max_tokens=80, ignore_eos=True))
    history = [*first.prompt_token_ids, *first.token_ids]
    second = run_one(engine, [*history, 7], SamplingParams(max_tokens=9, ignore_eos=True))
    assert engine.metrics().reused_tokens == 128
    assert second.token_ids == tuple(reference_tokens([*history, 7], 9))
