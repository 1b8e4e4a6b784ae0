"""Writes a Hugging Face Llama as GGUF, with Q and K rows in the order that GGUF has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from tokenizers import pre_tokenizers
from transformers import LlamaForCausalLM

TOP_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
KINDS = gguf.GGMLQuantizationType


def to_interleaved_order(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """From rotate-half order to the order of GGUF: row i of a head goes beside row i + half."""
    out = np.empty_like(rows)
    head_dim = rows.shape[0] // num_heads
    for head in range(num_heads):
        start = head * head_dim
        for i in range(head_dim // 2):
            out[start + 2 * i] = rows[start + i]
            out[start + 2 * i + 1] = rows[start + i + head_dim // 2]
    return out


def write_gguf(
    folder: Path,
    path: Path,
    *,
    kind: gguf.GGMLQuantizationType = KINDS.F32,
    rope_factors: np.ndarray | None = None,
    metadata: Mapping[str, object] | None = None,
    arch: str = "llama",
) -> None:
    """Converts the model in `folder`; matrices get `kind`, norms stay float32.

    `metadata` adds keys, or replaces them; None leaves a key out.
    """
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    values: dict[str, object] = {
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.key_length": config.head_dim,
        f"{arch}.attention.value_length": config.head_dim,
        f"{arch}.rope.dimension_count": config.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{arch}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        f"{arch}.vocab_size": config.vocab_size,
        **byte_tokenizer_metadata(config.vocab_size),
        **(metadata or {}),
    }
    writer = gguf.GGUFWriter(path, arch)
    for key, value in values.items():
        add_value(writer, key, value)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.astype(np.float32))
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, part = gguf_stem(name.removesuffix(".weight"))
        weight = tensor.numpy()
        if part in heads:
            weight = to_interleaved_order(weight, heads[part])
        own_kind = kind if weight.ndim == 2 else KINDS.F32
        writer.add_tensor(f"{stem}.weight", quantize(weight, own_kind), raw_dtype=own_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_value(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    """Adds one key in the type that GGUF files have it in."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif value is not None:
        raise TypeError(f"[write_gguf] {key}: no GGUF type for {value!r}")


def gguf_stem(stem: str) -> tuple[str, str]:
    """The GGUF stem of a Hugging Face name, and its last part."""
    if stem in TOP_NAMES:
        return TOP_NAMES[stem], TOP_NAMES[stem]
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{LAYER_NAMES[part]}", LAYER_NAMES[part]


def byte_tokenizer_metadata(vocab: int) -> dict[str, object]:
    """A vocabulary of all bytes, one merge, BOS and EOS, filled up to `vocab`."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "<|bos|>", "<|eos|>"]
    tokens += [f"<|unused_{i}|>" for i in range(vocab - len(tokens))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 257 + [3] * (vocab - 257),
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 258,
        "tokenizer.ggml.add_bos_token": True,
    }
