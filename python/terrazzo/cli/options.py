"""Options that several subcommands share, and what is made from them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..llm import LLM
    from ..sampling import SamplingParams

Subparsers = argparse._SubParsersAction  # argparse gives its type no public name


def add_model_options(parser: argparse.ArgumentParser, *, order: bool = True) -> None:
    """Which model, and the machine it runs on; with `order`, also in which order."""
    group = parser.add_argument_group("model and machine")
    group.add_argument(
        "--model", help="folder, hub name or .gguf file [SmolLM2-135M-Instruct]", metavar="NAME"
    )
    group.add_argument(
        "--device",
        choices=("auto", "host", "cuda"),
        default="auto",
        help="host: the CPU; auto: the GPU where there is one that can do it [auto]",
    )
    group.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs, on the host virtual")
    add_parallel_options(group)
    if order:
        add_order_option(group)
    group.add_argument("--sms", type=int, metavar="N", help="SMs of each GPU, on the host virtual")
    group.add_argument("--threads", type=int, metavar="N", help="threads that run virtual SMs")
    group.add_argument("--max-model-len", type=int, metavar="N", help="longest context in tokens")
    group.add_argument("--kv-pages", type=int, metavar="N", help="KV pages of 64 tokens")
    group.add_argument(
        "--gpu-memory",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="of the GPU's memory that may be used, where KV pages are not given [0.9]",
    )
    group.add_argument(
        "--load-format",
        choices=("auto", "dummy"),
        default="auto",
        help="dummy: random weights, for measurements [auto]",
    )


def add_parallel_options(group: argparse._ArgumentGroup) -> None:
    """How a model lies on several GPUs, besides their number."""
    group.add_argument(
        "--o-proj",
        choices=("auto", "replicated", "sharded"),
        default="auto",
        help="O's weight on several GPUs: whole on each, or a part; auto: whole unless memory is "
        "short [auto]",
    )
    group.add_argument(
        "--ranks-per-gpu",
        type=int,
        default=1,
        metavar="N",
        help="so many of --gpus are virtual ones that share a GPU, for tests [1]",
    )


def add_order_option(group: argparse._ArgumentGroup) -> None:
    """In which order a step's instructions run."""
    group.add_argument(
        "--order",
        choices=("layers", "planned"),
        default="layers",
        help="of a step's instructions; planned: what a simulation of the GPU finds best [layers]",
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen and when an answer ends."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--max-tokens", type=int, default=256, metavar="N", help="[256]")
    group.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 takes the likeliest token [0]",
    )
    group.add_argument("--top-k", type=int, default=0, metavar="K", help="0 is off [0]")
    group.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1 is off [1]")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling [0]")
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before it; may be repeated"
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after an end token")


def open_llm(options: argparse.Namespace, **more: Any) -> LLM:
    """The model that the options name; `more` are arguments of LLM, instead of their options."""
    from ..llm import LLM

    more.setdefault("order", options.order)
    return LLM(
        options.model,
        device=options.device,
        load_format=options.load_format,
        gpus=options.gpus,
        ranks_per_gpu=options.ranks_per_gpu,
        o_proj=options.o_proj,
        num_sms=options.sms,
        num_threads=options.threads,
        max_model_len=options.max_model_len,
        kv_pages=options.kv_pages,
        gpu_memory_utilization=options.gpu_memory,
        **more,
    )


def sampling_params(options: argparse.Namespace) -> SamplingParams:
    """The sampling that the options describe; ValueError for bad values."""
    from ..sampling import SamplingParams

    return SamplingParams(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        stop=tuple(options.stop),
        ignore_eos=options.ignore_eos,
    )
