"""`terrazzo generate`: continue or answer one prompt."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from .options import Subparsers, add_model_options, add_sampling_options, open_llm, sampling_params

if TYPE_CHECKING:
    from ..llm import LLM, Prompt


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "generate", help="answer a prompt", description="Answer a prompt, or continue it (--raw)."
    )
    parser.add_argument("prompt", nargs="?", help="the text; without it or as -, standard input")
    parser.add_argument("--raw", action="store_true", help="continue the text, no chat template")
    parser.add_argument("--stats", action="store_true", help="print counts and speed at the end")
    add_model_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Stream the answer to standard output."""
    params = sampling_params(options)
    text = _prompt_text(options.prompt)
    llm = open_llm(options)
    prompt = _prompt(llm, text, raw=options.raw)
    start = time.perf_counter()
    num_tokens, first = 0, start
    for update in llm.stream(prompt, params):
        num_tokens += 1
        if num_tokens == 1:
            first = time.perf_counter()
        print(update.text, end="", flush=True)
        if update.output is not None:
            print()
            num_prompt = update.output.num_prompt_tokens
    if options.stats:
        _print_stats(num_prompt, first - start, num_tokens, time.perf_counter() - first)
    return 0


def _prompt_text(argument: str | None) -> str:
    if argument not in (None, "-"):
        return argument
    if argument is None and sys.stdin.isatty():
        raise ValueError("no prompt: give it as an argument, or on standard input")
    return sys.stdin.read()


def _prompt(llm: LLM, text: str, *, raw: bool) -> Prompt:
    if not text.strip():
        raise ValueError("empty prompt: expected some text")
    if raw or not llm.tokenizer.has_chat_template:
        return text
    return llm.chat_prompt([{"role": "user", "content": text}])


def _print_stats(num_prompt: int, prompt_s: float, num_tokens: int, decode_s: float) -> None:
    speed = f", {(num_tokens - 1) / decode_s:.1f} tokens/s" if num_tokens > 1 else ""
    print(
        f"prompt: {num_prompt} tokens, first token after {prompt_s:.2f} s; "
        f"output: {num_tokens} tokens{speed}",
        file=sys.stderr,
    )
