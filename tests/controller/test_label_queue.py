import pytest
from controller_play import candidate
from hypothesis import given
from hypothesis import strategies as st

from pal.controller.queue import Entry, LabelQueue
from pal.controller.rules import INITIAL


def anyone(avoid):
    return 0


def queue_of(*doubts, capacity=3, when_full="drop_certain"):
    queue = LabelQueue(capacity, when_full)
    victims = [queue.add(Entry(candidate(n, doubt))) for n, doubt in enumerate(doubts)]
    return queue, [victim.sample for victim in victims if victim]


def numbers(queue):
    return [entry.sample for entry in queue]


@pytest.mark.parametrize(
    ("when_full", "kept", "dropped"),
    [
        ("drop_new", [0, 1, 2], [3, 4]),
        ("drop_old", [2, 3, 4], [0, 1]),
        ("drop_certain", [0, 2, 3], [1, 4]),
    ],
)
def test_a_full_queue_drops_what_its_policy_says(when_full, kept, dropped):
    queue, victims = queue_of(5.0, 1.0, 3.0, 4.0, 2.0, when_full=when_full)
    assert numbers(queue) == kept
    assert victims == dropped


def test_of_equally_certain_samples_the_new_one_gives_way():
    assert queue_of(1.0, 1.0, 1.0, 1.0)[1] == [3]


def test_samples_leave_in_the_order_again_initial_arrival():
    queue = LabelQueue(5, "drop_new")
    queue.add(Entry(candidate(1)))
    queue.add(Entry(candidate(2, walker=INITIAL)))
    queue.restore(Entry(candidate(3), attempts=1))
    assert [queue.take(anyone)[0].sample for _ in range(3)] == [3, 2, 1]
    assert queue.take(anyone) is None


def test_initial_samples_and_retries_are_never_dropped():
    queue = LabelQueue(1, "drop_old")
    for number in range(3):
        assert queue.add(Entry(candidate(number, walker=INITIAL))) is None
    queue.restore(Entry(candidate(3), attempts=1))
    assert queue.add(Entry(candidate(4))).sample == 4
    assert sorted(numbers(queue)) == [0, 1, 2, 3]


def test_an_initial_sample_that_comes_late_pushes_nobody_out():
    queue, _ = queue_of(1.0, 2.0, 3.0)
    assert queue.add(Entry(candidate(3, 9.0, walker=INITIAL))) is None
    assert numbers(queue) == [3, 0, 1, 2]


def test_the_record_of_who_is_certain_does_not_outgrow_the_queue():
    queue = LabelQueue(3, "drop_certain")
    for number in range(1000):
        queue.add(Entry(candidate(number)))
        queue.take(anyone)
    assert len(queue._certain) <= 20


def test_a_sample_that_only_bad_oracles_could_take_is_passed_over():
    queue = LabelQueue(5, "drop_new")
    queue.restore(Entry(candidate(0), attempts=1, avoid=frozenset({7})))
    queue.add(Entry(candidate(1)))
    entry, oracle = queue.take(lambda avoid: None if 7 in avoid else 7)
    assert (entry.sample, oracle) == (1, 7)
    assert queue.take(lambda avoid: None if 7 in avoid else 7) is None


def test_ranking_orders_drops_and_leaves_new_arrivals_alone():
    queue, _ = queue_of(1.0, 2.0, 3.0, capacity=9)
    asked = queue.rankable
    queue.add(Entry(candidate(3)))
    queue.take(anyone)
    left_out = queue.rank(asked, (2, 0, 99, 2), {2: 0.5})
    assert [entry.sample for entry in left_out] == [1]
    assert numbers(queue) == [2, 3]
    assert next(iter(queue)).candidate.uncertainty == 0.5
    assert queue.counted == len(queue) == 2


def test_the_new_uncertainty_decides_who_gives_way():
    queue, _ = queue_of(1.0, 2.0, 3.0)
    queue.rank((0, 1, 2), (0, 1, 2), {0: 9.0, 1: 8.0, 2: 0.1})
    assert queue.add(Entry(candidate(5, 1.0))).sample == 2


class Plain:
    """The queue as one would write it without thinking of speed."""

    def __init__(self, capacity, when_full):
        self.capacity, self.when_full, self.entries = capacity, when_full, []

    def add(self, sample, doubt):
        self.entries.append((sample, doubt))
        if len(self.entries) <= self.capacity:
            return None
        place = {
            "drop_new": len(self.entries) - 1,
            "drop_old": 0,
            # Of equals the newest gives way: look from the end.
            "drop_certain": min(
                reversed(range(len(self.entries))), key=lambda k: self.entries[k][1]
            ),
        }[self.when_full]
        return self.entries.pop(place)[0]


@given(
    st.sampled_from(["drop_new", "drop_old", "drop_certain"]),
    st.integers(1, 5),
    st.lists(st.one_of(st.just("take"), st.just("rank"), st.integers(0, 5)), max_size=80),
)
def test_the_queue_agrees_with_a_plain_one(when_full, capacity, actions):
    fast, plain = LabelQueue(capacity, when_full), Plain(capacity, when_full)
    for sample, action in enumerate(actions):
        if action == "take":
            taken = fast.take(anyone)
            expected = plain.entries.pop(0)[0] if plain.entries else None
            assert (taken[0].sample if taken else None) == expected
        elif action == "rank":
            plain.entries.sort(key=lambda entry: (-entry[1], entry[0]))
            order = tuple(number for number, _ in plain.entries)
            assert fast.rank(fast.rankable, order, {}) == []
        else:
            victim = fast.add(Entry(candidate(sample, float(action))))
            assert (victim.sample if victim else None) == plain.add(sample, float(action))
        assert numbers(fast) == [number for number, _ in plain.entries]
        assert len(fast) == len(plain.entries)
