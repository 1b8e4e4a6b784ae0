"""ModelRunner: a model's weights in a machine's layout, and steps on it."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from .capacity import GIB, Capacity, memory_budget, model_shape, tensor_parallel_degrees
from .device import resolve_device
from .loading import Progress, load_weights
from .step import PAGE_TOKENS, StepInput, StepOutput, StepTicket

if TYPE_CHECKING:
    from ._core import CudaModel, HostModel, ModelShape, OrderPlanner, StepArrays, StepOrder
    from .models.checkpoint import Checkpoint
    from .models.config import ModelConfig

_log = logging.getLogger(__name__)

# Attention over a long context is split at multiples of this many tokens; part of a model's bits.
SPLIT_TOKENS = 2048

O_PROJ = ("auto", "replicated", "sharded")
ORDERS = ("layers", "planned")


def _require_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value >= 1:
            raise ValueError(f"[runner] expected {name} of at least 1, got {value}")


def _refuse_on_host(**options: int) -> None:
    for name, value in options.items():
        if value != 0:
            raise ValueError(f"[runner] {name}={value}: only the device 'cuda' has this option")


def _check_o_proj(o_proj: str, gpus: int) -> None:
    if o_proj not in O_PROJ:
        raise ValueError(f"[runner] o_proj={o_proj!r}: expected one of {', '.join(O_PROJ)}")
    if o_proj == "sharded" and gpus == 1:
        raise ValueError("[runner] o_proj='sharded': expected at least 2 GPUs, got 1")


def _check_order(order: str) -> None:
    if order not in ORDERS:
        raise ValueError(f"[runner] order={order!r}: expected one of {', '.join(ORDERS)}")


def arrays_of(batch: StepInput) -> StepArrays:
    """The step's arrays as the compiled core takes them."""
    from ._core import StepArrays

    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return StepArrays(**fields)


