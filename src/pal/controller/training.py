"""What trainers are taught, and when: the dataset policy and the trainer pool."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pal.controller.commands import Command, Teach
from pal.controller.rules import Restored, Rules


@dataclass(slots=True)
class Trainer:
    """One trainer, and the part [first, last) of the dataset it holds, in order of commit.

    `window` is the most it may hold, as it was when it was last taught.
    """

    ready: bool = False
    busy: bool = False
    round: int = 0
    first: int = 0
    last: int = 0
    window: int | None = None


class Training:
    """The dataset in order of commit, and who knows how much of it.

    The dataset only grows at its end and a rolling window only cuts at its start. What a
    trainer holds is therefore a range, and what it lacks is found without comparing sets.
    """

    def __init__(self, rules: Rules, restored: Restored, under_way: bool) -> None:
        """Begin; `under_way`: an earlier session trained, so trainers go on without a wait."""
        self.rules = rules
        self.dataset: list[int] = list(restored.labelled)
        self.trainers = [Trainer() for _ in rules.trainers]
        self.taught = len(self.dataset) if under_way else 0
        """How much of the dataset the last round covered."""
        self.round = 1 if self.taught else 0

    @property
    def untaught(self) -> int:
        """Labels that came after the last round began."""
        return len(self.dataset) - self.taught

    @property
    def busy(self) -> list[int]:
        """The trainers that are training."""
        return [index for index, trainer in enumerate(self.trainers) if trainer.busy]

    @property
    def round_done(self) -> bool:
        """Whether every trainer has learnt all it can from the present round."""
        return all(t.ready and not t.busy and t.round == self.round for t in self.trainers)

    def grow(self, samples: Iterable[int]) -> None:
        """Add labelled samples."""
        self.dataset.extend(samples)

    def resume(self) -> list[Command]:
        """Go on where training was paused, with the data that there are by now."""
        return self.begin_round() if self.taught else []

    def trainer_ready(self, trainer: int) -> None:
        """Note that a trainer starts and holds nothing."""
        self.trainers[trainer] = Trainer(ready=True)

    def trainer_lost(self, trainer: int) -> None:
        """Note that a trainer died, and all it held with it."""
        self.trainers[trainer] = Trainer()

    def done(self, trainer: int, round_: int) -> bool:
        """Note that a trainer finished a round; False if it has been given another since."""
        pupil = self.trainers[trainer]
        if not pupil.busy or pupil.round != round_:
            return False
        pupil.busy = False
        return True

    def due(self, first: bool) -> bool:
        """Whether enough labels came for a new round; `first`: any number opens the first."""
        return self.untaught >= (1 if first and not self.taught else self.rules.retrain_size)

    def begin_round(self) -> list[Command]:
        """Teach every trainer what it lacks, as a new round; nobody there: leave it for later."""
        ready = [index for index, trainer in enumerate(self.trainers) if trainer.ready]
        if not ready:
            return []
        self.round += 1
        self.taught = len(self.dataset)
        return [self._teach(index) for index in ready]

    def catch_up(self) -> list[Command]:
        """Teach trainers that started in the middle of a round everything there is."""
        if not self.taught:
            return []
        newcomers = [i for i, t in enumerate(self.trainers) if t.ready and not t.round]
        return [self._teach(index) for index in newcomers]

    def _teach(self, index: int) -> Teach:
        trainer, size = self.trainers[index], len(self.dataset)
        trainer.window = window = self.rules.window
        first = 0 if window is None else max(0, size - window)
        # A window that has grown brings back what it had cut off.
        add = self.dataset[first : trainer.first] + self.dataset[max(first, trainer.last) : size]
        remove = self.dataset[trainer.first : min(first, trainer.last)]
        trainer.first, trainer.last = first, size
        trainer.round, trainer.busy = self.round, True
        return Teach(index, self.round, tuple(add), tuple(remove), self._fresh())

    def _fresh(self) -> bool:
        every = self.rules.reinitialise_every
        return every > 0 and self.round > 1 and (self.round - 1) % every == 0
