"""What each kernel may cost at most, measured with nvcc 13.0: nothing, but for those listed here.

A kernel that needs more fails `test_kernels.py`. One that needs much less fails too, and says what
to write here, so that an improvement is not lost again unseen.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper bounds for one file of TERRAZZO_CUDA_KERNELS, all its functions together."""

    stack_bytes: int = 0  # of a thread, in local memory
    spill_store_bytes: int = 0  # written by the spilling code of a thread
    spill_load_bytes: int = 0
    local_instructions: int = 0  # loads and stores of local memory in the machine code
    notes: frozenset[str] = frozenset()  # advisories of ptxas, by number


# File of TERRAZZO_CUDA_KERNELS -> budget. Most of it lies around calls of outlined operations, of
# which decode attention is one since it needs no wgmma.
BUDGETS = {
    "megakernel_128.cu": Budget(
        stack_bytes=440, spill_store_bytes=176, spill_load_bytes=260, local_instructions=190
    ),
    "megakernel_128_ranks.cu": Budget(
        stack_bytes=432, spill_store_bytes=184, spill_load_bytes=268, local_instructions=194
    ),
    "megakernel_64.cu": Budget(
        stack_bytes=288, spill_store_bytes=156, spill_load_bytes=232, local_instructions=146
    ),
    "megakernel_64_ranks.cu": Budget(
        stack_bytes=304, spill_store_bytes=172, spill_load_bytes=256, local_instructions=156
    ),
}
