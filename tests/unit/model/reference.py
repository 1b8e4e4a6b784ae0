"""What `transformers` computes, and how far another result is from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel

Logits = NDArray[np.float32]  # [tokens, vocab]


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch's threads spin while they wait: next to other work several are slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def open_fp32(path: Path) -> PreTrainedModel:
    """A model from a folder, or from a `.gguf` file by the reader of `transformers`."""
    if path.suffix == ".gguf":
        return AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def in_bf16(model: PreTrainedModel) -> PreTrainedModel:
    """The model in bfloat16; rotary frequencies stay float32, as when it is loaded that way."""
    copy = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16).to(model.device)
    copy.load_state_dict(model.state_dict())
    return copy


def reference_logits(model: PreTrainedModel, token_ids: Sequence[int]) -> Logits:
    with torch.inference_mode():
        ids = torch.tensor([list(token_ids)], device=model.device)
        logits = model.eval()(ids).logits[0]
    result: Logits = logits.float().cpu().numpy()
    return result


@dataclass(frozen=True, slots=True)
class ReferenceLogits:
    """A float32 run of some tokens, and a bfloat16 run that says what rounding costs."""

    fp32: Logits
    bf16: Logits

    @classmethod
    def of(cls, model: PreTrainedModel, token_ids: Sequence[int]) -> ReferenceLogits:
        return cls(reference_logits(model, token_ids), reference_logits(in_bf16(model), token_ids))

    @property
    def bf16_distance(self) -> float:
        return relative_distance(self.bf16, self.fp32)

    @property
    def bf16_error_rms(self) -> float:
        """Of a single logit."""
        return float(np.sqrt(np.mean(np.square(self.bf16 - self.fp32))))


def relative_distance(seen: Logits, expected: Logits) -> float:
    """Frobenius norm of the difference, relative to that of what is expected."""
    difference = np.linalg.norm(seen.astype(np.float64) - expected)
    return float(difference / np.linalg.norm(expected.astype(np.float64)))


def top_two_margins(logits: Logits) -> NDArray[np.float32]:
    """Lead of the best logit over the second, row by row."""
    best = np.partition(logits, -2, axis=-1)[:, -2:]
    return np.abs(best[:, 1] - best[:, 0])
