"""The traffic of a layer is what the data flow says."""

from __future__ import annotations

import pytest

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

from terrazzo.trace.traffic import layer_rows, main

ROWS = 1024  # 8 row blocks: each of 1, 2, 4 and 8 GPUs owns as many
HIDDEN = 8192
LINE_BYTES = 4  # the sum of squares of a row and a 64-column panel


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_bytes_of_a_layer(gpus: int) -> None:
    rows = {
        (row.instruction, row.buffer): row for row in layer_rows("llama-3.1-70b", gpus, "1024@9")
    }
    to_peers = (gpus - 1) / gpus
    values = 2 * ROWS * HIDDEN
    expected = {
        # Its heads' results of the rows that others own.
        ("attend_decode", "attention"): values / gpus * to_peers,
        # Its own rows, to all others.
        ("o_proj_residual", "x1"): values * to_peers,
        ("reduce_residual", "x"): values * to_peers,
        # A partial sum of each row that another owns.
        ("down_partial", "partials"): values * to_peers,
        ("o_proj_residual", "sum_sq_x1"): ROWS * HIDDEN / 64 * LINE_BYTES * to_peers,
        ("reduce_residual", "sum_sq_x"): ROWS * HIDDEN / 64 * LINE_BYTES * to_peers,
    }
    assert {kind for kind in rows if kind[1] != "counters"} == set(expected)
    for kind, size in expected.items():
        assert (rows[kind].sent_bytes, rows[kind].received_bytes) == (size, size)
        assert rows[kind].all_bytes == gpus * size
    signals = [row for kind, row in rows.items() if kind[1] == "counters"]
    assert {row.instruction for row in signals} == {kind[0] for kind in expected}
    assert all(row.mean_run_bytes == 4 for row in signals)


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_bytes_with_o_sharded(gpus: int) -> None:
    """Attention stays where it is; O's partial sums leave instead, as down's do."""
    flows = layer_rows("llama-3.1-70b", gpus, "1024@9", o_sharded=True)
    rows = {(row.instruction, row.buffer): row for row in flows}
    values = 2 * ROWS * HIDDEN * (gpus - 1) / gpus
    assert rows["o_partial", "partials"].sent_bytes == values
    assert rows["reduce_o", "x1"].sent_bytes == values
    writers = {kind[0] for kind in rows}
    assert writers == {"o_partial", "reduce_o", "down_partial", "reduce_residual"}
    assert rows["reduce_o", "counters"].mean_run_bytes == 4


def test_one_gpu_sends_nothing() -> None:
    assert layer_rows("llama-3.2-1b", 1, "4@100,2x70@0") == []


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shape", "llama-3.2-1b", "--gpus", "4", "--step", "4@100,2x70@0"]) == 0
    shown = capsys.readouterr().out
    assert "| `down_partial` | `partials` |" in shown
    assert "| `attend_prefill` | signals |" in shown
    assert shown.splitlines()[-1].startswith("| together |")
    arguments = ["--shape", "llama-3.2-1b", "--gpus", "4", "--step", "4@100", "--o-proj", "sharded"]
    assert main(arguments) == 0
    assert "| `o_partial` | `partials` |" in capsys.readouterr().out
