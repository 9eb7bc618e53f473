"""The judge of training: what trainers are told, that it is on the disk, and that it comes."""

from __future__ import annotations

from pal.controller import commands as co
from pal.controller import events as ev
from pal.controller.commands import State
from pal.controller.manager import Manager
from pal.simulate.account import Account, Ears
from pal.simulate.broken import Broken


class Lessons:
    """Follows what every trainer holds."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._held: dict[int, set[int]] = {}
        """What each trainer that is there holds."""
        self._round = 0
        self._new_labels = 0
        self.hears: Ears = {
            ev.TrainerReady: self._hear_trainer,
            ev.TrainerLost: self._hear_trainer_lost,
        }
        self.sees: Ears = {co.Move: self._see_move, co.Teach: self._see_lesson}

    def _hear_trainer(self, event: ev.TrainerReady) -> None:
        self._held[event.trainer] = set()

    def _hear_trainer_lost(self, event: ev.TrainerLost) -> None:
        self._held.pop(event.trainer, None)

    def _see_move(self, order: co.Move) -> None:
        self._new_labels += order.state is State.LABELLED

    def _see_lesson(self, order: co.Teach) -> None:
        if "training" in self._account.paused:
            raise Broken("pauses", f"{order} while training is paused")
        held = self._held.get(order.trainer)
        if held is None:
            raise Broken("once in the dataset", f"{order}: this trainer is not there")
        twice = tuple(held.intersection(order.add))
        if twice or len(set(order.add)) < len(order.add):
            raise Broken("once in the dataset", f"{order}: it holds {twice} already", twice)
        absent = tuple(set(order.remove) - held)
        if absent:
            raise Broken("once in the dataset", f"{order}: it does not hold {absent}", absent)
        labels = self._account.disk.labels
        unsafe = tuple(sample for sample in order.add if sample not in labels)
        if unsafe:
            found = f"{order}: labels of {unsafe} are not on the disk"
            raise Broken("durable before use", found, unsafe)
        held.difference_update(order.remove)
        held.update(order.add)
        self._is_complete(order, held)
        if order.round > self._round:
            self._round, self._new_labels = order.round, 0

    def _is_complete(self, order: co.Teach, held: set[int]) -> None:
        window, labels = self._account.rules.window, list(self._account.disk.labels)
        newest = labels if window is None else labels[-window:]
        states = self._account.states
        lacking = tuple(s for s in newest if s not in held and states[s] is State.LABELLED)
        if lacking:
            raise Broken("no label lost", f"{order}: it is not told of {lacking}", lacking)
        if window is not None and len(held) > window:
            raise Broken("bounded", f"{order}: it holds {len(held)} samples of {window}")

    def settle(self, manager: Manager) -> None:
        """Enough new labels and a trainer that is there: then a round has begun."""
        rules = self._account.rules
        if not (rules.training and self._held) or rules.serial:
            return
        if "training" in self._account.paused or not manager.labelling.initial_done:
            return
        if self._new_labels >= rules.retrain_size:
            found = f"{self._new_labels} labels came since the last round; no other has begun"
            raise Broken("progress", found)
        untaught = [trainer for trainer, held in self._held.items() if not held]
        if 0 < len(untaught) < len(self._held):
            raise Broken("progress", f"trainers {untaught} are there, and were taught nothing")
