"""What GPUs send each other in a layer, as the lowering declares it: `python -m
terrazzo.trace.traffic --gpus 2`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

from .steps import SHAPES, limits_of, parse_step, shape_of, step_of

MB = 1e6


class Row(NamedTuple):
    """Of one kind of instruction and one buffer; bytes of a layer."""

    instruction: str
    buffer: str
    sent_bytes: int  # by the GPU that sends most
    received_bytes: int  # by the GPU that receives most
    all_bytes: int  # on all links together
    mean_run_bytes: float  # of bytes that lie one after the other


def layer_rows(
    shape: str, gpus: int, step: str, num_sms: int = 132, *, o_sharded: bool = False
) -> list[Row]:
    """A row for each flow of a layer, signals (of 4 bytes) last."""
    from .._core import layer_traffic
    from ..runner import arrays_of

    batch = step_of(parse_step(step))
    sizes = shape_of(shape, gpus, o_sharded=o_sharded)
    flows = layer_traffic(sizes, limits_of(batch), arrays_of(batch), num_sms)
    rows = []
    for instruction, buffer in sorted({flow[:2] for flow in flows}, key=lambda kind: kind[::-1]):
        sent, received, writes = [0] * gpus, [0] * gpus, 0
        own = (flow for flow in flows if flow[:2] == (instruction, buffer))
        for _, _, source, target, size, count in own:
            sent[source] += size
            received[target] += size
            writes += count
        total = sum(sent)
        rows.append(Row(instruction, buffer, max(sent), max(received), total, total / writes))
    return sorted(rows, key=lambda row: (row.buffer == "counters", -row.all_bytes))


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| instruction | writes | sent by a GPU, MB | received, MB | all links, MB | bytes a run |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        what = "signals" if row.buffer == "counters" else f"`{row.buffer}`"
        lines.append(
            f"| `{row.instruction}` | {what} | {row.sent_bytes / MB:.3f} | "
            f"{row.received_bytes / MB:.3f} | {row.all_bytes / MB:.3f} | "
            f"{row.mean_run_bytes:.0f} |"
        )
    sent = sum(row.sent_bytes for row in rows)
    total = sum(row.all_bytes for row in rows)
    lines.append(f"| together | | {sent / MB:.3f} | | {total / MB:.3f} | |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3.1-70b")
    parser.add_argument("--gpus", type=int, default=2, metavar="N", help="[2]")
    parser.add_argument("--step", default="1024@384", help="as for `terrazzo trace` [1024@384]")
    parser.add_argument(
        "--o-proj",
        choices=("replicated", "sharded"),
        default="replicated",
        help="O's weight: whole on every GPU, or its own heads' input columns [replicated]",
    )
    options = parser.parse_args(arguments)
    sharded = options.o_proj == "sharded"
    rows = layer_rows(options.shape, options.gpus, options.step, o_sharded=sharded)
    sys.stdout.write(table(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
