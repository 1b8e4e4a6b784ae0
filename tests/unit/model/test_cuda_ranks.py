"""Tensor parallelism on one GPU, by ranks that share it: bits, failures, and what is refused."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.random_checkpoint import RandomCheckpoint, small_config
from unit.model.devices import ON_LANES, needs_gpu_speed
from unit.model.drive import Part, Rows, Sampling, step_input, teacher_forced
from unit.model.replay import (
    Limits,
    Replay,
    Request,
    Truth,
    longest_chunks,
    replay_rngs,
)

from terrazzo import packing
from terrazzo._core import LaunchError, cuda_problem
from terrazzo.llm import LLM
from terrazzo.models.checkpoint import Checkpoint
from terrazzo.models.dummy import DummyCheckpoint
from terrazzo.runner import ModelRunner
from terrazzo.sampling import SamplingParams

pytestmark = pytest.mark.t2_gpu

LIMITS = Limits(max_rows=512, max_logit_rows=512, num_pages=200)
SPLIT_TOKENS = 128
NUM_REPEATS = 2 if ON_LANES else 200
MOST_DELAY_NS = 20_000
DEGREES = (2, 8) if ON_LANES else (2, 4, 8)
O_PROJ = ("replicated", "sharded")

HEADS_OF_64 = replace(
    small_config(), hidden_size=520, intermediate_size=1160, num_heads=24, num_kv_heads=8
)
CONFIGS = {64: HEADS_OF_64, 128: replace(HEADS_OF_64, num_heads=32, head_dim=128)}


def runner_of(
    head_dim: int,
    gpus: int,
    o_proj: str = "replicated",
    checkpoint: Checkpoint | None = None,
    ranks_per_gpu: int | None = None,
    **options: int,
) -> ModelRunner:
    return ModelRunner(
        checkpoint or RandomCheckpoint(CONFIGS[head_dim]),
        device="cuda",
        gpus=gpus,
        ranks_per_gpu=ranks_per_gpu or gpus,
        o_proj=o_proj,
        max_batch_tokens=LIMITS.max_rows,
        max_sequences=LIMITS.max_logit_rows,
        max_logit_rows=LIMITS.max_logit_rows,
        num_pages=LIMITS.num_pages,
        split_tokens=SPLIT_TOKENS,
        **options,
    )


Choice = tuple[int, int, str]  # head dimension, ranks, how O is kept
Runners = dict[Choice, ModelRunner]


@pytest.fixture(scope="module")
def runners() -> Runners:
    choices = itertools.product(CONFIGS, DEGREES, O_PROJ)
    return {choice: runner_of(*choice) for choice in choices}


@pytest.fixture(scope="module")
def truths() -> dict[tuple[Choice, Request], Truth]:
    return {}


def mixed_step(runner: ModelRunner) -> Rows:
    """140 single rows, whose tokens lie in two compact blocks, and two prompts."""
    parts = [Part([i], 0, [i], [0], want_logits=i % 7 == 0) for i in range(140)]
    for i, rows in enumerate((200, 65)):
        pages = range(140 + 4 * i, 144 + 4 * i)
        parts.append(Part([(7 * j) % 300 for j in range(rows)], 0, pages, [rows - 1], True))
    output = runner.step(step_input(parts))
    return Rows(output.tokens, output.logprobs, output.logits)


def assert_equal(seen: Rows, expected: Rows, message: str = "") -> None:
    np.testing.assert_array_equal(seen.tokens, expected.tokens, message)
    np.testing.assert_array_equal(seen.logprobs, expected.logprobs, message)
    np.testing.assert_array_equal(seen.logits, expected.logits, message)


@pytest.mark.parametrize("o_proj", O_PROJ)
@pytest.mark.parametrize("gpus", DEGREES)
@pytest.mark.parametrize("head_dim", CONFIGS)
def test_repeats_under_delays(runners: Runners, head_dim: int, gpus: int, o_proj: str) -> None:
    """Ranks and SMs sleep at random between instructions and before signals."""
    runner = runners[head_dim, gpus, o_proj]
    first = mixed_step(runner)
    assert np.isfinite(first.logits).all()
    try:
        for repeat in range(NUM_REPEATS):
            runner.core.set_delays(repeat, MOST_DELAY_NS)
            assert_equal(mixed_step(runner), first, f"repeat {repeat}")
    finally:
        runner.core.set_delays(0, 0)


@pytest.mark.skipif(cuda_problem(2) != "", reason=f"needs two GPUs: {cuda_problem(2)}")
@pytest.mark.parametrize("o_proj", O_PROJ)
@pytest.mark.parametrize("head_dim", CONFIGS)
def test_two_gpus_have_the_bits_of_ranks_on_one(head_dim: int, o_proj: str) -> None:
    expected = mixed_step(runner_of(head_dim, 2, o_proj))
    runner = runner_of(head_dim, 2, o_proj, ranks_per_gpu=1)
    for repeat in range(NUM_REPEATS):
        runner.core.set_delays(repeat, MOST_DELAY_NS)
        assert_equal(mixed_step(runner), expected, f"repeat {repeat}")


class Unrepeated(DummyCheckpoint):
    """Random weights that travel as any others."""

    def repeated(self, name: str) -> NoReturn:
        raise AssertionError(name)


@pytest.mark.parametrize("o_proj", O_PROJ)
def test_random_weights_made_on_the_device(o_proj: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits of those that are made on the host."""
    config = replace(CONFIGS[64], tie_word_embeddings=False)
    batch = step_input([Part(list(range(40)), 0, [0], [0, 20, 39], want_logits=True)])
    made = runner_of(64, 2, o_proj, DummyCheckpoint(config)).step(batch)
    assert np.isfinite(made.logits).all()
    monkeypatch.setattr(packing, "DummyCheckpoint", type(None))  # no checkpoint is one
    sent = runner_of(64, 2, o_proj, Unrepeated(config)).step(batch)
    np.testing.assert_array_equal(sent.logits, made.logits)


