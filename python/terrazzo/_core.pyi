"""The compiled core of Terrazzo."""

from collections.abc import Sequence
import enum
from typing import Annotated

import numpy
from numpy.typing import NDArray


class ModelShape:
    """Sizes of a model on `world` GPUs."""

    def __init__(self, *, num_layers: int, hidden: int, intermediate: int, num_heads: int, num_kv_heads: int, head_dim: int, vocab: int, norm_eps: float, world: int, split_tokens: int, o_sharded: bool = False) -> None: ...

    @property
    def world(self) -> int: ...

    @property
    def o_sharded(self) -> bool: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def vocab(self) -> int: ...

    @property
    def group(self) -> int: ...

    @property
    def local_kv_heads(self) -> int: ...

    @property
    def act_panels(self) -> int: ...

    @property
    def vocab_panels(self) -> int: ...

class StepLimits:
    """What a machine is sized for."""

    def __init__(self, *, max_rows: int, max_sequences: int, max_position: int, num_pages: int, max_logit_rows: int, max_partials: int) -> None: ...

    @property
    def max_rows(self) -> int: ...

    @property
    def max_sequences(self) -> int: ...

    @property
    def max_position(self) -> int: ...

    @property
    def num_pages(self) -> int: ...

    @property
    def max_logit_rows(self) -> int: ...

    @property
    def max_partials(self) -> int: ...

class StepArrays:
    """The arrays of one step, as terrazzo.step.StepInput."""

    def __init__(self, *, token_ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], seq_lens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], context_lens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], page_indptr: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], page_ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], logit_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], temperature: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], top_k: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], top_p: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], seed: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)], output_position: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], want_logits: Annotated[NDArray[numpy.bool_], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None: ...

class StepOrder:
    """The order of a step's queue."""

    def __init__(self, text: str = 'plain') -> None: ...

    @property
    def text(self) -> str:
        """"plain", or split block and curves of a woven order."""

class Matrix(enum.Enum):
    """A layer's matrices, and the LM head."""

    QKV = 0

    O = 1

    GATE_UP = 2

    DOWN = 3

    LM_HEAD = 4

class Error(ValueError):
    pass

class LaunchError(RuntimeError):
    pass

def weight_bytes(shape: ModelShape, max_position: int) -> int:
    """Bytes of a model's weights and tables on one GPU."""

def heap_bytes(shape: ModelShape, limits: StepLimits) -> int:
    """
    Bytes of everything else that one GPU holds: KV pages, activations, counters.
    """

def instruction_counts(shape: ModelShape, limits: StepLimits, arrays: StepArrays, num_sms: int) -> dict[str, int]:
    """
    Instructions of each kind in the first GPU's program of a step, the body's once a layer.
    """

class Lateness(enum.Enum):
    """When copies land under the adversary."""

    RANDOM = 0

    LATE = 1

    EAGER = 2

class HostModel:
    """A model on the host machine's virtual GPUs."""

    def __init__(self, shape: ModelShape, limits: StepLimits, *, num_sms: int = 2, num_threads: int = 0, watchdog_seconds: float = 10.0) -> None: ...

    def pack_rows(self, gpu: int, which: Matrix, layer: int, target_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], source: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], source_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], column_scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
        """
        Rows of a bf16 source [rows, cols] to output rows of a matrix, times a factor a column.
        """

    def set_tables(self, embedding: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], final_norm: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], rope: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)]) -> None:
        """
        Embedding bf16 [vocab, hidden], final norm bf16 [hidden], rope fp32 [positions, head_dim].
        """

    def step(self, arrays: StepArrays, order: StepOrder | None = None) -> tuple[Annotated[NDArray[numpy.int32], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None, None))]]:
        """
        Runs a step, layer by layer unless there is an order; (tokens, logprobs, logits).
        """

    def step_checked(self, arrays: StepArrays, *, seed: int, lateness: Lateness, order: StepOrder | None = None) -> tuple[Annotated[NDArray[numpy.int32], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None, None))]]:
        """Runs a step under the adversary; (tokens, logprobs, logits)."""

    def verify(self, arrays: StepArrays, order: StepOrder | None = None) -> list[str]:
        """Problems of the step's program; empty if it is sound."""

    @property
    def shape(self) -> ModelShape: ...

    @property
    def limits(self) -> StepLimits: ...

def cuda_built() -> bool:
    """Whether this build contains the CUDA machine."""

