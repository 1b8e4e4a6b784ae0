"""The kernels as compiled for sm_90a, checked without a GPU: what they cost, what they contain."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from ptxas.budgets import BUDGETS, Budget
from ptxas.conftest import Kernel
from ptxas.kernel_report import ROOT, kernel_files

REGISTER_FILE = 64 * 1024  # 32-bit registers of an SM
BUILD_SECONDS = 600
SLACK = 0.1  # of a budget, that a kernel may leave unused


@pytest.fixture(params=kernel_files())
def kernel(request: pytest.FixtureRequest, read_kernel: Callable[[str], Kernel]) -> Kernel:
    """Each compiled kernel file."""
    return read_kernel(request.param)


@pytest.fixture(params=[file for file in kernel_files() if file.startswith("megakernel")])
def megakernel(request: pytest.FixtureRequest, read_kernel: Callable[[str], Kernel]) -> Kernel:
    """Each compiled file that holds the interpreter."""
    return read_kernel(request.param)


def constant(name: str) -> int:
    """The value of `constexpr ... NAME = NUMBER` in the sources."""
    folders = (ROOT / "src/machine/cuda", ROOT / "include/terrazzo/arch/sm90")
    texts = [path.read_text() for folder in folders for path in sorted(folder.iterdir())]
    found = re.findall(rf"constexpr \w+ {name} = (\d+)(?: \* (\d+))?;", "\n".join(texts))
    assert len(found) == 1, f"expected one definition of {name}, found {len(found)}"
    value, factor = found[0]
    return int(value) * int(factor or 1)


def spent(kernel: Kernel) -> Budget:
    """What the kernel costs, as a budget."""
    return Budget(
        stack_bytes=kernel.report.stack_bytes,
        spill_store_bytes=kernel.report.spill_store_bytes,
        spill_load_bytes=kernel.report.spill_load_bytes,
        local_instructions=kernel.code.count(r"(LDL|STL)(\..*)?"),
        notes=kernel.report.notes,
    )


NUMBERS = ("stack_bytes", "spill_store_bytes", "spill_load_bytes", "local_instructions")


def overspent(cost: Budget, budget: Budget) -> list[str]:
    """Names of what exceeds the budget."""
    over = [name for name in NUMBERS if getattr(cost, name) > getattr(budget, name)]
    return over + sorted(cost.notes - budget.notes)


def unused(cost: Budget, budget: Budget) -> list[str]:
    """Names of budgets that are too high."""
    high = [name for name in NUMBERS if getattr(cost, name) < (1 - SLACK) * getattr(budget, name)]
    return high + sorted(budget.notes - cost.notes)


def test_budgets_name_kernel_files() -> None:
    assert set(BUDGETS) <= set(kernel_files())


@pytest.mark.t1_nvcc
def test_kernel_stays_within_its_budget(kernel: Kernel) -> None:
    cost = spent(kernel)
    over = overspent(cost, BUDGETS.get(kernel.file, Budget()))
    assert not over, f"{kernel.file} costs {cost}"


@pytest.mark.t1_nvcc
def test_budget_is_lowered_when_a_kernel_improves(kernel: Kernel) -> None:
    cost = spent(kernel)
    high = unused(cost, BUDGETS.get(kernel.file, Budget()))
    assert not high, f"{kernel.file} costs only {cost}: write that in budgets.py"


@pytest.mark.t1_nvcc
def test_compiler_warns_of_nothing(kernel: Kernel) -> None:
    assert not kernel.report.warnings


@pytest.mark.t1_nvcc
def test_registers_at_launch_are_the_most_that_fit(megakernel: Kernel) -> None:
    # Registers come in eights a thread. With fewer, setmaxnreg would start from a smaller pool than
    # its two budgets are made for.
    most = REGISTER_FILE // constant("kBlockThreads") // 8 * 8
    assert megakernel.report.registers == most
    registers = [int(number) for number in re.findall(r"REG:(\d+)", megakernel.resources)]
    assert max(registers) == most


@pytest.mark.t1_nvcc
def test_registers_of_the_roles_are_as_in_the_source(megakernel: Kernel) -> None:
    service, consumer = constant("kServiceRegisters"), constant("kConsumerRegisters")
    shrinks = megakernel.code.operands(r"USETMAXREG\.DEALLOC\..*")
    grows = megakernel.code.operands(r"USETMAXREG\.TRY_ALLOC\..*")
    assert {int(operands.split()[-1], 16) for operands in shrinks} == {service}
    assert {int(operands.split()[-1], 16) for operands in grows} == {consumer}
    assert 128 * service + (constant("kBlockThreads") - 128) * consumer <= REGISTER_FILE
    assert megakernel.code.highest_register < consumer


@pytest.mark.t1_nvcc
def test_shared_memory_fits_a_block(megakernel: Kernel) -> None:
    # What is dynamic is not in the object: a static_assert bounds it when the kernel compiles. CUDA
    # keeps 1 KB of a block's 228 for itself, and the object counts that as static.
    storage = (ROOT / "include/terrazzo/arch/sm90/shared_storage.hpp").read_text()
    assert "static_assert(sizeof(SharedStorage) <= kMaxSharedBytes);" in storage
    static = [int(number) for number in re.findall(r"SHARED:(\d+)", megakernel.resources)]
    assert constant("kMaxSharedBytes") + max(static) <= 228 * 1024


@pytest.mark.t1_nvcc
def test_tensor_cores_multiply_and_bulk_copies_move_tiles(megakernel: Kernel) -> None:
    assert megakernel.code.count(r"HGMMA\.64x256x16\.F32\.BF16.*") > 0
    assert megakernel.code.count(r"HGMMA\.64x8x16\.F32\.BF16.*") > 0
    assert megakernel.code.count(r"UBLKCP\.S\.G.*") > 0  # global to shared memory
    assert megakernel.code.count(r"UBLKCP\.G\.S.*") > 0


@pytest.mark.t1_nvcc
def test_no_load_takes_memory_for_constant(megakernel: Kernel) -> None:
    # ld.global.nc reads through a cache that does not see what other SMs write during the launch.
    assert megakernel.code.count(r"LDG\..*\.CONSTANT.*") == 0
    assert megakernel.code.count(r"LDG\..*") > 0


@pytest.mark.t1_nvcc
def test_kernel_compiles_in_time(kernel: Kernel) -> None:
    assert kernel.report.seconds < BUILD_SECONDS


def test_budget_comparison_sees_both_sides() -> None:
    budget = Budget(stack_bytes=100, local_instructions=10, notes=frozenset({"C7512"}))
    assert not overspent(budget, budget)
    assert not unused(budget, budget)
    worse = Budget(stack_bytes=101, spill_load_bytes=4, notes=frozenset({"C7512", "C7510"}))
    assert overspent(worse, budget) == ["stack_bytes", "spill_load_bytes", "C7510"]
    assert unused(Budget(stack_bytes=95, local_instructions=8), budget) == [
        "local_instructions",
        "C7512",
    ]
