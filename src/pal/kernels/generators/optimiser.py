"""Particle swarms and other optimisers that explore what the committee predicts."""

from __future__ import annotations

import difflib
import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import nevergrad as ng
import numpy as np
from numpy.typing import NDArray

from pal.errors import ContractError
from pal.kernels.generators.parts.best_designs import BestDesigns, Objectives, heard
from pal.kernels.generators.parts.box import Box, shown
from pal.records import Array, Feedback, Feedbacks, Sample
from pal.roles import STOP, Context, Stop


class Optimiser:
    """A particle swarm, or another optimiser, that seeks the best design as predicted.

    The optimisers are nevergrad's, with a budget and a box: the swarm is that of Kennedy and
    Eberhart, Proc. IEEE Int. Conf. Neural Networks 4, 1942 (1995). The walkers of one process
    are the particles of one search: each asks for its next design and tells what the committee
    says of it. So `generator.hosts = 1`, or `placement = "committee"`, makes all walkers one
    swarm; a walker alone in its process searches alone.

    The loss of a design is the committee's mean less `exploration` times its deviation (lower
    confidence bound: Cox and John, IEEE Int. Conf. Systems, Man and Cybernetics, 1241 (1992)).
    Several objectives without weights are optimised together by the hypervolume that they add to
    the Pareto front. The best designs that are trusted are kept in `best.json` in the directory of
    the process's first walker, with their deviation; when the models change, they are asked
    about again, and are dropped if they are not trusted any more. With one loss, `course` in
    that file says after how many designs which loss was the best. Untrusted designs are told to
    the optimiser, but not kept; after `patience` of them in a row, the search begins anew.

    Options:
        lower: lower bound of each parameter, in its own unit.
        upper: upper bound of each parameter.
        algorithm: "PSO", "DE", "TwoPointsDE", "CMA", "OnePlusOne", or another one of nevergrad's
            registry that can be asked for several designs at once.
        objective: the predicted number to optimise: "drag", an entry of an array, "energies[1]",
            of a bare array "[0]", or "" for a bare number; or several of them.
        maximise: whether it is to be large, not small; of several, those that are.
        weights: of the objectives, which are added up with them to one; without weights, or with
            [], several objectives make a Pareto front.
        exploration: standard deviations that are taken off a predicted loss, to try what is
            little known.
        budget: designs after which a search ends; those of one process together.
        at_end: then a search begins anew ("restart"), or it asks the campaign to "stop".
        patience: untrusted designs in a row after which the search begins anew.
        keep: designs in `best.json`.
        name: of the array in a sample; without one the sample is a bare array.
        render: 'package.module:function' that makes the sample (or the array `name`) from the
            parameters, an array (n,), such as the picture of a channel; importable from the
            settings file's folder.

    Example:
        [generator]
        kernel = "optimiser"
        walkers = 32
        hosts = 1
        options = { lower = [0.0, 0.1], upper = [1.0, 0.9], objective = "drag", budget = 2000 }
    """

    def __init__(
        self,
        context: Context,
        *,
        lower: Sequence[float],
        upper: Sequence[float],
        algorithm: str = "PSO",
        objective: str | Sequence[str] = "",
        maximise: bool | Sequence[str] = False,
        weights: Sequence[float] | None = None,
        exploration: float = 0.0,
        budget: int = 2000,
        at_end: Literal["restart", "stop"] = "restart",
        patience: int = 200,
        keep: int = 20,
        name: str = "",
        render: str | None = None,
    ) -> None:
        _refuse_unsuitable(algorithm)
        if at_end not in ("restart", "stop"):
            raise ContractError(
                f"optimiser: at_end = {at_end!r} is not known; expected 'restart' or 'stop'"
            )
        if min(budget, patience, keep) < 1 or not exploration >= 0:
            raise ContractError(
                "optimiser needs budget, patience and keep >= 1 and exploration >= 0; got "
                f"{budget}, {patience}, {keep} and {exploration}"
            )
        self._context = context
        names = [objective] if isinstance(objective, str) else objective
        large = (names if maximise else []) if isinstance(maximise, bool) else maximise
        self._objectives = Objectives(names, large, weights, exploration)
        self._show = shown("optimiser", name, render)
        self._asked: Question | None = None
        self.search = Search(
            Box(lower, upper, "optimiser"),
            self._objectives,
            algorithm=algorithm,
            budget=budget,
            stops=at_end == "stop",
            patience=patience,
            keep=keep,
            seed=context.seed,
        )

    @classmethod
    def ensemble(cls, walkers: Sequence[Optimiser]) -> Swarm:
        """Join walkers of one process in one search."""
        return Swarm(walkers)

    def step(self, feedback: Feedback | None) -> Sample | Stop:
        """Return the next design; without feedback, the present one again."""
        if feedback is not None:
            self.hear(feedback)
            self.publish()
        return self.present()

    def hear(self, feedback: Feedback) -> None:
        """Tell the search about the present design."""
        assert self._asked is not None
        self.search.tell(self._asked, feedback)
        self._asked = None

    def present(self) -> Sample | Stop:
        """Return the present design; ask for one if there is none."""
        if self._asked is None:
            if self.search.ended:
                return STOP
            self._asked = self.search.ask()
        return self._show(self._asked.design)

    def publish(self) -> None:
        """Write down the best designs."""
        search = self.search
        search.best.write(self._context.directory, self._objectives.names, search.told)

    def get_state(self) -> Any:
        """Return the search and the present design."""
        return {"search": self.search.get_state(), "asked": self._asked}

    def set_state(self, state: Any) -> None:
        """Go on from there; a state of one that was not the first of a swarm has no search."""
        self._asked = state["asked"]
        if state["search"] is not None:
            self.search.set_state(state["search"])


