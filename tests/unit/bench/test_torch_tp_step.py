"""The peer of tensor-parallel steps, by gloo on a CPU: shares give the whole model's result."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")

import torch
from bench import torch_tp_step
from bench.model_sizes import HEAD_DIM, LLAMA_70B, Sizes
from bench.rank_processes import ENVIRONMENT, RanksFailed, run_ranks
from bench.torch_step import Parts
from bench.torch_tp_bench import Bench, Plan
from bench.torch_tp_layers import Alone, Group, ShareStep, ShareWeights, share_of, slice_of
from bench.torch_tp_step import rows_of
from bench.torch_tp_table import table

SIZES = Sizes("small", 256, 384, 4, 2, num_layers=3, vocab=320)
CPU = torch.device("cpu")
ROWS, LOGIT_ROWS = 9, 4
LIMIT_S = 100.0
# Sums in float32 in another order: a product of depth K is off by some sqrt(K) * 2^-24 of its size,
# 1e-6 here, and each of 3 layers passes on what it got.
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `run_ranks` sets goes with the test."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, os.environ.get(name, value))


def write_output(rank: int, join: Callable[[], None], folder: Path) -> None:
    join()
    weights = ShareWeights(SIZES, 2, rank, CPU, torch.float32)
    step = ShareStep(weights, ROWS, LOGIT_ROWS)
    torch.save(tuple(step.run(Parts(), Group(CPU, torch.float32))), folder / f"{rank}.pt")


def test_two_ranks_are_the_whole_model(tmp_path: Path) -> None:
    weights = ShareWeights(SIZES, 1, 0, CPU, torch.float32)
    whole = ShareStep(weights, ROWS, LOGIT_ROWS).run(Parts(), Alone(CPU, torch.float32))
    assert len(set(whole.token_ids.tolist())) == LOGIT_ROWS
    assert {token // (SIZES.vocab // 2) for token in whole.token_ids.tolist()} == {0, 1}
    run_ranks(write_output, 2, (tmp_path,), device="cpu", limit_s=LIMIT_S)
    for rank in range(2):
        hidden, token_ids = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(hidden, whole.hidden, rtol=TOLERANCE, atol=TOLERANCE)
        assert torch.equal(token_ids, whole.token_ids)


def test_every_layer_counts() -> None:
    """What the comparison above sees: without the last layer the result is another."""
    step = ShareStep(ShareWeights(SIZES, 1, 0, CPU, torch.float32), ROWS, LOGIT_ROWS)
    alone = Alone(CPU, torch.float32)
    short, whole = (step.run(Parts(), alone, layers).hidden for layers in (2, 3))
    assert (short - whole).abs().max() > 100 * TOLERANCE


def test_slices() -> None:
    """Rows of [N, 1] that hold their index: heads of each kind, and both halves of gate and up."""
    sizes = Sizes("small", 4, 6, 4, 2)
    qkv = torch.arange(8 * HEAD_DIM).view(-1, 1)
    heads = slice_of("qkv_rope_append", qkv, sizes, 2, 1)[::HEAD_DIM, 0] // HEAD_DIM
    assert heads.tolist() == [2, 3, 5, 7]
    gates = slice_of("gate_up_silu", torch.arange(12).view(-1, 1), sizes, 2, 0)
    assert gates[:, 0].tolist() == [0, 1, 2, 6, 7, 8]
    columns = slice_of("down_residual", torch.arange(12).view(2, 6), sizes, 2, 1)
    assert columns.tolist() == [[3, 4, 5], [9, 10, 11]]
    assert columns.is_contiguous()


def test_shares_of_70b() -> None:
    for gpus in (1, 2, 4, 8):
        share = share_of(LLAMA_70B, gpus)
        assert share.layer_weights * gpus == LLAMA_70B.layer_weights
        assert share.vocab * gpus == LLAMA_70B.vocab
    with pytest.raises(ValueError, match="3 GPUs do not divide intermediate of 28672"):
        share_of(LLAMA_70B, 3)


@pytest.mark.parametrize(
    ("text", "rows"),
    [("1", (1, 1)), ("2048", (2048, 2048)), ("4096", (4096, 2049)), ("64:3", (64, 3))],
)
def test_rows(text: str, rows: tuple[int, int]) -> None:
    assert rows_of(text) == rows


@pytest.mark.parametrize("text", ["0", "4:5", "4:0", "x"])
def test_bad_rows(text: str) -> None:
    with pytest.raises(ValueError, match=r"no rows|invalid literal"):
        rows_of(text)


def test_flops_are_those_of_the_share() -> None:
    step = ShareStep(ShareWeights(SIZES, 2, 0, CPU), ROWS, LOGIT_ROWS)
    layers = ROWS * SIZES.num_layers * SIZES.layer_weights
    assert step.flops == layers + LOGIT_ROWS * SIZES.vocab * SIZES.hidden  # 2 / 2 GPUs


def test_program(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails is named, and everything else is there: a CPU has no symmetric memory."""
    result = tmp_path / "new" / "tp.json"
    arguments = f"--device cpu --shape tiny --rows 2 5:1 --symmetric --json {result} --repeats 3"
    assert torch_tp_step.main(arguments.split()) == 0
    report = json.loads(result.read_text())
    assert report["complete"]
    assert [(row["rows"], row["logit_rows"]) for row in report["rows"]] == [(2, 2), (5, 1)]
    for row in report["rows"]:
        assert [len(row["step_ms"]["nccl"]), len(row["share_ms"])] == [3, 3]
        assert list(row["reduce_us"]) == ["nccl"]
    assert len(report["notes"]) == 1
    assert report["notes"][0].startswith("symmetric memory omitted: ")
    assert capfd.readouterr().out.endswith(table(report) + "\n")


