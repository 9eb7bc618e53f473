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
from PIL import Image

from pal.ledger.export import read_labelled
from pal.ledger.schema import connect_readonly

REYNOLDS, PRANDTL = 200.0, 0.71
FINE = 0.035
EMPTY = np.log([24 / REYNOLDS, 140 / 17 / REYNOLDS / PRANDTL])
"""ln Cf and ln St of the channel without promoters."""
INITIAL = 24
"""Labels of `[initial]`."""
SHOWN = 3
PARTS = (0.9, 0.95, 0.97, 0.98, 0.99, 0.999)
"""Fractions of the direct swarm's best criterion whose prices are compared."""


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
        if not good.size:
            return np.inf, np.inf
        return float(self.calls[good[0]]), float(self.seconds[good[0]])


def criterion(coefficients: Array) -> Array:
    """Return St / Cf^(1/3), divided by that of the empty channel; coefficients (..., 2)."""
    gain = coefficients - EMPTY
    return np.asarray(np.exp(gain[..., 1] - gain[..., 0] / 3))


@cache
def flow_around(places: tuple[tuple[float, ...], ...]) -> Flow:
    return solve(channel(np.array(places)), FINE, reynolds=REYNOLDS, prandtl=PRANDTL)


def confirmed(places: Array) -> Flow:
    """Return the flow around promoters, on the fine mesh."""
    return flow_around(tuple(map(tuple, places.tolist())))


def coefficients(places: Array) -> Array:
    flow = confirmed(places)
    return np.log([flow.drag, flow.stanton])


# -- what the campaigns left


def search(run: Path) -> dict[str, Any]:
    """Return what the swarm of a campaign wrote down."""
    (file,) = run.rglob("best.json")
    written: dict[str, Any] = json.loads(file.read_text())
    return written


def found(run: Path) -> tuple[list[Array], Array]:
    """Return the best designs' promoters, and what the committee says of them (n, 2)."""
    designs = search(run)["designs"]
    names = [f"coefficients[{place}]" for place in (0, 1)]
    said = np.array([[each["objectives"][name] for name in names] for each in designs])
    return [promoters(np.array(each["parameters"])) for each in designs], said


def wall(run: Path) -> float:
    return float(json.loads((run / "summary.json").read_text())["wall"])


def best_label(run: Path) -> Array:
    """Return the promoters of the best label."""
    labels = read_labelled(run / "dataset.npz")
    scores = [criterion(item.label["coefficients"]) for item in labels]
    places: Array = labels[int(np.argmax(scores))].sample["promoters"]
    return places


def labelled_course(run: Path) -> Course:
    """Return how the best label improved from label to label."""
    labels = read_labelled(run / "dataset.npz")
    db = connect_readonly(run / "ledger.sqlite")
    times = dict(db.execute("SELECT sample, time FROM labels"))
    (start,) = db.execute("SELECT MIN(start) FROM sessions").fetchone()
    db.close()
    values = criterion(np.array([item.label["coefficients"] for item in labels]))
    seconds = np.array([times[item.identity] - start for item in labels])
    calls = np.arange(1.0, len(values) + 1)
    return Course("learned", calls, np.maximum.accumulate(values), seconds)


def direct_course(run: Path) -> Course:
    """Return how the best design improved; each took as long as any other."""
    ended = search(run)
    calls, losses = np.array([*ended["course"], (ended["evaluations"], np.nan)]).T
    losses[-1] = losses[-2]
    best = np.exp(-losses - EMPTY[1] + EMPTY[0] / 3)
    return Course("direct", calls, best, calls * wall(run) / ended["evaluations"])


# -- tables


def tell_best(name: str, run: Path, *others: Array) -> Array:
    """Print the best designs as predicted, and others, as they are; return the best of them."""
    print(f"\n### {name}\n")
    print("| said: Cf | St | CFD: Cf | St | Cf / empty | St / empty | criterion |")
    print("|---|---|---|---|---|---|---|")
    designs, said = found(run)
    designs = [*designs[:SHOWN], *others]
    said = np.concatenate([said[:SHOWN], np.full((len(others), 2), np.nan)])
    scores = []
    for places, predicted in zip(designs, said, strict=True):
        true = coefficients(places)
        scores.append(criterion(true))
        row = [*np.exp(predicted), *np.exp(true), *np.exp(true - EMPTY), scores[-1]]
        print("| " + " | ".join(f"{value:.4g}" for value in row) + " |")
    best = designs[int(np.argmax(scores))]
    print(f"\nthe best of them: x, y =\n{best[:, :2].round(3)}")
    return best


