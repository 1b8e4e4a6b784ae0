"""`terrazzo batch` on a fake model, in a process of its own that may be killed: arguments as there,
then the seconds that a step takes.
"""

from __future__ import annotations

import sys
import time

from unit.engine.fake_runner import FakeRunner
from unit.engine.fake_tokenizer import END, FakeTokenizer

from terrazzo.cli import batch, main
from terrazzo.llm import LLM
from terrazzo.step import StepInput, StepTicket


class SlowRunner(FakeRunner):
    def submit(self, batch: StepInput) -> StepTicket:
        time.sleep(float(sys.argv[-1]))
        return super().submit(batch)


def open_llm(_: object) -> LLM:
    return LLM.on(SlowRunner(max_in_flight=2), FakeTokenizer(), [END])


if __name__ == "__main__":
    batch.open_llm = open_llm  # type: ignore[assignment]
    sys.exit(main(["batch", *sys.argv[1:-1]]))
