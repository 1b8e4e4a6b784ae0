"""The report of the GPU's benchmarks: rates, verdicts and what belongs together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.gpu_step_tables import decode_step
from bench.gpu_tables import Verdict, empty, gemm, products_of
from bench.write_gpu_report import device_of, report

ROOT = Path(__file__).parents[3]
GPU = {
    "name": "NVIDIA H100 80GB HBM3",
    "num_sms": 132,
    "memory_bytes": 85 * 10**9,
    "cuda": 13000,
    "torch": "2.11.0",
    "torch_cuda": "13.0",
    "cudnn": 91200,
    "driver": "580.159.04",
    "power_limit": "700.00 W",
    "max_sm_clock": "1980 MHz",
    "max_memory_clock": "2619 MHz",
}


def product(**changes: Any) -> dict[str, Any]:
    """1024 x 28672 x 4096: 896 tiles of 128 x 256, at 600 and (cuBLAS) 800 TFLOP/s."""
    flops = 2 * 1024 * 28672 * 4096
    figure = {
        "kind": "gate_up_silu",
        "n": 28672,
        "k": 4096,
        "tiles": 896,
        "sms": 132,
        "large": True,
        "ours_ms": [1.0, flops / 600e12 * 1e3, 0.1],
        "cublas_ms": [flops / 800e12 * 1e3],
        "ours_alone_ms": [flops / 525e12 * 1e3],
        "cublas_alone_ms": [flops / 700e12 * 1e3],
    }
    return {"model": "8B", "rows": 1024, "figures": [figure | changes]}


def decode(**changes: Any) -> dict[str, Any]:
    info = {
        "step": "256 at 512",
        "sequences": 256,
        "context": 512,
        "hbm": 3e12,
        "weight_bytes": 15e9,
        "kv_bytes": 17.1e9,
        "kv_share": 0.95,
        "ours_ms": [14.0],
        "graph_ms": [9.0],
        "compiled": True,
        "not_compiled_because": "",
        "vllm_ms": 15.3,
        "alone_ms": {"gate_up_silu": 4.0, "attend_decode": 6.5},
    }
    return info | changes


def run_of(*infos: dict[str, Any], **device: Any) -> dict[str, Any]:
    return {
        "datetime": "2026-11-24T07:00:00",
        "machine_info": {"gpu": GPU | device, "commit": "0123456789ab"},
        "benchmarks": [{"name": "test", "extra_info": info} for info in infos],
    }


def measured(verdicts: list[Verdict], what: str) -> Verdict:
    (found,) = [v for v in verdicts if what in v.what]
    return found


def test_rates_are_those_of_the_median_launch() -> None:
    (p,) = products_of([product()])
    assert p.ours == pytest.approx(600)
    assert p.cublas == pytest.approx(800)
    assert p.ratio == pytest.approx(0.75)
    assert (p.ours_alone, p.cublas_alone) == (pytest.approx(525), pytest.approx(700))
    assert p.tile_cols == 256
    assert (p.waves, p.tiles / (p.sms * p.waves)) == (7, pytest.approx(p.fill))


def test_large_products_are_held_to_cublas() -> None:
    flops_ms = product()["figures"][0]["cublas_ms"][0]
    good = product(ours_ms=[flops_ms / 0.98])
    bad = product(ours_ms=[flops_ms / 0.84])
    assert measured(gemm([good])[1], "528").met
    assert not measured(gemm([good, bad])[1], "528").met
    below = product(ours_ms=[flops_ms / 0.93])  # brings the mean under 0.97
    assert not measured(gemm([good, below])[1], "528").met


@pytest.mark.parametrize(("tiles", "met"), [(132, False), (100, True)])
def test_small_products_are_held_to_what_their_tiles_can_fill(tiles: int, met: bool) -> None:
    """0.75 of cuBLAS, of one layer alone, is enough where a wave is three quarters full."""
    small = product(large=False, tiles=tiles, ours_ms=[1e-9])
    assert measured(gemm([small])[1], "fewer tiles").met == met


def test_an_empty_instruction_costs_the_difference_of_two_programs() -> None:
    info = {"sms": 132, "few": 132 * 64, "many": 132 * 564}
    _, (verdict,) = empty([info | {"few_ms": [0.05], "many_ms": [0.30]}])
    assert verdict.measured == "0.500 us"
    assert verdict.met
    _, (verdict,) = empty([info | {"few_ms": [0.05], "many_ms": [0.31]}])
    assert not verdict.met


def test_decoding_is_held_to_graph_and_bytes() -> None:
    _, verdicts = decode_step([decode()])
    assert [v.met for v in verdicts] == [True, True]  # 9.0 + 17.1 / 2.85 = 15.0; 14.5
    assert verdicts[0].measured == "14.00 ms against 15.00"
    _, verdicts = decode_step([decode(ours_ms=[14.8])])
    assert [v.met for v in verdicts] == [True, False]
    _, verdicts = decode_step([decode(ours_ms=[15.2])])
    assert [v.met for v in verdicts] == [False, False]


def test_one_sequence_is_held_to_its_bytes() -> None:
    """15 GB at 3 TB/s: 5 ms."""
    one = decode(step="1 at 512", sequences=1, kv_bytes=0)
    for ours, met in ((6.6, True), (6.8, False)):
        _, (verdict,) = decode_step([one | {"ours_ms": [ours]}])
        assert verdict.met == met


def test_a_peer_that_was_not_compiled_is_said_to_be_so() -> None:
    info = decode(compiled=False, not_compiled_because="no C compiler")
    text, _ = report([run_of(info | {"table": "decode step"})])
    assert "9.00 (not compiled)" in text
    assert "ran one by one (no C compiler)" in text


def test_report_names_device_driver_and_commit() -> None:
    text, short = report(
        [run_of(product() | {"table": "gemm"}), run_of(decode() | {"table": "decode step"})]
    )
    for word in ("NVIDIA H100 80GB HBM3", "580.159.04", "0123456789ab", "CUDA 13.0", "2026-11-24"):
        assert word in text
    assert "| 8B | gate_up_silu | 28672, 4096 | 1024 | 600 | 800 | 0.75 |" in text
    assert "| attend_decode | 6.500 |" in text
    assert any("14.00 ms against 15.00" in line for line in short)
    assert text.count("Not measured in this run.") == 6


def test_runs_of_two_devices_or_commits_do_not_mix() -> None:
    one, other = run_of(), run_of(driver="590.1")
    assert device_of([one, one])["driver"] == "580.159.04"
    with pytest.raises(ValueError, match="different machines"):
        device_of([one, other])
    newer = run_of()
    newer["machine_info"]["commit"] = "ba9876543210"
    with pytest.raises(ValueError, match="different machines"):
        device_of([one, newer])


def test_script_writes_both_files(tmp_path: Path) -> None:
    result = tmp_path / "gpu_gemm.json"
    result.write_text(json.dumps(run_of(product() | {"table": "gemm"})))
    empty_result = tmp_path / "gpu_steps.json"  # of a run that ended early
    empty_result.write_text("")
    document = tmp_path / "h100.md"
    script = ROOT / "tests/bench/write_gpu_report.py"
    command = [sys.executable, script, document, result, empty_result]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| GEMM, 528 tiles" in done.stdout
    assert document.read_text().startswith("# Speed on one NVIDIA H100 80GB HBM3\n")
    saved = json.loads(document.with_suffix(".json").read_text())
    assert saved["device"]["driver"] == "580.159.04"
    assert saved["tables"]["gemm"][0]["figures"][0]["tiles"] == 896