class ModelRunner:
    """Runs steps of one model on a machine: `host`, `cuda`, or `auto` (see device.py).

    `gpus` is the tensor-parallel degree, which is part of a result's bits.
    On the host the GPUs are virtual and have `num_sms` virtual SMs each, and `num_threads` threads
    share these (default: as many as SMs). On cuda a step takes `num_sms` of each GPU's SMs
    (default: all but `reserve_sms`) and runs on `stream` (a CUDA stream's handle; 0: one of the
    runner's own); up to `trace_events` events of a step and GPU are kept for `core.trace`. With
    `ranks_per_gpu` so many of the `gpus` are virtual ones on one GPU, which share its SMs and its
    memory.

    `o_proj` says how several GPUs keep O's weight: whole on each (`replicated`), or each the input
    columns of its own heads (`sharded`), which changes the bits of a result, as `gpus` does. `auto`
    is `replicated` on the host, and on cuda unless memory is short (`Capacity.shards_o`); what was
    chosen is the attribute `o_proj`.

    `order` is that of a step's instructions: `layers`, or `planned`, the one that a simulation with
    the costs `order_costs` (a device with known costs, or a cost file; default: see `costs_on`)
    finds best, if that is not layer by layer. It changes no bit. The first step of a class waits
    until its order is found: 1 to 3 s for an 8B model on one GPU, 22 s for a 70B on 8
    (docs/overlap.md). Such a step raises Error, a ValueError, where the simulator makes no progress
    with these costs.

    The KV cache has `num_pages` pages; by default four of the longest sequences on the host, and on
    cuda what the model leaves of its share `gpu_memory_utilization` of each GPU's memory. Sequences
    are as long as the model allows, on cuda no longer than the KV cache either. Raises ValueError
    for what the model or the machine cannot have.
    """

    page_size = PAGE_TOKENS

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "host",
        gpus: int = 1,
        ranks_per_gpu: int = 1,
        o_proj: str = "auto",
        order: str = "layers",
        order_costs: str | None = None,
        num_sms: int | None = None,
        num_threads: int | None = None,
        reserve_sms: int = 0,
        stream: int = 0,
        trace_events: int = 0,
        max_batch_tokens: int = 2048,
        max_sequences: int = 256,
        max_model_len: int | None = None,
        num_pages: int | None = None,
        gpu_memory_utilization: float = 0.9,
        max_logit_rows: int | None = None,
        split_tokens: int = SPLIT_TOKENS,
        watchdog_seconds: float = 10.0,
        max_in_flight: int | None = None,
        load_threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        config = checkpoint.config
        degrees = tensor_parallel_degrees(config.num_kv_heads)
        if gpus not in degrees:
            raise ValueError(
                f"[runner] gpus={gpus} does not divide the model's {config.num_kv_heads} KV heads; "
                f"possible: {', '.join(map(str, degrees))}"
            )
        _require_positive(
            num_sms=num_sms,
            num_threads=num_threads,
            max_batch_tokens=max_batch_tokens,
            max_sequences=max_sequences,
            max_model_len=max_model_len,
            num_pages=num_pages,
            max_in_flight=max_in_flight,
            load_threads=load_threads,
        )
        _check_o_proj(o_proj, gpus)
        _check_order(order)
        self.device = resolve_device(
            device, gpus=gpus, ranks_per_gpu=ranks_per_gpu, num_threads=num_threads
        )
        if self.device == "host":
            _refuse_on_host(reserve_sms=reserve_sms, stream=stream, trace_events=trace_events)
            if ranks_per_gpu != 1:
                raise ValueError(
                    f"[runner] ranks_per_gpu={ranks_per_gpu}: the host's GPUs are virtual anyway"
                )
        self.config: ModelConfig = config
        self.gpus = gpus
        self.max_tokens = max_batch_tokens
        self.max_sequences = min(max_sequences, max_batch_tokens)
        self.max_logit_rows = max_logit_rows if max_logit_rows is not None else self.max_sequences
        capacity = Capacity(
            config=config,
            max_batch_tokens=max_batch_tokens,
            max_sequences=self.max_sequences,
            max_model_len=min(max_model_len or config.max_position, config.max_position),
            max_logit_rows=self.max_logit_rows,
            split_tokens=split_tokens,
        )
        o_sharded = o_proj == "sharded"
        on_cuda = self.device == "cuda"
        if on_cuda:
            budget = _budget_of_rank(
                gpus // ranks_per_gpu, ranks_per_gpu, num_pages, gpu_memory_utilization
            )
            if o_proj == "auto" and gpus > 1:
                o_sharded = capacity.shards_o(gpus, budget, num_pages)
                _log.info("O's weight: %s", "sharded" if o_sharded else "replicated")
        shape = model_shape(config, gpus, split_tokens, o_sharded=o_sharded)
        self.o_proj = "sharded" if o_sharded else "replicated"
        if on_cuda:
            num_pages = _pages_on_gpus(capacity, shape, budget, num_pages)
        elif num_pages is None:
            num_pages = 4 * -(-capacity.max_model_len // PAGE_TOKENS)
        if on_cuda and max_model_len is None:
            longest = min(capacity.max_model_len, num_pages * PAGE_TOKENS)
            capacity = dataclasses.replace(capacity, max_model_len=longest)
        self.num_pages = num_pages
        self.max_model_len = capacity.max_model_len
        limits = capacity.limits(num_pages, shape)

        self._model: HostModel | CudaModel
        self._queue: _HostQueue | CudaModel
        if on_cuda:
            from ._core import CudaModel

            self._model = self._queue = CudaModel(
                shape,
                limits,
                num_sms=num_sms or 0,
                reserve_sms=reserve_sms,
                watchdog_seconds=watchdog_seconds,
                stream=stream,
                trace_events=trace_events,
                ranks_per_gpu=ranks_per_gpu,
            )
            num_sms = self._model.num_sms
            most_in_flight = CudaModel.MAX_IN_FLIGHT
        else:
            from ._core import HostModel

            num_sms = num_sms or max(1, (os.cpu_count() or 1) // gpus)
            self._model = HostModel(
                shape,
                limits,
                num_sms=num_sms,
                num_threads=num_threads or 0,
                watchdog_seconds=watchdog_seconds,
            )
            self._queue = _HostQueue(self._model)
            # Its steps run when they are submitted: more in flight would gain nothing.
            most_in_flight = max_in_flight or 1
        self._planner: OrderPlanner | None = None
        if order == "planned":
            from ._core import OrderPlanner
            from .costs import costs_on, load_costs

            costs = costs_on(self.device) if order_costs is None else load_costs(order_costs)
            self._planner = OrderPlanner(shape, limits, costs.model(), num_sms=num_sms)
        self.max_in_flight = min(max_in_flight or most_in_flight, most_in_flight)
        self._tickets: deque[StepTicket] = deque()
        load_weights(
            self._model, checkpoint, gpus=gpus, num_threads=load_threads, progress=progress
        )

    def step(self, batch: StepInput) -> StepOutput:
        """Runs one step; its K and V go to the batch's pages."""
        if self._tickets:
            raise ValueError("[step] steps are in flight: `step` takes one step at a time")
        return self.collect(self.submit(batch))

    def submit(self, batch: StepInput) -> StepTicket:
        """Queues a step behind those in flight; on the host machine it runs at once. If a launch
        fails, none is in flight any more.
        """
        from ._core import LaunchError

        if len(self._tickets) >= self.max_in_flight:
            raise ValueError(
                f"[submit] expected at most {self.max_in_flight} steps in flight: collect the "
                "oldest one first, or take one step at a time"
            )
        arrays = arrays_of(batch)
        try:
            ticket = StepTicket(self._queue.submit(arrays, self._order_of(arrays)))
        except LaunchError:
            self._tickets.clear()
            raise
        self._tickets.append(ticket)
        return ticket

    def collect(self, ticket: StepTicket) -> StepOutput:
        """Waits for the oldest step in flight; if it failed, none is in flight any more."""
        if not self._tickets or self._tickets[0] != ticket:
            raise ValueError(f"[collect] {ticket} is not that of the oldest step in flight")
        try:
            output = StepOutput(*self._queue.collect(ticket.number))
        except BaseException:
            self._tickets.clear()
            raise
        self._tickets.popleft()
        return output

    def verify(self, batch: StepInput) -> list[str]:
        """Problems that the verifier finds in the step's program: none, if it is sound."""
        arrays = arrays_of(batch)
        return self._model.verify(arrays, self._order_of(arrays))

    def order_of(self, batch: StepInput) -> str:
        """The order of the step's instructions: `plain`, which is layer by layer, or the split
        block and curves of a woven order."""
        order = self._order_of(arrays_of(batch))
        return "plain" if order is None else order.text

    def _order_of(self, arrays: StepArrays) -> StepOrder | None:
        """None: layer by layer."""
        return None if self._planner is None else self._planner.plan(arrays)

    @property
    def core(self) -> Any:
        """The compiled model (HostModel or CudaModel), for tests that drive the machine itself."""
        return self._model


class _HostQueue:
    """Submit and collect on the host machine; a step runs when it is submitted."""

    def __init__(self, model: HostModel) -> None:
        self._model = model
        self._outputs: dict[int, tuple[Any, Any, Any]] = {}
        self._num_submitted = 0

    def submit(self, arrays: StepArrays, order: StepOrder | None) -> int:
        output = self._model.step(arrays, order)
        number = self._num_submitted
        self._num_submitted += 1
        self._outputs[number] = output
        return number

    def collect(self, number: int) -> tuple[Any, Any, Any]:
        return self._outputs.pop(number)


def _budget_of_rank(
    num_devices: int, ranks_per_gpu: int, num_pages: int | None, utilization: float
) -> int:
    """Bytes that the model may take on each rank: what is free where the pages are given, else its
    share; by the GPU that has least."""
    from ._core import cuda_device

    devices = [cuda_device(gpu) for gpu in range(num_devices)]
    budgets = [
        device.free_bytes
        if num_pages is not None
        else memory_budget(device.free_bytes, device.total_bytes, utilization)
        for device in devices
    ]
    return min(budgets) // ranks_per_gpu


def _pages_on_gpus(
    capacity: Capacity, shape: ModelShape, budget_bytes: int, num_pages: int | None
) -> int:
    """KV pages of each rank: as given, if they fit; else as many as fit on all GPUs."""
    if num_pages is not None:
        capacity.check_pages(shape, num_pages, budget_bytes)
        return num_pages
    num_pages = capacity.pages_that_fit(shape, budget_bytes)
    _log.info(
        "KV cache: %d pages, %d tokens, in %.1f GiB of each rank",
        num_pages,
        num_pages * PAGE_TOKENS,
        budget_bytes / GIB,
    )
    return num_pages