def cuda_problem(num_gpus: int = 1) -> str:
    """
    Why the CUDA machine cannot run on so many GPUs, with the remedy; empty if it can.
    """

class CudaDevice:
    """A GPU that the CUDA machine runs on."""

    @property
    def name(self) -> str: ...

    @property
    def num_sms(self) -> int: ...

    @property
    def compute_capability(self) -> str: ...

    @property
    def total_bytes(self) -> int: ...

    @property
    def free_bytes(self) -> int: ...

    @property
    def driver_version(self) -> int:
        """1000 * major + 10 * minor"""

    @property
    def runtime_version(self) -> int:
        """1000 * major + 10 * minor"""

def cuda_device(gpu: int = 0) -> CudaDevice:
    """The device as it is now; Error where the CUDA machine cannot run."""

class CudaModel:
    """A model on one GPU or several."""

    def __init__(self, shape: ModelShape, limits: StepLimits, *, num_sms: int = 0, reserve_sms: int = 0, watchdog_seconds: float = 10.0, stream: int = 0, trace_events: int = 0, ranks_per_gpu: int = 1) -> None:
        """
        num_sms 0: all but reserve_sms. stream: handle of the stream that runs the steps; 0: one of the model's own. ranks_per_gpu: so many of shape.world ranks share a GPU.
        """

    MAX_IN_FLIGHT: int = 2

    def pack_rows(self, gpu: int, which: Matrix, layer: int, target_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], source: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], source_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], column_scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
        """
        Rows of a bf16 source [rows, cols] to output rows of a matrix, times a factor a column.
        """

    def pack_repeated(self, gpu: int, which: Matrix, layer: int, target_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], pool: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], first: int, stride: int, rows: int, cols: int, source_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], column_scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
        """
        The same of a source [rows, cols] whose (row, col) is the value (first + row * stride + col) modulo its size of a bf16 pool; made on the device.
        """

    def set_tables(self, embedding: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], final_norm: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], rope: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)]) -> None:
        """
        Embedding bf16 [vocab, hidden], final norm bf16 [hidden], rope fp32 [positions, head_dim]; ends the loading.
        """

    def set_repeated_tables(self, pool: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], first: int, stride: int, rows: int, cols: int, final_norm: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], rope: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)]) -> None:
        """The same with an embedding that repeats, as for pack_repeated."""

    def submit(self, arrays: StepArrays, order: StepOrder | None = None) -> int:
        """
        Prepares and queues a step, layer by layer unless there is an order; its number.
        """

    def collect(self, number: int) -> tuple[Annotated[NDArray[numpy.int32], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None, None))]]:
        """Waits for the oldest step; (tokens, logprobs, logits)."""

    def verify(self, arrays: StepArrays, order: StepOrder | None = None) -> list[str]:
        """Problems of the step's program; empty if it is sound."""

    def trace(self) -> bytes:
        """
        Events of the last step, if trace_events: records of core/trace_event.hpp.
        """

    def set_watchdog_seconds(self, seconds: float) -> None:
        """Longest wait inside the steps launched from now on."""

    def set_delays(self, seed: int, most_ns: int) -> None:
        """
        Random sleeps of SMs in the steps launched from now on, for tests; 0: none.
        """

    @property
    def elapsed_ms(self) -> float:
        """Time on the device of the step collected last."""

    @property
    def num_sms(self) -> int: ...

    @property
    def shape(self) -> ModelShape: ...

    @property
    def limits(self) -> StepLimits: ...

    def fill_random(self, seed: int) -> None:
        """
        Random weights, tables and KV pages instead of loading; for measurements.
        """

    def time_step(self, arrays: StepArrays, *, only: Sequence[str] = [], repeats: int = 5, sweep_cache: bool = True, layers: int = 0) -> list[float]:
        """
        Milliseconds on the device of each of `repeats` launches of a step. only: its instructions of these kinds alone, without waits. layers: so many of the model's, 0: all.
        """

    def time_empty(self, count: int, *, repeats: int = 5) -> list[float]:
        """The same of a program of `count` instructions that do nothing."""

