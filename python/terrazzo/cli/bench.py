"""`terrazzo bench`: measure throughput and single steps."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import Subparsers, add_order_option, add_parallel_options

if TYPE_CHECKING:
    from ..bench.target import Target


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommands."""
    parser = subparsers.add_parser(
        "bench",
        help="measure throughput and steps",
        description="Measure the throughput of a workload, or the time of single steps.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    throughput = kinds.add_parser(
        "throughput",
        help="a batch of requests, from the first step to the last",
        description="Serve a batch of requests and measure tokens per second. Tokens are chosen "
        "greedily, each request gets all its tokens, texts are not decoded.",
    )
    group = throughput.add_argument_group("workload")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--lengths", type=Path, metavar="CSV", help="columns prompt_tokens and output_tokens"
    )
    source.add_argument(
        "--sharegpt", type=Path, metavar="JSON", help="conversations; needs a model's tokenizer"
    )
    source.add_argument("--grid", metavar="IN/OUT,...", help="fixed lengths, such as 512/2048")
    group.add_argument("--requests", type=int, default=1000, metavar="N", help="[1000]")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice [0]")
    group.add_argument("--no-run-ahead", action="store_true", help="one step at a time")
    group.add_argument("--no-prefix-reuse", action="store_true", help="compute every prompt")
    group.add_argument("--max-chunk", type=int, metavar="N", help="rows of a prompt in a step")
    throughput.set_defaults(run=_throughput)
    steps = kinds.add_parser(
        "steps",
        help="times of single steps",
        description="Measure decode batches at several contexts, prompt chunks, and both together.",
    )
    group = steps.add_argument_group("steps")
    group.add_argument("--batches", type=_numbers, default=[1, 8, 64, 256], metavar="N,...")
    group.add_argument("--contexts", type=_numbers, default=[512], metavar="N,...")
    group.add_argument("--chunks", type=_numbers, default=[128, 512, 2048], metavar="N,...")
    group.add_argument("--repeats", type=int, default=10, metavar="N", help="[10]")
    group.add_argument(
        "--shapes-of",
        type=Path,
        metavar="JSON",
        help="instead, the steps of what `bench throughput` wrote, and the sum of their times",
    )
    group.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="with --shapes-of: measure N of the steps, drawn at random, and estimate the sum",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample [0]")
    steps.set_defaults(run=_steps)
    for kind in (throughput, steps):
        _add_target(kind)
    parser.epilog = f"{throughput.format_help()}\n{steps.format_help()}"


def _add_target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and machine")
    group.add_argument("--model", metavar="NAME", help="folder, hub name or .gguf file")
    group.add_argument("--shape", metavar="NAME", help="random weights: 8b, 70b or tiny")
    group.add_argument("--load-format", choices=("auto", "dummy"), default="auto")
    group.add_argument("--device", choices=("auto", "host", "cuda"), default="auto")
    group.add_argument("--gpus", type=int, default=1, metavar="N", help="[1]")
    add_parallel_options(group)
    add_order_option(group)
    group.add_argument("--sms", type=int, metavar="N", help="SMs of each GPU")
    group.add_argument("--threads", type=int, metavar="N", help="threads of the host machine")
    group.add_argument("--max-batch-tokens", type=int, default=2048, metavar="N", help="[2048]")
    group.add_argument("--max-sequences", type=int, default=512, metavar="N", help="[512]")
    group.add_argument("--max-model-len", type=int, default=2048, metavar="N", help="[2048]")
    group.add_argument("--kv-pages", type=int, metavar="N", help="KV pages of 64 tokens")
    group.add_argument("--gpu-memory", type=float, default=0.9, metavar="SHARE", help="[0.9]")
    group = parser.add_argument_group("output")
    group.add_argument("--json", type=Path, metavar="FILE", help="all figures, and on what")
    group.add_argument("--plot", type=Path, metavar="SVG", help="a picture")
    group.add_argument("--metrics", type=Path, metavar="FILE", help="Prometheus text file")


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected positive numbers")
    return numbers


def _target(options: argparse.Namespace) -> Target:
    from ..bench.target import Target

    return Target(
        model=options.model,
        shape=options.shape,
        load_format=options.load_format,
        device=options.device,
        gpus=options.gpus,
        ranks_per_gpu=options.ranks_per_gpu,
        o_proj=options.o_proj,
        order=options.order,
        num_sms=options.sms,
        num_threads=options.threads,
        max_batch_tokens=options.max_batch_tokens,
        max_sequences=options.max_sequences,
        max_model_len=options.max_model_len,
        kv_pages=options.kv_pages,
        gpu_memory_utilization=options.gpu_memory,
    )


def _throughput(options: argparse.Namespace) -> int:
    from .bench_run import run_throughput

    rows, record, picture = run_throughput(options, _target(options))
    _report(options, rows, record, picture)
    return 0


def _steps(options: argparse.Namespace) -> int:
    from .bench_run import run_steps

    rows, record, picture = run_steps(options, _target(options))
    _report(options, rows, record, picture)
    return 0


def _report(
    options: argparse.Namespace,
    rows: Sequence[dict[str, Any]],
    record: dict[str, Any],
    picture: str,
) -> None:
    from ..bench.report import table

    print(table(rows))
    for note in record.get("notes", []):
        print(note)
    print(f"{record['machine']['device']}, {record['machine']['date']}", file=sys.stderr)
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.plot is not None:
        options.plot.write_text(picture)
