"""The machines that a test runs on: one that needs a GPU is skipped, with the reason, without."""

from __future__ import annotations

from typing import Any

import pytest

DEVICES = ("host", pytest.param("cuda", marks=pytest.mark.t2_gpu))


def machine(device: str, *, num_sms: int = 2) -> dict[str, Any]:
    """Options of a runner: few virtual SMs on the host, all SMs of a GPU."""
    if device == "host":
        return {"device": device, "num_sms": num_sms, "num_threads": num_sms}
    return {"device": device}


def degrees_on(device: str, degrees: tuple[int, ...]) -> tuple[int, ...]:
    """Of those that a model is tested with, the ones that the device can do."""
    return degrees if device == "host" else (1,)
