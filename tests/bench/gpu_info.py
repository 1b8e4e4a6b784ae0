"""What a results' file says of the GPU, its driver and the commit."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def output_of(*command: str) -> str:
    """What a command prints; empty where it is missing or fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()


def commit() -> str:
    """Of this checkout, or of the one that this folder was copied from."""
    noted = ROOT / "COMMIT"
    if noted.is_file():
        return noted.read_text().strip()
    return output_of("git", "describe", "--always", "--dirty", "--abbrev=12") or "unknown"


def gpu_info() -> dict[str, Any]:
    """Empty where the CUDA machine cannot run."""
    from terrazzo._core import cuda_device, cuda_problem

    if cuda_problem():
        return {}
    import torch

    device = cuda_device()
    query = "driver_version,power.limit,clocks.max.sm,clocks.max.mem"
    fields = output_of("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "-i", "0")
    values = [value.strip() for value in fields.split(",")] if fields else ["unknown"] * 4
    names = ("driver", "power_limit", "max_sm_clock", "max_memory_clock")
    return {
        "name": device.name,
        "num_sms": device.num_sms,
        "memory_bytes": device.total_bytes,
        "cuda": device.runtime_version,
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **dict(zip(names, values, strict=True)),
    }
