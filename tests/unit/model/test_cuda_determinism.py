"""On the GPU too a token's bits depend on its sequence alone, and a failed step leaves no trace."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.random_checkpoint import RandomCheckpoint
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

from terrazzo._core import LaunchError
from terrazzo.llm import LLM
from terrazzo.models.config import ModelConfig
from terrazzo.models.dummy import DummyCheckpoint
from terrazzo.runner import ModelRunner
from terrazzo.sampling import SamplingParams

pytestmark = pytest.mark.t2_gpu

LIMITS = Limits(max_rows=512, max_logit_rows=512, num_pages=40)
SPLIT_TOKENS = 128
NUM_REPEATS = 100
SM_COUNTS = (1, 7, 66, None)  # None: all

GQA_3 = ModelConfig(
    num_layers=3,
    hidden_size=136,
    intermediate_size=328,
    num_heads=6,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=700,
    rms_norm_eps=1e-5,
    rope_theta=1e4,
    rope_scaling=None,
    max_position=512,
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_ids=(),
)
GQA_4_128 = replace(GQA_3, num_heads=8, num_kv_heads=2, head_dim=128, hidden_size=1024)
CONFIGS = {"GQA 3": GQA_3, "GQA 4, head dimension 128": GQA_4_128}
# The layers of an 8B model, of which two are enough, with a smaller vocabulary.
LAYERS_8B = replace(
    GQA_3,
    num_layers=2,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=32000,
    max_position=4096,
    tie_word_embeddings=False,
)


def runner_of(name: str, num_sms: int | None = None, **options: int) -> ModelRunner:
    return ModelRunner(
        RandomCheckpoint(CONFIGS[name]),
        device="cuda",
        num_sms=num_sms,
        **options,
        max_batch_tokens=LIMITS.max_rows,
        max_sequences=LIMITS.max_rows,
        max_logit_rows=LIMITS.max_logit_rows,
        num_pages=LIMITS.num_pages,
        split_tokens=SPLIT_TOKENS,
    )


@pytest.fixture(scope="module")
def runners() -> dict[str, ModelRunner]:
    return {name: runner_of(name) for name in CONFIGS}


@pytest.fixture(scope="module")
def truths() -> dict[tuple[str, Request], Truth]:
    return {}


@pytest.fixture(scope="module")
def large() -> ModelRunner:
    return ModelRunner(
        DummyCheckpoint(LAYERS_8B),
        device="cuda",
        max_batch_tokens=2048,
        max_sequences=512,
        max_model_len=1024,
        num_pages=1000,
        max_logit_rows=64,
    )


request_strategy = st.builds(
    lambda length, first, num_outputs, sampling: Request(
        tuple((first + 7 * i * i) % 700 for i in range(length)), num_outputs, sampling
    ),
    length=st.sampled_from([1, 5, 63, 64, 65, 130, 300]),
    first=st.integers(0, 3),
    num_outputs=st.sampled_from([1, 4, 9]),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.6, 1.0]),
        top_k=st.sampled_from([0, 0, 1, 5, 50]),
        top_p=st.sampled_from([1.0, 1.0, 0.3, 0.9]),
        seed=st.sampled_from([0, 1, 2**64 - 1]),
    ),
)


@settings(max_examples=2 if ON_LANES else 40)
@given(
    name=st.sampled_from(sorted(CONFIGS)),
    requests=st.lists(request_strategy, min_size=1, max_size=6),
    longest_chunk=longest_chunks,
    rng=replay_rngs,
)
def test_any_company_and_chunks(
    runners: dict[str, ModelRunner],
    truths: dict[tuple[str, Request], Truth],
    name: str,
    requests: list[Request],
    longest_chunk: int,
    rng: random.Random,
) -> None:
    run = runners[name].step
    for request in requests:
        if (name, request) not in truths:
            truths[name, request] = Truth.of(run, request)
    known = [(request, truths[name, request]) for request in requests]
    Replay(run, known, LIMITS, rng, longest_chunk=longest_chunk).play()


@pytest.mark.parametrize("name", CONFIGS)
def test_any_number_of_sms(name: str) -> None:
    ids = [(3 * i) % 700 for i in range(400)]
    results: list[Rows] = []
    for num_sms in SM_COUNTS:
        runner = runner_of(name, num_sms)
        whole = teacher_forced(runner.step, ids[:200], [200])
        cut = teacher_forced(runner.step, ids[:200], [1, 63, 65, 7])
        np.testing.assert_array_equal(cut.logits, whole.logits)
        results.append(whole)
    for other in results[1:]:
        np.testing.assert_array_equal(other.logits, results[0].logits)
        np.testing.assert_array_equal(other.logprobs, results[0].logprobs)


@pytest.mark.parametrize("options", [{"reserve_sms": 4}, {"trace_events": 100_000}])
def test_options_change_nothing(runners: dict[str, ModelRunner], options: dict[str, int]) -> None:
    ids = [(3 * i) % 700 for i in range(200)]
    expected = teacher_forced(runners["GQA 3"].step, ids, [200])
    other = runner_of("GQA 3", **options)
    seen = teacher_forced(other.step, ids, [200])
    np.testing.assert_array_equal(seen.logits, expected.logits)
    assert other.core.num_sms == runners["GQA 3"].core.num_sms - options.get("reserve_sms", 0)


@pytest.mark.skipif(ON_LANES, reason="lanes are not torch's device")
def test_on_a_callers_stream(runners: dict[str, ModelRunner]) -> None:
    """Behind what the caller has queued there."""
    import torch

    stream = torch.cuda.Stream()
    runner = runner_of("GQA 3", stream=stream.cuda_stream)
    ids = [(3 * i) % 700 for i in range(200)]
    expected = teacher_forced(runners["GQA 3"].step, ids, [200])
    with torch.cuda.stream(stream):
        matrix = torch.randn(4096, 4096, device="cuda")
        for _ in range(10):
            matrix = matrix @ matrix
            matrix /= matrix.norm()
    before = stream.record_event()
    seen = teacher_forced(runner.step, ids, [200])
    assert before.query()
    np.testing.assert_array_equal(seen.logits, expected.logits)
    del runner
    stream.synchronize()  # the caller's stream is still there


def mixed_step(runner: ModelRunner) -> Rows:
    """256 decode rows and chunks of three prompts; sampled tokens, a few rows' logits."""
    parts = [
        Part([i % 32000], 63 + i % 3, [2 * i, 2 * i + 1], [0], want_logits=i < 32)
        for i in range(256)
    ]
    for i, rows in enumerate((700, 129, 64)):
        pages = range(512 + 16 * i, 512 + 16 * (i + 1))
        parts.append(Part([(7 * j) % 32000 for j in range(rows)], 0, pages, [rows - 1], True))
    output = runner.step(step_input(parts))
    return Rows(output.tokens, output.logprobs, output.logits)


