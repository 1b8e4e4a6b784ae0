"""The peer of tensor-parallel steps: a process a GPU, cuBLAS and NCCL in one CUDA graph.

    PYTHONPATH=tests python3 -m bench.torch_tp_step --gpus 2 --shape 70b --rows 1 64 2048 4096:2049

`torch_tp_layers` says what a step holds. Beside each: the same graph without all-reduces, and the
all-reduce alone. In the same run: each GPU's memory bandwidth, and copies between two GPUs.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from bench.model_sizes import LLAMA_8B, LLAMA_70B, Sizes
from bench.rank_processes import RanksFailed, run_ranks
from bench.torch_tp_bench import Plan, measure_on
from bench.torch_tp_layers import share_of
from bench.torch_tp_table import table

SHAPES = {"8b": LLAMA_8B, "70b": LLAMA_70B, "tiny": Sizes("tiny", 256, 512, 4, 2, 2, vocab=512)}
ROWS = ["1", "64", "256", "1024", "2048", "4096"]
DECODE_ROWS = 2048  # a step of more rows holds so many sequences, and one prompt


def rows_of(text: str) -> tuple[int, int]:
    """`ROWS` or `ROWS:LOGIT_ROWS`; by default all, above 2048 those of 2048 and of one prompt."""
    rows, _, logits = text.partition(":")
    found = int(rows), int(logits) if logits else min(int(rows), DECODE_ROWS + 1)
    if not 1 <= found[1] <= found[0]:
        raise ValueError(f"{text}: no rows, or more logits than rows")
    return found


def parse(arguments: list[str] | None) -> tuple[Plan, float]:
    """The plan, and the limit in seconds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--gpus", type=int, default=2)
    add("--shape", choices=SHAPES, default="70b")
    add("--layers", type=int, help="default: the shape's")
    add("--rows", nargs="+", type=rows_of, default=[*map(rows_of, ROWS)], metavar="ROWS[:LOGITS]")
    add("--repeats", type=int, default=7)
    add("--compile-budget", type=float, default=50.0, help="seconds, for all rows together")
    add("--symmetric", action="store_true", help="all-reduces over peers' memory, too")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the program")
    add("--json", type=Path, default=Path("build/bench/torch_tp.json"))
    add("--limit", type=float, default=150.0, help="seconds, after which all is ended")
    options = parser.parse_args(arguments)
    sizes = SHAPES[options.shape]
    if options.layers is not None:
        sizes = replace(sizes, num_layers=options.layers)
    share_of(sizes, options.gpus)  # says what does not divide before any process starts
    plan = Plan(
        sizes=sizes,
        gpus=options.gpus,
        rows=tuple(options.rows),
        repeats=options.repeats,
        compile_budget_s=options.compile_budget,
        symmetric=options.symmetric,
        device=options.device,
        result=options.json,
    )
    return plan, options.limit


def main(arguments: list[str] | None = None) -> int:
    plan, limit_s = parse(arguments)
    plan.result.parent.mkdir(parents=True, exist_ok=True)
    plan.result.unlink(missing_ok=True)
    status = 0
    try:
        run_ranks(measure_on, plan.gpus, (plan,), device=plan.device, limit_s=limit_s)
    except RanksFailed as error:
        print(f"torch_tp_step: {error}", file=sys.stderr)
        status = 1
    if plan.result.exists():
        print(table(json.loads(plan.result.read_text())))
    return status


if __name__ == "__main__":
    sys.exit(main())
