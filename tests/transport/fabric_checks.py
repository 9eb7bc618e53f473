"""What every fabric must do, as steps that each rank takes; `yield` lets the others move.

The same checks run over ranks in one process, in turn, and as an MPI program, side by side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pal.errors import TransportError
from pal.transport.fabric import LONGEST_PAUSE, Fabric, Letter

Steps = Generator[None, None, None]


class Mail:
    """A fabric that keeps apart the letters of different checks, as ranks are never in step."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.check = ""
        self.letters: deque[Letter] = deque()
        self.errors: list[str] = []
        self._early: dict[str, deque[Letter]] = {}

    def start(self, check: str) -> None:
        self.check = check
        self.letters = self._early.setdefault(check, deque())

    def send(self, rank: int, message: Any, stream: Hashable = 0) -> None:
        self.fabric.send(rank, (self.check, message), stream)

    def look(self) -> None:
        try:
            news = self.fabric.receive()
        except TransportError as error:
            self.errors.append(str(error))
            return
        for item in news:
            assert isinstance(item, Letter), item
            check, message = item.message
            self._early.setdefault(check, deque()).append(Letter(item.source, message))

    def take(self, count: int) -> Generator[None, None, list[Letter]]:
        while len(self.letters) < count:
            self.look()
            yield
        return [self.letters.popleft() for _ in range(count)]

    def together(self) -> Steps:
        """Wait until every rank has come this far."""
        check = self.check
        self.start(f"end of {check}")
        for rank in range(self.fabric.size):
            self.send(rank, None, "together")
        yield from self.take(self.fabric.size)
        assert not self.letters
        self.start(check)
        assert not self.letters, "more has arrived than was sent"


def everyone(mail: Mail) -> range:
    return range(mail.fabric.size)


def right(mail: Mail) -> int:
    return (mail.fabric.rank + 1) % mail.fabric.size


def messages_of_a_stream_arrive_in_order(mail: Mail) -> Steps:
    for number in range(200):
        for rank in everyone(mail):
            for stream in ("a", "b", ("c", 1)):
                mail.send(rank, (stream, number), stream)
    letters = yield from mail.take(600 * mail.fabric.size)
    for rank in everyone(mail):
        for stream in ("a", "b", ("c", 1)):
            numbers = [
                letter.message[1]
                for letter in letters
                if (letter.source, letter.message[0]) == (rank, stream)
            ]
            assert numbers == list(range(200))


def a_small_message_overtakes_a_large_one(mail: Mail) -> Steps:
    fabric = mail.fabric
    last = fabric.size - 1
    if fabric.rank == 0:
        mail.send(last, np.arange(4 << 20, dtype=np.float64), "weights")
        mail.send(last, "behind it", "weights")
        mail.send(last, "small", "news")
    if fabric.rank == last:
        letters = yield from mail.take(3)
        kinds = [getattr(letter.message, "size", letter.message) for letter in letters]
        if fabric.size > 1:
            assert kinds == ["small", 4 << 20, "behind it"]


def arrays() -> dict[str, Any]:
    return {
        "floats": np.random.default_rng(0).normal(size=(50, 3)),
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "strided": np.arange(20)[::3],
        "transposed": np.arange(600_000.0).reshape(300, 2000).T[::2],
        "empty": np.empty((0, 3)),
        "scalar": np.array(2.5),
        "bytes": np.arange(200_003, dtype=np.uint8),
        "half": np.arange(7, dtype=np.float16),
        "complex": np.full((2, 2), 1 + 2j),
        "flags": np.array([True, False]),
        "words": np.array(["H", "He"]),
        "nan": np.array([np.nan, np.inf, -0.0]),
        "swapped": np.arange(3, dtype=">f8"),
        "record": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        "large": np.arange(700_001, dtype=np.float32),
    }


def arrays_arrive_exactly(mail: Mail) -> Steps:
    mail.send(right(mail), {"nested": [arrays(), (arrays(),)]})
    (letter,) = yield from mail.take(1)
    for found in (letter.message["nested"][0], letter.message["nested"][1][0]):
        for name, array in arrays().items():
            assert found[name].dtype == array.dtype
            assert found[name].flags.aligned, name
            assert found[name].flags.writeable, name
            np.testing.assert_array_equal(found[name], array)


@dataclass(frozen=True)
class Order:
    text: str
    numbers: frozenset[int]


