"""The dataset policy against plain sets: what each trainer holds, and what it should."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pal.controller.rules import Restored, Rules
from pal.controller.training import Training

TRAINERS = st.integers(0, 2)
WINDOWS = st.none() | st.integers(1, 6)


class TrainingMachine(RuleBasedStateMachine):
    """Trainers die and return, labels come, the window changes: none lacks or repeats a label."""

    @initialize(window=WINDOWS, before=st.integers(0, 5), resumed=st.booleans())
    def begin(self, window, before, resumed):
        self.rules = Rules(trainers=((0,), (1,), (2,)), retrain_size=2, window=window)
        self.labels = list(range(before))
        restored = Restored(labelled=tuple(self.labels))
        self.training = Training(self.rules, restored, under_way=resumed)
        self.ready, self.held, self.taught = set(), {}, {}

    def learn(self, lessons):
        for lesson in lessons:
            held, window = self.held[lesson.trainer], self.rules.window
            assert held.isdisjoint(lesson.add)
            assert held.issuperset(lesson.remove)
            assert len(set(lesson.add)) == len(lesson.add)
            held -= set(lesson.remove)
            held |= set(lesson.add)
            assert held == set(self.labels if window is None else self.labels[-window:])
            assert lesson.round >= self.taught.get(lesson.trainer, 0)
            self.taught[lesson.trainer] = lesson.round

    @rule(count=st.integers(1, 4))
    def labels_come(self, count):
        new = range(len(self.labels), len(self.labels) + count)
        self.labels += new
        self.training.grow(new)

    @rule(trainer=TRAINERS)
    def starts(self, trainer):
        self.training.trainer_ready(trainer)
        self.ready.add(trainer)
        self.held[trainer] = set()
        self.taught.pop(trainer, None)

    @rule(trainer=TRAINERS)
    def dies(self, trainer):
        self.training.trainer_lost(trainer)
        self.ready.discard(trainer)
        self.taught.pop(trainer, None)

    @rule()
    def a_round_begins(self):
        lessons = self.training.begin_round()
        assert {lesson.trainer for lesson in lessons} == self.ready
        assert len({lesson.round for lesson in lessons}) <= 1, "one round for all"
        self.learn(lessons)
        if self.ready:
            assert self.training.untaught == 0

    @rule()
    def newcomers_catch_up(self):
        lessons = self.training.catch_up()
        begun = self.training.taught > 0
        new = {trainer for trainer in self.ready if not self.taught.get(trainer)}
        assert {lesson.trainer for lesson in lessons} == (new if begun else set())
        self.learn(lessons)

    @precondition(lambda self: getattr(self, "taught", None))
    @rule(data=st.data(), late=st.booleans())
    def a_trainer_is_done(self, data, late):
        trainer = data.draw(st.sampled_from(sorted(self.taught)))
        busy = trainer in self.training.busy
        told = self.training.done(trainer, self.taught[trainer] - late)
        assert told == (busy and not late), "an answer to an older lesson is none"

    @rule(window=WINDOWS)
    def the_window_changes(self, window):
        self.rules = Rules(trainers=((0,), (1,), (2,)), retrain_size=2, window=window)
        self.training.rules = self.rules

    @invariant()
    def it_knows_who_is_there(self):
        if hasattr(self, "training"):
            assert {k for k, t in enumerate(self.training.trainers) if t.ready} == self.ready
            assert set(self.training.busy) <= self.ready
            assert self.training.dataset == self.labels


TestTraining = TrainingMachine.TestCase
# The same examples each time, and none has a deadline: others want the processor, too.
TestTraining.settings = settings(
    max_examples=150, stateful_step_count=40, derandomize=True, deadline=None, database=None
)
