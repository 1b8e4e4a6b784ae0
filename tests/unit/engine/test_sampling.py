"""SamplingParams names the field, the value and what is allowed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terrazzo.sampling import MAX_SEED, SamplingParams


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("max_tokens", 0, r"an integer in \[1, "),
        ("max_tokens", -1, r"an integer in \[1, "),
        ("max_tokens", 1.5, "an integer"),
        ("max_tokens", True, "an integer"),
        ("max_tokens", None, "an integer"),
        ("max_tokens", 2**31, "an integer"),
        ("temperature", -0.1, r"0 \(greedy\) or a number in"),
        ("temperature", math.nan, r"0 \(greedy\) or a number in"),
        ("temperature", math.inf, r"0 \(greedy\) or a number in"),
        ("temperature", 1e-30, r"0 \(greedy\) or a number in"),
        ("temperature", 1e30, r"0 \(greedy\) or a number in"),
        ("temperature", "hot", r"0 \(greedy\) or a number in"),
        ("temperature", None, r"0 \(greedy\) or a number in"),
        ("top_k", -1, r"an integer in \[0, "),
        ("top_k", 2.0, "an integer"),
        ("top_p", 0.0, r"a float32 in \(0, 1\]"),
        ("top_p", 1.01, r"a float32 in \(0, 1\]"),
        ("top_p", math.nan, r"a float32 in \(0, 1\]"),
        ("top_p", 1e-60, r"a float32 in \(0, 1\]"),
        ("top_p", "1", r"a float32 in \(0, 1\]"),
        ("seed", -1, r"an integer in \[0, "),
        ("seed", 2**64, r"an integer in \[0, "),
        ("seed", 0.5, "an integer"),
        ("stop", "end", "a tuple of non-empty strings"),
        ("stop", ["end"], "a tuple of non-empty strings"),
        ("stop", ("end", ""), "a tuple of non-empty strings"),
        ("stop", (1,), "a tuple of non-empty strings"),
        ("ignore_eos", 1, "True or False"),
        ("logprobs", None, "True or False"),
    ],
)
def test_bad_values(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"\[SamplingParams\] {name} = .*: expected {allowed}"):
        SamplingParams(**{name: value})


def test_the_message_shows_the_value() -> None:
    with pytest.raises(ValueError, match="temperature = nan"):
        SamplingParams(temperature=math.nan)


@given(
    st.builds(
        SamplingParams,
        max_tokens=st.integers(1, 2**31 - 1),
        temperature=st.just(0.0) | st.floats(1e-4, 1e4),
        top_k=st.integers(0, 2**31 - 1),
        top_p=st.floats(0.0, 1.0, exclude_min=True, width=32),
        seed=st.none() | st.integers(0, MAX_SEED),
        stop=st.lists(st.text(min_size=1)).map(tuple),
    )
)
def test_good_values_survive_their_arrays(params: SamplingParams) -> None:
    assert np.isfinite(np.float32(params.temperature))
    assert (np.float32(params.temperature) > 0) == (params.temperature > 0)
    assert 0 < np.float32(params.top_p) <= 1
    assert np.int32(params.top_k) == params.top_k
    assert params == SamplingParams(**{name: getattr(params, name) for name in params.__slots__})
