"""Geometries from a file, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pal.errors import ContractError
from pal.kernels.atoms import starts
from pal.kernels.generators.parts.numbered import Numbered
from pal.records import Sample
from pal.roles import STOP, Context, Stop


class Frames(Numbered):
    """The frames of a file, replayed one by one.

    Walker k of w begins with frame k and takes every w-th, so that together they replay the whole
    file; the committee's feedback changes nothing. It serves as a walker (which of these frames
    are worth a label?), and as `initial.kernel` for the first labels.

    Options:
        start: file of the frames, of any format that ASE reads.
        every: take only every so manyth frame of the file.
        at_end: "repeat": begin again; "stop": the walker that had the last frame ends the
            campaign, the others begin again until then.
        count: frames taken for `initial.kernel`; 0: all, once.

    Example:
        [generator]
        kernel = "frames"
        options = { start = "trajectory.xyz", every = 10, at_end = "stop" }
    """

    def __init__(
        self,
        context: Context,
        *,
        start: Path | str,
        every: int = 1,
        at_end: Literal["repeat", "stop"] = "repeat",
        count: int = 0,
    ) -> None:
        if every < 1 or count < 0 or at_end not in ("repeat", "stop"):
            raise ContractError(
                "frames: expected every >= 1, count >= 0, and at_end = 'repeat' or 'stop'; got "
                f"every = {every}, count = {count}, at_end = {at_end!r}"
            )
        self._frames = starts(start, "frames")[::every]
        self._stops = at_end == "stop"
        # Whose turn the last frame is; it cannot be a walker's that does not exist.
        self._last = (len(self._frames) - 1) % context.count == context.index
        super().__init__(context, count or len(self._frames))

    def _make(self, number: int) -> Sample | Stop:
        if self._stops and self._last and number >= len(self._frames):
            return STOP
        return self._frames[number % len(self._frames)]
