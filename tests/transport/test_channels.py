"""One suite over every channel: messages arrive whole, once and in order, and nobody blocks."""

from __future__ import annotations

import os
import pickle
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pal.errors import ChannelClosedError
from pal.transport.channel import Channel, InprocChannel, SocketChannel

Pair = tuple[Channel, Channel]


def sockets() -> Pair:
    here, there = SocketChannel.pair()
    return here, SocketChannel(there)


def memory() -> Pair:
    """Both send large messages through shared memory."""
    here, there = SocketChannel.pair(beside=True)
    return here, SocketChannel(there, beside=True)


@pytest.fixture(params=[sockets, memory, InprocChannel.pair])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made: Pair = request.param()
    yield made
    for end in made:
        end.close()


def take(channel: Channel, count: int = 1, sender: Channel | None = None) -> list[Any]:
    """Receive so many messages, waiting for each; a sender passes on what waits meanwhile."""
    found: list[Any] = []
    while len(found) < count:
        message = channel.receive()
        if message is None and sender is not None:
            sender.wait(0.0)
        elif message is None:
            channel.wait(10.0)
        else:
            found.append(message)
    return found


@dataclass(frozen=True)
class Letter:
    text: str
    arrays: dict[str, Any]


def test_messages_arrive_in_order(pair: Pair) -> None:
    here, there = pair
    for number in range(500):
        here.send(number)
    assert take(there, 500, sender=here) == list(range(500))
    assert there.receive() is None


def test_both_directions_at_once(pair: Pair) -> None:
    here, there = pair
    here.send("there")
    there.send("here")
    assert take(here) == ["here"]
    assert take(there) == ["there"]


def test_nested_arrays_arrive_exactly(pair: Pair) -> None:
    here, there = pair
    arrays = {
        "floats": np.random.default_rng(0).normal(size=(50, 3)),
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "strided": np.arange(20)[::3],
        "empty": np.empty((0, 3)),
        "scalar": np.array(2.5),
        "words": np.array(["H", "He"]),
        "nan": np.array([np.nan, np.inf, -0.0]),
        "swapped": np.arange(3, dtype=">f8"),
    }
    here.send(Letter("many", {"nested": [arrays, (arrays,)]}))
    (letter,) = take(there)
    for found in (letter.arrays["nested"][0], letter.arrays["nested"][1][0]):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(),
            st.dictionaries(st.text(max_size=3), st.integers()),
            hnp.arrays(st.sampled_from(["f8", "i4", "?"]), hnp.array_shapes(min_side=0)),
            st.just([]),
            st.just(b""),
            st.lists(hnp.arrays("u1", st.integers(0, 5)), max_size=4),
        ),
        max_size=8,
    )
)
@pytest.mark.parametrize("make", [sockets, InprocChannel.pair])
def test_whatever_can_be_pickled_arrives(make: Callable[[], Pair], messages: list[Any]) -> None:
    here, there = make()
    for message in messages:
        here.send((message,))
    for message in messages:
        ((found,),) = take(there)
        assert pickle.dumps(found) == pickle.dumps(pickle.loads(pickle.dumps(message)))
    here.close()
    there.close()


def test_arrays_that_arrive_are_writable_and_the_receiver_s_own(pair: Pair) -> None:
    here, there = pair
    sent = np.zeros(5)
    here.send(sent)
    (found,) = take(there)
    found += 1
    np.testing.assert_array_equal(sent, np.zeros(5))


def test_a_sender_may_change_its_arrays_at_once(pair: Pair) -> None:
    """Also those that the other end has not taken yet."""
    here, there = pair
    array = np.zeros(1 << 20)
    for value in range(4):
        array[:] = value
        here.send(array)
    for value in range(4):
        (found,) = take(there, sender=here)
        assert found.min() == found.max() == value


def test_a_slow_reader_of_a_large_message_does_not_block_the_sender(pair: Pair) -> None:
    """50 MB: what is not taken waits, and says how much it is."""
    here, there = pair
    large = np.arange(50 << 17, dtype=np.float64)
    here.send(large)
    here.send("after it")
    if isinstance(here, SocketChannel) and not here.beside:
        assert 40 << 20 < here.backlog <= (50 << 20) + 1000
    else:
        assert here.backlog == 0
    (found,) = take(there, sender=here)
    np.testing.assert_array_equal(found, large)
    assert take(there, sender=here) == ["after it"]
    assert here.backlog == 0


def test_flush_blocks_until_all_is_taken(pair: Pair) -> None:
    here, there = pair
    found: list[Any] = []
    here.send(np.ones(1 << 20))
    reader = threading.Thread(target=lambda: found.extend(take(there)))
    reader.start()
    here.flush()
    assert here.backlog == 0
    reader.join()
    assert found[0].sum() == 1 << 20


