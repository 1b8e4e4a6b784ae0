"""The `terrazzo` command: parses arguments, runs a subcommand, reports errors of the user."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import env
from ..models.errors import ModelError
from . import batch, bench, calibrate, chat, config, generate, info, trace, verify

COMMANDS = (generate, chat, batch, bench, verify, trace, calibrate, info, config)

EXIT_FAILURE = 1  # of the machine
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

# What a user can put right: bad values, missing files or models, an extension that is not built.
# The machine's diagnosis; by name, as naming the class would load the extension.
LAUNCH_ERROR = "LaunchError"
USER_ERRORS = (ValueError, OSError, ImportError, ModelError)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"{self.prog}: error: {message}\n")


def build_parser() -> Parser:
    """The parser of all subcommands; each sets `run` to its function."""
    variables = "\n".join(f"  {entry.name:<22} {entry.help}" for entry in env.TABLE)
    parser = Parser(
        prog="terrazzo",
        description="Generate text with Llama-family models.",
        epilog=f"environment variables:\n{variables}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is chosen and done")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as request:  # --help, or an argument that does not parse
        return request.code if isinstance(request.code, int) else 0
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone; the interpreter must not try to flush to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except USER_ERRORS as error:
        return _report(error, EXIT_USER_ERROR)
    except RuntimeError as error:
        if type(error).__name__ != LAUNCH_ERROR:
            raise
        return _report(error, EXIT_FAILURE)


def _report(error: Exception, code: int) -> int:
    try:
        shows_traceback = env.TRACEBACK.read()
    except ValueError as bad_value:
        error, shows_traceback = bad_value, False
    if shows_traceback:
        raise error
    message = " ".join(str(error).split()) or type(error).__name__
    print(f"terrazzo: error: {message}", file=sys.stderr)
    return code
