"""Who gets rows and pages, who waits, and who gives them up."""

from __future__ import annotations

import numpy as np
import pytest
from unit.engine.fake_runner import FakeRunner

from terrazzo.engine import SchedulerLimits
from terrazzo.engine.batch import StepPlan, undo
from terrazzo.engine.request import Request
from terrazzo.engine.scheduler import LOOKAHEAD, MAX_OVERTAKEN, Scheduler
from terrazzo.sampling import SamplingParams


def scheduler(
    *,
    max_batch_tokens: int = 256,
    max_chunk_tokens: int = 256,
    max_sequences: int = 8,
    num_pages: int = 16,
    expected_outputs: float = 1.0,
    prefix_reuse: bool = False,
) -> Scheduler:
    limits = SchedulerLimits(max_batch_tokens, max_chunk_tokens, max_sequences, num_pages)
    return Scheduler(limits, 2000, expected_outputs=expected_outputs, prefix_reuse=prefix_reuse)


def request(
    request_id: int,
    num_prompt: int,
    max_outputs: int = 10,
    *,
    token: int = 1,
    open_end: bool = True,
) -> Request:
    return Request(
        request_id,
        SamplingParams(ignore_eos=not open_end),
        seed=0,
        num_prompt=num_prompt,
        max_outputs=max_outputs,
        tokens=np.full(num_prompt, token, np.int32),
        stream=False,
    )


def chunks(plan: Scheduler, step: StepPlan | None) -> list[tuple[int, int]]:
    """(request, rows) of a step."""
    if step is None:
        return []
    ids = plan.table.arrival[step.slots].tolist()
    return list(zip(ids, step.rows.tolist(), strict=True))


def settle(plan: Scheduler, step: StepPlan) -> None:
    """Act as if the step had run: all tokens are 1."""
    table = plan.table
    same = table.serial[step.slots] == step.serials
    table.settled_cached[step.slots[same]] += step.rows[same]
    plan.settle_prompts(step)
    slots = step.slots[step.sampled[same[step.sampled]]]
    table.settle(slots, np.ones(len(slots), np.int32), np.zeros(len(slots), np.float32))


def run_step(plan: Scheduler) -> list[tuple[int, int]]:
    """Plan a step and act as if it ran: (request, rows) of each chunk, in order of arrival."""
    step = plan.plan()
    done = sorted(chunks(plan, step))
    if step is not None:
        settle(plan, step)
    plan.check()
    return done


def end(plan: Scheduler, request_id: int) -> None:
    (slot,) = plan.table.running[plan.table.arrival[plan.table.running] == request_id]
    plan.release([int(slot)])


def waiting(plan: Scheduler) -> list[int]:
    return [request.request_id for request in plan.waiting]


def test_prompts_are_cut_to_the_budget_in_order_of_arrival() -> None:
    plan = scheduler(max_batch_tokens=100, max_chunk_tokens=60)
    for request_id, num_prompt in enumerate((70, 80, 5)):
        plan.add(request(request_id, num_prompt))
    assert run_step(plan) == [(0, 60), (1, 40)]
    assert run_step(plan) == [(0, 10), (1, 40), (2, 5)]
    assert run_step(plan) == [(0, 1), (1, 1), (2, 1)]


def test_decodes_come_before_prompts() -> None:
    plan = scheduler(max_batch_tokens=64)
    plan.add(request(0, 10))
    plan.add(request(1, 10))
    run_step(plan)
    plan.add(request(2, 100))
    assert run_step(plan) == [(0, 1), (1, 1), (2, 62)]
    assert run_step(plan) == [(0, 1), (1, 1), (2, 38)]


def test_no_more_requests_decode_than_a_step_has_rows() -> None:
    plan = scheduler(max_batch_tokens=2)
    for request_id in range(3):
        plan.add(request(request_id, 1))
    for _ in range(3):
        assert run_step(plan) == [(0, 1), (1, 1)]
    end(plan, 0)
    assert run_step(plan) == [(1, 1), (2, 1)]


def test_no_more_sequences_than_allowed() -> None:
    plan = scheduler(max_sequences=2)
    for request_id in range(3):
        plan.add(request(request_id, 4))
    assert run_step(plan) == [(0, 4), (1, 4)]
    end(plan, 0)
    assert run_step(plan) == [(1, 1), (2, 4)]


def test_an_undone_step_is_planned_again() -> None:
    plan = scheduler(max_batch_tokens=100)
    plan.add(request(0, 64))
    run_step(plan)
    plan.add(request(1, 200))
    first = plan.plan()
    second = plan.plan()
    assert first is not None
    assert second is not None
    assert chunks(plan, first) == chunks(plan, second) == [(0, 1), (1, 99)]
    assert first.batch.token_ids[0] == 1
    assert second.batch.token_ids[0] == -1, "the token on its way, in row 0 of the step before"
    undo(plan.table, second)
    undo(plan.table, first)
    assert run_step(plan) == [(0, 1), (1, 99)]


