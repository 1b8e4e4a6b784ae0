"""Writes docs/performance/host.md from the JSON file of a run of these benchmarks."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Benchmark = Mapping[str, Any]

COMMAND = "python -m pytest tests/bench -m t4_bench --benchmark-json=build/bench.json"
WRITE = "python tests/bench/write_report.py build/bench.json docs/performance/host.md"
WORK = {
    "test_decode": "decode, one stream, context 32 to 64",
    "test_prefill": "prompt of 512 tokens",
}


def tokens_per_s(tokens: int, seconds: Sequence[float]) -> tuple[float, float]:
    """Of the median and of the best round."""
    return tokens / statistics.median(seconds), tokens / min(seconds)


def speed_row(entry: Benchmark) -> str:
    info = entry["extra_info"]
    ours, our_best = tokens_per_s(info["tokens"], info["terrazzo_s"])
    theirs, their_best = tokens_per_s(info["tokens"], info["transformers_s"])
    work = WORK[entry["name"].split("[")[0]]
    clock = "CPU" if info["clock"] == "process_time" else "wall"
    return (
        f"| {work} | {info['num_cores']} | {clock} | {ours:.1f} ({our_best:.1f}) "
        f"| {theirs:.1f} ({their_best:.1f}) | {ours / theirs:.2f} ({our_best / their_best:.2f}) "
        f"| {info['wanted_share']} | {info['load_average']:.1f} |"
    )


def lowering_lines(benchmarks: Sequence[Benchmark]) -> list[str]:
    found = [entry["extra_info"] for entry in benchmarks if entry["name"] == "test_lowering"]
    if not found:
        return []
    return [
        "",
        "## Building programs",
        "",
        "The programs of a 4,096-row step (2,048 decode rows at context 512, two prompt chunks of",
        "1,024 rows) of a 70B model on eight GPUs, on one core, CPU time: "
        f"**{found[0]['lowering_ms']:.2f} ms a GPU**",
        f"(median of 51; the first, with cold memory, {found[0]['first_lowering_ms']:.2f} ms).",
        "The aim is less than 1 ms.",
    ]


def report(run: Mapping[str, Any]) -> str:
    cpu = run["machine_info"]["cpu"]
    speeds = [entry for entry in run["benchmarks"] if "terrazzo_s" in entry["extra_info"]]
    speeds.sort(key=lambda entry: (entry["extra_info"]["num_cores"], entry["name"]))
    rounds = len(speeds[0]["extra_info"]["terrazzo_s"])
    lines = [
        "# Speed of the host machine",
        "",
        "Written by `tests/bench/write_report.py` from a run of the benchmarks:",
        "",
        "```",
        COMMAND,
        WRITE,
        "```",
        "",
        "SmolLM2-135M-Instruct beside `transformers` (float32, KV cache, as many torch threads as",
        "cores; weights here are bfloat16). Tokens per second of the median round, in brackets of",
        f"the best, of {rounds} rounds; each round times both programs, one after the other. Ours",
        "include engine and tokenizer; theirs are bare calls of the model.",
        f"{cpu['brand_raw']}, {run['datetime'][:10]}.",
        "",
        "| work | cores | clock | Terrazzo | transformers | ratio | wanted | load average |",
        "|---|---|---|---|---|---|---|---|",
        *map(speed_row, speeds),
        "",
        "A load average above the number of cores means that other work ran on the machine. CPU",
        "time hardly depends on that. Wall time does: threads of torch spin while they wait for",
        "each other and lose most where cores are taken away, so a ratio of wall times on a busy",
        "machine flatters us.",
        *lowering_lines(run["benchmarks"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path, help="file that --benchmark-json wrote")
    parser.add_argument("document", type=Path, help="file to write")
    arguments = parser.parse_args()
    arguments.document.write_text(report(json.loads(arguments.json.read_text())))


if __name__ == "__main__":
    main()
