"""`terrazzo trace`: a step as a table, a picture and a Perfetto file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .options import Subparsers, add_model_options, open_llm

if TYPE_CHECKING:
    from ..runner import ModelRunner
    from ..trace import StepTrace

DEFAULT_SMS = 2  # of the host machine
MOST_EVENTS = 1 << 22  # of a step on a GPU: 160 MB


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "trace",
        help="show what every SM does in a step",
        description="Run a step, or simulate it on a GPU, and show what every SM did when: a table "
        "on standard output; picture, page and Perfetto trace in a folder.",
    )
    parser.add_argument(
        "--step",
        default="8@100",
        metavar="STEP",
        help="sequences as COUNT@CONTEXT or COUNTxROWS@CONTEXT, with commas [8@100]",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where files go [none]")
    parser.add_argument(
        "--layers",
        metavar="FIRST:LAST",
        help="layers that picture and Perfetto trace show, or all [two in the middle]",
    )
    parser.add_argument(
        "--recorded",
        type=Path,
        metavar="FILE",
        help="instead of running a step: a .events file of an archive that bench_step wrote",
    )
    group = parser.add_argument_group("simulated GPUs (no weights are needed)")
    group.add_argument(
        "--simulate", metavar="DEVICE", help="a known device (h100, h200) or a cost file"
    )
    group.add_argument("--shape", default="llama-3.1-8b", metavar="NAME", help="[llama-3.1-8b]")
    group.add_argument(
        "--order",
        choices=("plain", "woven"),
        default="plain",
        help="layer by layer, or the best that the simulator finds [plain]",
    )
    group.add_argument("--num-layers", type=int, metavar="N", help="of the model's [all]")
    add_model_options(parser, order=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Trace one step and report it."""
    from ..trace import report_text

    if options.order != "plain" and (options.simulate is None or options.recorded is not None):
        raise ValueError(f"--order {options.order}: only for a step that is simulated (--simulate)")
    if options.recorded is not None:
        trace = _recorded(options)
    else:
        trace = _simulated(options) if options.simulate is not None else _from_machine(options)
    layers = _layers(options.layers, trace.num_layers)
    if options.out is not None:
        _write(trace, options.out, layers)
    print(report_text(trace), end="")
    return 0


def _write(trace: StepTrace, folder: Path, layers: tuple[int, int] | None) -> None:
    from ..trace import page_html, picture_svg, save_trace, write_perfetto

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "picture.svg").write_text(picture_svg(trace, layers=layers))
    (folder / "page.html").write_text(page_html(trace, layers=layers))
    write_perfetto(trace, folder / "perfetto.json.gz", layers)
    save_trace(trace, folder / "trace.npz")


def _layers(text: str | None, num_layers: int) -> tuple[int, int] | None:
    """The layers to show; by default two in the middle, or all where there are few."""
    if text == "all" or (text is None and num_layers <= 3):
        return None
    if text is None:
        return num_layers // 2 - 1, num_layers // 2
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise ValueError(f"--layers: expected FIRST:LAST or all, got {text}")
    return int(first), int(last)


def _simulated(options: argparse.Namespace) -> StepTrace:
    from ..costs import load_costs
    from ..trace import simulated_trace
    from ..trace.record import Recipe
    from ..trace.sources import programs_of
    from ..trace.steps import limits_of, parse_step, shape_arguments, shape_of, step_of

    costs = load_costs(options.simulate)
    batch = step_of(parse_step(options.step))
    o_sharded = options.o_proj == "sharded"
    shape = shape_of(options.shape, options.gpus, options.num_layers, o_sharded=o_sharded)
    num_sms = int(costs.values["num_sms"])
    woven_for = costs.model() if options.order == "woven" else None
    programs = programs_of(shape, limits_of(batch), batch, num_sms, woven_for=woven_for)
    trace = simulated_trace(programs, costs, _title(options.shape, options))
    if woven_for is not None:
        return trace
    shape_values = shape_arguments(
        options.shape, options.gpus, options.num_layers, o_sharded=o_sharded
    )
    return replace(trace, recipe=Recipe(shape_values, options.step, num_sms))


def _recorded(options: argparse.Namespace) -> StepTrace:
    from ..costs import load_costs
    from ..trace.archive import parse_events
    from ..trace.sources import recorded_trace

    recorded = parse_events(options.recorded.read_bytes(), str(options.recorded))
    return recorded_trace(recorded, load_costs(options.simulate or "h100"))


def _from_machine(options: argparse.Namespace) -> StepTrace:
    from ..costs import costs_on
    from ..trace import cuda_trace, host_trace
    from ..trace.record import Recipe
    from ..trace.steps import config_arguments, parse_step, step_of
    from .verify_shapes import fits

    sequences = parse_step(options.step)
    rows = sum(count for _, count in sequences)
    # --order is that of a simulation: what runs here is recorded layer by layer.
    more: dict[str, Any] = {"order": "layers"}
    more |= {"max_batch_tokens": rows, "max_sequences": len(sequences)}
    if options.device == "cuda":
        more["trace_events"] = MOST_EVENTS
    elif options.sms is None:
        options.sms = DEFAULT_SMS
    runner = cast("ModelRunner", open_llm(options, **more).runner)
    if not fits(runner, sequences):
        raise ValueError(f"--step {options.step}: larger than the context or the KV cache")
    batch = step_of(sequences)
    runner.step(batch)  # the first step touches memory for the first time
    title = _title(options.model or "SmolLM2-135M-Instruct", options)
    costs = costs_on(runner.device)  # of the host machine it only says what L2 would hold
    if runner.device == "cuda":
        trace = cuda_trace(runner.core, batch, costs, title)
    else:
        trace = host_trace(runner.core, batch, costs, num_sms=options.sms, title=title)
    shape = config_arguments(runner.config, runner.gpus, o_sharded=runner.o_proj == "sharded")
    return replace(trace, recipe=Recipe(shape, options.step, trace.num_sms))


def _title(model: str, options: argparse.Namespace) -> str:
    gpus = f" on {options.gpus} GPUs" if options.gpus > 1 else ""
    o_proj = ", O sharded" if options.o_proj == "sharded" else ""
    order = ", woven" if options.order == "woven" else ""
    return f"{model}{gpus}{o_proj}, {options.step}{order}"
