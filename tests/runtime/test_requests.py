"""Requests and answers as files: in order, whole, from any hand, and none lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pal.errors import LedgerDiskError
from pal.runtime.requests import Answer, Request, Requests, Unreadable, author


@pytest.fixture
def box(tmp_path: Path) -> Requests:
    return Requests(tmp_path / "requests")


def test_requests_are_read_in_the_order_they_were_left(box: Requests) -> None:
    left = [box.leave("drop", {"samples": [number]}) for number in range(20)]
    assert box.news() == left
    assert {request.by for request in left} == {author()}


def test_an_answer_is_read_once_and_the_request_is_gone(box: Requests, tmp_path: Path) -> None:
    request = box.leave("label", {"sample": 3}, {"file": np.arange(3.0)})
    arrays = box.arrays(request)
    assert isinstance(arrays, dict)
    np.testing.assert_array_equal(arrays["file"], np.arange(3.0))
    box.finish(request, Answer(False, "no such sample", 4))
    assert box.news() == []
    assert box.answer_to(request, 1.0) == Answer(False, "no such sample", 4)
    assert box.answer_to(request, 0.0) is None
    assert not list((tmp_path / "requests").iterdir())


def test_a_bare_array_stays_bare(box: Requests) -> None:
    arrays = box.arrays(box.leave("label", {}, np.array([1.0, 2.0])))
    np.testing.assert_array_equal(np.asarray(arrays), [1.0, 2.0])
    assert box.arrays(box.leave("drop", {})) is None


def test_a_request_can_be_taken_back_until_it_is_carried_out(box: Requests) -> None:
    request = box.leave("label", {}, np.zeros(2))
    assert box.withdraw(request)
    assert box.news() == []
    assert not box.withdraw(request)


def test_what_is_no_request_is_told_as_such(box: Requests, tmp_path: Path) -> None:
    request = box.leave("drop", {})
    (tmp_path / "requests" / "1.json").write_text("{")
    (tmp_path / "requests" / "2.json").write_text('{"deed": "drop", "who": 1}')
    (tmp_path / "requests" / "3.json").write_text("[]")
    good, *bad = box.news()
    assert good == request
    assert [item.id for item in bad] == ["1", "2", "3"]
    assert all(isinstance(item, Unreadable) for item in bad)
    assert isinstance(bad[1], Unreadable)
    assert "who" in bad[1].reason


def test_a_stop_by_hand_is_a_request(box: Requests, tmp_path: Path) -> None:
    box.leave("drop", {})
    (tmp_path / "requests" / "0.json").write_text(json.dumps({"stop": "lunch", "pid": 7}))
    assert box.news()[0] == Request("0", "stop", {"reason": "lunch"}, pid=7)


def test_opening_forgets_answers_and_arrays_of_nobody(box: Requests, tmp_path: Path) -> None:
    kept = box.leave("label", {}, np.zeros(2))
    done = box.leave("label", {}, np.zeros(2))
    box.finish(done, Answer(True, ""))
    (tmp_path / "requests" / "9.npz").touch()
    box.open()
    assert {path.name for path in (tmp_path / "requests").iterdir()} == {
        f"{kept.id}.json",
        f"{kept.id}.npz",
    }


def test_a_look_tells_whether_something_has_come(box: Requests) -> None:
    assert not box.stirred()
    box.leave("drop", {})
    assert box.stirred()
    assert not box.stirred()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LedgerDiskError, match="no request can be left"):
        Requests(tmp_path / "requests").leave("drop", {})
    tmp_path.chmod(0o700)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "requests").touch()
    with pytest.raises(LedgerDiskError, match="no request can be left"):
        Requests(tmp_path / "requests").leave("drop", {})
