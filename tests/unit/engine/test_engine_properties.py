"""Whatever the batching, chunking, page budget and aborts: each request gets its own tokens."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.fake_runner import FakeRunner, MachineStoppedError, reference_tokens
from unit.engine.fake_tokenizer import FakeTokenizer

from terrazzo.engine import Engine, EngineMetrics, RequestOutput, SchedulerLimits, derived_seed
from terrazzo.engine.request import pages_for
from terrazzo.sampling import SamplingParams

EOS = 0
NEVER = 1000  # no token
VOCAB_SIZE = 64
MAX_MODEL_LEN = 300
ENGINE_SEED = 7


@dataclass(frozen=True, slots=True)
class Case:
    """One request: it arrives before step `arrival` and may be aborted before step `abort`."""

    prompt: list[int]
    params: SamplingParams
    arrival: int
    abort: int | None


params_strategy = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 150),
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.5]),
    seed=st.none() | st.integers(0, 2**64 - 1),
    ignore_eos=st.booleans(),
)


def prompts(min_size: int, max_size: int) -> st.SearchStrategy[list[int]]:
    """Any tokens, but drawn as two numbers, so that failures shrink quickly."""
    return st.builds(
        lambda size, first: [(first + i * i) % VOCAB_SIZE for i in range(size)],
        st.integers(min_size, max_size),
        st.integers(0, VOCAB_SIZE - 1),
    )


def in_order(cases: list[Case]) -> list[Case]:
    return sorted(cases, key=lambda case: case.arrival)


case_strategy = st.builds(
    Case,
    prompt=prompts(1, 200),
    params=params_strategy,
    arrival=st.integers(0, 40),
    abort=st.none() | st.none() | st.integers(0, 80),
)
limits_strategy = st.builds(
    SchedulerLimits,
    max_batch_tokens=st.sampled_from([1, 2, 7, 64, 130, 256]),
    max_chunk_tokens=st.sampled_from([1, 3, 63, 64, 65, 256]),
    max_sequences=st.integers(1, 8),
    num_pages=st.integers(pages_for(MAX_MODEL_LEN), 12),
)


def expected_tokens(case: Case, request_id: int, eos: int) -> list[int]:
    params = case.params
    seed = derived_seed(ENGINE_SEED, request_id) if params.seed is None else params.seed
    count = min(params.max_tokens, MAX_MODEL_LEN - len(case.prompt))
    tokens = reference_tokens(
        case.prompt, count, sampling=(params.temperature, params.top_k, params.top_p, seed)
    )
    if eos in tokens and not params.ignore_eos:
        tokens = tokens[: tokens.index(eos) + 1]
    return tokens


@dataclass(frozen=True, slots=True)
class Served:
    outputs: dict[int, RequestOutput]
    metrics: EngineMetrics


@dataclass(frozen=True, slots=True)
class Setting:
    """What may differ between engines and must not show in the outputs."""

    max_in_flight: int = 1
    prefix_reuse: bool = True
    expected_outputs: float = 256.0
    fail_every: int = 0
    with_text: bool = False
    eos: int = EOS


setting_strategy = st.builds(
    Setting,
    max_in_flight=st.sampled_from([1, 2, 2, 3]),
    prefix_reuse=st.booleans(),
    expected_outputs=st.sampled_from([1.0, 20.0, 256.0]),
    fail_every=st.sampled_from([0, 0, 3, 10]),
    with_text=st.booleans(),
)


def run(cases: list[Case], limits: SchedulerLimits, setting: Setting) -> Served:
    """Serve the cases, in order of arrival, on a machine that stops every few steps."""
    runner = FakeRunner(
        num_pages=12,
        max_model_len=MAX_MODEL_LEN,
        vocab_size=VOCAB_SIZE,
        max_in_flight=setting.max_in_flight,
    )
    fail_every = setting.fail_every
    engine = Engine(
        runner,
        [setting.eos],
        decoder=FakeTokenizer() if setting.with_text else None,
        seed=ENGINE_SEED,
        limits=limits,
        prefix_reuse=setting.prefix_reuse,
        expected_outputs=setting.expected_outputs,
    )
    outputs: dict[int, RequestOutput] = {}
    streamed: dict[int, list[int]] = {}
    num_added = step = 0
    while engine.has_work() or num_added < len(cases):
        while num_added < len(cases) and cases[num_added].arrival <= step:
            case = cases[num_added]
            request_id = engine.add_request(case.prompt, case.params)
            assert request_id == num_added
            streamed[request_id] = []
            num_added += 1
        for request_id in range(num_added):
            if cases[request_id].abort == step and (output := engine.abort(request_id)):
                outputs[request_id] = output
        runner.fail_next = fail_every > 0 and step % fail_every == fail_every - 1
        try:
            updates = engine.step()
        except MachineStoppedError:
            updates = []
        for update in updates:
            assert update.request_id not in outputs, "an update after the end"
            streamed[update.request_id].append(update.token_id)
            if update.output is not None:
                outputs[update.request_id] = update.output
        engine.check()
        step += 1
        assert step < 100_000, "the engine does not come to an end"
    metrics = engine.metrics()
    assert metrics.steps == len(runner.batches)
    assert metrics.computed_rows == sum(batch.num_rows for batch in runner.batches)
    assert metrics.free_pages == limits.num_pages
    assert metrics.running == metrics.waiting == 0
    assert metrics.finished + metrics.aborted == len(cases) == len(outputs)
    assert metrics.generated_tokens >= sum(map(len, streamed.values()))
    for request_id, tokens in streamed.items():
        output = outputs[request_id]
        # An abort comes back at once, and may bring tokens that no update has reported.
        assert tuple(tokens) == output.token_ids[: len(tokens)]
        assert output.finish_reason == "abort" or len(tokens) == len(output.token_ids)
        if setting.with_text:
            ends = output.token_ids[-1:] == (setting.eos,) and output.finish_reason == "stop"
            shown = output.token_ids[:-1] if ends else output.token_ids
            assert output.text == FakeTokenizer().decode(shown)
    return Served(outputs, metrics)


def check(cases: list[Case], outputs: dict[int, RequestOutput], eos: int = EOS) -> None:
    """Each request has the tokens of its definition; an aborted one has the first of them."""
    for request_id, case in enumerate(cases):
        output = outputs[request_id]
        expected = tuple(expected_tokens(case, request_id, eos))
        assert output.prompt_token_ids == tuple(case.prompt)
        if output.finish_reason == "abort":
            assert output.token_ids == expected[: len(output.token_ids)]
            assert len(output.token_ids) < len(expected)
            continue
        assert output.token_ids == expected
        stopped = expected[-1] == eos and not case.params.ignore_eos
        assert output.finish_reason == ("stop" if stopped else "length")


@settings(max_examples=40)
@given(
    cases=st.lists(case_strategy, min_size=1, max_size=9).map(in_order),
    limits=limits_strategy,
    setting=setting_strategy,
)
def test_every_request_gets_the_tokens_it_gets_alone(
    cases: list[Case], limits: SchedulerLimits, setting: Setting
) -> None:
    check(cases, run(cases, limits, setting).outputs)


# Three requests that begin with a page each and end with four or five, in seven pages at most.
long_case_strategy = st.builds(
    Case,
    prompt=prompts(1, 60),
    params=st.builds(
        SamplingParams,
        max_tokens=st.integers(193, 240),
        temperature=st.sampled_from([0.0, 1.0]),
    ),
    arrival=st.just(0),
    abort=st.none(),
)


@settings(max_examples=12)
@given(
    long_cases=st.lists(long_case_strategy, min_size=3, max_size=3),
    others=st.lists(case_strategy, max_size=4).map(in_order),
    max_chunk_tokens=st.sampled_from([1, 10, 64, 256]),
    num_pages=st.integers(6, 7),
    max_in_flight=st.integers(1, 2),
    prefix_reuse=st.booleans(),
    fail_every=st.sampled_from([0, 7]),
)
def test_preemption_changes_no_token(
    long_cases: list[Case],
    others: list[Case],
    max_chunk_tokens: int,
    num_pages: int,
    max_in_flight: int,
    prefix_reuse: bool,
    fail_every: int,
) -> None:
    limits = SchedulerLimits(256, max_chunk_tokens, 8, num_pages)
    # Requests look short, so too many of them are admitted; the end token never comes.
    setting = Setting(
        max_in_flight, prefix_reuse, expected_outputs=1.0, fail_every=fail_every, eos=NEVER
    )
    served = run(long_cases + others, limits, setting)
    check(long_cases + others, served.outputs, NEVER)
    assert served.metrics.preemptions > 0
