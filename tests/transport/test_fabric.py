"""Fabrics: one suite over every rank of a world in this process, and what faults do to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fabric_checks import (
    CHECKS,
    Mail,
    Steps,
    run,
    what_cannot_be_read_is_an_error_of_its_own,
)
from hypothesis import given
from hypothesis import strategies as st

from pal.errors import TransportError
from pal.transport.alone import Alone
from pal.transport.fabric import Control, Letter, Lost
from pal.transport.farewell import GRACE, Farewell
from pal.transport.frames import pack
from pal.transport.inproc import InprocFabric
from pal.transport.packets import PACKET, TURN, Inbound, Outbound


def drive(parts: list[Steps], limit: int = 100_000) -> None:
    """Let all ranks move in turn until each has finished."""
    for _ in range(limit):
        parts = [part for part in parts if next(part, parts) is None]
        if not parts:
            return
    pytest.fail("some rank does not come to an end")


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[Mail], Steps], size: int) -> None:
    fabrics = InprocFabric.world(size)
    mails = [Mail(fabric) for fabric in fabrics]
    drive([run(check, mail) for mail in mails])
    for fabric in fabrics:
        assert fabric.receive() == []
        assert not fabric.unfinished
        fabric.close()
    expected = int(check is what_cannot_be_read_is_an_error_of_its_own and size > 1)
    assert [len(mail.errors) for mail in mails] == [expected] * size


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance_of_an_agent_that_is_alone(check: Callable[[Mail], Steps]) -> None:
    fabric = Alone()
    drive([run(check, Mail(fabric))])
    assert fabric.pause == math.inf
    fabric.close()


def settle(*fabrics: InprocFabric) -> list[list[Letter | Lost]]:
    """Let these ranks move until nothing does; return what each has received."""
    news: list[list[Letter | Lost]] = [[] for _ in fabrics]
    for _ in range(200):
        for found, fabric in zip(news, fabrics, strict=True):
            found += fabric.receive()
    return news


# Faults ----------------------------------------------------------------------------------------


def test_a_lost_rank_is_told_once_to_each_after_its_last_words() -> None:
    one, two, three = InprocFabric.world(3)
    three.send(0, "last words")
    three.receive()
    one.lose(2, "killed by signal 9")
    expected = Lost(2, "killed by signal 9")
    assert settle(one, two) == [[Letter(2, "last words"), expected], [expected]]


def test_what_is_sent_to_the_lost_is_dropped() -> None:
    one, two = InprocFabric.world(2)
    one.send(1, np.zeros(10 << 20, np.uint8))
    one.lose(1)
    settle(one)
    assert one.backlog(1) == 0
    one.send(1, "nobody")
    assert one.backlog(1) == 0
    assert settle(one) == [[]]
    assert settle(two) == [[]]


def test_the_living_go_on_after_a_death() -> None:
    one, two, three = InprocFabric.world(3)
    two.lose(0)
    settle(two, three)
    two.send(2, "are you there?")
    three.send(1, "yes")
    assert settle(two, three) == [[Letter(2, "yes")], [Letter(1, "are you there?")]]
    assert settle(one) == [[]]


def test_an_expelled_rank_hears_the_last_message_and_is_heard_no_more() -> None:
    one, two = InprocFabric.world(2)
    one.send(1, np.zeros(10 << 20, np.uint8))
    one.receive()
    one.send(1, "never sent")
    one.expel(1, "go")
    assert one.backlog(1) == 0
    two.send(0, "why?")
    assert settle(one, two) == [[], [Letter(0, "go")]]
    assert (0, Control.EXPELLED) in two.controls
    one.send(1, "nothing")
    one.lose(1)
    assert settle(one) == [[]]


def test_expelling_oneself_is_an_error() -> None:
    (one,) = InprocFabric.world(1)
    with pytest.raises(TransportError, match="itself"):
        one.expel(0, "go")


def test_a_frozen_rank_holds_up_only_what_is_for_it() -> None:
    one, two, three = InprocFabric.world(3)
    one.freeze(1)
    one.send(1, np.zeros(10 << 20, np.uint8))
    one.send(2, "on")
    two.send(2, "not now")
    assert settle(one, two, three) == [[], [], [Letter(0, "on")]]
    assert 0 < one.backlog(1) < 10 << 20
    one.thaw(1)
    _, at_two, at_three = settle(one, two, three)
    assert len(at_two) == 1
    assert at_three == [Letter(1, "not now")]
    assert one.backlog(1) == 0


def test_a_partition_holds_up_letters_until_it_ends() -> None:
    one, two, three = InprocFabric.world(3)
    one.partition(0, 1)
    one.send(1, "there")
    two.send(0, "here")
    three.send(0, "still here")
    assert settle(one, two, three) == [[Letter(2, "still here")], [], []]
    one.join(0, 1)
    assert settle(one, two) == [[Letter(1, "here")], [Letter(0, "there")]]


def test_an_abort_ends_every_rank_with_its_code() -> None:
    one, two = InprocFabric.world(2)
    for act in (lambda: one.abort(7), two.receive):
        with pytest.raises(SystemExit) as caught:
            act()
        assert caught.value.code == 7


# Ending together -------------------------------------------------------------------------------


def farewells(
    fabrics: list[InprocFabric], times: list[float], lost: bool = False
) -> list[Control | None]:
    """Step all ranks at these times; return how each ends."""
    parts = [Farewell(fabric, 0.0, lost, patience=10.0) for fabric in fabrics]
    ends: list[Control | None] = [None for _ in fabrics]
    for now in times:
        for number, part in enumerate(parts):
            ends[number] = ends[number] or part.step(now)
    return ends


def test_all_end_together_once_everything_has_arrived() -> None:
    fabrics = InprocFabric.world(4)
    fabrics[1].send(2, np.zeros(10 << 20, np.uint8))
    assert farewells(fabrics[1:], [0.0] * 50) == [None] * 3
    assert farewells(fabrics, [0.0] * 50) == [Control.END] * 4


@pytest.mark.parametrize("dead", [0, 3])
def test_the_dead_are_not_waited_for(dead: int) -> None:
    fabrics = InprocFabric.world(4)
    fabrics[0].lose(dead)
    living = [one for one in fabrics if one.rank != dead]
    assert farewells(living, [0.0] * 50, lost=True) == [Control.SCATTER] * 3


def test_a_frozen_rank_that_was_expelled_makes_each_end_alone() -> None:
    fabrics = InprocFabric.world(3)
    fabrics[0].freeze(2)
    fabrics[0].expel(2, "go")
    assert farewells(fabrics[:2], [0.0] * 20) == [None, None]
    assert farewells(fabrics[:2], [0.0, *[GRACE] * 20]) == [Control.SCATTER] * 2


def test_an_expelled_rank_that_dies_in_time_is_not_waited_for() -> None:
    fabrics = InprocFabric.world(3)
    fabrics[0].expel(2, "go")
    fabrics[0].lose(2)
    assert farewells(fabrics[:2], [0.0] * 20, lost=True) == [Control.SCATTER] * 2


def test_what_others_sent_to_an_expelled_rank_keeps_nobody() -> None:
    fabrics = InprocFabric.world(3)
    fabrics[0].freeze(2)
    fabrics[1].send(2, np.zeros(10 << 20, np.uint8))
    fabrics[0].expel(2, "go")
    times = [*[0.0] * 10, *[GRACE] * 20]
    assert farewells(fabrics[:2], times, lost=True) == [Control.SCATTER] * 2


@pytest.mark.parametrize("frozen", [0, 2])
def test_who_never_comes_is_given_up_in_the_end(frozen: int) -> None:
    fabrics = InprocFabric.world(3)
    fabrics[0].freeze(frozen)
    others = [one for one in fabrics if one.rank != frozen]
    assert farewells(others, [0.0] * 20) == [None, None]
    assert farewells(others, [0.0, *[11.0] * 20, *[13.0] * 20]) == [Control.SCATTER] * 2


# Packets ---------------------------------------------------------------------------------------


def read(inbound: Inbound, packet: bytes) -> list[Any]:
    return [frame.message() for frame in inbound.feed(memoryview(packet))]


def test_many_small_messages_ride_in_one_packet() -> None:
    outbound = Outbound()
    for number in range(1000):
        outbound.put(pack(number), stream=number % 7)
    assert sorted(read(Inbound(), outbound.fill())) == list(range(1000))
    assert outbound.backlog == 0
    assert outbound.fill() == b""


def test_streams_take_turns_so_that_a_small_message_rides_with_the_next_packet() -> None:
    outbound, inbound = Outbound(), Inbound()
    for stream in ("weights", "more weights"):
        outbound.put(pack(np.zeros(100 << 20, np.uint8)), stream)
    assert read(inbound, outbound.fill()) == []
    outbound.put(pack("small"), "news")
    packet = outbound.fill()
    assert TURN < len(packet) <= PACKET
    assert read(inbound, packet) == ["small"]


def test_a_large_message_alone_fills_whole_packets() -> None:
    outbound = Outbound()
    outbound.put(pack(np.zeros(10 * PACKET, np.uint8)), 0)
    sizes = []
    while outbound.backlog:
        sizes.append(len(outbound.fill()))
    assert len(sizes) == 11
    assert set(sizes[:-1]) == {PACKET}


def test_nothing_is_copied_before_it_is_packed() -> None:
    array = np.zeros(1000)
    outbound = Outbound()
    outbound.put(pack(array), 0)
    array[:] = 1.0
    (found,) = read(Inbound(), outbound.fill())
    assert found.sum() == 1000


def test_after_a_clearing_the_half_of_a_message_that_is_gone_spoils_nothing() -> None:
    outbound, inbound = Outbound(), Inbound()
    outbound.put(pack(np.zeros(3 * PACKET, np.uint8)), 0)
    assert read(inbound, outbound.fill()) == []
    outbound.clear()
    assert outbound.backlog == 0
    outbound.put(pack("last"), 0)
    assert read(inbound, outbound.fill()) == ["last"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.one_of(
                st.none(), st.text(), st.sampled_from([0, 1, TURN - 40, TURN, PACKET, 3 * PACKET])
            ),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_each_stream_arrives_whole_and_in_order(plan: list[tuple[int, Any, bool]]) -> None:
    outbound, inbound = Outbound(), Inbound()
    sent: dict[int, list[Any]] = {}
    found: dict[int, list[Any]] = {}

    def pass_on() -> None:
        for stream, message in read(inbound, outbound.fill()):
            found.setdefault(stream, []).append(message)

    for stream, content, passes in plan:
        message = np.zeros(content, np.uint8) if isinstance(content, int) else content
        outbound.put(pack((stream, message)), stream)
        sent.setdefault(stream, []).append(message)
        if passes:
            pass_on()
    while outbound.backlog:
        pass_on()
    np.testing.assert_equal(found, sent)
