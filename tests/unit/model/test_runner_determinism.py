"""At one degree of tensor parallelism a token's bits depend on its sequence alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.random_checkpoint import RandomCheckpoint
from unit.model.drive import RunStep, Sampling
from unit.model.replay import (
    Limits,
    Replay,
    Request,
    Truth,
    longest_chunks,
    replay_rngs,
)

from terrazzo._core import Lateness
from terrazzo.models.config import ModelConfig
from terrazzo.runner import ModelRunner, arrays_of
from terrazzo.step import StepInput, StepOutput

LIMITS = Limits(max_rows=256, max_logit_rows=256, num_pages=24)
SPLIT_TOKENS = 64  # attention over the tests' contexts is split in up to five

BASE = ModelConfig(
    num_layers=2,
    hidden_size=72,
    intermediate_size=200,
    num_heads=8,
    num_kv_heads=8,
    head_dim=64,
    vocab_size=331,
    rms_norm_eps=1e-5,
    rope_theta=1e4,
    rope_scaling=None,
    max_position=320,
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_ids=(),
)
# Name -> sizes. All degrees; GQA with more query rows than a decode tile has; head dimension 128.
CONFIGS = {
    "8 KV heads": BASE,
    "GQA 3": replace(BASE, num_heads=6, num_kv_heads=2, hidden_size=136),
    "head dimension 128": replace(BASE, num_heads=4, num_kv_heads=1, head_dim=128),
    "GQA 17": replace(BASE, num_heads=17, num_kv_heads=1, num_layers=1),
}


class Degree(NamedTuple):
    """What a result's bits depend on besides model and sequence."""

    gpus: int
    o_proj: str = "replicated"


ONE = Degree(1)
DEGREES = {
    "8 KV heads": (ONE, *(Degree(n, o) for n in (2, 4, 8) for o in ("replicated", "sharded"))),
    "GQA 3": (ONE, Degree(2), Degree(2, "sharded")),
    "head dimension 128": (ONE,),
    "GQA 17": (ONE,),
}


@dataclass(slots=True)
class Machines:
    """Runners, made when they are first asked for, and what each request gets alone."""

    runners: dict[tuple[str, Degree, int, int], ModelRunner] = field(default_factory=dict)
    truths: dict[tuple[str, Degree, Request], Truth] = field(default_factory=dict)

    def runner(self, name: str, degree: Degree, num_sms: int, num_threads: int) -> ModelRunner:
        key = (name, degree, num_sms, num_threads)
        if key not in self.runners:
            self.runners[key] = ModelRunner(
                RandomCheckpoint(CONFIGS[name]),
                gpus=degree.gpus,
                o_proj=degree.o_proj,
                num_sms=num_sms,
                num_threads=num_threads,
                max_batch_tokens=LIMITS.max_rows,
                max_logit_rows=LIMITS.max_logit_rows,
                num_pages=LIMITS.num_pages,
                split_tokens=SPLIT_TOKENS,
            )
        return self.runners[key]

    def truth(self, name: str, degree: Degree, request: Request) -> Truth:
        """On one SM and one thread."""
        key = (name, degree, request)
        if key not in self.truths:
            self.truths[key] = Truth.of(self.runner(name, degree, 1, 1).step, request)
        return self.truths[key]


@pytest.fixture(scope="module")
def machines() -> Machines:
    return Machines()


sampling_strategy = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.6, 1.0, 2.5]),
    top_k=st.sampled_from([0, 0, 1, 5, 50]),
    top_p=st.sampled_from([1.0, 1.0, 0.3, 0.9]),
    seed=st.sampled_from([0, 1, 2**64 - 1]),
)
# Few lengths, around the edges of pages and row blocks: what a request gets alone is kept.
request_strategy = st.builds(
    lambda length, first, num_outputs, sampling: Request(
        tuple((first + 7 * i * i) % 331 for i in range(length)), num_outputs, sampling
    ),
    length=st.sampled_from([1, 5, 63, 64, 65, 130]),
    first=st.integers(0, 3),
    num_outputs=st.sampled_from([1, 4, 9]),
    sampling=sampling_strategy,
)


@st.composite
def model_and_degree(draw: st.DrawFn) -> tuple[str, Degree]:
    name = draw(st.sampled_from(sorted(CONFIGS)))
    return name, draw(st.sampled_from(DEGREES[name]))


