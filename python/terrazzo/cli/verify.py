"""`terrazzo verify`: check the programs that a model's steps become."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Protocol, cast

from .options import Subparsers, add_model_options, open_llm

if TYPE_CHECKING:
    from ..step import StepInput


class Verifier(Protocol):
    """A runner that can check a step instead of running it."""

    def verify(self, batch: StepInput) -> list[str]:
        """Return a line for each problem of the step's program."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "verify",
        help="check the programs of a model's steps",
        description="Lower steps of several shapes and check every wait, signal and access.",
    )
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a line for each shape and problem; 1 if there is any problem."""
    from .verify_shapes import SHAPES, fits, step_of

    runner = open_llm(options).runner
    num_problems = 0
    for name, sequences in SHAPES:
        if not fits(runner, sequences):
            print(f"{name}: left out, larger than the context or the KV cache")
            continue
        problems = cast(Verifier, runner).verify(step_of(sequences))
        num_problems += len(problems)
        print(f"{name}: {f'{len(problems)} problems' if problems else 'ok'}", flush=True)
        for problem in problems:
            print(f"  {problem}")
    return 1 if num_problems else 0