def test_nothing_to_plan_while_the_last_token_is_on_its_way() -> None:
    plan = scheduler()
    plan.add(request(0, 10, max_outputs=1))
    step = plan.plan()
    assert step is not None
    assert plan.plan() is None
    settle(plan, step)
    assert plan.plan() is None


def test_the_youngest_is_preempted_and_recomputed() -> None:
    plan = scheduler(num_pages=4)
    plan.add(request(0, 64, max_outputs=100))  # a page now, three at most
    plan.add(request(1, 64, max_outputs=100))
    assert run_step(plan) == [(0, 64), (1, 64)]
    assert run_step(plan) == [(0, 1), (1, 1)]  # two pages each
    for _ in range(63):
        run_step(plan)
    assert plan.pool.num_free == 0
    assert run_step(plan) == [(0, 1)]  # a third page, taken from request 1
    assert plan.num_preemptions == 1
    assert waiting(plan) == [1]
    (youngest,) = plan.waiting
    assert (youngest.num_preempted, youngest.slot) == (1, None)
    assert len(youngest.tokens) == 64 + 65
    end(plan, 0)
    assert run_step(plan) == [(1, 64 + 65)], "its output is part of the prompt"


def test_a_request_that_asks_for_a_page_may_be_the_youngest() -> None:
    plan = scheduler(num_pages=4)
    plan.add(request(0, 65, max_outputs=60))  # two pages
    plan.add(request(1, 63, max_outputs=100))
    run_step(plan)
    assert run_step(plan) == [(0, 1), (1, 1)]
    plan.pool.allocate(plan.pool.num_free)
    step = plan.plan()
    assert chunks(plan, step) == [(0, 1)]
    assert waiting(plan) == [1]


def test_who_has_the_last_token_on_its_way_is_not_preempted() -> None:
    """It leaves in a moment, with its pages; the others wait for that."""
    plan = scheduler(num_pages=4)
    plan.add(request(0, 64, max_outputs=100))
    plan.add(request(1, 63, max_outputs=2))
    run_step(plan)
    step = plan.plan()  # request 1 has its last token on the way
    assert chunks(plan, step) == [(0, 1), (1, 1)]
    for _ in range(63):
        assert chunks(plan, plan.plan()) == [(0, 1)]
    plan.pool.allocate(plan.pool.num_free)
    assert plan.plan() is None
    assert plan.num_preemptions == 0


def test_open_ends_are_admitted_by_the_estimate_and_known_ones_by_their_length() -> None:
    for open_end, admitted in ((True, [0, 1, 2, 3]), (False, [0])):
        plan = scheduler(num_pages=9, expected_outputs=30)
        for request_id in range(4):
            plan.add(request(request_id, 60, max_outputs=400, open_end=open_end))
        assert [chunk[0] for chunk in run_step(plan)] == admitted


def test_those_who_end_sooner_make_room_for_later_pages() -> None:
    """Six and two pages at the end, in seven: the short one has left when the long one is long."""
    plan = scheduler(num_pages=7)
    plan.add(request(0, 60, max_outputs=300, open_end=False))
    plan.add(request(1, 60, max_outputs=40, open_end=False))
    assert run_step(plan) == [(0, 60), (1, 60)]
    plan = scheduler(num_pages=7)
    plan.add(request(0, 60, max_outputs=300, open_end=False))
    plan.add(request(1, 60, max_outputs=240, open_end=False))
    assert run_step(plan) == [(0, 60)]


def test_the_estimate_learns() -> None:
    plan = scheduler(num_pages=9, expected_outputs=400)
    for request_id in range(4):
        plan.add(request(request_id, 60, max_outputs=400))
    assert [chunk[0] for chunk in run_step(plan)] == [0, 1, 2]
    for _ in range(30):
        plan.estimate.observe(20, 2)
    assert 10 < plan.estimate.remaining < 25
    assert [chunk[0] for chunk in run_step(plan)] == [0, 1, 2, 3]


def test_a_preempted_request_returns_in_its_turn() -> None:
    plan = scheduler(num_pages=4)
    for request_id in range(2):
        plan.add(request(request_id, 64, max_outputs=100))
    for _ in range(65):
        run_step(plan)
    plan.add(request(2, 200))
    assert plan.pool.num_free == 0
    run_step(plan)
    assert waiting(plan) == [1, 2]


def test_a_small_request_may_pass_a_large_one_until_the_bound() -> None:
    plan = scheduler(num_pages=16, max_sequences=2, max_batch_tokens=1000)
    plan.add(request(0, 770, max_outputs=100))  # fourteen pages at most
    run_step(plan)
    plan.add(request(1, 800))
    for request_id in range(2, MAX_OVERTAKEN + 20):
        plan.add(request(request_id, 5, max_outputs=1))
    passed = 0
    while waiting(plan)[0] == 1 and passed <= MAX_OVERTAKEN:
        run = [request_id for request_id, _ in run_step(plan) if request_id > 1]
        if not run:
            break
        passed += len(run)
        for request_id in run:
            end(plan, request_id)
    assert passed == MAX_OVERTAKEN
    end(plan, 0)
    assert run_step(plan)[0][0] == 1


