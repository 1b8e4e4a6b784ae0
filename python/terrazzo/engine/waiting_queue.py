"""Requests that wait to be admitted, in order of arrival."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator

from .request import Request


class WaitingQueue:
    """First come, first served; every operation takes the same time however many wait.

    The first few lie in a short sorted list, with those that were preempted; the others, all of
    them later, in a deque, where an aborted one stays until its turn comes.
    """

    __slots__ = ("_front", "_num_live", "_rest")

    def __init__(self) -> None:
        self._front: list[Request] = []
        self._rest: deque[Request] = deque()
        self._num_live = 0

    def __len__(self) -> int:
        return self._num_live

    def __iter__(self) -> Iterator[Request]:
        yield from self._front
        yield from (request for request in self._rest if request.is_waiting)

    @property
    def num_preempted(self) -> int:
        """Those that ran before."""
        return sum(request.num_preempted > 0 for request in self._front)

    def append(self, request: Request) -> None:
        """Queue a new request, the latest of all."""
        self._rest.append(request)
        self._num_live += 1
        request.is_waiting = True

    def put_back(self, request: Request) -> None:
        """Queue a preempted request, by its time of arrival."""
        insort(self._front, request, key=_arrival)
        self._num_live += 1
        request.is_waiting = True

    def at(self, place: int) -> Request | None:
        """The request in this place of the queue, 0 is the first; None behind the last."""
        front = self._front
        if place < len(front):
            return front[place]
        while len(front) <= place and self._rest:
            request = self._rest.popleft()
            if request.is_waiting:
                # All of them came later than those that are there.
                front.append(request)
        return front[place] if place < len(front) else None

    def admit(self, place: int) -> None:
        """Take out the request that `at` gave for this place."""
        self._num_live -= 1
        self._front.pop(place).is_waiting = False

    def remove(self, request: Request) -> None:
        """Take out a request that ended."""
        for index, other in enumerate(self._front):
            if other is request:
                del self._front[index]
                break
        self._num_live -= 1
        request.is_waiting = False


def _arrival(request: Request) -> int:
    return request.request_id
