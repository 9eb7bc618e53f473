"""Seats: which node takes which group of workers, before a campaign and when a node is lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pal.runtime.machines import Machine
from pal.runtime.orders import Job, Key


def proportional(count: int, weights: Sequence[int]) -> list[int]:
    """Spread a count over places by their weights, at least one to each as long as it lasts."""
    shares = [min(1, max(0, count - place)) for place in range(len(weights))]
    for _ in range(count - sum(shares)):
        # To whom has the least for its weight.
        poorest = min(range(len(weights)), key=lambda i: (shares[i] / max(1, weights[i]), i))
        shares[poorest] += 1
    return shares


@dataclass(frozen=True, slots=True)
class Group:
    """Workers that share roads, and therefore a node."""

    node: int
    jobs: tuple[Job, ...]

    @property
    def threads(self) -> int:
        """Cores that all its processes keep busy."""
        return sum(job.load for job in self.jobs)

    @property
    def needs_device(self) -> bool:
        """Whether one of its workers asks for a graphics processor."""
        return any(job.wanted.startswith("cuda") for job in self.jobs)


class Seats:
    """Groups on nodes; the one with the most room for its cores takes the next group."""

    def __init__(self, machines: Sequence[Machine], groups: Sequence[Group] = ()) -> None:
        self.machines = machines
        self._several = len(machines) > 1 or any(
            group.jobs[0].node is not None for group in groups
        )
        self._groups = list(groups)
        self._threads = {machine.rank: 0 for machine in machines}
        self._devices = {m.rank: itertools.cycle(m.devices) for m in machines}
        for group in groups:
            self._threads[group.node] += group.threads

    def by_hand(self, counts: Sequence[int] | None) -> Iterator[int]:
        """Yield the node of each worker where the settings say how many each node has."""
        for machine, count in zip(self.machines, counts or (), strict=False):
            yield from itertools.repeat(machine.rank, count)

    def take(self, rank: int | None, jobs: Sequence[Job]) -> Group:
        """Seat a group on this node, or on the one with the most room."""
        group = Group(-1, tuple(jobs))
        node = self.roomiest(group, self.able(group) or self.machines) if rank is None else rank
        place = node if self._several else None
        seated = Group(
            node, tuple(replace(self._with_device(job, node), node=place) for job in jobs)
        )
        self._groups.append(seated)
        self._threads[node] += group.threads
        return seated

    def able(self, group: Group) -> list[Machine]:
        """Return the nodes that have what a group needs."""
        return [m for m in self.machines if m.devices or not group.needs_device]

    def roomiest(self, group: Group, among: Sequence[Machine]) -> int:
        """Return which of these nodes would be the emptiest with this group."""
        return min(among, key=lambda m: (self.load(m, group.threads), m.rank)).rank

    def load(self, machine: Machine, more: int = 0) -> float:
        """Threads for each core of a node, with so many more."""
        return (self._threads[machine.rank] + more) / max(1, len(machine.cores))

    def _with_device(self, job: Job, node: int) -> Job:
        if job.wanted != "cuda":
            return replace(job, device=job.wanted)
        number = next(self._devices[node], None)
        return replace(job, device="cuda" if number is None else f"cuda:{number}")

    def taken(self) -> tuple[Group, ...]:
        """Return all groups, with cores of their own where a node has enough for all of them."""
        result = list(self._groups)
        for machine in self.machines:
            here = [i for i, group in enumerate(result) if group.node == machine.rank]
            if sum(result[i].threads for i in here) <= len(machine.cores):
                free = iter(machine.cores)
                for i in here:
                    result[i] = replace(result[i], jobs=_pinned(result[i].jobs, free))
        return tuple(result)


def _pinned(jobs: Sequence[Job], free: Iterator[int]) -> tuple[Job, ...]:
    return tuple(replace(job, cores=tuple(next(free) for _ in range(job.load))) for job in jobs)


def without(group: Group, key: Key) -> Group | None:
    """Return a group whose worker `key` is let go; None if nobody is left.

    Should the group move to another node, its exchange has no rows for walkers that are gone.
    """
    jobs = [job for job in group.jobs if job.key != key]
    hosts = [job for job in jobs if job.role in ("generator", "outpost")]
    rows = tuple(walker for host in hosts for walker in host.walkers)
    host_of = tuple(place for place, host in enumerate(hosts) for _ in host.walkers)
    left = [
        replace(job, rows=rows, host_of=host_of)
        if job.role == "exchange" and not job.walkers
        else job
        for job in jobs
    ]
    return replace(group, jobs=tuple(left)) if left else None


def relocate(
    groups: Sequence[Group], machines: Sequence[Machine], lost: int
) -> tuple[list[Group], list[Job]]:
    """Seat the groups of a lost node on those that are left; return them, and who has no place.

    Walkers with their committee, and trainers, always find one, if need be in a crowd: without
    them the campaign stands still. An oracle finds one as long as no node gets fuller than the
    fullest was. Whoever needs a graphics processor needs a node that has one.
    """
    before = Seats(machines, groups)
    fullest = max(1.0, *(before.load(machine) for machine in machines))
    left = [machine for machine in machines if machine.rank != lost]
    seats = Seats(left, [group for group in groups if group.node != lost])
    moved, homeless = [], list[Job]()
    for group in sorted(
        (group for group in groups if group.node == lost), key=lambda g: -g.threads
    ):
        room = seats.able(group)
        if all(job.role == "oracle" for job in group.jobs):
            room = [m for m in room if seats.load(m, group.threads) <= fullest]
        if room:
            node = seats.roomiest(group, room)
            moved.append(seats.take(node, [replace(job, cores=()) for job in group.jobs]))
        else:
            homeless += [job for job in group.jobs if job.process]
    return moved, homeless