@needs_gpu_speed
def test_a_hundred_repeats(large: ModelRunner) -> None:
    """Of a step that keeps all SMs busy. Its decode rows read contexts that a first step wrote."""
    for begin in range(0, 256, 16):
        parts = [
            Part([i + k for k in range(63 + i % 3)], 0, [2 * i, 2 * i + 1])
            for i in range(begin, begin + 16)
        ]
        large.step(step_input(parts))
    first = mixed_step(large)
    assert np.isfinite(first.logits).all()
    for repeat in range(NUM_REPEATS):
        again = mixed_step(large)
        np.testing.assert_array_equal(again.tokens, first.tokens, f"repeat {repeat}")
        np.testing.assert_array_equal(again.logprobs, first.logprobs, f"repeat {repeat}")
        np.testing.assert_array_equal(again.logits, first.logits, f"repeat {repeat}")


def test_the_watchdog(runners: dict[str, ModelRunner]) -> None:
    """A limit that no step can keep ends it with a name; the next step is right."""
    runner = runners["GQA 3"]
    ids = [(3 * i) % 700 for i in range(200)]
    expected = teacher_forced(runner.step, ids, [200])
    core = runner.core
    batch = step_input([Part(ids, 0, range(4), [199])])
    for _ in range(3):
        core.set_watchdog_seconds(1e-9)
        first, second = runner.submit(batch), runner.submit(batch)
        core.set_watchdog_seconds(10.0)
        with pytest.raises(LaunchError, match=r"\[watchdog\] gpu 0 sm \d+ .* waits for "):
            runner.collect(first)
        with pytest.raises(ValueError, match="not that of the oldest"):
            runner.collect(second)
        seen = teacher_forced(runner.step, ids, [200])
        np.testing.assert_array_equal(seen.logits, expected.logits)


@needs_gpu_speed
def test_llm_in_any_company(small_llama: Path) -> None:
    prompts = ["a", "b" * 63, "cd" * 32, "Of thousands of chips. " * 6, "e" * 129, "A floor"]
    params = [
        SamplingParams(max_tokens=190, logprobs=True, ignore_eos=True),
        SamplingParams(max_tokens=130, logprobs=True, ignore_eos=True, temperature=1.0, seed=1),
        SamplingParams(max_tokens=140, logprobs=True, temperature=0.8, top_k=20, seed=2),
        SamplingParams(max_tokens=20, logprobs=True, temperature=1.3, top_p=0.8, seed=3),
        SamplingParams(max_tokens=30, logprobs=True, temperature=1.0, top_k=9, top_p=0.9, seed=4),
        SamplingParams(max_tokens=1, logprobs=True),
    ]
    llm = LLM(str(small_llama), device="cuda", kv_pages=64)
    alone = [llm.generate(p, s)[0] for p, s in zip(prompts, params, strict=True)]
    for kv_pages, max_batch_tokens in ((64, 2048), (6, 2048), (14, 17), (30, 150)):
        other = LLM(
            str(small_llama), device="cuda", kv_pages=kv_pages, max_batch_tokens=max_batch_tokens
        )
        together = other.generate(prompts, params)
        assert [(o.token_ids, o.logprobs) for o in together] == [
            (o.token_ids, o.logprobs) for o in alone
        ]


def test_two_models_on_one_gpu(small_llama: Path) -> None:
    """They share nothing: streams of both, in turns."""
    params = SamplingParams(max_tokens=40, ignore_eos=True, temperature=1.0, seed=1)
    llms = [LLM(str(small_llama), device="cuda", kv_pages=8) for _ in range(2)]
    expected = llms[0].generate("A floor of chips", params)[0].token_ids
    streams = [llm.stream("A floor of chips", params) for llm in llms]
    tokens: list[list[int]] = [[], []]
    for updates in zip(*streams, strict=True):
        for seen, update in zip(tokens, updates, strict=True):
            seen.append(update.token_id)
    assert [tuple(seen) for seen in tokens] == [expected, expected]