def test_nothing_there_is_none_and_waiting_for_it_ends(pair: Pair) -> None:
    here, _ = pair
    assert here.receive() is None
    here.wait(0.0)
    here.wait(0.01)


def test_the_last_message_is_received_before_the_hang_up(pair: Pair) -> None:
    here, there = pair
    here.send("first")
    here.send("last")
    here.close()
    assert take(there, 2) == ["first", "last"]
    for _ in range(2):
        with pytest.raises(ChannelClosedError):
            take(there)


def test_sending_to_who_hung_up_is_an_error(pair: Pair) -> None:
    here, there = pair
    there.close()
    with pytest.raises(ChannelClosedError):
        here.send("nobody listens")
    with pytest.raises(ChannelClosedError):
        take(here)


def test_a_waiter_is_woken_by_a_hang_up(pair: Pair) -> None:
    here, there = pair
    there.close()
    here.wait()
    with pytest.raises(ChannelClosedError):
        here.receive()


def test_large_and_small_in_turn_through_memory_leave_no_descriptor() -> None:
    """More of them than the socket takes at once: what waits keeps its memory, in order."""
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    here, there = memory()
    for number in range(6):
        here.send({"large": np.full(1 << 18, float(number)), "empty": np.empty((0, 3))})
        here.send(np.full(10_000, number))
    here.send(np.ones(1 << 18))
    found = take(there, 12, sender=here)
    for number in range(6):
        large, small = found[2 * number], found[2 * number + 1]
        assert large["large"].flags.writeable
        assert large["large"].flags.aligned
        assert large["large"].min() == large["large"].max() == small[0] == number
        assert large["empty"].shape == (0, 3)
    there.close()
    with pytest.raises(ChannelClosedError):
        here.send(np.ones(1 << 18))
    here.close()
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


# What only a socket can do ---------------------------------------------------------------------


@pytest.fixture
def raw() -> Iterator[tuple[Any, SocketChannel]]:
    """A bare socket, and the channel at its other end."""
    channel, sock = SocketChannel.pair()
    yield sock, channel
    sock.close()
    channel.close()


def frame(message: Any) -> bytes:
    """A message as it goes over the wire."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [bytes(buffer.raw()) for buffer in buffers]
    sizes = b"".join(struct.pack("<Q", len(part)) for part in parts)
    return struct.pack("<QI", len(head), len(parts)) + sizes + head + b"".join(parts)


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_a_message_that_comes_in_pieces_is_received_once_it_is_whole(
    raw: tuple[Any, SocketChannel], step: int
) -> None:
    sock, channel = raw
    message = {"a": np.arange(40.0), "none": np.empty(0), "text": "words"}
    wire = frame(message) + frame("next")
    found = []
    for start in range(0, len(wire), step):
        sock.sendall(wire[start : start + step])
        while (item := channel.receive()) is not None:
            found.append(item)
    assert found[1] == "next"
    np.testing.assert_array_equal(found[0]["a"], message["a"])
    assert found[0]["none"].size == 0


def test_a_sender_that_dies_within_a_message_leaves_no_half_of_it(
    raw: tuple[Any, SocketChannel],
) -> None:
    sock, channel = raw
    wire = frame(np.arange(1000.0))
    sock.sendall(frame("whole") + wire[:-1])
    sock.close()
    assert take(channel) == ["whole"]
    with pytest.raises(ChannelClosedError):
        take(channel)


def test_two_that_send_much_to_each_other_do_not_block() -> None:
    here, there = sockets()
    for end in (here, there):
        end.send(np.ones(1 << 20))
        end.send("done")
    found: dict[str, list[Any]] = {"here": [], "there": []}
    while min(map(len, found.values())) < 2:
        for name, end in (("here", here), ("there", there)):
            end.wait(0.0)
            if (message := end.receive()) is not None:
                found[name].append(message)
    assert found["here"][1] == found["there"][1] == "done"
    here.close()
    there.close()


@pytest.mark.parametrize("beside", [False, True])
def test_a_child_process_gets_it_all(beside: bool) -> None:
    here, there = SocketChannel.pair(beside)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            here.close()
            inherited = SocketChannel(there)
            (array,) = take(inherited)
            inherited.send(float(array.sum()))
            inherited.flush()
            code = 0
        finally:
            os._exit(code)
    there.close()
    here.send(np.ones(1 << 20))
    while (answer := here.receive()) is None:
        here.wait(10.0)
    assert answer == 1 << 20
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    here.close()
