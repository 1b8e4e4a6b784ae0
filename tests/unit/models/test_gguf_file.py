"""GGUF files: order of Q and K rows, quantised kinds, rotary tensors, damage."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from unit.models.make_random_llama import make_random_llama
from unit.models.write_gguf import KINDS, to_interleaved_order, write_gguf

from terrazzo.models.bf16 import to_bf16_bits
from terrazzo.models.checkpoint import CheckpointError, expected_tensors, validate
from terrazzo.models.config import ConfigError
from terrazzo.models.gguf_file import GgufFile, to_rotate_half_order
from terrazzo.models.hf_folder import HfFolder


def make_model(path: Path, *, tie: bool = False, seed: int = 5) -> Path:
    return make_random_llama(
        path,
        hidden=256,  # the largest block of a quantised kind
        heads=8,
        kv_heads=2,
        head_dim=64,
        intermediate=512,
        layers=2,
        vocab=300,
        tie=tie,
        seed=seed,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def whole_gguf(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(folder, path, kind=KINDS.BF16)
    return path


@given(
    num_heads=st.integers(1, 5),
    half_dim=st.integers(1, 8),
    columns=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_order_of_rows_there_and_back(
    num_heads: int, half_dim: int, columns: int, seed: int
) -> None:
    shape = (num_heads * 2 * half_dim, columns)
    rows = np.random.default_rng(seed).integers(0, 1 << 16, shape, dtype=np.uint16)
    there = to_interleaved_order(rows, num_heads)
    np.testing.assert_array_equal(to_rotate_half_order(there, num_heads), rows)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("kind", [KINDS.F32, KINDS.BF16], ids=lambda kind: kind.name)
def test_a_model_comes_back_bit_for_bit(
    tmp_path: Path, tie: bool, kind: gguf.GGMLQuantizationType
) -> None:
    source = HfFolder(make_model(tmp_path / "model", tie=tie))
    write_gguf(source.path, tmp_path / "model.gguf", kind=kind)
    seen = GgufFile(tmp_path / "model.gguf")
    validate(seen)
    assert seen.config.tie_word_embeddings is tie
    expected = expected_tensors(source.config)
    assert set(seen.names()) == set(expected)
    for name, shape in expected.items():
        assert seen.shape(name) == shape
        bits = seen.tensor(name)
        assert bits.dtype == np.uint16
        assert bits.flags.c_contiguous
        assert bits.flags.aligned
        np.testing.assert_array_equal(bits, source.tensor(name), err_msg=name)


def test_the_configuration_comes_back(folder: Path, whole_gguf: Path) -> None:
    source, seen = HfFolder(folder).config, GgufFile(whole_gguf).config
    for name in (
        "num_layers",
        "hidden_size",
        "intermediate_size",
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "vocab_size",
        "rope_theta",
        "max_position",
    ):
        assert getattr(seen, name) == getattr(source, name), name
    assert seen.rms_norm_eps == np.float32(source.rms_norm_eps)
    assert (seen.bos_token_id, seen.eos_token_ids) == (257, (258,))


@pytest.mark.parametrize(
    "kind", [KINDS.F16, KINDS.Q4_0, KINDS.Q4_1, KINDS.Q5_0, KINDS.Q8_0], ids=lambda kind: kind.name
)
def test_quantised_kinds_equal_the_reader_of_transformers(
    folder: Path, tmp_path: Path, kind: gguf.GGMLQuantizationType
) -> None:
    write_gguf(folder, tmp_path / "model.gguf", kind=kind)
    reference = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    ).state_dict()
    seen = GgufFile(tmp_path / "model.gguf")
    for name in expected_tensors(seen.config):
        np.testing.assert_array_equal(
            seen.tensor(name), to_bf16_bits(reference[name].numpy()), err_msg=name
        )


def test_k_quants_are_read(folder: Path, tmp_path: Path) -> None:
    # The package cannot write these kinds; random blocks are read back by its own reader.
    write_gguf(folder, tmp_path / "model.gguf", kind=KINDS.Q8_0)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "llama")
    for key, field in reader.fields.items():
        if key.startswith("llama."):
            (value,) = field.parts[-1].tolist()
            writer.add_key_value(key, value, field.types[0])
    random = np.random.default_rng(0)
    kinds = [KINDS.Q2_K, KINDS.Q3_K, KINDS.Q4_K, KINDS.Q5_K, KINDS.Q6_K, KINDS.IQ4_XS]
    blocks: dict[str, tuple[gguf.GGMLQuantizationType, np.ndarray]] = {}
    for i, tensor in enumerate(reader.tensors):
        kind = kinds[i % len(kinds)] if tensor.data.ndim == 2 else KINDS.F32
        if kind == KINDS.F32:
            raw = np.array(tensor.data)
        else:
            shape = gguf.quant_shape_to_byte_shape(tuple(reversed(tensor.shape.tolist())), kind)
            raw = random.integers(0, 60, shape, dtype=np.uint8)  # below 60: finite scales
        blocks[tensor.name] = (kind, raw)
        writer.add_tensor(tensor.name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    seen = GgufFile(tmp_path / "k.gguf")
    validate(seen)
    for gguf_name, hf_name in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ("blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight"),
        ("blk.1.attn_v.weight", "model.layers.1.self_attn.v_proj.weight"),
    ):
        kind, raw = blocks[gguf_name]
        np.testing.assert_array_equal(
            seen.tensor(hf_name), to_bf16_bits(dequantize(raw, kind)), err_msg=kind.name
        )


def test_rotary_scaling_may_be_a_tensor(folder: Path, tmp_path: Path) -> None:
    factors = np.linspace(1.0, 8.0, 32, dtype=np.float32)
    write_gguf(folder, tmp_path / "model.gguf", rope_factors=factors)
    seen = GgufFile(tmp_path / "model.gguf")
    validate(seen)
    plain = HfFolder(folder).config.inv_freq()
    np.testing.assert_array_equal(seen.config.inv_freq(), plain / factors)


def test_llama3_scaling_as_factors_is_the_same_model(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    sizes = {"hidden": 64, "heads": 1, "kv_heads": 1, "head_dim": 64, "intermediate": 64}
    make_random_llama(
        tmp_path / "model",
        **sizes,
        layers=1,
        vocab=300,
        tie=True,
        seed=6,
        rope_parameters=rope,
        max_position=65536,
    )
    source = HfFolder(tmp_path / "model").config
    exponents = np.arange(0, 64, 2) / 64
    factors = 500000.0**-exponents / source.inv_freq()
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", rope_factors=factors)
    seen = GgufFile(tmp_path / "model.gguf").config.inv_freq()
    # The factors are rounded to float32, and so is their quotient.
    np.testing.assert_allclose(seen, source.inv_freq(), rtol=4 * 2.0**-24, atol=0)


def test_older_files_without_sizes_of_heads_and_vocabulary_are_read(
    tmp_path: Path, small_llama: Path
) -> None:
    left_out = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    absent = {f"llama.{key}": None for key in (*left_out, "vocab_size", "rope.freq_base")}
    make_random_llama(
        tmp_path / "model",
        hidden=128,
        heads=2,
        kv_heads=1,
        head_dim=64,
        intermediate=64,
        layers=1,
        vocab=300,
        tie=True,
        seed=7,
    )
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", metadata=absent)
    seen = GgufFile(tmp_path / "model.gguf")
    validate(seen)
    assert (seen.config.head_dim, seen.config.vocab_size, seen.config.rope_theta) == (
        64,
        300,
        10000.0,
    )


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "rotary type 'yarn' is not supported"),
        ({"llama.rope.scale_linear": 2.0}, "rotary type 'linear' is not supported"),
        ({"llama.expert_count": 8}, "mixtures of experts are not supported"),
        ({"llama.rope.dimension_count": 32}, "rope.dimension_count: expected the head size 64"),
        ({"llama.attention.value_length": 128}, "value_length: expected the head size 64"),
        ({"llama.block_count": None}, "llama.block_count: expected an integer, but the key"),
        ({"llama.attention.head_count_kv": [2, 2]}, "head_count_kv: expected an integer, got"),
    ],
)
def test_what_is_not_supported_is_named(
    folder: Path, tmp_path: Path, metadata: dict[str, object], message: str
) -> None:
    write_gguf(folder, tmp_path / "model.gguf", metadata=metadata)
    with pytest.raises(ConfigError, match=message):
        GgufFile(tmp_path / "model.gguf")


def test_other_architectures_are_named(folder: Path, tmp_path: Path) -> None:
    write_gguf(folder, tmp_path / "model.gguf", arch="qwen2")
    with pytest.raises(ConfigError, match="architecture 'qwen2' is not supported"):
        GgufFile(tmp_path / "model.gguf")


def test_parts_of_a_split_file_are_named(folder: Path, tmp_path: Path) -> None:
    write_gguf(folder, tmp_path / "model.gguf", metadata={"split.count": 3})
    with pytest.raises(CheckpointError, match="one of 3 parts; merge them"):
        GgufFile(tmp_path / "model.gguf")


def test_metadata_and_tensors_that_disagree_are_noticed(folder: Path, tmp_path: Path) -> None:
    write_gguf(folder, tmp_path / "model.gguf", metadata={"llama.feed_forward_length": 520})
    with pytest.raises(CheckpointError, match=r"gate_proj.*expected shape \(520, 256\).*\(512, 2"):
        validate(GgufFile(tmp_path / "model.gguf"))
    write_gguf(folder, tmp_path / "model.gguf", metadata={"llama.block_count": 3})
    with pytest.raises(CheckpointError, match=r"expected tensor model\.layers\.2"):
        validate(GgufFile(tmp_path / "model.gguf"))


def test_unknown_tensor_is_named(whole_gguf: Path) -> None:
    with pytest.raises(CheckpointError, match="no tensor lm_nothing"):
        GgufFile(whole_gguf).tensor("lm_nothing")


def test_every_part_of_the_head_may_be_cut_off(whole_gguf: Path, tmp_path: Path) -> None:
    whole = whole_gguf.read_bytes()
    damaged = tmp_path / "damaged.gguf"
    first_tensor = min(t.offset_bytes for t in GgufFile(whole_gguf).header.tensors.values())
    for length in [0, 1, 3, *range(4, first_tensor, 61), first_tensor, len(whole) - 40]:
        damaged.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"truncated|is empty"):
            GgufFile(damaged)


def test_flipped_bytes_in_the_head_give_a_model_error_or_a_model(
    whole_gguf: Path, tmp_path: Path
) -> None:
    whole = whole_gguf.read_bytes()
    damaged = tmp_path / "damaged.gguf"
    random = np.random.default_rng(0)
    num_refused = 0
    for _ in range(300):
        data = bytearray(whole)
        data[int(random.integers(0, 9000))] ^= int(random.integers(1, 256))
        damaged.write_bytes(data)
        try:
            validate(GgufFile(damaged))
        except (CheckpointError, ConfigError):
            num_refused += 1
    assert num_refused > 30


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04" + bytes(60), "is not a GGUF file"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(60), "expected version 2 or 3.*got 1"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(60), "expected version 2 or 3"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 60, "truncated"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        GgufFile(tmp_path / "x.gguf")


def test_an_array_longer_than_the_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    key = b"a"
    head = b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little")
    head += (1).to_bytes(8, "little") + len(key).to_bytes(8, "little") + key
    head += (9).to_bytes(4, "little") + (0).to_bytes(4, "little") + (1 << 62).to_bytes(8, "little")
    (tmp_path / "x.gguf").write_bytes(head + bytes(64))
    with pytest.raises(CheckpointError, match="passes the end of the file"):
        GgufFile(tmp_path / "x.gguf")
