"""`terrazzo chat`: talk with a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .options import Subparsers, add_model_options, add_sampling_options, open_llm, sampling_params

if TYPE_CHECKING:
    from ..llm import LLM
    from ..sampling import SamplingParams

Message = dict[str, object]


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "chat",
        help="talk with the model",
        description="Talk with the model; /reset forgets the chat, /exit or Ctrl-D ends it.",
    )
    parser.add_argument("--system", metavar="TEXT", help="instructions for the model")
    add_model_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Answer each line of standard input, with the chat so far in mind."""
    params = sampling_params(options)
    llm = open_llm(options)
    if not llm.tokenizer.has_chat_template:
        raise ValueError("this model has no chat template; use `terrazzo generate --raw`")
    beginning: list[Message] = []
    if options.system is not None:
        beginning.append({"role": "system", "content": options.system})
    messages = list(beginning)
    for line in _lines():
        if line == "/exit":
            break
        if line == "/reset":
            messages = list(beginning)
        elif line.startswith("/"):
            print(f"unknown command {line}: expected /reset or /exit", file=sys.stderr)
        elif line:
            _answer(llm, messages, line, params)
    return 0


def _lines() -> Iterator[str]:
    """Lines without surrounding space; on a terminal with a prompt before each."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        import readline  # noqa: F401  (editing and history for input)
    while True:
        try:
            line = input("> ") if is_terminal else sys.stdin.readline()
        except EOFError:
            print()
            return
        if not is_terminal and not line:
            return
        yield line.strip()


def _answer(llm: LLM, messages: list[Message], line: str, params: SamplingParams) -> None:
    """Stream an answer, and add both sides to the chat unless the question was refused."""
    question: Message = {"role": "user", "content": line}
    try:
        prompt = llm.chat_prompt([*messages, question])
        for update in llm.stream(prompt, params):
            print(update.text, end="", flush=True)
            if update.output is not None:
                messages += [question, {"role": "assistant", "content": update.output.text}]
        print()
    except ValueError as error:  # the chat has outgrown the context, for example
        print(f"{error} (/reset begins afresh)", file=sys.stderr)
