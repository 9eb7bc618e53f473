"""What the campaigns found: tables and pictures of docs/examples/channel.md.

    python analyse.py run --direct run-direct --pareto run-pareto --pictures ../../docs/img

Every design that it names is calculated anew by CFD, on a mesh finer than that of the labels.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cfd import Flow, solve
from geometry import Array, channel, promoters
from matplotlib import pyplot as plt
from matplotlib.tri import Triangulation

from pal.ledger.export import read_labelled
from pal.ledger.schema import connect_readonly

REYNOLDS, PRANDTL = 200.0, 0.71
FINE = 0.035
EMPTY = np.log([24 / REYNOLDS, 140 / 17 / REYNOLDS / PRANDTL])
"""ln Cf and ln St of the channel without promoters."""
SHOWN = 5


@dataclass(frozen=True)
class Course:
    """The best criterion, relative to the empty channel, after so many CFD calls and seconds."""

    name: str
    calls: Array
    best: Array
    seconds: Array

    def reaches(self, value: float) -> tuple[float, float]:
        """Return calls and seconds until it is at least so good; infinite if never."""
        good = np.flatnonzero(self.best >= value)
        return (self.calls[good[0]], self.seconds[good[0]]) if good.size else (np.inf, np.inf)


def criterion(coefficients: Array) -> Array:
    """Return St / Cf^(1/3), divided by that of the empty channel; coefficients (..., 2)."""
    gain = coefficients - EMPTY
    return np.asarray(np.exp(gain[..., 1] - gain[..., 0] / 3))


@cache
def confirmed(design: tuple[float, ...]) -> Flow:
    """Return the flow of a design, on the fine mesh."""
    places = channel(promoters(np.array(design)))
    return solve(places, FINE, reynolds=REYNOLDS, prandtl=PRANDTL)


def coefficients(flow: Flow) -> Array:
    return np.log([flow.drag, flow.stanton])


def search(run: Path) -> dict[str, Any]:
    """Return what the swarm of a campaign wrote down."""
    (file,) = run.rglob("best.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def wall(run: Path) -> float:
    return float(json.loads((run / "summary.json").read_text())["wall"])


def labelled_course(run: Path) -> Course:
    """Return how the best label improved from label to label."""
    labels = read_labelled(run / "dataset.npz")
    db = connect_readonly(run / "ledger.sqlite")
    times = dict(db.execute("SELECT sample, time FROM labels"))
    (start,) = db.execute("SELECT MIN(start) FROM sessions").fetchone()
    db.close()
    values = criterion(np.array([item.label["coefficients"] for item in labels]))
    seconds = np.array([times[item.identity] - start for item in labels])
    return Course("learned", np.arange(1, len(values) + 1), np.maximum.accumulate(values), seconds)


def direct_course(run: Path) -> Course:
    """Return how the best design improved; each took as long as any other."""
    found = search(run)
    calls, losses = np.array(found["course"]).T
    calls = np.append(calls, found["evaluations"])
    best = np.exp(-np.append(losses, losses[-1]) - EMPTY[1] + EMPTY[0] / 3)
    return Course("direct", calls, best, calls * wall(run) / found["evaluations"])


def tell_best(name: str, run: Path) -> tuple[float, ...]:
    """Print the best designs as predicted and as they are; return the best as confirmed."""
    print(
        f"\n### {name}\n\n"
        "| predicted Cf | St | CFD Cf | St | Cf / empty | St / empty | criterion |"
    )
    print("|---|---|---|---|---|---|---|")
    designs = search(run)["designs"][:SHOWN]
    for each in designs:
        said = np.exp([each["objectives"][f"coefficients[{place}]"] for place in (0, 1)])
        true = coefficients(confirmed(tuple(each["parameters"])))
        row = [*said, *np.exp(true), *np.exp(true - EMPTY), criterion(true)]
        print("| " + " | ".join(f"{value:.4g}" for value in row) + " |")
    ranked = sorted(designs, key=lambda d: -score(tuple(d["parameters"])))
    return tuple(ranked[0]["parameters"])


def score(design: tuple[float, ...]) -> float:
    return float(criterion(coefficients(confirmed(design))))


def tell_saving(learned: Course, direct: Course) -> None:
    """Print the CFD calls and the seconds until the same quality."""
    print("\n| criterion reached | direct: calls | s | learned: calls | s | calls saved |")
    print("|---|---|---|---|---|---|")
    top = direct.best[-1]
    for part in (0.96, 0.97, 0.98, 0.99, 1.0):
        (calls, seconds), (few, short) = direct.reaches(part * top), learned.reaches(part * top)
        print(
            f"| {part * top:.4f} ({part:.0%} of the direct swarm's best) | {calls:.0f} | "
            f"{seconds:.0f} | {few:.0f} | {short:.0f} | {calls / few:.1f} |"
        )


def draw_flow(path: Path, designs: dict[str, tuple[float, ...]]) -> None:
    """Draw speed and temperature in the channel of each design."""
    figure, axes = plt.subplots(2 * len(designs), 1, figsize=(7, 3.6 * len(designs)))
    for row, (name, design) in enumerate(designs.items()):
        flow = confirmed(design)
        speed = np.hypot(*flow.velocity)
        draw_field(axes[2 * row], flow, speed, f"{name}: speed / bulk velocity", "viridis")
        temperature = flow.temperature - flow.temperature.min()
        draw_field(axes[2 * row + 1], flow, temperature, "temperature above the inflow", "inferno")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_field(axes: Any, flow: Flow, values: Array, title: str, colours: str) -> None:
    corners = flow.mesh.corners
    triangles = np.arange(corners.shape[1]).reshape(-1, 3)
    drawn = axes.tripcolor(
        Triangulation(*corners, triangles),
        values[flow.mesh.triangles.T.reshape(-1)],
        shading="gouraud",
        cmap=colours,
    )
    axes.set(aspect="equal", title=title, xlabel="x / H", ylabel="y / H")
    axes.set_facecolor("lightgrey")
    plt.colorbar(drawn, ax=axes, fraction=0.012, pad=0.01)


def draw_courses(path: Path, courses: list[Course]) -> None:
    """Draw the best criterion over CFD calls, and over time."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    for course in courses:
        axes[0].step(course.calls, course.best, where="post", label=course.name)
        axes[1].step(course.seconds, course.best, where="post", label=course.name)
    axes[0].set(xlabel="CFD calls", ylabel="best St / Cf^(1/3), empty = 1", xscale="log")
    axes[1].set(xlabel="wall time (s)", xscale="log")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def draw_front(path: Path, run: Path, labels: Path) -> None:
    """Draw the Pareto front as predicted and confirmed, above the labels of another campaign."""
    found = search(run)["designs"]
    said = np.array([[d["objectives"][f"coefficients[{k}]"] for k in (0, 1)] for d in found])
    true = np.array([coefficients(confirmed(tuple(d["parameters"]))) for d in found])
    known = np.array([i.label["coefficients"] for i in read_labelled(labels / "dataset.npz")])
    error = np.abs(true - said)
    print(
        f"\nPareto front: {len(found)} designs; the prediction differs from CFD by "
        f"{100 * error[:, 0].mean():.1f} % of Cf and {100 * error[:, 1].mean():.1f} % of St "
        "on the mean"
    )
    figure, axes = plt.subplots(figsize=(5.5, 4))
    for values, style, name in (
        (known, {"color": "0.75", "marker": "."}, "labels"),
        (said, {"facecolors": "none", "edgecolors": "tab:blue"}, "front, predicted"),
        (true, {"color": "tab:red", "marker": "x"}, "front, CFD"),
    ):
        axes.scatter(*np.exp(values - EMPTY).T, label=name, **style)
    axes.set(xlabel="Cf / Cf of the empty channel", ylabel="St / St of the empty channel")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="directory of the campaign that learns")
    parser.add_argument("--direct", type=Path, help="directory of direct.toml's campaign")
    parser.add_argument("--pareto", type=Path, help="directory of pareto.toml's campaign")
    parser.add_argument("--pictures", type=Path, default=Path(), help="folder for the pictures")
    given = parser.parse_args()
    mpl.use("svg")
    plt.rcParams.update({"svg.hashsalt": "pal", "font.size": 9})
    row = tuple([0.5] * (2 * promoters_of(given.run)))
    best = tell_best("Best designs of the campaign", given.run)
    print(f"\nall in the middle: {np.exp(coefficients(confirmed(row)))}, {score(row):.4f}")
    draw_flow(given.pictures / "channel-flow.png", {"in the middle": row, "best": best})
    learned = labelled_course(given.run)
    if given.direct:
        direct = direct_course(given.direct)
        tell_best("Best designs of the direct swarm", given.direct)
        tell_saving(learned, direct)
        draw_courses(given.pictures / "channel-course.svg", [learned, direct])
    if given.pareto:
        draw_front(given.pictures / "channel-front.svg", given.pareto, given.run)


def promoters_of(run: Path) -> int:
    return len(search(run)["designs"][0]["parameters"]) // 2


if __name__ == "__main__":
    main()
