"""The committed type stub is the one that the compiled module gives."""

from __future__ import annotations

import subprocess
import sys

from unit.structure_files import ROOT


def test_committed_stub_equals_generated_one() -> None:
    command = [sys.executable, "tools/update_stubs", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