class Swarm:
    """Walkers that share one search: that of the first one, or of whoever knows most.

    The search is saved with the first walker. A walker that is taken back to an older state
    brings its design back, but does not take the search back with it.
    """

    def __init__(self, walkers: Sequence[Optimiser]) -> None:
        self._walkers: Final = walkers
        self._search: Final = max((walker.search for walker in walkers), key=lambda s: s.told)
        self._search.join(len(walkers))
        for walker in walkers:
            walker.search = self._search

    def step(self, rows: NDArray[np.intp], feedback: Feedbacks | None) -> list[Sample | Stop]:
        """Let all of these tell, then all of them ask."""
        walkers = [self._walkers[row] for row in rows]
        if feedback is not None:
            for walker, each in zip(walkers, feedback, strict=True):
                walker.hear(each)
            self._walkers[0].publish()
        return [walker.present() for walker in walkers]

    def get_state(self, row: int) -> Any:
        """Return a walker's design, and of the first one the search."""
        state = self._walkers[row].get_state()
        return state if row == 0 else {**state, "search": None}

    def set_state(self, row: int, state: Any) -> None:
        """Give a walker its design, and the search what it did not know yet."""
        search = state["search"]
        if search is not None and search["told"] > self._search.told:
            self._search.set_state(search)
        self._walkers[row].set_state({**state, "search": None})


@dataclass(frozen=True, slots=True)
class Question:
    """A design (n,) that a walker asks about; `candidate` is its name in the optimiser, if any."""

    design: Array
    candidate: str


