"""LLM on the host machine: company, order, machine and KV budget leave every bit as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terrazzo.engine import RequestOutput
from terrazzo.engine.length_estimate import LengthEstimate
from terrazzo.llm import LLM
from terrazzo.sampling import SamplingParams

# Byte by byte a token; lengths around the edges of pages (64) and row blocks (128).
PROMPTS = ("a", "b" * 63, "cd" * 32, "Of thousands of chips. " * 6, "e" * 129, "A floor")
PARAMS = (
    SamplingParams(max_tokens=190, logprobs=True, ignore_eos=True),
    SamplingParams(max_tokens=130, logprobs=True, ignore_eos=True, temperature=1.0, seed=1),
    SamplingParams(max_tokens=140, logprobs=True, temperature=0.8, top_k=20, seed=2),
    SamplingParams(max_tokens=20, logprobs=True, temperature=1.3, top_p=0.8, seed=3),
    SamplingParams(max_tokens=30, logprobs=True, temperature=1.0, top_k=9, top_p=0.9, seed=4),
    SamplingParams(max_tokens=1, logprobs=True),
)
DEGREES = (1, 2, 4)
FEWEST_PAGES = 4  # of the longest request


def without_id(output: RequestOutput) -> tuple[object, ...]:
    return (
        output.prompt_token_ids,
        output.token_ids,
        output.text,
        output.finish_reason,
        output.logprobs,
    )


@pytest.fixture(scope="module")
def alone(small_llama: Path) -> dict[int, list[tuple[object, ...]]]:
    """What each request gets when nothing else is served, for each number of GPUs."""
    outputs = {}
    for gpus in DEGREES:
        llm = LLM(str(small_llama), gpus=gpus, num_sms=1, num_threads=1, kv_pages=8)
        each = [llm.generate(prompt, p)[0] for prompt, p in zip(PROMPTS, PARAMS, strict=True)]
        outputs[gpus] = [without_id(output) for output in each]
    return outputs


def look_short(llm: LLM) -> None:
    """Let the engine expect outputs of one token: it admits too many and preempts."""
    llm.engine._scheduler.estimate = LengthEstimate(1.0)


@settings(max_examples=40)
@given(
    gpus=st.sampled_from(DEGREES),
    num_sms=st.integers(1, 4),
    num_threads=st.integers(1, 3),
    max_batch_tokens=st.sampled_from([3, 17, 64, 150, 512]),
    max_sequences=st.integers(1, 8),
    kv_pages=st.integers(FEWEST_PAGES, 14),
    chosen=st.lists(st.sampled_from(range(len(PROMPTS))), min_size=1, max_size=9),
    are_short=st.booleans(),
)
def test_same_outputs_in_any_company(
    small_llama: Path,
    alone: dict[int, list[tuple[object, ...]]],
    gpus: int,
    num_sms: int,
    num_threads: int,
    max_batch_tokens: int,
    max_sequences: int,
    kv_pages: int,
    chosen: list[int],
    are_short: bool,
) -> None:
    llm = LLM(
        str(small_llama),
        gpus=gpus,
        num_sms=num_sms,
        num_threads=num_threads,
        max_batch_tokens=max_batch_tokens,
        max_sequences=max_sequences,
        kv_pages=kv_pages,
    )
    if are_short:
        look_short(llm)
    outputs = llm.generate([PROMPTS[i] for i in chosen], [PARAMS[i] for i in chosen])
    assert [without_id(output) for output in outputs] == [alone[gpus][i] for i in chosen]


def test_a_small_budget_preempts(
    small_llama: Path, alone: dict[int, list[tuple[object, ...]]]
) -> None:
    """So the test above has met preemption."""
    llm = LLM(str(small_llama), kv_pages=5)
    look_short(llm)
    outputs = llm.generate(list(PROMPTS), list(PARAMS))
    assert llm.metrics().preemptions > 0
    assert [without_id(output) for output in outputs] == alone[1]


def test_two_models_in_one_process(
    small_llama: Path, alone: dict[int, list[tuple[object, ...]]]
) -> None:
    """They share nothing: streams of both, in turns."""
    llms = [LLM(str(small_llama), gpus=gpus, kv_pages=8) for gpus in (1, 4)]
    streams = [llm.stream(PROMPTS[2], PARAMS[2]) for llm in llms]
    last = [update for updates in zip(*streams, strict=True) for update in updates][-2:]
    for update, gpus in zip(last, (1, 4), strict=True):
        assert update.output is not None
        assert without_id(update.output) == alone[gpus][2]
