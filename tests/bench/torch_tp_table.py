"""The table of `torch_tp_step`'s results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

REDUCERS = ("nccl", "one_shot", "two_shot")


def _best(times: dict[str, list[float]]) -> tuple[str, float]:
    """The name with the smallest median."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    name = min(medians, key=medians.__getitem__)
    return name, medians[name]


def _rates(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate / 1e9:.0f}" for rate in rates) or "-"


def table(report: dict[str, Any]) -> str:
    """Text: what is common to all steps, then a line for each number of rows."""
    sizes = report["sizes"]
    copies = [f"{name} {_rates([rate])}" for name, rate in report["peer_copy"].items()]
    lines = [
        f"{report['gpus']} x {report['device']}, {sizes['name']}, {sizes['num_layers']} layers, "
        f"torch {report['torch']}, NCCL {report['nccl'] or '-'}",
        f"GB/s: HBM of each GPU {_rates(report['hbm'])}; peer copy {', '.join(copies) or '-'}",
    ]
    lines += report["notes"]
    row_format = "{:>5} {:>6} {:>9} {:>9} {:>9} {:>8} {:>10} {:>9} {:>9} {:>8}"
    lines.append(
        row_format.format(
            *("rows", "logits", "step ms", "by", "share ms", "TFLOP/s"),
            *("reduce us:", "one_shot", "two_shot", "compiled"),
        )
    )
    for row in report["rows"]:
        by, step_ms = _best(row["step_ms"])
        reduce_us = {name: statistics.median(us) for name, us in row["reduce_us"].items()}
        shown = [f"{reduce_us[name]:.1f}" if name in reduce_us else "-" for name in REDUCERS]
        share_ms = statistics.median(row["share_ms"])
        rate = row["flops"] / (step_ms * 1e-3) / 1e12
        lines.append(
            row_format.format(
                *(row["rows"], row["logit_rows"], f"{step_ms:.3f}", by),
                *(f"{share_ms:.3f}", f"{rate:.1f}"),
                *shown,
                "yes" if row["compiled"] else "no",
            )
        )
    reasons = {row["not_compiled_because"] for row in report["rows"] if not row["compiled"]}
    lines += [f"not compiled: {reason}" for reason in sorted(reasons)]
    if not report["complete"]:
        lines.append("NOT COMPLETE: the run ended before all was measured")
    return "\n".join(lines)