class Search:
    """An optimiser, what it waits for, and what it has found."""

    def __init__(
        self,
        box: Box,
        objectives: Objectives,
        *,
        algorithm: str,
        budget: int,
        stops: bool,
        patience: int,
        keep: int,
        seed: int,
    ) -> None:
        self._box = box
        self._objectives = objectives
        self._algorithm = algorithm
        self._budget = budget
        self._stops = stops
        self._patience = patience
        self._seed = seed
        self._workers = 1
        self.best = BestDesigns(keep, objectives.losses)
        self.told = 0
        self._run, self._told_in_run, self._untrusted, self._version = -1, 0, 0, 0
        self._waiting: dict[str, Any] = {}
        self._review: list[Array] = []
        self._optimiser: Any = None

    @property
    def ended(self) -> bool:
        """Whether the budget is used up and nothing shall follow."""
        return self._stops and self.told >= self._budget

    def join(self, workers: int) -> None:
        """Expect so many designs to be asked for at once.

        Raises:
            ContractError: the algorithm wants each answer before the next question.
        """
        if workers > 1 and ng.optimizers.registry[self._algorithm].no_parallelization:
            raise ContractError(
                f"optimiser: algorithm = '{self._algorithm}' takes one design at a time; choose "
                f"another one for {workers} walkers, or give each a host of its own"
            )
        self._workers = workers

    def ask(self) -> Question:
        """Return the next design: a good one that the models have changed for, or a new one."""
        if self._review:
            return Question(self._review.pop(0), "")
        if self._optimiser is None:
            self._begin()
        with quiet():
            candidate = self._optimiser.ask()
        self._waiting[candidate.uid] = candidate
        return Question(self._box.scaled(np.clip(candidate.value, 0, 1)), candidate.uid)

    def tell(self, question: Question, feedback: Feedback) -> None:
        """Hear about a design; one of a search that is over may still be among the best."""
        found = heard(self._objectives, question.design, feedback)
        if feedback.version != self._version:
            self._version = feedback.version
            self._review = [each.design for each in self.best]
        self.best.consider(found, feedback.trusted)
        self._untrusted = 0 if feedback.trusted else self._untrusted + 1
        candidate = self._waiting.pop(question.candidate, None)
        if candidate is not None:
            loss = self._objectives.bound(found.mean, found.deviation)
            with quiet():
                self._optimiser.tell(candidate, loss if len(loss) > 1 else float(loss[0]))
            self.told += 1
            self._told_in_run += 1
        if self._told_in_run >= self._budget or self._untrusted >= self._patience:
            self._optimiser, self._waiting = None, {}

    def _begin(self) -> None:
        """Start the next search."""
        self._run += 1
        self._told_in_run = self._untrusted = 0
        seed = np.random.SeedSequence([self._seed, self._run]).generate_state(1)
        with quiet():
            space = _cube(len(self._box), swarm="PSO" in self._algorithm)
            space.random_state = np.random.RandomState(seed)
            self._optimiser = ng.optimizers.registry[self._algorithm](
                parametrization=space, budget=self._budget, num_workers=self._workers
            )

    def get_state(self) -> Any:
        """Return all of it, as it is now."""
        changing = {name: getattr(self, name) for name in _CHANGING}
        return {"told": self.told, "all": pickle.dumps(changing)}

    def set_state(self, state: Any) -> None:
        """Go on from there."""
        for name, value in pickle.loads(state["all"]).items():
            setattr(self, name, value)


def _cube(size: int, *, swarm: bool) -> Any:
    """Parameters from 0 to 1, where all of them weigh the same.

    A swarm must not bounce off the walls; nevergrad's moves straight, and reaches them, where the
    cube is made by an arctangent. For the others, the first steps are 0.3 wide, as Hansen advises
    for CMA (arXiv:1604.00772).
    """
    middle = ng.p.Array(init=np.full(size, 0.5))
    if swarm:
        return middle.set_bounds(0.0, 1.0, method="arctan", full_range_sampling=True)
    return middle.set_mutation(sigma=0.3).set_bounds(0.0, 1.0, full_range_sampling=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings of the optimisers' libraries, which a user can do nothing about, away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_CHANGING = (
    "best",
    "told",
    "_run",
    "_told_in_run",
    "_untrusted",
    "_version",
    "_waiting",
    "_review",
    "_optimiser",
)


def _refuse_unsuitable(algorithm: str) -> None:
    registry = ng.optimizers.registry
    if algorithm not in registry:
        near = difflib.get_close_matches(algorithm, list(registry), 1) or ["PSO"]
        raise ContractError(
            f"optimiser: algorithm = {algorithm!r} is not known to nevergrad; did you mean "
            f"'{near[0]}'?"
        )
    kind = registry[algorithm]
    if kind.recast or kind.one_shot:
        reason = "runs in a thread and cannot be saved" if kind.recast else "learns nothing"
        raise ContractError(
            f"optimiser: algorithm = '{algorithm}' {reason}; choose another one, such as 'PSO', "
            "'DE' or 'CMA', or for plain sampling the kernel latin_hypercube"
        )
