"""The reception: turns news of workers and nodes into events for the manager."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from pal.controller import events as ev
from pal.errors import Failure, KernelError, WorkerError
from pal.ledger.directory import RunDirectory
from pal.records import Sample
from pal.runtime import messages as msg
from pal.runtime.agent import Died, Left, Said
from pal.runtime.carrier import Carrier
from pal.runtime.cluster import Cluster, NodeLost, Station
from pal.runtime.happenings import Outcome
from pal.runtime.labels import clear
from pal.runtime.operator import Stoppable
from pal.runtime.releases import Releases
from pal.runtime.worker import KERNEL_OF

_LABELLING = ("oracle", "broker")


class Directed(Stoppable, Protocol):
    """What the reception needs of a session."""

    def direct(self, initial: tuple[Sample, ...]) -> None:
        """Begin to be directed by a manager, with these initial samples."""
        ...

    def propose(self, proposal: msg.Proposal) -> None:
        """Number samples, write them down and offer them for labelling."""
        ...

    def report(self, failure: Failure) -> None:
        """Show a failure, and write it down."""
        ...


class Reception:
    """Hears what workers say, that they come up or die, and that nodes are lost.

    `losses` are the newest of each trainer.
    """

    def __init__(
        self,
        session: Directed,
        cluster: Cluster,
        carrier: Carrier,
        releases: Releases,
        directory: RunDirectory,
        walkers: int,
    ) -> None:
        self._session = session
        self._cluster = cluster
        self._carrier = carrier
        self._releases = releases
        self._directory = directory
        self._walkers = walkers
        self._held: list[tuple[Station, Said | Died | Left]] = []
        self._lost: set[int] = set()
        self.losses: dict[int, float] = {}
        self._hearers: dict[type, Callable[[Station, Any], None]] = {
            msg.Ready: self._welcome,
            msg.Proposal: self._on_proposal,
            msg.LabelDone: self._on_label,
            msg.LabelRefused: self._on_refusal,
            msg.OracleFree: lambda _, m: self._feed(ev.OracleReady(self._clock, m.oracle)),
            msg.OracleDown: self._on_oracle_down,
            msg.Epoch: self._on_epoch,
            msg.NewWeights: self._on_weights,
            msg.RoundDone: self._on_round_done,
            msg.Installed: self._on_installed,
            msg.Ranked: self._on_ranked,
            msg.Distrusted: self._on_distrusted,
            msg.StopAsked: lambda _, m: session.request_stop(m.reason, patient=True),
            msg.Failed: self._on_failed,
        }

    @property
    def _clock(self) -> float:
        return self._session.clock

    def _feed(self, event: ev.Event) -> None:
        self._session.feed(event)

    def catch_up(self) -> None:
        """Hear what came before there was a manager."""
        held, self._held = self._held, []
        for station, news in held:
            self.hear(station, news)

    def hear(self, station: Station, news: Said | Died | Left) -> None:
        """Take news of a worker in."""
        if station.job.role == "sampler":
            self._hear_sampler(news)
        elif isinstance(news, Died) and _cannot_start(news):
            self._session.report(news.failure)
            error = KernelError(f"{station.job.name} cannot start: {news.failure.message}")
            self._session.end(Outcome(str(error), True, error))
        elif not self._session.directed:
            self._held.append((station, news))
        elif isinstance(news, Said):
            self._hearers[type(news.message)](station, news.message)
        elif isinstance(news, Died):
            self._hear_death(station, news)

    def _hear_sampler(self, news: Said | Died | Left) -> None:
        if self._session.directed:
            return  # it has done its work, and may have been killed after it
        if isinstance(news, Said) and isinstance(news.message, msg.Proposal):
            self._session.direct(tuple(news.message.samples))
        elif isinstance(news, Said) and isinstance(news.message, msg.Failed):
            self._session.report(news.message.failure)
        elif isinstance(news, Died):
            self._session.report(news.failure)
            if news.failure.kind == "crash" and not news.given_up:
                return  # it starts again
            error = WorkerError(f"the initial samples could not be made: {news.failure.message}")
            self._session.end(Outcome(str(error), True, error))
        elif isinstance(news, Left):
            self._session.direct(())

    def _on_proposal(self, exchange: Station, message: msg.Proposal) -> None:
        self._carrier.received(exchange.job.index, len(message.samples))
        self._session.propose(message)

    def _on_label(self, _: Station, message: msg.LabelDone) -> None:
        self._carrier.answered(message.oracle, message)
        self._feed(ev.LabelReturned(self._clock, message.oracle, message.identity))
        self._carrier.unwanted(message.identity)

    def _on_refusal(self, _: Station, message: msg.LabelRefused) -> None:
        self._carrier.idle(message.oracle)
        self._session.report(message.failure)
        failure = message.failure
        self._feed(ev.LabelFailed(self._clock, message.oracle, message.identity, failure))

    def _on_oracle_down(self, _: Station, message: msg.OracleDown) -> None:
        self._session.report(self._lose_oracle(message.oracle, message.failure))

    def _lose_oracle(self, oracle: int, failure: Failure) -> Failure:
        """Tell the manager of an oracle that is gone; return its failure with its sample."""
        failure = self._carrier.with_sample(oracle, failure)
        if failure.sample is not None:
            for scratch in self._directory.scratch.glob(f"{failure.sample}-*"):
                clear(scratch)
        self._feed(ev.OracleLost(self._clock, oracle, failure))
        return failure

    def _on_epoch(self, station: Station, message: msg.Epoch) -> None:
        self.losses[station.job.index] = _mean_loss(message)
        self._feed(ev.EpochDone(self._clock, station.job.index))

    def _on_weights(self, station: Station, message: msg.NewWeights) -> None:
        self._releases.release(message.members, self._carrier.taught(station.job.index))

    def _on_round_done(self, station: Station, message: msg.RoundDone) -> None:
        self._releases.store()
        version = self._releases.version
        self._feed(ev.TrainingDone(self._clock, station.job.index, message.round, version))

    def _on_installed(self, station: Station, message: msg.Installed) -> None:
        if station.job.role == "predictor":
            # The exchange it works for has no members of its own, but must know their version.
            exchange = self._carrier.station("exchange", station.job.shard)
            self._cluster.send(exchange, msg.NewWeights({}, message.version))
        self._releases.installed(station, message.version)
        self._tell_version()

    def _on_distrusted(self, _: Station, message: msg.Distrusted) -> None:
        member = message.member
        earlier = self._releases.distrust(member, message.version, message.good)
        if earlier is None:
            return
        for trainer in self._cluster.of("trainer"):
            if member in trainer.job.members:
                self._cluster.send(trainer, msg.NewWeights({member: earlier}))

    def _on_ranked(self, _: Station, message: msg.Ranked) -> None:
        ranked, order = tuple(message.identities), tuple(message.order)
        self._feed(ev.QueueRanked(self._clock, ranked, order, dict(message.uncertainty)))

    def _on_failed(self, _: Station, message: msg.Failed) -> None:
        self._session.report(message.failure)
        if message.failure.kind == "GivenUp":
            self._lose((message.failure.index,), message.failure)

    def _lose(self, walkers: Iterable[int], failure: Failure) -> None:
        """Note walkers that were given up; end the campaign when none is left to explore."""
        self._lost.update(walkers)
        if len(self._lost) == self._walkers:
            error = WorkerError(f"every walker was given up; the last one: {failure}")
            self._session.end(Outcome(str(error), True, error))

    def _welcome(self, station: Station, message: msg.Ready) -> None:
        """Bring a worker that has just come up, first or again, to where the campaign is."""
        if not station.ready:
            return  # it has died again since
        now, index = self._clock, station.job.index
        self._lost.difference_update(station.job.walkers)
        if station.job.role == "oracle":
            self._feed(ev.OracleReady(now, index))
        elif station.job.role == "trainer":
            self._carrier.welcome_trainer(index)
            self._feed(ev.TrainerReady(now, index))
        elif station.job.role == "predictor":
            self._releases.welcome(station)
        elif station.job.role == "exchange":
            self._carrier.welcome_exchange(station, message.hears_labels)

    def _hear_death(self, station: Station, news: Died) -> None:
        failure = self._miss(station, news.failure)
        self._session.report(failure)
        if news.given_up:
            self._given_up(station, failure)

    def _miss(self, station: Station, failure: Failure) -> Failure:
        """Note that a worker is gone; return the failure with the sample it was at."""
        role, index = station.job.role, station.job.index
        if role == "oracle":
            failure = self._lose_oracle(index, failure)
            if failure.sample is not None:
                self._cluster.forgive(station)
        elif role == "broker":
            # Its oracles had no part in its death.
            for oracle in station.job.oracles:
                self._lose_oracle(oracle, replace(failure, index=oracle, kind="lost"))
        elif role == "trainer":
            self._feed(ev.TrainerLost(self._clock, index, failure))
        elif role in ("exchange", "predictor"):
            self._carrier.lost_predictor(station)
            if self._releases.everywhere:  # it may be the one that the others waited for
                self._tell_version()
        return failure

    def _tell_version(self) -> None:
        complete = self._releases.complete
        self._feed(ev.WeightsInstalled(self._clock, self._releases.everywhere, complete))

    def hear_loss(self, news: NodeLost) -> None:
        """Go on without a node: its labels are queued again, its walkers go on elsewhere."""
        self._session.report(news.failure)
        if news.moved:
            names = ", ".join(station.job.name for station in news.moved)
            self._session.say(f"started elsewhere: {names}", "warning")
        for station in (*news.moved, *news.homeless):
            role, index = station.job.role, station.job.index
            failure = replace(news.failure, role=KERNEL_OF.get(role, "prediction"), index=index)
            if self._session.directed:
                self._miss(station, replace(failure, kind="lost", traceback=""))
        self._carrier.say_again()
        for station in news.homeless:
            self._given_up(station, news.failure)

    def _given_up(self, station: Station, failure: Failure) -> None:
        """End the campaign unless others of the same role can go on without this worker."""
        role = station.job.role
        if role in ("generator", "exchange"):
            self._lose(station.job.walkers or station.job.rows, failure)
        others = [
            other
            for other in self._cluster.stations.values()
            if _alike(other.job.role) == _alike(role) and not other.given_up
        ]
        text = f"{station.job.name} died {station.restarts + 1} times and is given up"
        if failure.kind == "NodeLost":
            text = f"there is no room elsewhere for {station.job.name}"
        # Hosts that died in the same moment, of which nobody has told yet, are not alive either.
        exploring = role == "generator" and len(self._lost) < self._walkers
        if exploring or (role in (*_LABELLING, "exchange") and others):
            self._session.say(f"{text}; {len(others)} others go on", "warning")
            return
        error = WorkerError(f"{text}. Last failure: {failure}")
        self._session.end(Outcome(f"{text}: {failure.kind}: {failure.message}", True, error))


def _alike(role: str) -> str:
    """Name the same for roles of which one can go on for the other."""
    return "oracle" if role in _LABELLING else role


def _mean_loss(message: msg.Epoch) -> float:
    losses = [float(metrics.get("loss", float("nan"))) for metrics in message.metrics]
    return sum(losses) / len(losses)


def _cannot_start(news: Died) -> bool:
    """Whether the kernel itself says that no restart would help."""
    wrong = news.failure.kind in ("KernelImportError", "ContractError")
    return wrong and not news.was_ready
