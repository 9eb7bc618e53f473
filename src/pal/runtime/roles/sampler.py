"""The initial sampler: makes the first samples of a campaign, in a process of its own."""

from __future__ import annotations

from pal.errors import ContractError
from pal.records import named
from pal.runtime.messages import Proposal
from pal.runtime.worker import Desktop


def run(desk: Desktop) -> None:
    """Call the settings' `initial.kernel`, send what it yields, and end.

    Raises:
        ContractError: it yields something that is no sample.
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
    count = len(samples)
    desk.channel.send(Proposal(samples, [-1] * count, [float("inf")] * count, 0))
    desk.channel.flush()
