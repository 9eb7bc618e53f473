"""The initial sampler: makes the first samples of a campaign, in a process of its own."""

from __future__ import annotations

from pal.errors import ContractError, Failure
from pal.exchange.screening import UNPHYSICAL, Screen
from pal.records import Batch, Sample, named
from pal.runtime.messages import Failed, Proposal
from pal.runtime.worker import Desktop

_MOST = 5
"""Unphysical samples that are told one by one."""


def run(desk: Desktop) -> None:
    """Call the settings' `initial.kernel`, send what it yields, and end.

    Raises:
        ContractError: it yields something that is no sample, or nothing but unphysical ones.
    """
    spec = desk.job.kernels["initial"]
    samples = list(spec.build(desk.context("initial", 0, 1)))
    for index, sample in enumerate(samples):
        dtypes = [array.dtype.kind for array in named(sample).values()]
        if "O" in dtypes or not dtypes:
            raise ContractError(
                f"initial.kernel = {spec.target}: sample {index} is a "
                f"{type(sample).__name__}; expected a numpy array or a mapping of names to arrays"
            )
    samples = _physical(desk, samples)
    count = len(samples)
    desk.channel.send(Proposal(samples, [-1] * count, [float("inf")] * count, 0))
    desk.channel.flush()


def _physical(desk: Desktop, samples: list[Sample]) -> list[Sample]:
    """Leave out samples that no oracle should cost, and say why.

    Raises:
        ContractError: none is left.
    """
    spec = desk.job.kernels.get("screen")
    if spec is None or not samples:
        return samples
    screen: Screen = spec.build(desk.context("screen", 0, 1))
    reasons = dict(screen.outside(Batch(samples)))
    for index, sample in enumerate(samples):
        overlap = "" if index in reasons else screen.overlap(sample)
        if overlap:
            reasons[index] = overlap
    if len(reasons) == len(samples):
        raise ContractError(
            f"all {len(samples)} initial samples are unphysical by selector.reject; of the first, "
            f"{reasons[0]}"
        )
    for index in sorted(reasons)[:_MOST]:
        text = f"initial sample {index} is left out: {reasons[index]} (selector.reject)"
        if len(reasons) > _MOST and index == sorted(reasons)[_MOST - 1]:
            text += f"; {len(reasons) - _MOST} more are left out likewise"
        desk.channel.send(Failed(Failure("initial", index, UNPHYSICAL, text, desk.job.where)))
    return [sample for index, sample in enumerate(samples) if index not in reasons]
