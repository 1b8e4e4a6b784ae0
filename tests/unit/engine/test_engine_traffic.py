"""ShareGPT-shaped traffic on the host machine: all get what they would get alone, and nothing
is left behind.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from unit.engine.random_checkpoint import RandomCheckpoint, small_config

from terrazzo.engine import Engine, RequestOutput, SchedulerLimits
from terrazzo.engine.scheduler import MAX_OVERTAKEN
from terrazzo.sampling import SamplingParams

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

from terrazzo.runner import ModelRunner

NUM_REQUESTS = 300
EOS = 0
VOCAB_SIZE = 300
# Lengths of real conversations at these shares, in tokens; here an eighth of them.
SHARES = (0.0, 0.10, 0.25, 0.50, 0.75, 0.90, 0.99, 1.0)
PROMPT_LENGTHS = (4, 11, 21, 108, 369, 608, 885, 1022)
OUTPUT_LENGTHS = (4, 11, 26, 130, 309, 487, 772, 1857)
SCALE = 8
PREFIXES = [[(7 * i + k) % VOCAB_SIZE for i in range(length)] for k, length in ((1, 70), (2, 130))]


class LetterDecoder:
    """Every token is a letter, so that stop strings come up."""

    def decode(self, ids: Sequence[int], /) -> str:
        return "".join(chr(ord("a") + token % 26) for token in ids)


@dataclass(frozen=True, slots=True)
class Case:
    prompt: list[int]
    params: SamplingParams


def length(rng: random.Random, lengths: Sequence[int]) -> int:
    share = rng.random()
    i = next(i for i in range(1, len(SHARES)) if share <= SHARES[i])
    part = (share - SHARES[i - 1]) / (SHARES[i] - SHARES[i - 1])
    return max(1, round((lengths[i - 1] + part * (lengths[i] - lengths[i - 1])) / SCALE))


def make_cases(rng: random.Random) -> list[Case]:
    cases = []
    for seed in range(NUM_REQUESTS):
        prompt = [rng.randrange(VOCAB_SIZE) for _ in range(length(rng, PROMPT_LENGTHS))]
        if rng.random() < 0.3:
            prompt = rng.choice(PREFIXES) + prompt
        params = SamplingParams(
            max_tokens=length(rng, OUTPUT_LENGTHS),
            temperature=rng.choice([0.0, 1.0]),
            top_k=rng.choice([0, 0, 0, 20]),
            seed=seed,
            stop=(rng.choice("abcdefgh") + rng.choice("abcdefgh"),) if rng.random() < 0.3 else (),
            ignore_eos=rng.random() < 0.5,
            logprobs=rng.random() < 0.2,
        )
        cases.append(Case(prompt, params))
    return cases


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    config = replace(small_config(), num_layers=1, hidden_size=64, num_heads=2, num_kv_heads=1)
    return ModelRunner(
        RandomCheckpoint(config),
        num_sms=1,
        max_batch_tokens=256,
        max_sequences=48,
        max_model_len=512,
        num_pages=160,
        max_in_flight=2,
    )


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return make_cases(random.Random(0))


def make_engine(runner: ModelRunner, limits: SchedulerLimits, **options: object) -> Engine:
    return Engine(runner, [EOS], decoder=LetterDecoder(), limits=limits, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone(runner: ModelRunner, cases: list[Case]) -> list[RequestOutput]:
    """What each request gets when nothing else is served, and nothing was before it."""
    outputs = []
    limits = SchedulerLimits(256, 256, 1, 160)
    engine = make_engine(runner, limits, run_ahead=False, prefix_reuse=False)
    for case in cases:
        engine.add_request(case.prompt, case.params, stream=False)
        while engine.has_work():
            outputs += [update.output for update in engine.step() if update.output is not None]
    return outputs


def assert_idle(engine: Engine) -> None:
    """No page is lost: this is the integrity check."""
    assert not engine._in_flight
    engine.check()
    metrics = engine.metrics()
    assert metrics.running == metrics.waiting == 0
    assert metrics.free_pages == metrics.num_pages


@pytest.mark.parametrize("stream", [False, True])
def test_all_at_once(
    runner: ModelRunner, cases: list[Case], alone: list[RequestOutput], stream: bool
) -> None:
    engine = make_engine(runner, SchedulerLimits(256, 256, 48, 160))
    for case in cases:
        engine.add_request(case.prompt, case.params, stream=stream)
    outputs: dict[int, RequestOutput] = {}
    texts = [""] * len(cases)
    while engine.has_work():
        for update in engine.step():
            texts[update.request_id] += update.text
            if update.output is not None:
                outputs[update.request_id] = update.output
    assert [outputs[i] for i in range(len(cases))] == alone
    assert texts == [output.text for output in alone]
    assert engine.metrics().reused_tokens > 0
    assert {"stop", "length"} == {output.finish_reason for output in alone}
    assert_idle(engine)


@pytest.mark.parametrize("seed", range(3))
def test_arrivals_aborts_and_few_pages(
    runner: ModelRunner, cases: list[Case], alone: list[RequestOutput], seed: int
) -> None:
    """Arrivals and aborts at random moments; so few pages that sequences are preempted."""
    rng = random.Random(seed)
    limits = SchedulerLimits(rng.choice([64, 200]), rng.choice([16, 64]), 24, 10)
    engine = make_engine(runner, limits, run_ahead=seed != 1, expected_outputs=1.0)
    outputs: dict[int, RequestOutput] = {}
    order: list[int] = []  # of cases
    left = list(range(len(cases)))
    rng.shuffle(left)
    requests = engine._requests
    while engine.has_work() or left:
        for _ in range(rng.choice([0, 0, 1, 20])):
            if left:
                order.append(left.pop())
                case = cases[order[-1]]
                engine.add_request(case.prompt, case.params, stream=rng.random() < 0.3)
        if rng.random() < 0.1 and order:
            request_id = rng.randrange(len(order))
            output = engine.abort(request_id)
            if output is not None:
                outputs[request_id] = output
        for update in engine.step():
            if update.output is not None:
                assert update.request_id not in outputs
                outputs[update.request_id] = update.output
        assert all(request.num_overtaken <= MAX_OVERTAKEN for request in requests.values())
    num_aborted = 0
    for request_id, index in enumerate(order):
        output, expected = outputs[request_id], replace(alone[index], request_id=request_id)
        if output.finish_reason == "abort":
            num_aborted += 1
            assert output.token_ids == expected.token_ids[: len(output.token_ids)]
        else:
            assert output == expected
    metrics = engine.metrics()
    assert num_aborted == metrics.aborted > 3
    assert metrics.preemptions > 0
    assert metrics.reused_tokens > 0
    assert_idle(engine)