def whatever_can_be_pickled_arrives(mail: Mail) -> Steps:
    sent = [
        None,
        "",
        b"",
        [],
        Order("label", frozenset({1, 2})),
        {"a": (1, [2.5])},
        b"x" * 3_000_001,
    ]
    for message in sent:
        mail.send(right(mail), message)
    letters = yield from mail.take(len(sent))
    assert [letter.message for letter in letters] == sent


def many_small_messages(mail: Mail) -> Steps:
    for number in range(5000):
        mail.send(right(mail), {"task": number, "positions": np.full(3, number)})
    letters = yield from mail.take(5000)
    assert [letter.message["task"] for letter in letters] == list(range(5000))
    assert letters[-1].message["positions"].tolist() == [4999] * 3


def many_small_arrays_in_one_message(mail: Mail) -> Steps:
    mail.send(right(mail), [np.full(2, number) for number in range(20_000)])
    (letter,) = yield from mail.take(1)
    assert all((array == number).all() for number, array in enumerate(letter.message))


def streams_come_and_go(mail: Mail) -> Steps:
    for number in range(2000):
        mail.send(right(mail), number, stream=("task", number))
        if number % 100 == 0:
            mail.look()
            yield
    letters = yield from mail.take(2000)
    assert sorted(letter.message for letter in letters) == list(range(2000))


def all_send_much_to_all(mail: Mail) -> Steps:
    for rank in everyone(mail):
        mail.send(rank, np.full(400_000, float(mail.fabric.rank)))
    letters = yield from mail.take(mail.fabric.size)
    for letter in letters:
        assert letter.message.min() == letter.message.max() == letter.source


def to_oneself_goes_the_object_itself(mail: Mail) -> Steps:
    array = np.zeros(3)
    mail.send(mail.fabric.rank, array)
    mail.send(mail.fabric.rank, "second")
    letters = yield from mail.take(2)
    assert letters[0].message is array
    assert [letter.source for letter in letters] == [mail.fabric.rank] * 2
    assert letters[1].message == "second"


def the_backlog_falls_to_zero(mail: Mail) -> Steps:
    mail.send(right(mail), np.zeros(20 << 20, np.uint8))
    if mail.fabric.size > 1:
        assert 20 << 20 < mail.fabric.backlog(right(mail)) < (20 << 20) + 1000
    yield from mail.take(1)
    while mail.fabric.backlog(right(mail)):
        mail.look()
        yield


def the_pause_follows_the_silence(mail: Mail) -> Steps:
    """While nobody says anything; then a word ends it at once."""
    fabric = mail.fabric
    mail.look()
    pauses = [fabric.pause]
    while pauses[-1] < LONGEST_PAUSE:
        mail.look()
        pauses.append(fabric.pause)
        assert len(pauses) < 1000
        yield
    if fabric.size > 1:
        assert pauses[0] < LONGEST_PAUSE
    mail.send(right(mail), "word")
    assert fabric.pause == 0.0
    yield from mail.take(1)


class Riddle:
    """Can be written, but not read."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return int, ("no number",)


def what_cannot_be_read_is_an_error_of_its_own(mail: Mail) -> Steps:
    fabric = mail.fabric
    if fabric.size == 1:
        return
    mail.send(right(mail), "before")
    mail.send(right(mail), Riddle())
    mail.send(right(mail), "after")
    letters = yield from mail.take(2)
    assert [letter.message for letter in letters] == ["before", "after"]
    (error,) = mail.errors
    assert f"rank {(fabric.rank - 1) % fabric.size} cannot be read" in error


def there_is_no_other_rank(mail: Mail) -> Steps:
    for rank in (-1, mail.fabric.size):
        with pytest.raises(TransportError, match="there is no rank"):
            mail.send(rank, "nobody")
    yield


CHECKS: list[Callable[[Mail], Steps]] = [
    messages_of_a_stream_arrive_in_order,
    a_small_message_overtakes_a_large_one,
    arrays_arrive_exactly,
    whatever_can_be_pickled_arrives,
    many_small_messages,
    many_small_arrays_in_one_message,
    streams_come_and_go,
    all_send_much_to_all,
    to_oneself_goes_the_object_itself,
    the_backlog_falls_to_zero,
    the_pause_follows_the_silence,
    what_cannot_be_read_is_an_error_of_its_own,
    there_is_no_other_rank,
]


def run(check: Callable[[Mail], Steps], mail: Mail) -> Steps:
    """One rank's part of a check; afterwards nothing is left on the road."""
    mail.start(check.__name__)
    yield from check(mail)
    yield from mail.together()
