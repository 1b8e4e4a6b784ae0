"""What an entry of isa_table.py is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes that an instruction reads or writes: an enumerator of `Buffer`, and which part."""

    buffer: str
    gpu: str
    part: str


@dataclass(frozen=True, slots=True)
class Edge:
    """A wait or a signal: an enumerator of `CounterFamily`, which of its counters, and why."""

    family: str
    counters: str
    note: str


@dataclass(frozen=True, slots=True)
class InstructionDoc:
    """One instruction; `operands` is a member of the union `Operands`, empty for none."""

    segment: str
    unit: str
    operands: str
    computes: str
    stream: str
    waits: tuple[Edge, ...] = ()
    signals: tuple[Edge, ...] = ()
    reads: tuple[Place, ...] = ()
    writes: tuple[Place, ...] = ()
    constants: str = ""
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
