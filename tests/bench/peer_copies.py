"""How fast the copy engines move memory between two GPUs."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

COPY_BYTES = 1 << 30
COPIES = 2  # in each direction, between the two events
REPEATS = 5


def peer_copy_rates() -> dict[str, float]:
    """Bytes a second from the first GPU to the second, and of both directions at once, together."""
    if torch.cuda.device_count() < 2:
        raise RuntimeError("there is one GPU")
    first, second = (torch.device("cuda", index) for index in range(2))
    sources = [torch.ones(COPY_BYTES, dtype=torch.uint8, device=gpu) for gpu in (first, second)]
    targets = [torch.zeros_like(source) for source in reversed(sources)]
    # A copy runs on its source's stream and holds that of its target: a pair for each direction.
    pairs = [[torch.cuda.Stream(gpu) for gpu in (first, second)] for _ in range(2)]

    def copy(direction: int) -> None:
        on_first, on_second = pairs[direction]
        with torch.cuda.stream(on_second), torch.cuda.stream(on_first):
            targets[direction].copy_(sources[direction], non_blocking=True)

    def ms_of(queue: Callable[[], object]) -> float:
        """Between events of the first GPU, around all that `queue` starts."""
        times = []
        for _ in range(1 + REPEATS):
            for gpu in (first, second):
                torch.cuda.synchronize(gpu)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            outer = pairs[0][0]
            begin.record(outer)
            pairs[1][1].wait_event(begin)
            queue()
            outer.wait_stream(pairs[1][0])
            end.record(outer)
            end.synchronize()
            times.append(begin.elapsed_time(end))
        return statistics.median(times[1:])

    def both() -> None:
        for _ in range(COPIES):
            copy(0)
            copy(1)

    one_way_ms = ms_of(lambda: [copy(0) for _ in range(COPIES)])
    both_ms = ms_of(both)
    if not all(bool((target == 1).all()) for target in targets):
        raise RuntimeError("a copy is not what its source holds")
    return {
        "one way": COPIES * COPY_BYTES / (one_way_ms * 1e-3),
        "both ways": 2 * COPIES * COPY_BYTES / (both_ms * 1e-3),
    }
