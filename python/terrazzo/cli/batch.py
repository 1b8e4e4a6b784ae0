"""`terrazzo batch`: answer the requests of a file in OpenAI's batch format."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import Subparsers, add_model_options, open_llm


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "batch",
        help="answer a file of requests",
        description="Answer the requests of a file in OpenAI's batch format (chat completions and "
        "completions). Answers are appended as they come. Run again after an interruption, the "
        "same command answers what is missing.",
    )
    parser.add_argument("input", type=Path, help="file with a request a line")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file for the answers")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of requests without [0]")
    parser.add_argument("--metrics", type=Path, metavar="FILE", help="Prometheus text file")
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a progress bar [on a terminal]",
    )
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Answer all requests that have no answer yet."""
    from .batch_journal import Journal
    from .batch_run import Report, answers, lines_of, missing

    num_lines = sum(1 for _, line in lines_of(options.input) if line.strip())
    if options.output.exists() and options.output.samefile(options.input):
        raise ValueError(f"{options.output}: the answers cannot go into the file of the requests")
    with Journal(options.output) as journal:
        if next(missing(options.input, journal), None) is None:
            return 0
        llm = open_llm(options)
        with Report(llm, num_lines, len(journal.done), options.metrics, options.progress) as report:
            for line in answers(llm, options.input, journal, options.seed):
                journal.append(line)
                report.add()
    return 0
