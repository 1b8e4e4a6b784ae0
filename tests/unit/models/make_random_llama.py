"""Writes small Llama models with random weights in Hugging Face layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM

BOS, EOS = "<|bos|>", "<|eos|>"


def make_random_llama(
    path: Path,
    *,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    intermediate: int,
    layers: int,
    vocab: int,
    tie: bool,
    seed: int,
    max_shard_size: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    rope_parameters: Mapping[str, object] | None = None,
    max_position: int = 2048,
    with_tokenizer: bool = False,
) -> Path:
    """Saves a model and returns its folder; `hidden` must be a multiple of `heads`.

    Weights are scaled so that activations keep their size from layer to layer, and norms differ
    from 1: an error in any of them shows in the logits. With `with_tokenizer` each byte is a token
    and the two after them are BOS and EOS.
    """
    config = LlamaConfig(
        hidden_size=hidden,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        vocab_size=vocab,
        tie_word_embeddings=tie,
        max_position_embeddings=max_position,
        rope_parameters=dict(rope_parameters or {"rope_type": "default", "rope_theta": 10000.0}),
        bos_token_id=256 if with_tokenizer else None,
        eos_token_id=257 if with_tokenizer else None,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(1 + 0.2 * noise)
            elif "embed_tokens" in name and not tie:
                weight.copy_(noise)
            else:
                weight.copy_(noise / weight.shape[1] ** 0.5)
    model = model.to(dtype)
    if max_shard_size is None:
        model.save_pretrained(path)
    else:
        model.save_pretrained(path, max_shard_size=max_shard_size)
    if with_tokenizer:
        save_byte_tokenizer(path, vocab)
    return path


def save_byte_tokenizer(path: Path, vocab: int) -> None:
    """Writes a tokenizer that has one token a byte, BOS, EOS and a small chat template."""
    if vocab < 258:
        raise ValueError(f"[save_byte_tokenizer] expected at least 258 tokens, got {vocab}")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.save(str(path / "tokenizer.json"))
    template = (
        "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] "
        "{{ message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    config = {"bos_token": BOS, "eos_token": EOS, "chat_template": template}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