class Scaled(Group):
    """Sums that are off by a factor."""

    name = "scaled"

    def __init__(self, factor: float) -> None:
        super().__init__(CPU)
        self.factor = factor

    def reduce(self, partial: torch.Tensor) -> torch.Tensor:
        return super().reduce(partial) * self.factor


def check_and_measure(rank: int, join: Callable[[], None], folder: Path) -> None:
    """Sound sums; one rank's off by about a rounding; all of them wrong; no numbers."""
    join()
    bench = Bench(Plan(SIZES, 2, (), 1, 0.0, False, "cpu", folder / "report.json"), rank)
    step = ShareStep(ShareWeights(SIZES, 2, rank, CPU), ROWS, LOGIT_ROWS)
    messages = []
    for factor in (1.0, 1.004 if rank == 1 else 1.0, 2.0, math.nan):
        try:
            bench.check(step, Parts(), Scaled(factor))
            messages.append("")
        except RuntimeError as error:
            messages.append(str(error))
    bench.times_ms = lambda run: [9.0 - rank, 1.0 + rank, 1.0 + rank]  # type: ignore[method-assign]
    share_ms = bench.measure(step, Parts())["share_ms"]
    (folder / f"{rank}.json").write_text(json.dumps([messages, share_ms]))


def test_checks_see_wrong_sums_and_the_slowest_rank_counts(tmp_path: Path) -> None:
    run_ranks(check_and_measure, 2, (tmp_path,), device="cpu", limit_s=LIMIT_S)
    for rank in range(2):
        (sound, differing, wrong, no_number), share_ms = json.loads(
            (tmp_path / f"{rank}.json").read_text()
        )
        assert sound == ""
        assert differing == "scaled: the ranks differ in their residuals"
        assert wrong.startswith("scaled: 0.")
        assert wrong.endswith(" away from sums in float32")
        assert no_number == "scaled: nan away from sums in float32"
        assert share_ms == [8.0, 2.0, 2.0]


def write_environment(rank: int, join: Callable[[], None], folder: Path) -> None:
    del join
    (folder / f"{rank}.json").write_text(json.dumps(dict(os.environ)))


def test_multicast_is_off_whatever_the_caller_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "1")
    monkeypatch.setenv("TORCH_SYMM_MEM_DISABLE_MULTICAST", "0")
    run_ranks(write_environment, 1, (tmp_path,), device="cpu", limit_s=LIMIT_S)
    seen = json.loads((tmp_path / "0.json").read_text())
    assert seen["NCCL_NVLS_ENABLE"] == "0"
    assert seen["TORCH_SYMM_MEM_DISABLE_MULTICAST"] == "1"


def fail_on_the_second(rank: int, join: Callable[[], None]) -> None:
    join()
    if rank == 1:
        raise ValueError("the second rank's")
    time.sleep(LIMIT_S)


def test_a_rank_that_fails_ends_all(capfd: pytest.CaptureFixture[str]) -> None:
    begin_s = time.monotonic()
    with pytest.raises(RanksFailed, match="process 1 terminated"):
        run_ranks(fail_on_the_second, 2, (), device="cpu", limit_s=LIMIT_S)
    assert time.monotonic() - begin_s < LIMIT_S
    assert "ValueError: the second rank's" in capfd.readouterr().err
    assert not multiprocessing.active_children()


def test_the_limit_ends_all() -> None:
    with pytest.raises(RanksFailed, match="not done after 1 s"):
        run_ranks(fail_on_the_second, 2, (), device="cpu", limit_s=1.0)
    assert not multiprocessing.active_children()


def report(**changes: Any) -> dict[str, Any]:
    """1e12 products and sums in 4 ms are 250 TFLOP/s."""
    row = {
        "rows": 64,
        "logit_rows": 64,
        "flops": 10**12,
        "compiled": True,
        "not_compiled_because": "",
        "step_ms": {"nccl": [9.0, 5.0, 1.0], "two_shot": [4.0, 4.0, 90.0]},
        "share_ms": [3.0],
        "reduce_us": {"nccl": [20.0], "two_shot": [10.0]},
    }
    return {
        "sizes": {"name": "70B", "num_layers": 80},
        "gpus": 2,
        "torch": "2.11.0",
        "device": "NVIDIA H100 80GB HBM3",
        "nccl": "2.28.3",
        "hbm": [3.1e12, 3.0e12],
        "peer_copy": {"one way": 380e9, "both ways": 750e9},
        "notes": [],
        "rows": [row | changes],
        "complete": True,
    }


def test_table_takes_the_faster_all_reduce() -> None:
    lines = table(report()).splitlines()
    assert lines[1] == "GB/s: HBM of each GPU 3100, 3000; peer copy one way 380, both ways 750"
    words = ["64", "64", "4.000", "two_shot", "3.000", "250.0", "20.0", "-", "10.0", "yes"]
    assert lines[-1].split() == words


def test_table_says_what_is_missing() -> None:
    partial = report(compiled=False, not_compiled_because="no compiler")
    partial |= {"complete": False, "notes": ["one_shot omitted: why"], "peer_copy": {}, "hbm": []}
    lines = table(partial).splitlines()
    assert lines[1] == "GB/s: HBM of each GPU -; peer copy -"
    assert lines[2] == "one_shot omitted: why"
    assert lines[-2:] == [
        "not compiled: no compiler",
        "NOT COMPLETE: the run ended before all was measured",
    ]
