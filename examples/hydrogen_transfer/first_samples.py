"""What is labelled before the walkers start: fragments alone, and hydrogens on their way."""

from __future__ import annotations

from collections.abc import Iterator

from pal.kernels.generators.displacement import Displacement
from pal.kernels.generators.frames import Frames
from pal.kernels.generators.transfer import Transfer
from pal.records import Sample
from pal.roles import Context


def first_samples(
    context: Context, fragments: int, transfers: int, paths: int
) -> Iterator[Sample]:
    """Yield so many of each: of fragments, of random transfers, and of ways to the barriers.

    Barriers are measured from fragments, which the committee knows already and would never ask
    for again: in the data set from the start, they are not forgotten over the reactions.
    """
    yield from Displacement(
        context, start="fragments.xyz", scales=[0.02, 0.05, 0.08], count=fragments
    )
    yield from Transfer(
        context, start="reactions.xyz", atoms=[0, 1, 2], scales=[0.03], count=transfers
    )
    if paths:
        yield from Frames(context, start="paths.xyz", count=paths)
