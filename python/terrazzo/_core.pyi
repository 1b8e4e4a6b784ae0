"""The compiled core of Terrazzo."""

import enum
from typing import Annotated

import numpy
from numpy.typing import NDArray


def cuda_built() -> bool:
    """Whether this build contains the CUDA machine."""

class ModelShape:
    """Sizes of a model on `world` GPUs."""

    def __init__(self, *, num_layers: int, hidden: int, intermediate: int, num_heads: int, num_kv_heads: int, head_dim: int, vocab: int, norm_eps: float, world: int, split_tokens: int) -> None: ...

    @property
    def world(self) -> int: ...

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

class StepArrays:
    """The arrays of one step, as terrazzo.step.StepInput."""

    def __init__(self, *, token_ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], seq_lens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], context_lens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], page_indptr: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], page_ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], logit_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], temperature: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], top_k: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], top_p: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], seed: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)], output_position: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], want_logits: Annotated[NDArray[numpy.bool_], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None: ...

class Matrix(enum.Enum):
    """A layer's matrices, and the LM head."""

    QKV = 0

    O = 1

    GATE_UP = 2

    DOWN = 3

    LM_HEAD = 4

class Lateness(enum.Enum):
    """When copies land under the adversary."""

    RANDOM = 0

    LATE = 1

    EAGER = 2

class Error(ValueError):
    pass

class LaunchError(RuntimeError):
    pass

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

    def step(self, arrays: StepArrays) -> tuple[Annotated[NDArray[numpy.int32], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None, None))]]:
        """Runs a step; (tokens, logprobs, logits)."""

    def step_checked(self, arrays: StepArrays, *, seed: int, lateness: Lateness) -> tuple[Annotated[NDArray[numpy.int32], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None, None))]]:
        """Runs a step under the adversary; (tokens, logprobs, logits)."""

    def verify(self, arrays: StepArrays) -> list[str]:
        """Problems of the step's program; empty if it is sound."""

    @property
    def shape(self) -> ModelShape: ...

    @property
    def limits(self) -> StepLimits: ...
