"""Checks the prompts that come into the engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def checked_prompt(prompt_ids: ArrayLike, vocab_size: int, max_model_len: int) -> NDArray[np.int32]:
    """The token ids as an array of its own; ValueError for what is no prompt of this model."""
    try:
        prompt = np.asarray(prompt_ids)
    except ValueError:  # ragged
        prompt = np.asarray(None)
    if prompt.size == 0:
        raise ValueError("[Engine] empty prompt: expected at least one token")
    if prompt.ndim != 1 or prompt.dtype.kind not in "iu":
        raise ValueError("[Engine] prompt: expected a flat list of integer token ids")
    if prompt.min() < 0 or prompt.max() >= vocab_size:
        outside = prompt[(prompt < 0) | (prompt >= vocab_size)]
        raise ValueError(f"[Engine] token id {outside[0]}: expected one in [0, {vocab_size - 1}]")
    if prompt.size >= max_model_len:
        raise ValueError(
            f"[Engine] the prompt has {prompt.size} tokens, but the context of {max_model_len} "
            f"tokens has room for {max_model_len - 1} beside a generated one"
        )
    return prompt.astype(np.int32)
