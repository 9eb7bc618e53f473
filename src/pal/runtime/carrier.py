"""The carrier: carries out what the manager orders, and brings new workers up to date."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pal.controller import commands as cmd
from pal.controller.commands import State
from pal.errors import Failure
from pal.ledger import entries
from pal.runtime import messages as msg
from pal.runtime.books import Books
from pal.runtime.cluster import Cluster, Station
from pal.runtime.grants import Grants
from pal.runtime.releases import Releases

_OVER = (State.LABELLED, State.FAILED, State.QUARANTINED, State.DROPPED)


class Carrier:
    """Turns commands into messages to workers and entries in the books."""

    def __init__(
        self,
        cluster: Cluster,
        books: Books,
        releases: Releases,
        clock: Callable[[], float],
        say: Callable[[str, str], None],
    ) -> None:
        self._cluster = cluster
        self._books = books
        self._releases = releases
        self._clock = clock
        self._say = say
        self._answers: dict[int, tuple[msg.LabelDone, int]] = {}
        self._working: dict[int, int] = {}
        self._taught: dict[int, int] = {}
        self._grants = Grants()
        self._exploring = False
        self._hears_labels = False
        self.finish: cmd.Finish | None = None
        self._carriers: dict[type, Callable[[Any], None]] = {
            cmd.Move: self._move,
            cmd.StartLabel: self._start_label,
            cmd.CommitLabel: self._commit_label,
            cmd.KillOracle: self._kill_oracle,
            cmd.Teach: self._teach,
            cmd.FinishTraining: self._finish_training,
            cmd.Explore: self._explore,
            cmd.GrantCandidates: self._grant,
            cmd.RankQueue: self._rank,
            cmd.Tell: self._tell,
            cmd.Finish: self._finish,
        }

    def carry(self, command: cmd.Command) -> None:
        """Carry out one command."""
        self._carriers[type(command)](command)

    def station(self, role: str, index: int = 0) -> Station:
        """Return the station of a worker."""
        return self._cluster.stations[role, index]

    def _oracle(self, index: int) -> Station:
        """Return the station of this oracle, or the broker's, which is many."""
        return self._cluster.stations.get(("oracle", index)) or self.station("broker")

    # What the manager orders ---------------------------------------------------------------

    def _move(self, move: cmd.Move) -> None:
        # These two are written with the attempt and with the label.
        if move.state not in (State.RUNNING, State.LABELLED):
            change = entries.StateChange(self._clock(), move.sample, move.state, move.detail)
            self._books.record(change)
        if move.state in _OVER:
            self._books.forget(move.sample)

    def _start_label(self, order: cmd.StartLabel) -> None:
        self._working[order.oracle] = order.sample
        detail = f"oracle {order.oracle}, attempt {order.attempt}"
        self._books.record(
            entries.StateChange(self._clock(), order.sample, State.RUNNING, detail, order.attempt)
        )
        sample = self._books.sample(order.sample)
        task = msg.LabelTask(order.oracle, order.sample, sample, order.attempt)
        self._cluster.send(self._oracle(order.oracle), task)

    def _commit_label(self, order: cmd.CommitLabel) -> None:
        answer, oracle = self._answers.pop(order.sample)
        if self._working.get(oracle) == order.sample:
            del self._working[oracle]
        self._books.label(self._clock(), answer, oracle)

    def _kill_oracle(self, order: cmd.KillOracle) -> None:
        station = self._oracle(order.oracle)
        if station.job.role == "broker":
            self._cluster.send(station, msg.DropLabel(order.oracle))
        else:
            self._cluster.kill(station, "deadline", order.reason)

    def _teach(self, lesson: cmd.Teach) -> None:
        self._releases.store()
        add = self._books.labelled(lesson.add)
        self._taught[lesson.trainer] = self.taught(lesson.trainer) + len(add)
        self._cluster.send(
            self.station("trainer", lesson.trainer),
            msg.Lesson(lesson.round, add, lesson.remove, lesson.fresh),
        )

    def _finish_training(self, order: cmd.FinishTraining) -> None:
        self._cluster.send(self.station("trainer", order.trainer), msg.EndRound())

    def _explore(self, order: cmd.Explore) -> None:
        self._exploring = order.on
        self._cluster.spread(self._exchanges(), msg.SetExploring(order.on))

    def _exchanges(self) -> list[Station]:
        """The exchanges that are up, the first shard first."""
        found = [station for station in self._cluster.of("exchange") if station.ready]
        return sorted(found, key=lambda station: station.job.index)

    def _grant(self, order: cmd.GrantCandidates) -> None:
        self._grants.total = order.total - self._books.past.proposed
        self._send_grants()

    def _send_grants(self) -> None:
        """Tell each exchange what it may propose, counted from its own start."""
        for shard, total in self._grants.divide().items():
            self._cluster.send(self.station("exchange", shard), msg.Grant(total))

    def level(self) -> None:
        """Give a shard that may propose no more a part of what the others may."""
        if self._grants.uneven:
            self._send_grants()

    def _rank(self, order: cmd.RankQueue) -> None:
        samples = [self._books.sample(identity) for identity in order.samples]
        for exchange in self._exchanges()[:1]:
            self._cluster.send(exchange, msg.RankSamples(order.samples, samples))

    def _tell(self, order: cmd.Tell) -> None:
        self._say(order.text, order.level)
        self._books.record(entries.Note(self._clock(), "manager", order.text))

    def _finish(self, order: cmd.Finish) -> None:
        self.finish = order

    # What workers did, as far as the carrier must know ---------------------------------------

    def answered(self, oracle: int, answer: msg.LabelDone) -> None:
        """Hold an oracle's answer until the manager orders to commit it."""
        self._answers[answer.identity] = (answer, oracle)

    def unwanted(self, identity: int) -> None:
        """Drop an answer that the manager did not want."""
        self._answers.pop(identity, None)

    def idle(self, oracle: int) -> None:
        """Note that an oracle works on nothing any more."""
        self._working.pop(oracle, None)

    def with_sample(self, oracle: int, failure: Failure) -> Failure:
        """Add to an oracle's failure the sample it was working on, and note that it is idle."""
        return replace(failure, sample=self._working.pop(oracle, None))

    def taught(self, trainer: int) -> int:
        """How many labels a trainer has learned from."""
        return self._taught.get(trainer, 0)

    def received(self, shard: int, count: int) -> None:
        """Count a shard's proposals."""
        self._grants.received(shard, count)

    def welcome_trainer(self, trainer: int) -> None:
        """A trainer has started; it knows no data."""
        self._taught[trainer] = 0

    def show(self, samples: Sequence[int]) -> None:
        """Send labels to the exchange, if its selector learns from them."""
        if self._hears_labels:
            items = self._books.labelled(samples)
            self._cluster.spread(self._exchanges(), msg.NewLabels(items))

    def welcome_exchange(self, exchange: Station, hears_labels: bool) -> None:
        """Bring an exchange that has just started to where the campaign is."""
        self._hears_labels = hears_labels
        self._grants.welcome(exchange.job.index)
        self._send_grants()
        self._releases.welcome(exchange)
        self._cluster.send(exchange, msg.SetExploring(self._exploring))

    def say_again(self) -> None:
        """Repeat what may have been on its way to many through a node that is lost."""
        self._cluster.spread(self._exchanges(), msg.SetExploring(self._exploring))
        self._releases.again()

    def lost_predictor(self, station: Station) -> None:
        """Do not wait for one that is gone; let other shards propose what its own might have."""
        self._releases.lost(station)
        if station.job.role == "exchange":
            self._grants.lost(station.job.index)

    def kill_working(self) -> None:
        """Kill oracles that still work: their time is up, and their samples are queued again.

        The sampler, too, which listens to nobody; it begins anew.
        """
        for sampler in self._cluster.of("sampler"):
            self._cluster.kill(sampler, "ended", "the campaign ended before its initial samples")
        for oracle in self._working:
            station = self._oracle(oracle)
            # A broker ends by itself, and takes its labels with it.
            if station.job.role != "broker":
                self._cluster.kill(station, "ended", "its label took too long")
