"""The slots between walkers and exchange: each walker gets its own answer, exactly."""

from __future__ import annotations

import itertools
import os
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pal.errors import SlotTooSmallError
from pal.records import Batch, Feedbacks, Refusal, named, signature
from pal.transport.doorbell import create_doorbell
from pal.transport.segment import Segment
from pal.transport.slots import ALIVE, ExchangeSlots, HostSlots, Slots

ROOM = 1 << 14


def same(found: Any, expected: Any) -> None:
    """Two records are equal to the bit."""
    assert signature(found) == signature(expected)
    for name, array in named(expected).items():
        assert np.asarray(named(found)[name]).tobytes() == array.tobytes()


class Road:
    """Both ends of the road for some walkers, the hosts' ends attached anew to the memory."""

    def __init__(self, walkers: int, hosts: int = 1, room: int = ROOM) -> None:
        self.slots = Slots.create(walkers, room)
        self.room = room
        self.exchange = ExchangeSlots(self.slots)
        bounds = [host * walkers // hosts for host in range(hosts + 1)]
        self.crews = list(itertools.pairwise(bounds))
        self.hosts = [self.host(index) for index in range(hosts)]

    def host(self, index: int) -> HostSlots:
        """Attach a host as a new process would."""
        first, last = self.crews[index]
        segment = Segment(os.dup(self.slots.segment.fd), self.slots.segment.size)
        return HostSlots(Slots(segment, self.slots.walkers, self.room), first, last - first)

    def send(self, samples: dict[int, Any]) -> None:
        for walker, sample in samples.items():
            index = next(i for i, (a, b) in enumerate(self.crews) if a <= walker < b)
            self.hosts[index].send(walker - self.crews[index][0], sample)

    def answer(self, means: dict[int, Any], factor: float = 2.0, version: int = 7) -> None:
        """Answer walkers; the deviation is the mean, times a factor."""
        who = np.array(sorted(means), np.intp)
        mean = [means[walker] for walker in who]
        spread = [scaled(item, factor) for item in mean]
        self.exchange.answer(
            who, Feedbacks(Batch(mean), Batch(spread), who * 0.5, who % 2 == 0, version)
        )

    def receive(self) -> dict[int, Any]:
        found: dict[int, Any] = {}
        for (first, _), host in zip(self.crews, self.hosts, strict=True):
            for rows, feedback in host.receive():
                heard = [feedback] * len(rows) if isinstance(feedback, Refusal) else feedback
                found |= dict(zip([first + row for row in rows], heard, strict=True))
        return found


def scaled(record: Any, factor: float) -> Any:
    arrays = {name: np.asarray(array) * factor for name, array in named(record).items()}
    return arrays if isinstance(record, dict) else arrays[""]


def record(kind: int, size: int, value: float) -> Any:
    """Records of several kinds: bare, named, empty, of other types."""
    return [
        lambda: np.full(size, value),
        lambda: {"a": np.full((size, 3), value), "b": np.array([value])},
        lambda: {"b": np.array([value]), "a": np.full((size, 3), value)},
        lambda: np.full((2, size), value, dtype="f4"),
    ][kind]()


RECORDS = st.builds(record, st.integers(0, 3), st.integers(0, 4), st.floats(-1e6, 1e6))


@given(st.data())
def test_every_walker_gets_the_answer_to_its_own_sample(data: st.DataObject) -> None:
    """Any records, any walkers answered, any hosts; shapes that change from round to round."""
    walkers = data.draw(st.integers(1, 5))
    road = Road(walkers, data.draw(st.integers(1, walkers)))
    samples: dict[int, Any] = {}
    who = list(range(walkers))
    for version in range(data.draw(st.integers(1, 4))):
        for walker in who:
            samples[walker] = data.draw(RECORDS)
            road.send({walker: samples[walker]})
        assert road.exchange.ready().tolist() == list(range(walkers))
        who = sorted(data.draw(st.sets(st.integers(0, walkers - 1), min_size=1)))
        batch = road.exchange.gather(np.array(who))
        for place, walker in enumerate(who):
            same(batch[place], samples[walker])
        means = {walker: data.draw(RECORDS) for walker in who}
        road.answer(means, version=version)
        found = road.receive()
        assert sorted(found) == who
        for walker in who:
            feedback = found[walker]
            assert feedback is not None
            same(feedback.mean, means[walker])
            same(feedback.deviation, scaled(means[walker], 2.0))
            assert feedback.uncertainty == walker * 0.5
            assert feedback.trusted is (walker % 2 == 0)
            assert feedback.version == version


def test_uniform_samples_come_as_one_array() -> None:
    road = Road(4, hosts=2)
    road.send({walker: np.full(3, float(walker)) for walker in range(4)})
    batch = road.exchange.gather(road.exchange.ready())
    np.testing.assert_array_equal(np.asarray(batch), np.repeat(np.arange(4.0), 3).reshape(4, 3))


@given(st.lists(st.tuples(st.booleans(), st.lists(RECORDS, min_size=3, max_size=3)), max_size=5))
def test_samples_sent_together_arrive_as_those_sent_one_by_one(
    rounds: list[tuple[bool, list[Any]]],
) -> None:
    """In any order of the two ways, with shapes that change from round to round."""
    road = Road(4, hosts=2)
    road.send({0: np.zeros(1)})
    road.hosts[1].send(0, np.ones(1))
    for together, samples in rounds:
        which = np.array([0, 1])
        if together:
            road.hosts[1].send_all(which, Batch(samples[:2]))
        else:
            road.hosts[1].send(0, samples[0])
            road.hosts[1].send(1, samples[1])
        road.hosts[1].send_all(np.array([1]), Batch(samples[2:]))
        assert road.exchange.ready().tolist() == [0, 2, 3]
        batch = road.exchange.gather(np.array([2, 3]))
        same(batch[0], samples[0])
        same(batch[1], samples[2])


def test_samples_too_large_to_be_sent_together_name_walker_and_fix() -> None:
    road = Road(4, hosts=2)
    large = Batch.stacked(np.zeros((2, ROOM)))
    with pytest.raises(SlotTooSmallError, match=r"walker 2 .*exchange\.slot_size = \"1 MiB\""):
        road.hosts[1].send_all(np.arange(2), large)


def test_what_was_gathered_stays_when_the_walkers_move_on() -> None:
    road = Road(2)
    road.send({0: np.zeros(3), 1: np.zeros(3)})
    batch = road.exchange.gather(road.exchange.ready())
    road.send({0: np.ones(3), 1: np.ones(3)})
    np.testing.assert_array_equal(np.asarray(batch), np.zeros((2, 3)))


@pytest.mark.parametrize("walkers", [1, 3])
def test_feedback_is_the_walker_s_own_copy(walkers: int) -> None:
    """It may be changed, and stays as it is when the next one comes."""
    road = Road(walkers)
    kept: dict[int, Any] = {}
    for number in range(2):
        road.send({walker: np.zeros(2) for walker in range(walkers)})
        road.exchange.gather(road.exchange.ready())
        road.answer({walker: np.full(4, 10.0 * walker + number) for walker in range(walkers)})
        for walker, feedback in road.receive().items():
            assert feedback is not None
            if number == 0:
                kept[walker] = feedback
            else:
                np.asarray(feedback.mean)[...] += 1000.0
    for walker, feedback in kept.items():
        np.testing.assert_array_equal(np.asarray(feedback.mean), np.full(4, 10.0 * walker))
        np.testing.assert_array_equal(np.asarray(feedback.deviation), np.full(4, 20.0 * walker))


@pytest.mark.parametrize("why", Refusal)
def test_a_rejected_walker_hears_why_and_the_others_are_answered(why: Refusal) -> None:
    road = Road(3)
    road.send({walker: np.full(2, float(walker)) for walker in range(3)})
    road.exchange.gather(road.exchange.ready())
    kept = np.array([0, 2])
    road.exchange.reject(np.array([1]), why)
    road.answer({0: np.zeros(1), 2: np.full(1, 2.0)})
    found = road.receive()
    assert found[1] is why
    for walker in kept:
        feedback = found[int(walker)]
        assert feedback is not None
        np.testing.assert_array_equal(np.asarray(feedback.mean), [float(walker)])


def test_a_sample_too_large_names_walker_and_fix_and_breaks_nothing() -> None:
    road = Road(3)
    road.send({1: np.zeros(3)})
    with pytest.raises(SlotTooSmallError, match=r"walker 2 .*exchange\.slot_size = \"1 MiB\""):
        road.send({2: np.zeros(ROOM)})
    with pytest.raises(SlotTooSmallError, match="too many named arrays"):
        road.send({2: {f"name-{number:04}": np.zeros(1) for number in range(200)}})
    assert road.exchange.ready().tolist() == [1]
    road.send({2: np.ones(3)})
    batch = road.exchange.gather(road.exchange.ready())
    np.testing.assert_array_equal(np.asarray(batch), [[0.0] * 3, [1.0] * 3])


def test_feedback_too_large_names_walker_and_fix() -> None:
    road = Road(2)
    road.send({0: np.zeros(1), 1: np.zeros(1)})
    who = road.exchange.ready()
    road.exchange.gather(who)
    with pytest.raises(SlotTooSmallError, match=r"feedback for walker 0 .*exchange\.slot_size"):
        road.answer(dict.fromkeys(who.tolist(), np.zeros(ROOM // 12)))


def test_a_record_as_large_as_the_slot_fits() -> None:
    road = Road(2)
    values = (ROOM - 2048) // 8
    road.send({0: np.arange(float(values)), 1: np.arange(float(values))})
    batch = road.exchange.gather(road.exchange.ready())
    np.testing.assert_array_equal(batch[1], np.arange(float(values)))
    with pytest.raises(SlotTooSmallError):
        road.send({0: np.arange(values + 9.0)})


def test_a_restarted_walker_is_answered_once_and_for_its_new_sample() -> None:
    """Its host dies while the exchange works on the old sample."""
    road = Road(2, hosts=2)
    road.send({0: np.zeros(2), 1: np.zeros(2)})
    who = road.exchange.ready()
    road.exchange.gather(who)
    road.slots.forget(slice(0, 1))
    road.hosts[0] = road.host(0)
    road.send({0: np.ones(2)})
    road.answer({0: np.full(1, -1.0), 1: np.full(1, -1.0)})
    assert list(road.receive()) == [1], "the answer to the old sample is not for the new walker"
    assert road.exchange.ready().tolist() == [0]
    batch = road.exchange.gather(road.exchange.ready())
    np.testing.assert_array_equal(np.asarray(batch), [[1.0, 1.0]])
    road.answer({0: np.full(1, 5.0)})
    feedback = road.receive()[0]
    assert feedback is not None
    np.testing.assert_array_equal(np.asarray(feedback.mean), [5.0])


def test_the_walkers_of_a_dead_host_are_not_waited_for() -> None:
    road = Road(4, hosts=2)
    road.slots.header["state"][:] = ALIVE
    road.send(dict.fromkeys(range(4), np.zeros(1)))
    assert road.exchange.living() == 4
    road.slots.forget(slice(0, 2))
    assert road.exchange.living() == 2
    assert road.exchange.ready().tolist() == [2, 3]


def test_a_new_exchange_finds_the_walkers_that_wait() -> None:
    road = Road(3)
    road.send({walker: np.full(2, float(walker)) for walker in range(3)})
    who = road.exchange.ready()
    road.exchange.gather(who)
    road.exchange = ExchangeSlots(road.slots)
    assert road.exchange.ready().tolist() == [0, 1, 2]
    road.exchange.gather(road.exchange.ready())
    road.answer({walker: np.full(1, float(walker)) for walker in range(3)})
    assert sorted(road.receive()) == [0, 1, 2]


def test_a_walker_that_ended_is_neither_waited_for_nor_answered() -> None:
    road = Road(2)
    road.send({0: np.zeros(1), 1: np.zeros(1)})
    road.exchange.gather(road.exchange.ready())
    road.answer({0: np.zeros(1), 1: np.zeros(1)})
    road.hosts[0].end(0)
    assert road.exchange.living() == 1
    assert list(road.receive()) == [1]


def test_the_exchange_is_woken_for_a_quorum_only() -> None:
    road = Road(4, hosts=2)
    assert not road.exchange.wake_for(4)
    for walker in range(4):
        assert not any(host.due for host in road.hosts)
        road.send({walker: np.zeros(1)})
    assert all(host.due for host in road.hosts)
    assert road.exchange.wake_for(4)
    assert not road.exchange.wake_for(5)


def test_a_host_of_one_rings_without_looking() -> None:
    road = Road(2, hosts=2)
    assert not road.exchange.wake_for(2)
    assert all(host.due for host in road.hosts)


def test_a_host_and_an_exchange_in_two_threads_play_many_rounds() -> None:
    """Each answer is to the sample sent last: nothing is read before it is written."""
    road = Road(3)
    bell, back = create_doorbell(), create_doorbell()
    errors: list[str] = []

    def explore() -> None:
        steps = 0
        sent = dict.fromkeys(range(3), 0.0)
        road.send({walker: np.full(64, 0.0) for walker in range(3)})
        bell.ring()
        while steps < 3000:
            back.wait()
            for walker, feedback in road.receive().items():
                assert feedback is not None
                if not (np.asarray(feedback.mean) == 2 * sent[walker]).all():
                    errors.append(f"walker {walker}: {feedback.mean} for {sent[walker]}")
                steps += 1
                sent[walker] = steps + 0.25 * walker
                road.send({walker: np.full(64, sent[walker])})
            bell.ring()
        road.hosts[0].end(0)

    thread = threading.Thread(target=explore)
    thread.start()
    while thread.is_alive():
        bell.wait_for(0.1)
        who = road.exchange.ready()
        if len(who):
            batch = np.asarray(road.exchange.gather(who))
            if not (batch == batch[:, :1]).all():
                errors.append(f"torn sample {batch}")
            mean = Batch.stacked(2 * batch[:, :5])
            trusted = np.ones(len(who), bool)
            road.exchange.answer(who, Feedbacks(mean, mean, np.zeros(len(who)), trusted, 0))
            back.ring()
    thread.join()
    bell.close()
    back.close()
    assert not errors
