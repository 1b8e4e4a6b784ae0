"""Writes docs/performance/<gpu>.md and .json from the results of the GPU's benchmarks.

python tests/bench/write_gpu_report.py DOCUMENT RESULT...: results are files of --benchmark-json,
all of one device and commit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.gpu_step_tables import alone, decode_step, host_time, prefill_step
from bench.gpu_tables import (
    Info,
    Verdict,
    decode_attention,
    empty,
    few_tokens,
    gemm,
    markdown,
    prefill_attention,
)

Table = Callable[[Sequence[Info]], tuple[list[str], list[Verdict]]]

# Name of a table in the results -> its title, what the reader has to know, and who writes it.
SECTIONS: dict[str, tuple[str, str, Table]] = {
    "gemm": (
        "GEMM instructions",
        "Instructions of one kind, epilogue and stores included, without waits; cuBLAS through "
        "torch, product alone. First of 4 layers\nin one launch, as a step runs them, beside a "
        "CUDA graph of 4 products, each with weights of its own and the same inputs;\nthen "
        "(*alone*) one layer and one product a launch. The L2 is swept before every launch of all. "
        "Large products are held to\nthe first ratio, small ones to the second: in several layers "
        "their waves run into each other. Shares of a 70B model run as\nplain models of their "
        "sizes (`down_residual` in place of `down_partial`).",
        gemm,
    ),
    "few tokens": (
        "GEMM instructions, few tokens",
        "The weights of 8 layers (LM head: one) in one launch, bytes of weights a second.",
        few_tokens,
    ),
    "decode attention": (
        "Decode attention",
        "One layer, head dimension 128, merging included. Bytes are the keys and values of the "
        "contexts. Ragged: a quarter\nto 1.75 of the mean, the same sum.",
        decode_attention,
    ),
    "prefill attention": (
        "Prefill attention",
        "One layer, causal, head dimension 128; half of the square counts as work.",
        prefill_attention,
    ),
    "empty": (
        "Interpreter",
        "`embed` without rows and panels: claimed, fetched and dispatched by all roles.",
        empty,
    ),
    "prefill step": ("Whole steps of 8B: prompts", "", prefill_step),
    "decode step": (
        "Whole steps of 8B: decoding",
        "The peer: a CUDA graph of cuBLAS's products with compiled element-wise parts in torch, "
        "without attention, plus the\nKV bytes at 0.95 of this run's HBM bandwidth. vLLM's figures "
        "are of another card and include its scheduling.",
        decode_step,
    ),
    "host time": ("Host", "Preparing and launching a step while another runs.", host_time),
}


def device_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all runs say of GPU, driver and commit; ValueError if they differ."""
    seen = [{"commit": run["machine_info"]["commit"], **run["machine_info"]["gpu"]} for run in runs]
    for other in seen[1:]:
        if other != seen[0]:
            raise ValueError(f"results of different machines or commits: {seen[0]}, {other}")
    return seen[0]


def infos_by_table(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Info]]:
    found: dict[str, list[Info]] = defaultdict(list)
    for run in runs:
        for entry in run["benchmarks"]:
            info = entry["extra_info"]
            if "table" in info:
                found[info["table"]].append(info)
    return found


def summary(verdicts: Sequence[Verdict]) -> list[str]:
    rows = [(v.what, v.must, v.measured, "yes" if v.met else "**no**") for v in verdicts]
    return markdown("what | must | measured | met", rows)


def hbm_line(tables: Mapping[str, Sequence[Info]]) -> list[str]:
    rates = sorted({info["hbm"] for infos in tables.values() for info in infos if "hbm" in info})
    if not rates:
        return []
    listed = ", ".join(f"{rate * 1e-9:.0f}" for rate in rates)
    return [
        f"HBM bandwidth, the fastest of torch's sum, maximum and copy over 4 GiB: {listed} GB/s",
        "(once in each process).",
        "",
    ]


def device_lines(device: Mapping[str, Any], date: str) -> list[str]:
    cuda = device["cuda"]
    return [
        f"{device['name']}, {device['num_sms']} SMs, power limit {device['power_limit']}, SM clock",
        f"up to {device['max_sm_clock']}; driver {device['driver']}, CUDA {cuda // 1000}."
        f"{cuda % 1000 // 10}; torch {device['torch']} with",
        f"CUDA {device['torch_cuda']} and cuDNN {device['cudnn']}; commit {device['commit']}; "
        f"{date}.",
        "Medians of device events, bf16, random operands.",
    ]


def report(runs: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """The document, and the lines of its summary."""
    device = device_of(runs)
    tables = infos_by_table(runs)
    body: list[str] = []
    verdicts: list[Verdict] = []
    for name, (title, note, table) in SECTIONS.items():
        if name not in tables:
            body += [f"## {title}", "", "Not measured in this run.", ""]
            continue
        lines, found = table(tables[name])
        verdicts += found
        body += [f"## {title}", "", *([note, ""] if note else []), *lines]
    parts = alone([*tables.get("prefill step", []), *tables.get("decode step", [])])
    if parts:
        body += ["## Where a step's time goes", "", *parts]
    short = summary(verdicts)
    lines = [
        f"# Speed on one {device['name']}",
        "",
        "Written by `tests/bench/write_gpu_report.py`; `tests/bench/run_gpu.sh` runs the",
        "benchmarks and it.",
        "",
        *device_lines(device, runs[0]["datetime"][:10]),
        "",
        *hbm_line(tables),
        *short,
        *body,
    ]
    return "\n".join(lines).rstrip() + "\n", short


def figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that was measured, without what pytest-benchmark adds."""
    return {
        "device": device_of(runs),
        "datetime": runs[0]["datetime"],
        "tables": infos_by_table(runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "document", type=Path, help="Markdown file to write; a .json goes beside it"
    )
    parser.add_argument("results", type=Path, nargs="+", help="files that --benchmark-json wrote")
    arguments = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in arguments.results if path.stat().st_size > 0]
    text, short = report(runs)
    arguments.document.write_text(text)
    arguments.document.with_suffix(".json").write_text(json.dumps(figures(runs), indent=1) + "\n")
    print("\n".join(short))


if __name__ == "__main__":
    main()
