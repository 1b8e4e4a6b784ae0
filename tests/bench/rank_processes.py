"""A process a rank in one torch.distributed group, all ended after a limit."""

from __future__ import annotations

import datetime
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

HOST = "127.0.0.1"
GRACE_S = 5.0  # after the limit a rank ends itself, should its parent be gone
# NVLink multicast stays off. Nothing leaves the host.
ENVIRONMENT = {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "GLOO_SOCKET_IFNAME": "lo",
}

Function = Callable[..., None]


class RanksFailed(RuntimeError):
    """A rank raised, or they took longer than the limit."""


def join_group(rank: int, ranks: int, port: int, device: str, limit_s: float) -> None:
    """NCCL on "cuda", where `rank` is the device; gloo on "cpu"."""
    limit = datetime.timedelta(seconds=limit_s)
    store = dist.TCPStore(HOST, port, is_master=False, timeout=limit)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=ranks,
        timeout=limit,
        device_id=torch.device("cuda", rank) if device == "cuda" else None,
    )


def _rank_main(
    rank: int, function: Function, ranks: int, port: int, device: str, limit_s: float, args: Any
) -> None:
    timer = threading.Timer(limit_s + GRACE_S, os._exit, (1,))
    timer.daemon = True
    timer.start()
    status = 1
    try:
        if device == "cuda":
            torch.cuda.set_device(rank)
        else:
            torch.set_num_threads(1)
        function(rank, lambda: join_group(rank, ranks, port, device, limit_s), *args)
        if dist.is_initialized():
            dist.barrier()
        status = 0
    except BaseException:  # also the interrupt when the parent ends
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without destructors: those of a group wait for others, and for graphs that hold its kernels.
    os._exit(status)


def run_ranks(
    function: Function, ranks: int, args: tuple[Any, ...], *, device: str, limit_s: float
) -> None:
    """`function(rank, join, *args)` in each process; it calls `join` once, before collectives.

    RanksFailed when one of them fails or all together take longer than the limit; none is left.
    """
    os.environ.update(ENVIRONMENT)  # whatever the caller's says
    deadline_s = time.monotonic() + limit_s
    store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    context = mp.spawn(
        _rank_main,
        (function, ranks, store.port, device, limit_s, args),
        nprocs=ranks,
        join=False,
    )
    try:
        while not context.join(timeout=max(0.0, deadline_s - time.monotonic())):
            if time.monotonic() >= deadline_s:
                raise RanksFailed(f"not done after {limit_s:.0f} s")
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        raise RanksFailed(str(error)) from error
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
                process.join()
