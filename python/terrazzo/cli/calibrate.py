"""`terrazzo calibrate`: fit a device's costs to traces of its steps."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .options import Subparsers


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "calibrate",
        help="fit the simulator's costs to traces of real steps",
        description="Fit what instructions cost on a device to traces that `terrazzo trace --out` "
        "wrote there, and write a cost file for `terrazzo trace --simulate`.",
    )
    parser.add_argument("traces", nargs="+", type=Path, metavar="TRACE", help="trace.npz files")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the cost file")
    parser.add_argument("--device", required=True, metavar="NAME", help="as the file shall call it")
    parser.add_argument(
        "--start", default="h100", metavar="DEVICE", help="costs of kinds without traces [h100]"
    )
    parser.add_argument(
        "--kinds-only", action="store_true", help="leave capacities and latencies as they are"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fit, report the errors of the steps, write the file."""
    from ..costs import load_costs
    from ..costs.fit import errors, fit
    from ..trace import load_trace
    from ..trace.calibration import measured_steps, samples_of

    traces = [load_trace(path) for path in options.traces]
    steps = [] if options.kinds_only else measured_steps(traces)
    costs = fit(
        load_costs(options.start),
        samples_of(traces),
        steps,
        device=options.device,
        source=f"Fitted to {len(traces)} traces of steps: "
        + "; ".join(trace.title for trace in traces),
        progress=lambda text: print(text, file=sys.stderr),
    )
    options.out.write_text(costs.to_json())
    for trace, error in zip(traces, errors(costs, steps) if steps else [], strict=False):
        print(f"{error:+7.1%}  {trace.title}")
    return 0
