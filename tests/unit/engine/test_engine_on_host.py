"""The engine on the host machine: chunks, batches and preemption leave every bit as it was."""

from __future__ import annotations

import pytest
from unit.engine.random_checkpoint import RandomCheckpoint, small_config

from terrazzo.engine import Engine, RequestOutput, SchedulerLimits
from terrazzo.sampling import SamplingParams

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

from terrazzo.runner import ModelRunner

# Prompts around the edges of pages (64) and row blocks (128); outputs that cross one or two pages.
REQUESTS = [
    ([(7 * i + 1) % 300 for i in range(num_prompt)], params)
    for num_prompt, params in [
        (1, SamplingParams(max_tokens=150, logprobs=True, temperature=1.0, seed=3)),
        (64, SamplingParams(max_tokens=140, logprobs=True, temperature=1.0, top_p=0.8)),
        (63, SamplingParams(max_tokens=70, logprobs=True, temperature=0.8, top_k=20)),
        (130, SamplingParams(max_tokens=70, logprobs=True, ignore_eos=True)),
        (5, SamplingParams(max_tokens=5, logprobs=True)),
    ]
]


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return ModelRunner(
        RandomCheckpoint(small_config()),
        num_sms=2,
        max_batch_tokens=256,
        max_sequences=8,
        max_model_len=512,
        num_pages=16,
        max_in_flight=2,
    )


def serve(
    runner: ModelRunner,
    limits: SchedulerLimits,
    *,
    run_ahead: bool = False,
    expected_outputs: float = 256.0,
) -> tuple[list[RequestOutput], Engine]:
    engine = Engine(
        runner,
        runner.config.eos_token_ids,
        seed=1,
        limits=limits,
        run_ahead=run_ahead,
        expected_outputs=expected_outputs,
    )
    for prompt, params in REQUESTS:
        engine.add_request(prompt, params)
    outputs = {}
    while engine.has_work():
        for update in engine.step():
            if update.output is not None:
                outputs[update.request_id] = update.output
        engine.check()
    return [outputs[request_id] for request_id in range(len(REQUESTS))], engine


@pytest.fixture(scope="module")
def alone(runner: ModelRunner) -> list[RequestOutput]:
    outputs, _ = serve(runner, SchedulerLimits(256, 256, 1, 16))
    return outputs


@pytest.mark.parametrize("run_ahead", [False, True], ids=["step by step", "ahead"])
@pytest.mark.parametrize(
    ("limits", "preempts"),
    [
        (SchedulerLimits(256, 256, 8, 16), False),
        (SchedulerLimits(70, 33, 8, 16), False),
        (SchedulerLimits(16, 1, 8, 16), False),
        (SchedulerLimits(256, 256, 8, 6), True),
        (SchedulerLimits(40, 30, 8, 6), True),
    ],
    ids=["together", "chunks of 33", "chunks of 1", "preempted", "preempted, chunks of 30"],
)
def test_the_same_bits(
    runner: ModelRunner,
    alone: list[RequestOutput],
    limits: SchedulerLimits,
    preempts: bool,
    run_ahead: bool,
) -> None:
    # Requests that look short are admitted in too large numbers.
    expected_outputs = 1.0 if preempts else 256.0
    outputs, engine = serve(runner, limits, run_ahead=run_ahead, expected_outputs=expected_outputs)
    assert (engine.metrics().preemptions > 0) == preempts
    assert outputs == alone


def test_outputs_say_something(alone: list[RequestOutput]) -> None:
    assert len({output.token_ids for output in alone}) == len(alone)
    for output in alone:
        assert output.logprobs is not None
        assert all(-20 < logprob <= 0 for logprob in output.logprobs)