class Programs:
    """The programs of a step, one a GPU, without a machine."""

    def __init__(self, shape: ModelShape, limits: StepLimits, arrays: StepArrays, *, num_sms: int, split_block: int = 0, attention_percent: int = 90, woven_for: CostModel | None = None, order: str = 'plain', only: str = '') -> None:
        """
        With a split_block the order is woven; with woven_for it is the one that the simulator finds best for the device. `order` names an order as the property of that name does; `only` leaves instructions of one kind, without waits.
        """

    @property
    def order(self) -> str:
        """"plain", or split block and curves of the woven order."""

    @property
    def num_gpus(self) -> int: ...

    @property
    def num_layers(self) -> int: ...

    def sizes(self, gpu: int) -> tuple[int, int, int]:
        """
        Instructions of the prologue, the body (of one layer) and the epilogue.
        """

    def work(self, gpu: int) -> Annotated[NDArray[numpy.float64], dict(shape=(None, None))]:
        """
        A row for each instruction: kind, FLOPs, FLOPs issued to the tensor cores, slots, stages, bytes loaded, of which weights, of which keys and values, bytes stored here, bytes stored on peers.
        """

    @property
    def counters_per_block(self) -> int: ...

    def dependencies(self, gpu: int, signals: bool) -> Annotated[NDArray[numpy.float64], dict(shape=(None, None))]:
        """
        Waits as rows (instruction, first counter, count) or signals as rows (instruction, counter, GPU mask); counters are relative to the block of the instruction's layer.
        """

    def waits(self, gpu: int) -> list[str]:
        """What each instruction waits for, as a text."""

class CostModel:
    """Times and capacities of a device, for the simulator."""

    def __init__(self) -> None: ...

    def set(self, name: str, value: float) -> None: ...

    def get(self, name: str) -> float: ...

    @staticmethod
    def fields() -> list[str]:
        """The names of all values."""

def opcode_names() -> list[str]: ...

def kind_names() -> list[str]:
    """
    Names of the kinds of instructions, by number; empty where a number is not in use.
    """

class OrderPlanner:
    """Finds orders of steps by simulation, once for each class of steps."""

    def __init__(self, shape: ModelShape, limits: StepLimits, costs: CostModel, *, num_sms: int) -> None: ...

    def plan(self, arrays: StepArrays) -> StepOrder:
        """
        The order of the step's class. Finding it takes 1 to 3 s for an 8B model on one GPU and 22 s for a 70B on 8; it raises Error for a step that the limits do not allow, and where the simulator makes no progress with these costs.
        """

    @property
    def num_classes(self) -> int:
        """Classes whose order is known."""

def simulate(programs: Programs, model: CostModel, *, num_sms: int = 0, layers: int = 0, trace: bool = False, tolerance: float = 0.02) -> tuple[float, Annotated[NDArray[numpy.float64], dict(shape=(None, None))], bytes]:
    """
    (time of the step in ns; a row for each GPU: bytes from HBM, bytes into the rings, FLOPs issued, bytes to peers; trace events as bytes: records of core/trace_event.hpp). 0 SMs: as many as the model says; 0 layers: all.
    """

def estimate(programs: Programs, model: CostModel, num_sms: int = 0, guess: float = 1.0) -> tuple[float, float]:
    """
    (time of the step in ns, clock of the SMs in parts of their highest) from a few layers. 0 SMs: as many as the model says. The clock is searched from `guess` on.
    """

def hbm_bytes(programs: Programs, model: CostModel, gpu: int, positions: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], begin_ns: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], end_ns: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> Annotated[NDArray[numpy.float64], dict(shape=(None, None))]:
    """
    Bytes from HBM of instructions, by queue position in the order of their loads' begins: [n, 1].
    """

def trace_host_step(model: HostModel, arrays: StepArrays) -> bytes:
    """
    Runs a step on the host machine; its trace events as bytes: records of core/trace_event.hpp.
    """

def layer_traffic(shape: ModelShape, limits: StepLimits, arrays: StepArrays, num_sms: int = 132) -> list[tuple[str, str, int, int, int, int]]:
    """
    What the GPUs send each other in one layer of a step: (instruction, buffer, from, to, bytes, writes) of each flow; the buffer 'counters' stands for signals.
    """

def page_keys(tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], parent: bytes) -> list[bytes]:
    """
    The key of each full page of tokens: 128 bits of BLAKE2b of its tokens, salted with the key before it, at first `parent`.
    """

def gather_pages(page_ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu')], indptr: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], table: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], rows: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
    """
    Fill page_ids[indptr[i]:indptr[i + 1]] with the first values of row rows[i] of the table, for every i.
    """

def held_tokens(tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], most: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], stride: int, num_points: int, unused: float) -> NDArray[numpy.float64]:
    """
    What sequences hold at moments `stride` tokens apart if each grows by `most` and then leaves: their tokens of now, of then, and `unused` ones each.
    """
