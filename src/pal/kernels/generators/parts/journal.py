"""How a walker in direct style is saved: a mark, and the answers it got since."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from pal.kernels.direct import Ask, Direct
from pal.records import Feedback, Sample, named
from pal.roles import Stop


class Journal:
    """Walker that runs `run(mark, ask)`, and can be saved wherever it stands.

    An algorithm that waits for forces, somewhere in a library, cannot be saved. But from the same
    beginning the same answers lead it to the same place. So the algorithm calls `mark(state)`
    where it could go on from `state` alone, and the journal notes the answers since then; a
    restored walker retraces them before it asks anything new, and then goes on bit for bit.

    For this, `run` depends on nothing but its mark and the answers, and changes nothing outside
    (files, for example) but right before it sets a mark, which is never retraced. Answers come
    back without their `deviation`, to keep the states small.
    """

    def __init__(self, run: Callable[[Any, Ask], object], mark: Any) -> None:
        self._mark = pickle.dumps(mark)
        self._answers: list[tuple[int, Feedback]] = []
        self._question = 0
        self._direct = Direct(lambda ask: run(pickle.loads(self._mark), ask))

    def __len__(self) -> int:
        """Return the number of answers since the last mark."""
        return len(self._answers)

    def mark(self, state: Any) -> None:
        """Note that the algorithm could go on from `state`, which is pickled here and now."""
        self._mark = pickle.dumps(state)
        self._answers.clear()

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Let the algorithm go on until it asks again; without feedback, ask again."""
        if feedback is None:
            return self._retrace()
        self._answers.append((self._question, feedback._replace(deviation={})))
        return self._asked(self._direct.step(self._answers[-1][1]))

    def _retrace(self) -> Sample | Stop:
        answers, self._answers = self._answers, []
        sample = self._asked(self._direct.step(None))
        for question, answer in answers:
            if question != self._question:
                # Another library, or a random number of its own: it is elsewhere, and goes on.
                break
            sample = self.step(answer)
        return sample

    def _asked(self, sample: Sample | Stop) -> Sample | Stop:
        if not isinstance(sample, Stop):
            self._question = fingerprint(sample)
        return sample

    def get_state(self) -> Any:
        """Return the mark and the answers."""
        return {"mark": self._mark, "answers": tuple(self._answers)}

    def set_state(self, state: Any) -> None:
        """Continue from `get_state`; `step(None)` asks the same again."""
        self._mark = state["mark"]
        self._answers = list(state["answers"])


def fingerprint(sample: Sample) -> int:
    """Return a number that tells samples apart."""
    number = 0
    for array in named(sample).values():
        number = zlib.crc32(np.ascontiguousarray(array).tobytes(), number)
    return number