def test_no_more_than_a_few_are_looked_at() -> None:
    plan = scheduler(num_pages=16)
    plan.add(request(0, 800))
    run_step(plan)
    for request_id in range(1, LOOKAHEAD + 1):
        plan.add(request(request_id, 800))
    plan.add(request(LOOKAHEAD + 1, 5))
    for _ in range(5):
        assert [chunk[0] for chunk in run_step(plan)] == [0]


def test_a_prefix_is_reused_and_the_rest_computed() -> None:
    plan = scheduler(prefix_reuse=True)
    plan.add(request(0, 200))
    assert run_step(plan) == [(0, 200)]
    plan.add(request(1, 200))
    plan.add(request(2, 192))  # its last token is computed, though all its pages are there
    plan.add(request(3, 200, token=2))
    assert run_step(plan) == [(0, 1), (1, 8), (2, 64), (3, 183)]
    table = plan.table
    first, second, third, other = (table.pages_of(slot).tolist() for slot in table.running)
    assert first[:3] == second[:3]
    assert first[:2] == third[:2]
    assert first[2] != third[2]
    assert not set(first) & set(other)
    assert plan.num_reused_tokens == 192 + 128


def test_a_prefix_outlives_its_sequence() -> None:
    plan = scheduler(prefix_reuse=True)
    plan.add(request(0, 130))
    run_step(plan)
    end(plan, 0)
    assert plan.pool.num_free == 16
    plan.add(request(1, 130))
    assert run_step(plan) == [(1, 2)]


def test_who_waits_for_a_prefix_lets_many_pass() -> None:
    """Samples of several prompts: the first of each is admitted in one step, beside more than
    LOOKAHEAD others that wait for it.
    """
    plan = scheduler(prefix_reuse=True, max_batch_tokens=1000, max_sequences=64, num_pages=200)
    num_samples = LOOKAHEAD + 1
    for request_id in range(4 * num_samples):
        plan.add(request(request_id, 130, token=request_id // num_samples))
    assert run_step(plan) == [(first, 130) for first in range(0, 4 * num_samples, num_samples)]
    others = [i for i in range(4 * num_samples) if i % num_samples]
    assert [chunk for chunk in run_step(plan) if chunk[0] in others] == [(i, 2) for i in others]


def test_who_shares_a_prefix_that_is_being_computed_waits_for_it() -> None:
    plan = scheduler(prefix_reuse=True, max_batch_tokens=100)
    plan.add(request(0, 150))
    plan.add(request(1, 150))
    plan.add(request(2, 5, token=3))
    assert run_step(plan) == [(0, 100)]
    assert run_step(plan) == [(0, 50), (2, 5)]
    assert run_step(plan) == [(0, 1), (1, 22), (2, 1)]
    end(plan, 0)
    plan.check()


def test_the_last_row_of_a_prompt_alone_completes_its_page() -> None:
    """Else who needs that page would wait for the end of the sequence."""
    plan = scheduler(prefix_reuse=True, max_batch_tokens=127)
    plan.add(request(0, 128))
    plan.add(request(1, 200))
    assert run_step(plan) == [(0, 127)]
    assert run_step(plan) == [(0, 1)]
    assert run_step(plan) == [(0, 1), (1, 72)]
    plan.check()


def test_a_prefix_whose_computation_ends_early_is_computed_by_the_next() -> None:
    plan = scheduler(prefix_reuse=True, max_batch_tokens=70)
    plan.add(request(0, 150))
    plan.add(request(1, 150))
    assert run_step(plan) == [(0, 70)]
    end(plan, 0)
    assert run_step(plan) == [(1, 70)], "the first page is there, the others are not"
    assert plan.num_reused_tokens == 64


def test_a_request_that_never_fits() -> None:
    plan = scheduler(num_pages=2)
    plan.add(request(0, 128, max_outputs=1))
    message = r"a prompt of 128 tokens with up to 2 generated ones may need 3 KV pages.* are 2"
    with pytest.raises(ValueError, match=message):
        plan.add(request(1, 128, max_outputs=2))
    assert run_step(plan) == [(0, 128)]


@pytest.mark.parametrize("field", ["max_batch_tokens", "max_sequences", "num_pages"])
def test_limits(field: str) -> None:
    values = {"max_batch_tokens": 9, "max_chunk_tokens": 9, "max_sequences": 9, "num_pages": 9}
    with pytest.raises(ValueError, match=rf"{field}: expected at least 1, got 0"):
        SchedulerLimits(**values | {field: 0})
    runner = FakeRunner(max_tokens=9, max_sequences=9, num_pages=9)
    SchedulerLimits(**values).check(runner)
    with pytest.raises(ValueError, match=rf"{field}: expected at most the runner's 9, got 10"):
        SchedulerLimits(**values | {field: 10}).check(runner)
