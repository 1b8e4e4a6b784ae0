"""Folders in Hugging Face layout: whole ones against transformers, and damaged ones."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM
from unit.models.make_random_llama import make_random_llama

from terrazzo.models.checkpoint import CheckpointError, expected_tensors, validate
from terrazzo.models.hf_folder import HfFolder
from terrazzo.models.safetensors_file import SafetensorsFile

SIZES = {
    "hidden": 96,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 64,
    "intermediate": 160,
    "layers": 3,
    "vocab": 131,
}
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def torch_bits(tensor: torch.Tensor) -> np.ndarray:
    return tensor.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()


def assert_equals_transformers(folder: Path) -> None:
    checkpoint = HfFolder(folder)
    validate(checkpoint)
    weights = LlamaForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    for name, shape in expected_tensors(checkpoint.config).items():
        seen = checkpoint.tensor(name)
        assert seen.dtype == np.uint16
        assert seen.shape == checkpoint.shape(name) == shape
        assert seen.flags.c_contiguous
        assert seen.flags.aligned
        np.testing.assert_array_equal(seen, torch_bits(weights[name]), err_msg=name)


@pytest.fixture
def folder(small_llama: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(small_llama, tmp_path / "model"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return make_random_llama(tmp_path, **SIZES, tie=False, seed=2, max_shard_size="100KB")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("tie", [False, True])
def test_one_file_holds_what_transformers_reads(
    tmp_path: Path, dtype: torch.dtype, tie: bool
) -> None:
    make_random_llama(tmp_path, **SIZES, tie=tie, seed=3, dtype=dtype)
    assert_equals_transformers(tmp_path)
    has_head = "lm_head.weight" in expected_tensors(HfFolder(tmp_path).config)
    assert has_head is not tie


def test_shards_hold_what_transformers_reads(sharded: Path) -> None:
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    assert_equals_transformers(sharded)


def test_float16_keeps_what_bfloat16_can_hold(tmp_path: Path) -> None:
    # The smallest float16 subnormal and the largest value both lie in the range of bfloat16.
    values = torch.tensor([2.0**-24, 65504.0, -0.0, float("inf")], dtype=torch.float16)
    save_file({"x": values}, tmp_path / WEIGHTS)
    seen = SafetensorsFile(tmp_path / WEIGHTS).tensor("x")
    np.testing.assert_array_equal(seen, torch_bits(values))


def test_data_off_alignment_is_read(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [1, 5]}}).encode()
    header += b" " * (-len(header) % 8)
    data = b"\0" + np.array([0x3F80, 0x4000], dtype="<u2").tobytes()
    (tmp_path / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + data)
    seen = SafetensorsFile(tmp_path / WEIGHTS).tensor("x")
    assert seen.flags.aligned
    assert seen.tolist() == [0x3F80, 0x4000]


def test_other_element_types_are_named(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2, dtype=torch.int32)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="expected one of BF16, F16, F32, got I32"):
        SafetensorsFile(tmp_path / WEIGHTS).tensor("x")


def test_unknown_tensor_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tensor model\.nothing"):
        HfFolder(folder).tensor("model.nothing")
    with pytest.raises(CheckpointError, match=r"no tensor model\.nothing"):
        HfFolder(folder).shape("model.nothing")


def test_every_truncation_of_the_header_and_some_of_the_data_are_noticed(folder: Path) -> None:
    path = folder / WEIGHTS
    whole = path.read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    lengths = [*range(1, header_end, 97), header_end, header_end + 1, len(whole) - 1]
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"damaged.*download or copy it again"):
            HfFolder(folder)


def test_empty_file_is_noticed(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointError, match="0 bytes are too few"):
        HfFolder(folder)


def write_header(path: Path, header: object, data: bytes = b"\0" * 16) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{nonsense", "the header is not JSON"),
        (b"\xff\xfe", "the header is not JSON"),
        ([], "the header is not a JSON object"),
        ({"x": 1}, "the entry of x is not a JSON object"),
        ({"x": {"dtype": "BF16", "shape": [-1], "data_offsets": [0, 2]}}, "x has the entry"),
        ({"x": {"dtype": "BF16", "shape": [1], "data_offsets": [0]}}, "x has the entry"),
        ({"x": {"dtype": "BF16", "shape": [1]}}, "x has the entry"),
        ({"x": {"dtype": "BF17", "shape": [1], "data_offsets": [0, 2]}}, "unknown type 'BF17'"),
        ({"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 2]}}, "but 2 bytes"),
        ({"x": {"dtype": "BF16", "shape": [1], "data_offsets": [4, 2]}}, "but -2 bytes"),
        ({"x": {"dtype": "BF16", "shape": [9], "data_offsets": [0, 18]}}, "truncated"),
    ],
)
def test_nonsense_in_a_header_is_noticed(tmp_path: Path, header: object, message: str) -> None:
    write_header(tmp_path / WEIGHTS, header)
    with pytest.raises(CheckpointError, match=message):
        SafetensorsFile(tmp_path / WEIGHTS)


def test_git_lfs_pointer_is_named(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match=r"Git LFS pointer.*git lfs pull"):
        HfFolder(folder)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        HfFolder(tmp_path / "nowhere")
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"index\.json is missing.*download the index"):
        HfFolder(folder)
    (folder / "model-00001-of-00002.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only pickled weights.*convert them"):
        HfFolder(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        HfFolder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        HfFolder(folder)


def test_broken_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json"):
        HfFolder(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a JSON object, got list"):
        HfFolder(folder)


def test_missing_shard_is_named(sharded: Path) -> None:
    shard = min(sharded.glob("model-*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name} is missing.*download this shard"):
        HfFolder(sharded)


def test_shard_without_its_tensor_is_named(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    shards = sorted(set(index["weight_map"].values()))
    moved = next(name for name, shard in index["weight_map"].items() if shard == shards[0])
    index["weight_map"][moved] = shards[1]
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=rf"puts {moved} into {shards[1]}, which does not"):
        HfFolder(sharded)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", 3])
def test_index_names_files_of_its_folder_only(sharded: Path, shard: object) -> None:
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"x": shard}}))
    with pytest.raises(CheckpointError, match="expected a file name for x"):
        HfFolder(sharded)


def test_index_without_a_map_is_named(sharded: Path) -> None:
    (sharded / INDEX).write_text("{}")
    with pytest.raises(CheckpointError, match="expected an object weight_map"):
        HfFolder(sharded)


def test_config_and_weights_that_disagree_are_noticed(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 3}))
    with pytest.raises(
        CheckpointError,
        match=r"layers\.0\.self_attn\.k_proj\.weight: expected shape \(192, 96\).*got \(64, 96\)",
    ):
        validate(HfFolder(folder))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(
        CheckpointError, match=r"expected tensor model\.layers\.2\..* and 17 more, found none"
    ):
        validate(HfFolder(folder))


def test_biases_are_not_dropped_in_silence(folder: Path) -> None:
    state = LlamaForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    state["model.layers.0.self_attn.q_proj.bias"] = torch.ones(192, dtype=torch.bfloat16)
    save_file(state, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"expected no bias tensors, got .*q_proj\.bias"):
        validate(HfFolder(folder))
