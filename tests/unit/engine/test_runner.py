"""ModelRunner on the host machine: placeholders for sampled tokens, and shapes it refuses."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from unit.engine.random_checkpoint import RandomCheckpoint, small_config
from unit.model.drive import Part, step_input

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

from terrazzo.runner import ModelRunner


@pytest.fixture
def runner() -> ModelRunner:
    return ModelRunner(RandomCheckpoint(small_config()), num_sms=2, max_model_len=128, num_pages=4)


def sampled_after(runner: ModelRunner, token: int) -> int:
    """The token that follows a sequence of one."""
    return int(runner.step(step_input([Part([token], 0, [3], [0])])).tokens[0])


def test_a_placeholder_is_what_the_step_before_sampled(runner: ModelRunner) -> None:
    prompts = [Part([5, 6, 7], 0, [0], [2]), Part([9], 0, [1], [0])]
    for row in (0, 1):
        token = int(runner.step(step_input(prompts)).tokens[row])
        seen = sampled_after(runner, -1 - row)
        assert seen == sampled_after(runner, token)


@pytest.mark.parametrize("sampled_rows", [(), (0,), (0, 2)])
def test_a_placeholder_of_no_row(runner: ModelRunner, sampled_rows: tuple[int, ...]) -> None:
    """Not even one of an earlier step: what the buffer still holds is not what was meant."""
    runner.step(step_input([Part([5, 6, 7], 0, [0], [0, 1, 2])]))
    runner.step(step_input([Part([5, 6, 7], 0, [0], sampled_rows)]))
    message = f"row 0: the token {-1 - len(sampled_rows)} stands for .* sampled {len(sampled_rows)}"
    with pytest.raises(ValueError, match=message):
        sampled_after(runner, -1 - len(sampled_rows))
    if sampled_rows:  # the refused step changed nothing
        sampled_after(runner, -len(sampled_rows))


def test_a_placeholder_in_the_first_step(runner: ModelRunner) -> None:
    with pytest.raises(ValueError, match="sampled 0 rows"):
        sampled_after(runner, -1)


def test_too_many_query_heads_for_a_kv_head() -> None:
    """They are the rows of one tile, which has 64."""
    config = replace(small_config(), num_heads=130)
    with pytest.raises(ValueError, match="at most 64 heads for each KV head, got 65"):
        ModelRunner(RandomCheckpoint(config))


@pytest.mark.parametrize("name", ["num_sms", "max_batch_tokens", "max_model_len", "num_pages"])
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected {name} of at least 1, got 0"):
        ModelRunner(RandomCheckpoint(small_config()), **{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["reserve_sms", "stream", "trace_events"])
def test_options_of_the_gpu(name: str) -> None:
    message = rf"{name}=3: only the device 'cuda' has this option"
    with pytest.raises(ValueError, match=message):
        ModelRunner(RandomCheckpoint(small_config()), **{name: 3})  # type: ignore[arg-type]


def test_a_model_takes_one_step_at_a_time() -> None:
    """A second thread's step is refused, not mixed with the first."""
    runner = ModelRunner(
        RandomCheckpoint(small_config()), num_sms=1, max_model_len=512, num_pages=16
    )
    batch = step_input([Part([i % 300 for i in range(400)], 0, list(range(7)), [399])])
    alone = runner.step(batch).tokens.tolist()
    refused, tokens = [], []

    def work() -> None:
        try:
            tokens.append(runner.step(batch).tokens.tolist())
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) + len(refused) == len(threads)
    assert all(seen == alone for seen in tokens)
    assert all("one step at a time" in message for message in refused)
