"""What shards may propose never exceeds what the manager allows, and none of it is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pal.controller.grants import Grants


class Shards:
    """Exchanges that propose as they are granted, counted as they count."""

    def __init__(self, count: int) -> None:
        self.grants = Grants()
        self.granted = dict.fromkeys(range(count), 0)
        self.proposed = dict.fromkeys(range(count), 0)
        for shard in range(count):
            self.grants.welcome(shard)

    def divide(self) -> None:
        self.granted.update(self.grants.divide())

    def left(self, shard: int) -> int:
        return max(0, self.granted[shard] - self.proposed[shard])

    def propose(self, shard: int, wanted: int) -> int:
        count = min(wanted, self.left(shard))
        self.proposed[shard] += count
        self.grants.received(shard, count)
        return count


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(0, 30)), max_size=30),
)
def test_all_that_is_free_is_granted_and_no_more(
    count: int, story: list[tuple[int, int, int]]
) -> None:
    shards = Shards(count)
    proposed = 0
    for shard, wanted, more in story:
        proposed += shards.propose(shard % count, wanted)
        shards.grants.total += more
        shards.divide()
        assert sum(map(shards.left, range(count))) == shards.grants.total - proposed
        assert max(map(shards.left, range(count))) - min(map(shards.left, range(count))) <= 1


def test_one_shard_is_granted_everything() -> None:
    grants = Grants(total=10)
    grants.welcome(0)
    assert grants.divide() == {0: 10}
    grants.received(0, 4)
    assert grants.divide() == {}
    grants.total = 14
    assert grants.divide() == {0: 14}


def test_who_has_used_up_its_part_gets_from_the_others() -> None:
    shards = Shards(2)
    shards.grants.total = 10
    shards.divide()
    assert not shards.grants.uneven
    assert shards.propose(0, 100) == 5
    assert shards.grants.uneven
    shards.divide()
    assert (shards.left(0), shards.left(1)) == (3, 2)


def test_an_exchange_that_starts_again_counts_from_nothing() -> None:
    grants = Grants(total=10)
    grants.welcome(0)
    grants.divide()
    grants.received(0, 6)
    grants.welcome(0)
    assert grants.divide() == {0: 4}


def test_the_part_of_a_lost_shard_goes_to_the_others() -> None:
    shards = Shards(2)
    shards.grants.total = 10
    shards.divide()
    shards.propose(1, 2)
    shards.grants.lost(1)
    shards.divide()
    assert shards.granted[0] == 8