def tell_saving(learned: Course, direct: Course) -> None:
    """Print the CFD calls and the seconds until the same quality."""
    print("\n| criterion | direct: calls | s | learned: calls | s | calls saved |")
    print("|---|---|---|---|---|---|")
    top = direct.best[-1]
    for part in PARTS:
        (calls, seconds), (few, short) = direct.reaches(part * top), learned.reaches(part * top)
        print(
            f"| {part * top:.4f} ({part:.0%}) | {calls:.0f} | {seconds:.0f} | {few:.0f} | "
            f"{short:.0f} | {calls / few:.1f} |"
        )
    print(f"\nbest: direct {top:.4f}, learned {learned.best[-1]:.4f}")


def tell_best_labels(folder: Path) -> None:
    """Print the best label of each campaign of a comparison: selection is for the optimum, too."""
    print(
        "\n| campaign | labels | best criterion of the initial ones | of all |\n|---|---|---|---|"
    )
    for file in sorted(folder.glob("*/dataset.npz")):
        course = labelled_course(file.parent)
        first = course.best[INITIAL - 1]
        print(f"| {file.parent.name} | {len(course.best)} | {first:.4f} | {course.best[-1]:.4f} |")


# -- pictures


def draw_flow(path: Path, designs: dict[str, Array]) -> None:
    """Draw speed and temperature in the channel of each design."""
    figure, axes = plt.subplots(2 * len(designs), 1, figsize=(6.5, 4.2 * len(designs)))
    for row, (name, places) in enumerate(designs.items()):
        flow = confirmed(places)
        speed = np.hypot(*flow.velocity)
        heat = flow.temperature - flow.temperature.min()
        title = f"{name}: St / Cf$^{{1/3}}$ = {criterion(coefficients(places)):.3f} of empty"
        draw_field(axes[2 * row], flow, speed, f"{title}; speed / bulk velocity", "viridis")
        draw_field(axes[2 * row + 1], flow, heat, "temperature, in q / (rho c U)", "inferno")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(96).save(path, optimize=True)


def draw_field(axes: Any, flow: Flow, values: Array, title: str, colours: str) -> None:
    length = float(np.ptp(flow.mesh.points[0]).round(1))
    # Twice, because the mesh has ragged ends.
    corners = np.hstack([flow.mesh.corners - [[length], [0]], flow.mesh.corners])
    triangles = Triangulation(*corners, np.arange(corners.shape[1]).reshape(-1, 3))
    at_corners = np.tile(values[flow.mesh.triangles.T.reshape(-1)], 2)
    drawn = axes.tripcolor(triangles, at_corners, shading="gouraud", cmap=colours)
    axes.set(aspect="equal", title=title, xlim=(0, length), ylabel="y / H", facecolor="lightgrey")
    plt.colorbar(drawn, ax=axes, fraction=0.016, pad=0.01)


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
    designs, said = found(run)
    true = np.array([coefficients(places) for places in designs])
    known = np.array([i.label["coefficients"] for i in read_labelled(labels / "dataset.npz")])
    drag, stanton = 100 * np.abs(true - said).mean(axis=0)
    gain = np.exp(true - EMPTY)
    (least, lowest), (most, highest) = gain.min(axis=0), gain.max(axis=0)
    print(f"\nPareto front: {len(true)} designs; what was said differs from CFD on the mean by")
    print(f"{drag:.1f} % of Cf and {stanton:.1f} % of St; by the empty channel's, Cf is from")
    print(f"{least:.2f} to {most:.2f}, St from {lowest:.2f} to {highest:.2f}")
    figure, axes = plt.subplots(figsize=(5.5, 4))
    for values, style, name in (
        (known, {"color": "0.7", "marker": "."}, "labels of the main campaign"),
        (said, {"facecolors": "none", "edgecolors": "tab:blue"}, "front, as predicted"),
        (true, {"color": "tab:red", "marker": "x"}, "front, by CFD"),
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
    parser.add_argument("--compared", type=Path, help="folder of `pal compare`")
    parser.add_argument("--pictures", type=Path, default=Path(), help="folder for the pictures")
    given = parser.parse_args()
    mpl.use("svg")
    plt.rcParams.update({"svg.hashsalt": "pal", "font.size": 9})
    best = tell_best(
        "The campaign's best designs, and its best label", given.run, best_label(given.run)
    )
    even = promoters(np.full(2 * len(best), 0.5))
    print(f"\neven spacing: {np.exp(coefficients(even))}, {criterion(coefficients(even)):.4f}")
    draw_flow(given.pictures / "channel-flow.png", {"evenly spaced": even, "best": best})
    learned = labelled_course(given.run)
    if given.direct:
        direct = direct_course(given.direct)
        tell_best("The direct swarm's best designs", given.direct)
        tell_saving(learned, direct)
        draw_courses(given.pictures / "channel-course.svg", [learned, direct])
    if given.compared:
        tell_best_labels(given.compared)
    if given.pareto:
        draw_front(given.pictures / "channel-front.svg", given.pareto, given.run)


if __name__ == "__main__":
    main()