request_strategy = st.builds(
    lambda length, first, num_outputs, sampling: Request(
        tuple((first + 7 * i * i) % 300 for i in range(length)), num_outputs, sampling
    ),
    length=st.sampled_from([1, 63, 64, 130, 300]),
    first=st.integers(0, 3),
    num_outputs=st.sampled_from([1, 4, 9]),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 1.0]),
        top_k=st.sampled_from([0, 5]),
        top_p=st.sampled_from([1.0, 0.9]),
        seed=st.sampled_from([0, 2**64 - 1]),
    ),
)


@settings(max_examples=1 if ON_LANES else 20)
@given(
    head_dim=st.sampled_from(sorted(CONFIGS)),
    gpus=st.sampled_from(DEGREES),
    o_proj=st.sampled_from(O_PROJ),
    requests=st.lists(request_strategy, min_size=1, max_size=6),
    longest_chunk=longest_chunks,
    rng=replay_rngs,
)
def test_any_company_and_chunks(
    runners: Runners,
    truths: dict[tuple[Choice, Request], Truth],
    head_dim: int,
    gpus: int,
    o_proj: str,
    requests: list[Request],
    longest_chunk: int,
    rng: random.Random,
) -> None:
    choice = (head_dim, gpus, o_proj)
    run = runners[choice].step
    for request in requests:
        if (choice, request) not in truths:
            truths[choice, request] = Truth.of(run, request)
    known = [(request, truths[choice, request]) for request in requests]
    Replay(run, known, LIMITS, rng, longest_chunk=longest_chunk).play()


@pytest.mark.parametrize("o_proj", O_PROJ)
@pytest.mark.parametrize("gpus", DEGREES)
def test_any_number_of_sms(gpus: int, o_proj: str) -> None:
    """Of a rank: one, some, all of its share."""
    ids = [(3 * i) % 300 for i in range(400)]
    expected: Rows | None = None
    for num_sms in (1, 7, 132 // gpus):
        runner = runner_of(64, gpus, o_proj, num_sms=num_sms)
        assert runner.core.num_sms == num_sms
        seen = teacher_forced(runner.step, ids, [400])
        expected = seen if expected is None else expected
        assert_equal(seen, expected, f"{num_sms} SMs")


def test_the_choice_of_o_is_part_of_the_bits(runners: Runners) -> None:
    """Else the tests above might compare a machine with itself."""
    replicated, sharded = (mixed_step(runners[64, 2, choice]).logits for choice in O_PROJ)
    assert not np.array_equal(replicated, sharded)
    distance = np.linalg.norm(sharded - replicated) / np.linalg.norm(replicated)
    assert distance < 0.05


def test_auto_keeps_o_whole_where_there_is_room() -> None:
    assert runner_of(64, 2, "auto").o_proj == "replicated"
    assert runner_of(64, 2, "sharded").o_proj == "sharded"


def test_the_watchdog(runners: Runners) -> None:
    """A limit that no step can keep ends it on all ranks, with a name; the next step is right."""
    runner = runners[64, 8, "sharded"]
    expected = mixed_step(runner)
    batch = step_input([Part([1, 2, 3], 0, [0], [2])])
    for _ in range(3):
        runner.core.set_watchdog_seconds(1e-9)
        ticket = runner.submit(batch)
        runner.core.set_watchdog_seconds(10.0)
        with pytest.raises(LaunchError, match=r"\[watchdog\] gpu [0-7] sm \d+ .* waits for "):
            runner.collect(ticket)
        assert_equal(mixed_step(runner), expected)


def test_events_are_of_all_ranks() -> None:
    from terrazzo.trace.record import EVENT

    runner = runner_of(64, 4, trace_events=100_000)
    mixed_step(runner)
    events = np.frombuffer(runner.core.trace(), EVENT)
    assert set(events["gpu"].tolist()) == {0, 1, 2, 3}
    num_sms = 2 if ON_LANES else runner.core.num_sms  # lanes launch a few
    assert events["sm"].max() == num_sms - 1


def test_what_does_not_fit_or_work() -> None:
    config = CONFIGS[64]
    with pytest.raises(ValueError, match=r"1000000 KV pages take .* at most \d+ pages fit"):
        ModelRunner(
            RandomCheckpoint(config), device="cuda", gpus=2, ranks_per_gpu=2, num_pages=1_000_000
        )
    with pytest.raises(ValueError, match="expected ranks_per_gpu to divide gpus=4, got 3"):
        ModelRunner(RandomCheckpoint(config), device="cuda", gpus=4, ranks_per_gpu=3)
    with pytest.raises(ValueError, match=r"at most 16 SMs, got 17"):
        runner_of(64, 8, num_sms=17)


@needs_gpu_speed
def test_llm_in_any_company(small_llama: Path) -> None:
    prompts = ["a", "b" * 63, "cd" * 32, "Of thousands of chips. " * 6]
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=1, logprobs=True, ignore_eos=True)
    llm = LLM(str(small_llama), device="cuda", gpus=4, ranks_per_gpu=4, kv_pages=64)
    alone = [llm.generate(prompt, params)[0] for prompt in prompts]
    other = LLM(str(small_llama), device="cuda", gpus=4, ranks_per_gpu=4, kv_pages=8)
    together = other.generate(prompts, params)
    assert [(o.token_ids, o.logprobs) for o in together] == [
        (o.token_ids, o.logprobs) for o in alone
    ]