def checked(runner: ModelRunner, rng: random.Random) -> RunStep:
    """Steps under the adversary, each with another seed."""

    def run(batch: StepInput) -> StepOutput:
        lateness = rng.choice([Lateness.RANDOM, Lateness.LATE, Lateness.EAGER])
        seed = rng.getrandbits(32)
        arrays = arrays_of(batch)
        return StepOutput(*runner.core.step_checked(arrays, seed=seed, lateness=lateness))

    return run


def replay(
    machines: Machines,
    name: str,
    degree: Degree,
    requests: list[Request],
    run: RunStep,
    rng: random.Random,
    longest_chunk: int,
) -> None:
    known = [(request, machines.truth(name, degree, request)) for request in requests]
    player = Replay(run, known, LIMITS, rng, longest_chunk=longest_chunk)
    player.play()


@settings(max_examples=40)
@given(
    model=model_and_degree(),
    num_sms=st.integers(1, 8),
    num_threads=st.integers(1, 4),
    requests=st.lists(request_strategy, min_size=1, max_size=6),
    longest_chunk=longest_chunks,
    rng=replay_rngs,
)
def test_threaded_machine(
    machines: Machines,
    model: tuple[str, Degree],
    num_sms: int,
    num_threads: int,
    requests: list[Request],
    longest_chunk: int,
    rng: random.Random,
) -> None:
    name, degree = model
    runner = machines.runner(name, degree, num_sms, num_threads)
    replay(machines, name, degree, requests, runner.step, rng, longest_chunk)


@settings(max_examples=20)
@given(
    model=model_and_degree(),
    num_sms=st.integers(1, 8),
    requests=st.lists(request_strategy, min_size=1, max_size=4),
    rng=replay_rngs,
)
def test_adversary(
    machines: Machines,
    model: tuple[str, Degree],
    num_sms: int,
    requests: list[Request],
    rng: random.Random,
) -> None:
    name, degree = model
    runner = machines.runner(name, degree, num_sms, 1)
    replay(machines, name, degree, requests, checked(runner, rng), rng, longest_chunk=200)


def test_requests_differ(machines: Machines) -> None:
    """Seeds, temperatures and filters change what is sampled: else the tests above say little."""
    prompt = tuple(range(20))
    samplings = [
        Sampling(),
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=1.0, seed=2),
        Sampling(temperature=1.0, seed=1, top_k=5),
        Sampling(temperature=1.0, seed=1, top_p=0.3),
        Sampling(temperature=2.5, seed=1),
    ]
    truths = [machines.truth("GQA 3", ONE, Request(prompt, 9, sampling)) for sampling in samplings]
    assert len({truth.token_ids for truth in truths}) == len(samplings)
    for truth in truths[1:]:
        np.testing.assert_array_equal(truth.logits[:20], truths[0].logits[:20])


def test_sampling_at_top_k_1_is_greedy(machines: Machines) -> None:
    greedy = machines.truth("GQA 3", ONE, Request((5, 6, 7), 9, Sampling()))
    filtered = Sampling(temperature=2.5, top_k=1, seed=4)
    assert (
        machines.truth("GQA 3", ONE, Request((5, 6, 7), 9, filtered)).token_ids == greedy.token_ids
    )


Damage = Callable[[StepOutput], StepOutput]


def _flip_logprob(output: StepOutput) -> StepOutput:
    return replace(output, logprobs=np.nextafter(output.logprobs, np.float32(1)))


def _flip_logit(output: StepOutput) -> StepOutput:
    return replace(output, logits=np.nextafter(output.logits, np.float32(1e9)))


def _change_token(output: StepOutput) -> StepOutput:
    return replace(output, tokens=output.tokens ^ np.int32(1))


@pytest.mark.parametrize("damage", [_flip_logprob, _flip_logit, _change_token])
def test_one_wrong_bit_is_seen(machines: Machines, damage: Damage) -> None:
    request = Request(tuple(range(20)), 9, Sampling())
    runner = machines.runner("GQA 3", ONE, 2, 1)
    with pytest.raises(AssertionError):
        replay(
            machines,
            "GQA 3",
            ONE,
            [request],
            lambda batch: damage(runner.step(batch)),
            random.Random(1),
            longest_chunk=7,
        )
