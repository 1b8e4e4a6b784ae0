"""`terrazzo calibrate`: fit a device's costs to what was measured there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .options import Subparsers

if TYPE_CHECKING:
    from ..costs import DeviceCosts


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "calibrate",
        help="fit the simulator's costs to measured steps",
        description="Fit what instructions cost on a device to an archive that "
        "tests/gpu/bench_step.cpp wrote there (a folder or tar file: its part fit is fitted to, "
        "held and orders are only compared with), or to traces that `terrazzo trace --out` wrote, "
        "and write a cost file for `terrazzo trace --simulate`.",
    )
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="SOURCE", help="an archive, or trace.npz files"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the cost file [none: compare]")
    parser.add_argument("--device", metavar="NAME", help="as the file shall call it [as --start]")
    parser.add_argument("--source", default="", metavar="TEXT", help="driver, commit and the like")
    parser.add_argument(
        "--start", default="h100", metavar="DEVICE", help="costs to begin with [h100]"
    )
    parser.add_argument(
        "--rounds", type=int, default=10, metavar="N", help="of an archive's fit [10]"
    )
    parser.add_argument(
        "--kinds-only", action="store_true", help="leave capacities and latencies as they are"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fit, report the errors of the steps, write the file."""
    if all(path.suffix == ".npz" for path in options.sources):
        return _from_traces(options)
    if len(options.sources) != 1:
        raise ValueError("[calibrate] expected one archive, or trace.npz files")
    return _from_archive(options)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _from_archive(options: argparse.Namespace) -> int:
    from ..costs import load_costs
    from ..costs.device_costs import DeviceCosts
    from ..costs.fit_runs import fit_runs
    from ..trace.archive import read_archive, store_lags
    from ..trace.calibration import comparison_text, timed_runs

    archive = read_archive(options.sources[0])
    costs = load_costs(options.start)
    if options.out is not None:
        runs = timed_runs(archive.runs.get("fit", []))
        if not runs:
            raise ValueError(f"[calibrate] {options.sources[0]}: expected fit/runs.jsonl")
        steps = sum(not run.opcode for run in runs)
        values = fit_runs(
            costs,
            runs,
            store_lags=store_lags(archive.events.get("fit", [])),
            rounds=options.rounds,
            progress=_progress,
        )
        source = f"Fitted to {steps} steps and {len(runs) - steps} launches of one kind."
        costs = DeviceCosts(
            options.device or costs.device, f"{source} {options.source}".strip(), True, values
        )
        options.out.write_text(costs.to_json())
    print(comparison_text(archive, costs), end="")
    return 0


def _from_traces(options: argparse.Namespace) -> int:
    from ..costs import load_costs
    from ..costs.fit import errors, fit
    from ..trace import load_trace
    from ..trace.calibration import measured_steps, samples_of

    if options.out is None:
        raise ValueError("[calibrate] --out: expected a file for the costs")
    traces = [load_trace(path) for path in options.sources]
    steps = [] if options.kinds_only else measured_steps(traces)
    start: DeviceCosts = load_costs(options.start)
    costs = fit(
        start,
        samples_of(traces),
        steps,
        device=options.device or start.device,
        source=f"Fitted to {len(traces)} traces of steps: "
        + "; ".join(trace.title for trace in traces),
        progress=_progress,
    )
    options.out.write_text(costs.to_json())
    for trace, error in zip(traces, errors(costs, steps) if steps else [], strict=False):
        print(f"{error:+7.1%}  {trace.title}")
    return 0
