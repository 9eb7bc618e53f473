"""From settings and ledger to the plain numbers the controller goes by."""

from __future__ import annotations

from pal.controller.rules import Restored as Past
from pal.controller.rules import Rules
from pal.ledger.restore import Restored
from pal.runtime.placement import Placement
from pal.settings import Settings


def rules_of(settings: Settings, placement: Placement, initial: int) -> Rules:
    """Return the controller's rules; `initial` counts the initial samples of the campaign."""
    stop = settings.stop
    wanted = settings.initial.labels
    return Rules(
        n_oracles=sum(len(job.oracles) for job in placement.jobs),
        outside=tuple(oracle for job in placement.of("broker") for oracle in job.oracles),
        nodes=tuple(job.node or 0 for job in placement.of("oracle")),
        trainers=tuple(job.members for job in placement.of("trainer")),
        oracle_deadline=settings.oracle.deadline,
        oracle_retries=settings.oracle.retries,
        backoff=settings.oracle.backoff,
        pause_after=settings.oracle.pause_after,
        probe_after=settings.oracle.probe_after,
        grace=settings.oracle.grace,
        queue_capacity=settings.queue.capacity,
        when_full=settings.queue.when_full,
        retrain_size=settings.training.retrain_size,
        window=settings.training.window,
        reinitialise_every=settings.model.reinitialise_every,
        serial=settings.mode == "serial",
        labelling=settings.oracle.enabled,
        training=settings.model.train,
        rerank=settings.selector.rerank,
        initial_labels=initial if wanted is None else min(wanted, initial),
        after=stop.after,
        labels=stop.labels,
        epochs=stop.epochs,
        samples=stop.samples,
        quiet=stop.quiet,
        failures=stop.failures,
        final_training=stop.final_training,
    )


def restored_of(found: Restored) -> Past:
    """Return what the controller goes on from."""
    return Past(
        queued=found.queued,
        labelled=found.labelled,
        samples=found.samples,
        uncertain=found.uncertain,
        epochs=found.epochs,
        elapsed=found.elapsed,
        failed=found.failed,
        quarantined=found.quarantined,
        dropped=found.dropped,
        proposed=found.proposed,
    )
