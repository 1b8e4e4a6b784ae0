"""Which machine is chosen, and what is said where the GPU cannot be used."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

from terrazzo.device import resolve_device

NO_GPU = "the driver shows no GPU; see nvidia-smi"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERRAZZO_DEVICE", raising=False)
    monkeypatch.setattr("terrazzo._core.cuda_problem", lambda num_gpus=1: NO_GPU)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERRAZZO_DEVICE", raising=False)
    monkeypatch.setattr(
        "terrazzo._core.cuda_problem",
        lambda num_gpus=1: "" if num_gpus == 1 else f"{num_gpus} GPUs are wanted",
    )


@pytest.mark.usefixtures("with_gpu")
def test_auto_takes_the_gpu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "terrazzo.device")
    assert resolve_device("auto") == "cuda"
    assert caplog.messages == ["device: cuda"]


@pytest.mark.usefixtures("no_gpu")
def test_auto_takes_the_host_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "terrazzo.device")
    assert resolve_device("auto") == "host"
    assert caplog.messages == [f"device: host, as for 'cuda' {NO_GPU}"]


@pytest.mark.usefixtures("no_gpu")
def test_what_is_asked_for_is_not_replaced() -> None:
    with pytest.raises(ValueError, match=rf"\[device\] 'cuda': {NO_GPU}"):
        resolve_device("cuda")


@pytest.mark.usefixtures("with_gpu")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 2}, "gpus=2: 2 GPUs are wanted"),
        ({"gpus": 8, "ranks_per_gpu": 2}, "gpus=8: 4 GPUs are wanted"),
        ({"gpus": 8, "ranks_per_gpu": 3}, "expected ranks_per_gpu to divide gpus=8, got 3"),
        ({"gpus": 8, "ranks_per_gpu": 0}, "expected ranks_per_gpu to divide gpus=8, got 0"),
        ({"num_threads": 2}, "SMs"),
    ],
)
def test_what_only_the_host_can_do(options: dict[str, int], message: str) -> None:
    assert resolve_device("auto", **options) == "host"
    assert resolve_device("host", **options) == "host"
    with pytest.raises(ValueError, match=rf"\[device\] 'cuda': .*{message}"):
        resolve_device("cuda", **options)


@pytest.mark.usefixtures("with_gpu")
def test_ranks_share_a_gpu() -> None:
    assert resolve_device("auto", gpus=8, ranks_per_gpu=8) == "cuda"
    assert resolve_device("cuda", gpus=2, ranks_per_gpu=2) == "cuda"


@pytest.mark.usefixtures("with_gpu")
def test_the_environment_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERRAZZO_DEVICE", "host")
    assert resolve_device("auto") == "host"
    assert resolve_device("cuda") == "cuda"
    monkeypatch.setenv("TERRAZZO_DEVICE", "cuda")
    assert resolve_device("auto") == "cuda"
    assert resolve_device("host") == "host"
    with pytest.raises(ValueError, match="gpus=2"):
        resolve_device("auto", gpus=2)


@pytest.mark.usefixtures("with_gpu")
def test_a_device_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="expected auto, host or cuda, got 'tpu'"):
        resolve_device("tpu")


def test_this_build_says_what_it_lacks() -> None:
    """Where the machine is built and a GPU is there, the device; else a reason with a remedy."""
    from terrazzo import _core

    problem = _core.cuda_problem()
    if not _core.cuda_built():
        assert "build it again with -C terrazzo.cuda=on" in problem
    if not problem:
        device = _core.cuda_device()
        assert device.compute_capability == "9.0"
        assert 0 < device.free_bytes <= device.total_bytes
        return
    with pytest.raises(ValueError, match=r"\[cuda\] ") as error:
        _core.cuda_device()
    assert problem in str(error.value)
