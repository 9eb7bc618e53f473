"""Tables and pictures of a campaign: populations, errors, and how the time was spent.

    python analyse.py                                   # run, run-production, direct
    python analyse.py --run run-small --production run-small-production --heldout heldout-small.npz

Prints Markdown; writes populations.svg and errors.svg into --pictures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pal.errors import PalError
from pal.kernels.generators.populations import Populations, populations
from pal.kernels.models.distance_network import DistanceNetwork
from pal.ledger.export import read_labelled
from pal.records import Array, Batch
from pal.roles import Context
from pal.settings import load

HERE = Path(__file__).resolve().parent
COLOURS = ("#0072b2", "#d55e00", "#009e73")
TIMES_FS = np.arange(0.0, 50.5, 0.5)


def shares(found: Populations, time_fs: float) -> str:
    """Return the populations at one time, each with its standard error."""
    at = int(np.argmin(np.abs(found.times_fs - time_fs)))
    pairs = zip(found.mean[at], found.error[at], strict=True)
    cells = [f"{mean:.2f} ± {error:.2f}" for mean, error in pairs]
    return " | ".join([*cells, str(found.trajectories[at])])


def population_table(runs: dict[str, Populations]) -> None:
    """Print the populations of all states over time."""
    print("| time, fs | | S0 | S1 | S2 | trajectories |\n|---|---|---|---|---|---|")
    for time_fs in (0, 5, 10, 15, 20, 25, 30, 40, 50):
        for name, found in runs.items():
            if found.trajectories[found.times_fs == time_fs].any():
                print(f"| {time_fs} | {name} | {shares(found, time_fs)} |")
    for name, found in runs.items():
        print(f"\n{name}: {found.abandoned} trajectories were abandoned and are left out.")


def draw_populations(runs: dict[str, Populations], path: Path) -> None:
    """Draw the populations, with bands of a standard error."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for (name, found), style in zip(runs.items(), ("-", "--", ":"), strict=False):
        for state, colour in enumerate(COLOURS):
            mean, error = found.mean[:, state], found.error[:, state]
            label = f"S{state}, {name}"
            axes.plot(found.times_fs, mean, style, color=colour, label=label)
            axes.fill_between(
                found.times_fs, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0
            )
    axes.set(xlabel="time, fs", ylabel="population", xlim=(0, found.times_fs[-1]), ylim=(0, 1))
    axes.legend(fontsize=8, frameon=False, ncols=len(runs))
    figure.savefig(path, facecolor="white")
    pyplot.close(figure)


def predicted(run: Path, samples: Sequence[Any]) -> dict[str, Array]:
    """Return what the committee's last weights say: the mean over its members."""
    folder = sorted((run / "models").glob("v*"))[-1]
    settings = load(HERE / "pal.toml").model
    members = [
        DistanceNetwork(Context("model", k, settings.members, k, run), **options)
        for k in range(settings.members)
        for options in [{**settings.options, "checkpoint": folder}]
    ]
    said = [member.predict(Batch(samples)) for member in members]
    return {name: np.mean([one[name] for one in said], axis=0) for name in said[0]}


def error_table(run: Path, heldout: Path) -> tuple[Array, Array]:
    """Print errors of energies, gaps and forces; return true and predicted energies."""
    items = read_labelled(heldout)
    found = predicted(run, [item.sample for item in items])
    energies = np.array([item.label["energies"] for item in items])
    forces = np.array([item.label["state_forces"] for item in items])
    print(f"| {len(items)} held-out geometries | S0 | S1 | S2 |\n|---|---|---|---|")
    rows = {
        "energies, eV": (found["energies"] - energies, (0,)),
        "forces, eV/Å": (found["state_forces"] - forces, (0, 2, 3)),
    }
    for name, (errors, axes) in rows.items():
        cells = " | ".join(f"{value:.3f}" for value in np.abs(errors).mean(axis=axes))
        print(f"| mean absolute error of {name} | {cells} |")
    gaps = np.abs(np.diff(found["energies"] - energies, axis=1)).mean(axis=0)
    print(f"\nGaps: S0-S1 {gaps[0]:.3f} eV, S1-S2 {gaps[1]:.3f} eV.")
    return energies, found["energies"]


def draw_errors(true: Array, said: Array, path: Path) -> None:
    """Draw predicted against true energies, above the lowest of all."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.2, 3.8), layout="constrained")
    base = true.min()
    for state, colour in enumerate(COLOURS):
        pair = (true[:, state] - base, said[:, state] - base)
        axes.plot(*pair, ".", color=colour, markersize=4, label=f"S{state}")
    top = float((true - base).max())
    axes.plot([0, top], [0, top], color="#888888", linewidth=0.8, zorder=0)
    axes.set(xlabel="TDDFT energy, eV", ylabel="predicted energy, eV")
    axes.legend(frameon=False)
    figure.savefig(path, facecolor="white")
    pyplot.close(figure)


def time_table(run: Path) -> None:
    """Print how the time was spent."""
    summary = json.loads((run / "summary.json").read_text())
    print("| | busy, s | utilisation |\n|---|---|---|")
    for kernel, busy in summary["busy"].items():
        print(f"| {kernel} | {busy:.0f} | {summary['utilisation'][kernel]:.0%} |")
    print(
        f"\n{summary['labels']} labels, {summary['samples']:,} samples, {summary['wall']:.0f} s."
    )


def main() -> None:
    """Read the command line, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, default=HERE / "run")
    parser.add_argument("--production", type=Path, default=HERE / "run-production")
    parser.add_argument("--direct", type=Path, default=HERE / "direct")
    parser.add_argument("--heldout", type=Path, default=HERE / "heldout.npz")
    parser.add_argument("--pictures", type=Path, default=Path())
    given = parser.parse_args()
    runs = {}
    for name, folder in {"learned": given.production, "TDDFT": given.direct}.items():
        try:
            runs[name] = populations(folder, TIMES_FS)
        except PalError as error:
            print(f"{name}: {error}")
    if runs:
        population_table(runs)
        draw_populations(runs, given.pictures / "populations.svg")
    print()
    draw_errors(*error_table(given.run, given.heldout), given.pictures / "errors.svg")
    print()
    time_table(given.run)


if __name__ == "__main__":
    main()
