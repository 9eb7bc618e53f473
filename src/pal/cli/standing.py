"""Where a campaign stands, read from its run directory only: the runner notices nothing."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.console import Console
from rich.text import Text

from pal.ledger import changes
from pal.ledger.directory import RunDirectory
from pal.ledger.ledger import Ledger
from pal.monitor.text import duration, figure, finite, plural, shown
from pal.runtime.requests import Request, Requests

_LOOK = 0.5
"""Seconds for which the ledger is searched for damage."""
_FAILURES = 5
"""The newest failures that are told; the ledger has them all."""


def standing(directory: RunDirectory) -> dict[str, Any]:
    """Return plain data about a campaign.

    Raises:
        LedgerError: there is none in this directory, or its ledger is damaged.
    """
    holder = directory.holder()
    job = _job(directory)
    if job is not None and not directory.ledger.exists():
        return {"name": "", "directory": str(directory.path), "running": False, "job": job}
    with Ledger.open_readonly(directory.path) as ledger:
        ledger.check(_LOOK)
        metric = ledger.last_metric()
        sessions = ledger.sessions()
        failures = ledger.failures()
        by_hand = _by_hand(changes.standing(ledger))
        counts = {state.value: count for state, count in ledger.counts().items()}
    last = sessions[-1] if sessions else None
    # The file is newer than the ledger by up to a second, and of no use after a crash.
    snapshot = _newest(directory) if holder is not None else None
    if snapshot is None and metric is not None:
        snapshot = dict(metric.values)
    data = {
        "name": json.loads(last.settings).get("name", "") if last else "",
        "directory": str(directory.path),
        "running": holder is not None,
        "holder": holder,
        "job": job,
        "sessions": len(sessions),
        "ended": last.reason if last and last.end is not None else None,
        "counts": counts,
        "snapshot": snapshot,
        "by_hand": by_hand,
        "asked": [
            {"deed": item.deed, "by": item.by, "at": item.at}
            for item in Requests(directory.requests).news()
            if isinstance(item, Request)
        ],
        "failures": len(failures),
        "last_failures": [
            {"time": entry.time, "text": str(entry.failure).split("\n", 1)[0]}
            for entry in failures[-_FAILURES:]
        ],
    }
    plain: dict[str, Any] = finite(data)
    return plain


def _by_hand(held: changes.Standing) -> list[dict[str, Any]]:
    """Return what operators changed that still holds."""
    told = [
        {"what": f"{key} = {shown(new)}", "was": was, "by": held.by[key].by, "at": held.by[key].at}
        for key, (was, new) in held.settings.items()
    ]
    paused = [(kernel, held.by[kernel]) for kernel in sorted(held.paused)]
    return told + [{"what": f"{k} paused", "by": c.by, "at": c.at} for k, c in paused]


def _job(directory: RunDirectory) -> dict[str, Any] | None:
    """Return the newest batch job of the campaign, and what its queue says of it."""
    from pal.batch import jobs, queue
    from pal.batch.systems import SYSTEMS
    from pal.errors import BatchError

    found = jobs.newest(directory)
    if found is None:
        return None
    system = SYSTEMS[found.system]
    try:
        state = queue.state(system, found.number)
    except BatchError:
        state = "unknown"
    return {
        "number": found.number,
        "system": system.title,
        "state": state,
        "script": found.script,
        "output": str(found.log),
    }


def _newest(directory: RunDirectory) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(directory.status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def describe(found: dict[str, Any], console: Console) -> None:
    """Print the standing for people."""
    console.print(
        Text.assemble((found["name"] or "campaign", "bold"), f" in {found['directory']}")
    )
    for label, text in _lines(found):
        console.print(Text.assemble((f"  {label:<10}", "dim"), text), soft_wrap=True)
    for failure in found.get("last_failures", ()):
        line = f"  {duration(failure['time'])}  {failure['text']}"
        console.print(Text(line, style="red"), soft_wrap=True)


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is told, as (heading, text)."""
    job = found["job"]
    if "counts" not in found:
        return [("State", "not begun"), ("Job", _queued(job))]
    counts, snapshot = found["counts"], found["snapshot"] or {}
    lines = [("State", _state(found))]
    if job is not None:
        lines.append(("Job", _queued(job)))
    if snapshot:
        lines.append(("Active", _active(found, snapshot)))
        lines.append(("Explored", _explored(snapshot)))
    lines.append(
        (
            "Labels",
            f"{counts['labelled']:,} done, {counts['running'] + counts['returned']:,} running, "
            f"{counts['queued']:,} waiting, {counts['failed']:,} failed, "
            f"{counts['quarantined']:,} quarantined, {counts['dropped']:,} dropped",
        )
    )
    if snapshot:
        lines.append(("Training", _training(snapshot)))
    if snapshot.get("restarts"):
        lines.append(("Restarts", plural(snapshot["restarts"], "worker")))
    lines += [("" if place else "By hand", line) for place, line in enumerate(_hands(found))]
    if found["asked"]:
        deeds = (f"{item['deed']} ({item['by']})" for item in found["asked"])
        lines.append(("Asked for", ", ".join(deeds)))
    if found["failures"]:
        lines.append(("Failures", f"{found['failures']:,} in all; the newest:"))
    return lines


def _hands(found: dict[str, Any]) -> list[str]:
    """Say who changed what: what was changed together on one line."""
    told: dict[tuple[str, float], list[str]] = {}
    for change in found["by_hand"]:
        told.setdefault((change["by"], change["at"]), []).append(change["what"])
    return [
        f"{', '.join(what)} ({by}, {duration(max(0.0, time.time() - at))} ago)"
        for (by, at), what in told.items()
    ]


def _state(found: dict[str, Any]) -> str:
    if found["running"]:
        holder = found["holder"]
        since = duration(max(0.0, time.time() - holder.get("start", time.time())))
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        return f"running for {since} ({who}), {(found['snapshot'] or {}).get('phase', 'starting')}"
    if found["ended"] is None:
        return "not running; the last session was cut off, `pal run` goes on where it stood"
    return f"not running; ended: {found['ended']}"


def _queued(job: dict[str, Any]) -> str:
    state = {
        "unknown": "state unknown from this machine",
        "ended": "has ended",
    }.get(job["state"], f"is {job['state']}")
    return f"{job['number']} of {job['system']} {state}; output: {job['output']}"


def _active(found: dict[str, Any], snapshot: dict[str, Any]) -> str:
    return f"{duration(snapshot['time'])} in {plural(found['sessions'], 'session')}"


def _explored(snapshot: dict[str, Any]) -> str:
    rate = f", {figure(snapshot['rate'])} samples/s" if snapshot.get("rate") else ""
    rejected = f", {snapshot['rejected']:,} rejected" if snapshot.get("rejected") else ""
    samples, uncertain = plural(snapshot["samples"], "sample"), snapshot["uncertain"]
    return f"{samples}, {uncertain:,} uncertain{rejected}{rate}"


def _training(snapshot: dict[str, Any]) -> str:
    parts = [plural(snapshot["epochs"], "epoch"), plural(snapshot["version"], "weight update")]
    if snapshot.get("loss") is not None:
        parts.append(f"loss {figure(snapshot['loss'])}")
    return ", ".join(parts)
