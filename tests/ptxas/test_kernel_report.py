"""Reading the compiler's report and the disassembler's listing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ptxas.kernel_report import ROOT, CompilerReport, MachineCode, kernel_files

LOG = """\
ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1ai' for 'sm_90a'
ptxas info    : Function properties for _Z1ai
    1088 bytes stack frame, 4308 bytes spill stores, 4760 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 1088 bytes cumulative stack size
ptxas info    : Compile time = 42216.676 ms
ptxas info    : Compiling entry function '_Z1bi' for 'sm_90a'
ptxas info    : Function properties for _Z1bi
    0 bytes stack frame, 0 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers
seconds: 86
"""

SASS = """\
\t\tFunction : _Z1ai
        /*0000*/                   LDC R1, c[0x0][0x28] ;               /* 0x00000a00ff017b82 */
                                                                        /* 0x000e640000000800 */
        /*0050*/               @P0 BRA 0x560 ;                          /* 0x0000000400400947 */
        /*1050*/              @!P1 LDG.E.128.CONSTANT R8, desc[UR4][R2.64+0x10] ; /* 0x0 */
        /*12050*/          @!UPT UIADD3 URZ, URZ, URZ, URZ ;            /* 0x0000000000000000 */
        /*12060*/                  USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xe0 ; /* 0x000000e0000079c8 */
        /*12070*/                  LDG.E.128.CONSTANT R224, desc[UR4][R2.64] ; /* 0x0 */
"""


def test_report_adds_up_all_functions() -> None:
    report = CompilerReport.parse(LOG)
    assert report.registers == 168
    assert report.stack_bytes == 1088
    assert (report.spill_store_bytes, report.spill_load_bytes) == (4308, 4768)
    assert report.notes == {"C7512"}
    assert report.warnings == []
    assert report.seconds == 86


@pytest.mark.parametrize(
    "line",
    ["ptxas warning : (C7508) setmaxnreg ignored", "a.cuh(3): warning #177-D: unused variable"],
)
def test_report_keeps_warnings(line: str) -> None:
    report = CompilerReport.parse(f"{line}\n{LOG}")
    assert report.warnings == [line]
    assert report.notes >= ({"C7508"} if "C7508" in line else set())


def test_report_without_a_kernel_is_an_error() -> None:
    with pytest.raises(ValueError, match="no complete report"):
        CompilerReport.parse("seconds: 3\n")


def test_machine_code_is_counted_with_modifiers() -> None:
    code = MachineCode(SASS)
    assert code.opcodes["LDG.E.128.CONSTANT"] == 2
    assert code.count(r"LDG\..*") == 2
    assert code.count("LDG") == 0
    assert code.count("UIADD3|BRA") == 2
    assert code.operands(r"USETMAXREG\..*") == ["UP0, 0xe0"]
    assert code.highest_register == 224


def test_kernel_files_exist() -> None:
    assert kernel_files()
    assert all((ROOT / "src/machine/cuda" / name).is_file() for name in kernel_files())


def compile_with(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell command that stands for the compiler under the launcher."""
    launcher = ROOT / "cmake/keep_report.sh"
    command = ["sh", str(launcher), "sh", "-c", script, "nvcc", "-c", "a.cu", "-o", "a.o"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)


def test_launcher_keeps_the_report_and_shows_the_rest(tmp_path: Path) -> None:
    (tmp_path / "said").write_text(LOG.replace("seconds: 86\n", "a.cu(1): warning #1\n"))
    result = compile_with("cat said >&2; touch a.o", tmp_path)
    assert result.returncode == 0
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        "ptxas info    ",
        "a.cu(1)",
    ]
    assert "(C7512)" in result.stderr
    report = CompilerReport.parse((tmp_path / "a.o.log").read_text())
    assert report.registers == 168
    assert report.seconds < 60


def test_launcher_passes_an_error_on(tmp_path: Path) -> None:
    result = compile_with("echo 'ptxas info    : 0 bytes gmem'; exit 3", tmp_path)
    assert result.returncode == 3
    assert "0 bytes gmem" in result.stderr
    assert "seconds" not in (tmp_path / "a.o.log").read_text()
