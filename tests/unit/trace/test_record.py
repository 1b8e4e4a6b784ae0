"""Traces: what is in them, and that they survive a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from unit.engine.random_checkpoint import RandomCheckpoint, small_config
from unit.trace.conftest import LAYERS, simulated

from terrazzo.costs import DeviceCosts
from terrazzo.runner import ModelRunner
from terrazzo.trace import StepTrace, host_trace, load_trace, save_trace
from terrazzo.trace.record import CONSUMER, EVENT, KIND, LOADER, STORER
from terrazzo.trace.sources import programs_of
from terrazzo.trace.steps import limits_of, parse_step, shape_of, step_of


def test_an_event_is_as_the_core_has_it() -> None:
    assert EVENT.itemsize == 40


def test_every_instruction_is_there_in_every_role(trace: StepTrace) -> None:
    for gpu, program in enumerate(trace.programs):
        size = program.prologue + LAYERS * program.body + program.epilogue
        for role in range(LOADER, STORER + 2):
            positions = trace.events["position"][trace.role(role, gpu)]
            assert sorted(positions) == list(range(size))


def test_work_belongs_to_the_opcode(trace: StepTrace) -> None:
    from terrazzo._core import opcode_names

    everything = np.ones(len(trace.events), bool)
    kinds = trace.work(everything)[:, KIND].astype(int)
    opcodes = opcode_names()
    for kind, opcode in set(zip(kinds.tolist(), trace.events["opcode"].tolist(), strict=True)):
        assert trace.kinds[kind].removesuffix(".small") == opcodes[opcode]


def test_nothing_works_before_it_is_ready(trace: StepTrace) -> None:
    consumers = trace.role(CONSUMER)
    assert (trace.ready_ns[consumers] < trace.events["end_ns"][consumers]).all()
    assert (trace.ready_ns[consumers] > 0).mean() > 0.9  # all but the first wait for something


def test_hbm_bytes_are_those_of_the_simulator(costs: DeviceCosts) -> None:
    from terrazzo._core import simulate

    batch = step_of(parse_step("300@200"))
    programs = programs_of(shape_of("llama-3.2-1b", 1, LAYERS), limits_of(batch), batch, 132)
    _, totals, _ = simulate(programs, costs.model())
    trace = simulated(costs, 1, "300@200")
    assert trace.hbm_bytes.sum() == pytest.approx(totals[0, 0], rel=0.05)


def test_a_file_keeps_everything(trace: StepTrace, tmp_path: Path) -> None:
    save_trace(trace, tmp_path / "trace.npz")
    again = load_trace(tmp_path / "trace.npz")
    assert np.array_equal(again.events, trace.events)
    assert np.array_equal(again.hbm_bytes, trace.hbm_bytes)
    assert np.array_equal(again.ready_ns, trace.ready_ns)
    assert (again.title, again.limits, again.kinds) == (trace.title, trace.limits, trace.kinds)
    for program, other in zip(again.programs, trace.programs, strict=True):
        assert np.array_equal(program.work, other.work)
        assert program.waits == other.waits


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    with pytest.raises(ValueError, match="expected a trace written by terrazzo"):
        load_trace(tmp_path / "other.npz")


def test_the_host_machine_is_traced(costs: DeviceCosts) -> None:
    runner = ModelRunner(RandomCheckpoint(small_config()), num_sms=2, max_model_len=256)
    batch = step_of(parse_step("3@20,1x40@0"))
    trace = host_trace(runner.core, batch, costs, num_sms=2, title="small")
    size = sum(
        factor * count
        for factor, count in zip(
            (1, 2, 1),
            (trace.programs[0].prologue, trace.programs[0].body, trace.programs[0].epilogue),
            strict=True,
        )
    )
    assert len(trace.events) == 5 * size
    assert trace.limits is None
    assert trace.step_ns > 0


def test_woven_programs_are_traced(costs: DeviceCosts) -> None:
    woven = simulated(costs, 2, split_block=1)
    plain = simulated(costs, 2)
    assert len(woven.events) == len(plain.events)
    everything = np.ones(len(woven.events), bool)
    assert np.array_equal(woven.work(everything).sum(axis=0), plain.work(everything).sum(axis=0))


@pytest.mark.parametrize(
    ("text", "sequences"),
    [
        ("2@7", [(7, 1), (7, 1)]),
        ("1x40@0,1@3", [(3, 1), (0, 40)]),
        ("1x2@5", [(5, 2)]),
    ],
)
def test_steps_have_names(text: str, sequences: list[tuple[int, int]]) -> None:
    assert parse_step(text) == sequences


@pytest.mark.parametrize("text", ["", "3", "@4", "0@1", "1x0@1", "1@-1"])
def test_bad_steps(text: str) -> None:
    with pytest.raises(ValueError, match=r"\[step\]"):
        parse_step(text)


def test_unknown_shapes_and_layers() -> None:
    with pytest.raises(ValueError, match=r"expected one of llama-3\.1-8b"):
        shape_of("llama-9", 1)
    with pytest.raises(ValueError, match="has 16, got 17"):
        shape_of("llama-3.2-1b", 1, 17)
