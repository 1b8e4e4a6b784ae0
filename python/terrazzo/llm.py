"""LLM: a model, opened and ready to generate text."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING, NamedTuple, Protocol

from . import env
from .capacity import kv_page_bytes
from .device import resolve_device
from .engine import Engine, EngineMetrics, RequestOutput, RequestUpdate
from .progress import ProgressBar
from .sampling import SamplingParams
from .step import PAGE_TOKENS, Runner

if TYPE_CHECKING:
    from .models.config import ModelConfig
    from .models.loader import OpenedModel

_log = logging.getLogger(__name__)

Prompt = str | Sequence[int]
Messages = Sequence[Mapping[str, object]]

MAX_COUNT = 2**31 - 1  # counts travel as int32


class StepSizes(NamedTuple):
    """Most rows and sequences of a step."""

    max_batch_tokens: int
    max_sequences: int


# A GPU needs hundreds of rows to be busy; on a CPU they only make each step take longer.
DEFAULT_SIZES = {"host": StepSizes(512, 64), "cuda": StepSizes(2048, 512)}


class ChatTokenizer(Protocol):
    """What LLM needs of a tokenizer."""

    @property
    def has_chat_template(self) -> bool: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], /) -> str: ...

    def apply_chat_template(self, messages: Messages) -> str: ...


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Tokens of the longest sequence, and the KV pages for all sequences together."""

    max_model_len: int
    num_pages: int

    @classmethod
    def choose(
        cls,
        config: ModelConfig,
        *,
        max_model_len: int | None = None,
        kv_pages: int | None = None,
        kv_gib: float,
    ) -> CacheSizes:
        """Fill in what is not given: as many pages as `kv_gib` holds, and the longest context that
        both the model and the pages allow. Raises ValueError if the model's context is shorter.
        """
        if max_model_len is not None:
            _check_model_len(config, max_model_len)
        if kv_pages is None:
            kv_pages = min(max(1, int(kv_gib * 2**30) // kv_page_bytes(config)), MAX_COUNT)
        if max_model_len is None:
            max_model_len = min(config.max_position, kv_pages * PAGE_TOKENS)
        return cls(max_model_len, kv_pages)


class LLM:
    """A model on a machine, with an engine that serves any number of prompts together.

    `model` is a folder, a hub name or a `.gguf` file; without it, the default model. `load_format`
    "dummy" gives a folder's model random weights, for measurements. `device` is `host` (the CPU),
    `cuda`, or `auto`: the GPU where there is one that can do it. `gpus` is the tensor-parallel
    degree; with several, `o_proj` says whether each keeps O's weight whole (`replicated`) or a part
    (`sharded`; `auto`: docs/multi-gpu.md). On the host machine each virtual GPU has `num_sms` SMs,
    run by `num_threads` threads; on cuda steps take `num_sms` of each GPU's SMs, by default all but
    `reserve_sms`, and leave up to `trace_events` events; `ranks_per_gpu` of the `gpus` share one
    (docs/multi-gpu.md). `order` is that of a step's instructions, `layers` or `planned` (see
    ModelRunner). The KV cache has `kv_pages` pages of 64 tokens; by default TERRAZZO_KV_GIB
    on the host, and on cuda what the model leaves of its share `gpu_memory_utilization` of each
    GPU's memory. `seed` gives seeds to requests that have none, always the same. Raises ValueError
    or ModelError for what it cannot do.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "auto",
        load_format: str = "auto",
        gpus: int = 1,
        ranks_per_gpu: int = 1,
        o_proj: str = "auto",
        order: str = "layers",
        max_model_len: int | None = None,
        max_batch_tokens: int | None = None,
        max_sequences: int | None = None,
        kv_pages: int | None = None,
        gpu_memory_utilization: float = 0.9,
        num_sms: int | None = None,
        num_threads: int | None = None,
        reserve_sms: int = 0,
        trace_events: int = 0,
        seed: int = 0,
        progress: bool | None = None,
    ) -> None:
        _check_counts(
            gpus=gpus,
            max_batch_tokens=max_batch_tokens,
            max_sequences=max_sequences,
            num_sms=num_sms,
            num_threads=num_threads,
            max_model_len=max_model_len,
            kv_pages=kv_pages,
        )
        device = resolve_device(
            device, gpus=gpus, ranks_per_gpu=ranks_per_gpu, num_threads=num_threads
        )
        opened = _open(model, load_format)
        sizes = DEFAULT_SIZES[device]
        max_batch_tokens = max_batch_tokens or sizes.max_batch_tokens
        max_sequences = max_sequences or sizes.max_sequences
        if max_model_len is not None:
            _check_model_len(opened.config, max_model_len)
        if device == "host":
            cache = CacheSizes.choose(
                opened.config,
                max_model_len=max_model_len,
                kv_pages=kv_pages,
                kv_gib=env.KV_GIB.read(),
            )
            max_model_len, kv_pages = cache.max_model_len, cache.num_pages
            num_sms = env.NUM_SMS.read() if num_sms is None else num_sms
        from .runner import ModelRunner

        with ProgressBar("loading", "layer", progress) as bar, _out_of_memory(opened, kv_pages):
            runner = ModelRunner(
                opened.checkpoint,
                device=device,
                gpus=gpus,
                ranks_per_gpu=ranks_per_gpu,
                o_proj=o_proj,
                order=order,
                num_sms=num_sms,
                num_threads=num_threads,
                reserve_sms=reserve_sms,
                trace_events=trace_events,
                max_batch_tokens=max_batch_tokens,
                max_sequences=max_sequences,
                max_model_len=max_model_len,
                num_pages=kv_pages,
                gpu_memory_utilization=gpu_memory_utilization,
                # Any of the sequences may be sampled by top-k or top-p, which needs its logits.
                max_logit_rows=max_sequences,
                progress=bar.update_to,
            )
        _log.info("context of %d tokens, %d KV pages", runner.max_model_len, runner.num_pages)
        self._set_up(runner, opened.tokenizer, opened.eos_token_ids, seed)

    @classmethod
    def on(
        cls,
        runner: Runner,
        tokenizer: ChatTokenizer,
        eos_token_ids: Sequence[int],
        *,
        seed: int = 0,
    ) -> LLM:
        """An LLM on a runner that exists already."""
        llm = cls.__new__(cls)
        llm._set_up(runner, tokenizer, eos_token_ids, seed)
        return llm

    def _set_up(
        self, runner: Runner, tokenizer: ChatTokenizer, eos_token_ids: Sequence[int], seed: int
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._engine = Engine(runner, eos_token_ids, decoder=tokenizer, seed=seed)
        # Updates not yet read, by request: a stream may pause while other prompts are served.
        self._unread: dict[int, deque[RequestUpdate]] = {}
        # Outputs of requests that are not streamed, until whoever asked for them takes them.
        self._ended: dict[int, RequestOutput] = {}

    @property
    def runner(self) -> Runner:
        return self._runner

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self._tokenizer

    @property
    def engine(self) -> Engine:
        """The engine, for those who add requests themselves."""
        return self._engine

    def metrics(self) -> EngineMetrics:
        """Counts of the engine since this LLM was made."""
        return self._engine.metrics()

    def generate(
        self,
        prompts: str | Iterable[str] | Iterable[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
    ) -> list[RequestOutput]:
        """Continue all prompts, together; outputs come in the order of the prompts.

        `params` holds for all prompts, or is a list with one for each. The progress bar is shown on
        a terminal if there are several prompts, or as `progress` says. A bad prompt raises
        ValueError before anything is generated.
        """
        many: Sequence[Prompt] = [prompts] if isinstance(prompts, str) else list(prompts)
        each = _one_for_each(params, len(many))
        request_ids: list[int] = []
        outputs: dict[int, RequestOutput] = {}
        shown = False if progress is None and len(many) < 2 else progress
        try:
            for index, (prompt, its_params) in enumerate(zip(many, each, strict=True)):
                try:
                    request_ids.append(self._add(prompt, its_params, stream=False))
                except ValueError as error:
                    raise ValueError(f"prompt {index}: {error}") from error
            own = set(request_ids)
            with ProgressBar("generating", "prompt", shown) as bar:
                while len(outputs) < len(own):
                    self._step()
                    outputs.update(self._take_ended(own))
                    bar.update_to(len(outputs), len(own))
        finally:
            for request_id in request_ids:
                self._drop(request_id)
        return [outputs[request_id] for request_id in request_ids]

    def generate_each(
        self,
        prompts: Iterable[Prompt],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        max_waiting: int = 1024,
    ) -> Iterator[tuple[int, RequestOutput]]:
        """Continue prompts from any iterable, also an endless one, and yield (index, output) as
        they end. So many prompts are drawn that `max_waiting` wait. A bad prompt raises ValueError;
        closing the iterator aborts the rest.
        """
        each: Iterable[SamplingParams]
        if params is None or isinstance(params, SamplingParams):
            each = repeat(params or SamplingParams())
        else:
            each = params
        source = enumerate(zip(prompts, each, strict=False))
        index_of: dict[int, int] = {}
        try:
            while True:
                room = max_waiting - self._engine.num_waiting
                for index, (prompt, its_params) in islice(source, max(room, 0)):
                    index_of[self._add(prompt, its_params, stream=False)] = index
                if not index_of:
                    return
                self._step()
                for request_id, output in self._take_ended(index_of).items():
                    yield index_of.pop(request_id), output
        finally:
            for request_id in index_of:
                self._drop(request_id)

    def chat(self, messages: Messages, params: SamplingParams | None = None) -> RequestOutput:
        """The model's answer to a chat, by its chat template."""
        return self.generate([self.chat_prompt(messages)], params)[0]

    def chat_prompt(self, messages: Messages) -> list[int]:
        """The token ids of a chat up to where the model's answer begins."""
        text = self._tokenizer.apply_chat_template(messages)
        return self._tokenizer.encode(text, add_special_tokens=False)

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None
    ) -> Iterator[RequestUpdate]:
        """Continue one prompt, token by token; closing the iterator aborts the request."""
        request_id = self._add(prompt, params or SamplingParams())
        try:
            is_finished = False
            while not is_finished:
                self._step()
                for update in self._take(request_id):
                    is_finished = update.output is not None
                    yield update
        finally:
            self._drop(request_id)

    def _add(self, prompt: Prompt, params: SamplingParams, *, stream: bool = True) -> int:
        ids = self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        request_id = self._engine.add_request(ids, params, stream=stream)
        if stream:
            self._unread[request_id] = deque()
        return request_id

    def _step(self) -> None:
        for update in self._engine.step():
            if update.request_id in self._unread:
                self._unread[update.request_id].append(update)
            elif update.output is not None:
                self._ended[update.request_id] = update.output

    def _take(self, request_id: int) -> Iterator[RequestUpdate]:
        unread = self._unread[request_id]
        while unread:
            yield unread.popleft()

    def _take_ended(self, request_ids: Container[int]) -> dict[int, RequestOutput]:
        """Outputs of these requests that were not taken yet."""
        taken = {i: output for i, output in self._ended.items() if i in request_ids}
        for request_id in taken:
            del self._ended[request_id]
        return taken

    def _drop(self, request_id: int) -> None:
        self._engine.abort(request_id)
        self._unread.pop(request_id, None)
        self._ended.pop(request_id, None)


def _open(model: str | None, load_format: str) -> OpenedModel:
    from .models.loader import DEFAULT_MODEL, open_model

    name = env.MODEL.read() if model is None else model
    return open_model(name or DEFAULT_MODEL, load_format)


@contextmanager
def _out_of_memory(opened: OpenedModel, num_pages: int | None) -> Iterator[None]:
    """Says what needs the memory that there is not."""
    try:
        yield
    except MemoryError as error:
        pages = "the KV cache"
        if num_pages is not None:
            gib = num_pages * kv_page_bytes(opened.config) / 2**30
            pages = f"{num_pages} KV pages ({gib:.1f} GiB)"
        raise ValueError(
            f"[LLM] out of memory: the model and {pages} do not fit; lower kv_pages, "
            f"{env.KV_GIB.name} (host) or gpu_memory_utilization (cuda)"
        ) from error


def _check_model_len(config: ModelConfig, max_model_len: int) -> None:
    if max_model_len > config.max_position:
        raise ValueError(
            f"[LLM] max_model_len: the model has {config.max_position} positions, "
            f"got {max_model_len}"
        )


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and not 1 <= value <= MAX_COUNT:
            bound = "at least 1" if value < 1 else f"at most {MAX_COUNT}"
            raise ValueError(f"[LLM] {name}: expected {bound}, got {value}")


def _one_for_each(
    params: SamplingParams | Sequence[SamplingParams] | None, count: int
) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise ValueError(f"[LLM] params: expected {count}, one for each prompt, got {len(params)}")
    return list(params)
