"""Who gets rows and pages, and who gives them up."""

from __future__ import annotations

import numpy as np
import pytest
from unit.engine.fake_runner import FakeRunner

from terrazzo.engine import SchedulerLimits
from terrazzo.engine.request import Request
from terrazzo.engine.scheduler import Scheduler
from terrazzo.sampling import SamplingParams


def scheduler(
    *,
    max_batch_tokens: int = 256,
    max_chunk_tokens: int = 256,
    max_sequences: int = 8,
    num_pages: int = 16,
) -> Scheduler:
    return Scheduler(SchedulerLimits(max_batch_tokens, max_chunk_tokens, max_sequences, num_pages))


def request(request_id: int, num_prompt: int, max_outputs: int = 10) -> Request:
    prompt = np.ones(num_prompt, np.int32)
    return Request.create(
        request_id, prompt, SamplingParams(), seed=0, max_outputs=max_outputs, text=None
    )


def step(scheduler: Scheduler) -> list[tuple[int, int]]:
    """Plan a step and act as if it ran: (request, rows) of each chunk."""
    chunks = scheduler.plan()
    done = [(chunk.request.request_id, chunk.num_rows) for chunk in chunks]
    for chunk in chunks:
        is_last = chunk.is_last
        chunk.request.num_cached += chunk.num_rows
        if is_last:
            chunk.request.append(1, 0.0)
    scheduler.check()
    return done


def test_prompts_are_cut_to_the_budget_in_order_of_arrival() -> None:
    plan = scheduler(max_batch_tokens=100, max_chunk_tokens=60)
    for request_id, num_prompt in enumerate((70, 80, 5)):
        plan.add(request(request_id, num_prompt))
    assert step(plan) == [(0, 60), (1, 40)]
    assert step(plan) == [(0, 10), (1, 40), (2, 5)]
    assert step(plan) == [(0, 1), (1, 1), (2, 1)]


def test_decodes_come_before_prompts() -> None:
    plan = scheduler(max_batch_tokens=64)
    plan.add(request(0, 10))
    plan.add(request(1, 10))
    step(plan)
    plan.add(request(2, 100))
    assert step(plan) == [(0, 1), (1, 1), (2, 62)]
    assert step(plan) == [(0, 1), (1, 1), (2, 38)]


def test_no_more_requests_decode_than_a_step_has_rows() -> None:
    plan = scheduler(max_batch_tokens=2)
    for request_id in range(3):
        plan.add(request(request_id, 1))
    for _ in range(3):
        assert step(plan) == [(0, 1), (1, 1)]
    plan.remove(plan.running[0])
    assert step(plan) == [(1, 1), (2, 1)]


def test_no_more_sequences_than_allowed() -> None:
    plan = scheduler(max_sequences=2)
    for request_id in range(3):
        plan.add(request(request_id, 4))
    assert step(plan) == [(0, 4), (1, 4)]
    plan.remove(plan.running[0])
    assert step(plan) == [(1, 1), (2, 4)]


def test_planning_again_gives_the_same_rows() -> None:
    plan = scheduler(max_batch_tokens=100)
    plan.add(request(0, 64))
    step(plan)
    plan.add(request(1, 200))
    plans = [[(c.request.request_id, c.num_rows) for c in plan.plan()] for _ in range(3)]
    assert plans[0] == plans[1] == plans[2] == [(0, 1), (1, 99)]
    plan.check()


def test_the_youngest_is_preempted_and_recomputed() -> None:
    plan = scheduler(num_pages=4)
    plan.add(request(0, 64, max_outputs=100))  # a page now, three at most
    plan.add(request(1, 64, max_outputs=100))
    assert step(plan) == [(0, 64), (1, 64)]
    assert step(plan) == [(0, 1), (1, 1)]  # two pages each
    for _ in range(63):
        step(plan)
    assert plan.allocator.num_free == 0
    assert step(plan) == [(0, 1)]  # a third page, taken from request 1
    assert plan.num_preemptions == 1
    assert [waiting.request_id for waiting in plan.waiting] == [1]
    youngest = plan.waiting[0]
    assert youngest.num_cached == 0
    assert len(youngest.pages) == 0
    plan.add(request(2, 1))
    assert [done[0] for done in step(plan)] == [0], "a newcomer does not pass it"
    plan.remove(plan.running[0])
    assert step(plan) == [(1, 64 + 65), (2, 1)], "its output is part of the prompt"


def test_a_request_that_asks_for_a_page_may_be_the_youngest() -> None:
    plan = scheduler(num_pages=4)
    plan.add(request(0, 65, max_outputs=100))  # two pages now, three at most
    plan.add(request(1, 63, max_outputs=100))
    step(plan)
    assert step(plan) == [(0, 1), (1, 1)]
    plan.allocator.allocate(plan.allocator.num_free)
    assert [chunk.request.request_id for chunk in plan.plan()] == [0]
    assert [waiting.request_id for waiting in plan.waiting] == [1]


def test_a_newcomer_leaves_pages_for_those_who_grow() -> None:
    plan = scheduler(num_pages=3)
    plan.add(request(0, 60, max_outputs=100))
    step(plan)
    plan.add(request(1, 70))
    assert plan.allocator.num_free == 2
    assert step(plan) == [(0, 1)], "two pages are free, but request 0 will need one of them"
    plan.remove(plan.running[0])
    assert step(plan) == [(1, 70)]


def test_a_preempted_request_goes_before_those_that_wait() -> None:
    plan = scheduler(num_pages=4)
    for request_id in range(2):
        plan.add(request(request_id, 64, max_outputs=100))
    for _ in range(65):
        step(plan)
    plan.add(request(2, 1))
    assert plan.allocator.num_free == 0
    step(plan)
    assert [waiting.request_id for waiting in plan.waiting] == [1, 2]


def test_a_request_that_never_fits() -> None:
    plan = scheduler(num_pages=2)
    plan.add(request(0, 128, max_outputs=1))
    message = r"a prompt of 128 tokens with up to 2 generated ones may need 3 KV pages.* are 2"
    with pytest.raises(ValueError, match=message):
        plan.add(request(1, 128, max_outputs=2))
    assert step(plan) == [(0, 128)]


@pytest.mark.parametrize("field", ["max_batch_tokens", "max_sequences", "num_pages"])
def test_limits(field: str) -> None:
    values = {"max_batch_tokens": 9, "max_chunk_tokens": 9, "max_sequences": 9, "num_pages": 9}
    with pytest.raises(ValueError, match=rf"{field}: expected at least 1, got 0"):
        SchedulerLimits(**values | {field: 0})
    runner = FakeRunner(max_tokens=9, max_sequences=9, num_pages=9)
    SchedulerLimits(**values).check(runner)
    with pytest.raises(ValueError, match=rf"{field}: expected at most the runner's 9, got 10"):
        SchedulerLimits(**values | {field: 10}).check(runner)
