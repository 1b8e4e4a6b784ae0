"""SmolLM2 by `transformers` in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

Clock = Callable[[], float]


class Reference:
    """A model with a KV cache; `clock` is what the seconds are of."""

    def __init__(self, gguf: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        ).eval()

    def prefill_s(self, token_ids: Sequence[int], clock: Clock) -> float:
        """Seconds from a prompt to the logits after its last token."""
        ids = torch.tensor([list(token_ids)])
        with torch.inference_mode():
            start = clock()
            self._model(ids, use_cache=True, logits_to_keep=1)
            return clock() - start

    def decode_s(self, token_ids: Sequence[int], num_tokens: int, clock: Clock) -> float:
        """Seconds of `num_tokens` greedy decode steps after a prompt; a loop without `generate`,
        whose bookkeeping would count against it."""
        with torch.inference_mode():
            output = self._model(torch.tensor([list(token_ids)]), use_cache=True, logits_to_keep=1)
            start = clock()
            for _ in range(num_tokens):
                output = self._model(
                    output.logits[:, -1:].argmax(dim=-1),
                    past_key_values=output.past_key_values,
                    use_cache=True,
                )
            return clock() - start
