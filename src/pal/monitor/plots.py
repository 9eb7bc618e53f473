"""The plots of the report, as SVG text that takes its colours and fonts from the page.

matplotlib draws with placeholder colours, which `_svg` replaces by CSS variables: one picture
serves the light and the dark page, and print. It is imported when the first plot is drawn.
"""

from __future__ import annotations

import importlib
import io
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pal.monitor.comparison import Band, last_versions, rank_correlation
from pal.monitor.metrics import Evaluation, Snapshot
from pal.monitor.summary import mean_utilisation
from pal.monitor.text import error_name, figure, heading, kernels, percent, with_unit

Floats = NDArray[np.float64]

POINTS: Final = 400
"""Most points of a line: more do not show, and 10,000 snapshots would fill megabytes."""

SCATTER: Final = 1000
"""Most points of the calibration plot."""

_INK, _MUTED, _GRID = "#010101", "#010102", "#010103"
_SERIES = ("#020201", "#020202", "#020203", "#020204", "#020205", "#020206")
_VARIABLES = {_INK: "currentColor", _MUTED: "var(--muted)", _GRID: "var(--grid)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)
}
_KERNEL_COLOURS = {
    "generator": _SERIES[2],
    "prediction": _SERIES[0],
    "oracle": _SERIES[1],
    "training": _SERIES[3],
}
_HALF, _FULL = 5.3, 10.9
_NAME_HEIGHT = 11.0
"""Points between the names of two lines."""

_STYLE: Final = {
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": _INK,
    "text.parse_math": False,
    "text.usetex": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.07,
}


def available() -> bool:
    """Whether matplotlib is installed, and can be imported."""
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError:
        return False
    return True


def learning(evaluations: Sequence[Evaluation], quantity: str) -> str:
    """Error, and uncertainty below it, against the number of labels."""
    rows = last_versions(evaluations)
    if not rows:
        return ""
    labels = np.array([row.labels for row in rows], dtype=float)
    unit = rows[-1].unit
    uncertainty = [_mean(row.uncertainty) for row in rows]

    def draw(picture: Any) -> None:
        axes = _panels(picture, 2 if np.isfinite(uncertainty).any() else 1)
        axes[0].set_title(with_unit(error_name(quantity), unit))
        rmse = np.array([row.rmse for row in rows])
        error = np.array([row.error for row in rows])
        _line(axes[0], labels, rmse, _SERIES[4])
        _line(axes[0], labels, error, _SERIES[0])
        _error_axis(axes[0], np.concatenate([rmse, error]))
        _name_lines(axes[0], ["root mean square", "mean absolute"])
        if len(axes) > 1:
            axes[1].set_title(with_unit("Mean uncertainty of the same samples", unit))
            _line(axes[1], labels, np.array(uncertainty), _SERIES[1])
            _error_axis(axes[1], np.array(uncertainty))
        axes[-1].set_xlabel("labels")

    return _svg("learning", "Error and uncertainty against labels", (_HALF, 4.3), draw)


def calibration(evaluation: Evaluation, quantity: str) -> str:
    """True error against the uncertainty of each held-out sample, both on log axes."""
    size = min(len(evaluation.uncertainty), len(evaluation.errors))
    pairs = np.array([evaluation.uncertainty[:size], evaluation.errors[:size]], dtype=float)
    pairs = pairs[:, (np.isfinite(pairs) & (pairs > 0)).all(axis=0)]
    if pairs.shape[1] < 2:
        return ""
    correlation = rank_correlation(pairs[0], pairs[1])
    shown = pairs[:, np.unique(np.linspace(0, pairs.shape[1] - 1, SCATTER).astype(int))]

    def draw(picture: Any) -> None:
        axis = picture.add_subplot()
        limits = np.array([pairs.min() / 1.3, pairs.max() * 1.3])
        axis.plot(limits, limits, color=_MUTED, linewidth=0.8, dashes=(4, 3))
        axis.plot(*shown, "o", markersize=3.2, color=_SERIES[0], alpha=0.5, markeredgewidth=0)
        axis.set(xlim=limits, ylim=limits, aspect="equal")
        for set_scale, place in ((axis.set_xscale, axis.xaxis), (axis.set_yscale, axis.yaxis)):
            set_scale("log")
            _log_ticks(place, limits)
        name = f"Largest {error_name(quantity).lower()} in a held-out sample"
        axis.set_title(with_unit(name, evaluation.unit))
        axis.set_xlabel(with_unit("uncertainty of the sample", evaluation.unit))
        axis.text(
            0.04, 0.96, f"rank correlation {correlation:.2f}", transform=axis.transAxes, va="top"
        )

    return _svg("calibration", "Uncertainty against true error", (_HALF, 4.3), draw)


def exploration(snapshots: Sequence[Snapshot]) -> str:
    """Samples per second, and the uncertain fraction of them, over time."""
    if len(snapshots) < 2:
        return ""

    def draw(picture: Any) -> None:
        axes = _panels(picture, 2)
        time, unit = _times(snapshots)
        axes[0].set_title("Exploration (samples/s)")
        axes[0].plot(time, _means(snapshots, lambda s: s.rate), color=_SERIES[2])
        axes[1].set_title("Uncertain samples (%)")
        uncertain = 100 * _means(snapshots, lambda s: s.uncertain_fraction)
        axes[1].plot(time, uncertain, color=_SERIES[1])
        for axis in axes:
            _from_zero(axis)
        axes[-1].set_xlabel(f"campaign time ({unit})")

    return _svg("exploration", "Exploration over time", (_HALF, 3.6), draw)


def labelling(snapshots: Sequence[Snapshot], labels: Sequence[Sequence[float]]) -> str:
    """Labels so far, and the candidates that wait and run, over time.

    The first number of each entry of `labels` is the campaign time (s) at which it came.
    """
    if len(snapshots) < 2:
        return ""

    def draw(picture: Any) -> None:
        axes = _panels(picture, 2)
        time, unit = _times(snapshots)
        axes[0].set_title("Labels")
        if labels:
            came = np.sort([label[0] for label in labels])
            kept = np.unique(np.linspace(0, len(came) - 1, POINTS).astype(int))
            scale = _time_unit(snapshots[-1].time)[0]
            axes[0].step(came[kept] / scale, kept + 1, color=_SERIES[0], where="post")
        else:
            axes[0].plot(time, _means(snapshots, lambda s: s.labelled), color=_SERIES[0])
        axes[1].set_title("Candidates waiting and running")
        waiting = _means(snapshots, lambda s: s.queued)
        running = _means(snapshots, lambda s: s.running)
        _line(axes[1], time, waiting, _SERIES[3])
        _line(axes[1], time, running, _SERIES[1])
        for axis in axes:
            _from_zero(axis)
        _name_lines(axes[1], ["waiting", "running"])
        axes[-1].set_xlabel(f"campaign time ({unit})")

    return _svg("labelling", "Labels and queue over time", (_HALF, 3.6), draw)


def utilisation(snapshots: Sequence[Snapshot]) -> str:
    """Busy fraction of each kernel's processes over time, one strip per kernel."""
    names = kernels(*(snapshot.utilisation for snapshot in snapshots))
    if len(snapshots) < 2 or not names:
        return ""
    mean = mean_utilisation(snapshots)

    def draw(picture: Any) -> None:
        axes = _panels(picture, len(names))
        time, unit = _times(snapshots)
        for axis, name in zip(axes, names, strict=True):
            busy = 100 * _means(snapshots, partial(_busy, name))
            colour = _KERNEL_COLOURS.get(name, _SERIES[5])
            axis.fill_between(time, busy, color=colour, alpha=0.25, linewidth=0)
            axis.plot(time, busy, color=colour, linewidth=1.2)
            axis.set_title(f"{heading(name)}, {percent(mean[name])} on average")
            axis.set(ylim=(0, 103), yticks=(0, 50, 100))
            axis.margins(x=0)
        axes[-1].set_xlabel(f"campaign time ({unit})")

    height = 0.5 + 0.85 * len(names)
    return _svg("utilisation", "Busy share of each kernel (%)", (_FULL, height), draw)


def comparison(found: Sequence[Band], quantity: str) -> str:
    """Mean error over the seeds against labels, with the range from best to worst seed."""
    drawn = [band for band in found if band.labels.size]
    if not drawn:
        return ""

    def draw(picture: Any) -> None:
        axis = picture.add_subplot()
        for number, band in enumerate(drawn):
            colour = _SERIES[number % len(_SERIES)]
            axis.fill_between(
                band.labels, band.low, band.high, color=colour, alpha=0.18, linewidth=0
            )
            _line(axis, band.labels, band.mean, colour)
        _error_axis(axis, np.concatenate([[*band.low, *band.high] for band in drawn]))
        _name_lines(axis, [band.name for band in drawn])
        axis.set_title(with_unit(error_name(quantity), drawn[0].unit))
        axis.set_xlabel("labels")

    return _svg("comparison", "Error against labels, compared", (_FULL, 4.4), draw)


def _svg(name: str, title: str, size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """Let `draw` fill a figure of `size` (inches) and return it as SVG for an HTML page."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser has glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        picture = Figure(figsize=size)
        draw(picture)
        picture.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Ids of groups repeat from figure to figure, which one page must not have.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    label = f'<svg role="img" aria-label="{escape(title)}"'
    return text.replace("<svg", label, 1)


def _panels(picture: Any, count: int) -> list[Any]:
    axes = picture.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    return list(axes)


def _line(axis: Any, x: Floats, y: Floats, colour: str) -> None:
    """Draw a line; few points also get markers."""
    marker = "o" if len(x) <= 30 else ""
    axis.plot(x, y, color=colour, marker=marker, markersize=3.5, markeredgewidth=0)


def _name_lines(axis: Any, names: Sequence[str]) -> None:
    """Write each line's name at its right end, moved apart where ends meet.

    Names beside the lines can be read without telling colours apart, as a legend cannot. Call
    it last: the limits of the axes decide where the ends are.
    """
    panels = len(axis.figure.axes)
    height = 72 * axis.figure.get_figheight() * 0.8 / panels
    to_points = axis.transData + axis.transAxes.inverted()
    ends = []
    for line, name in zip(axis.lines, names, strict=True):
        points = line.get_xydata()
        points = points[np.isfinite(points).all(axis=1)]
        if len(points):
            ends.append((height * to_points.transform(points[-1])[1], points[-1], line, name))
    free = -np.inf
    for wanted, end, line, name in sorted(ends, key=itemgetter(0)):
        place = max(wanted, free)
        free = place + _NAME_HEIGHT
        axis.annotate(
            name,
            end,
            (6, place - wanted),
            textcoords="offset points",
            color=line.get_color(),
            va="center",
            annotation_clip=False,
        )


def _from_zero(axis: Any) -> None:
    axis.set_ylim(bottom=0)
    axis.margins(x=0)
    axis.yaxis.set_major_formatter(lambda value, _: figure(value))
    axis.yaxis.get_major_locator().set_params(nbins=5)


def _error_axis(axis: Any, values: Floats) -> None:
    """Choose a log axis where errors fall by more than a factor of four, else start at zero."""
    finite = values[np.isfinite(values)]
    if finite.size and 0 < 4 * finite.min() < finite.max():
        limits = np.array([finite.min() / 1.25, finite.max() * 1.25])
        axis.set_yscale("log")
        axis.set_ylim(limits)
        _log_ticks(axis.yaxis, limits)
    else:
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter(lambda value, _: figure(value))


def _log_ticks(axis: Any, limits: Floats) -> None:
    """Mark round numbers, and write them as numbers instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator

    decades = float(np.log10(limits[1] / limits[0]))
    if decades < 1.3:
        subs: tuple[float, ...] = (1, 2, 3, 5, 7)
    else:
        subs = (1, 2, 5) if decades < 2.2 else (1, 3) if decades < 4 else (1,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: figure(value))


def _busy(kernel: str, snapshot: Snapshot) -> float:
    return snapshot.utilisation.get(kernel, 0.0)


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _time_unit(span: float) -> tuple[float, str]:
    for size, unit, most in ((1.0, "s", 180.0), (60.0, "min", 10800.0), (3600.0, "h", 345600.0)):
        if span < most:
            return size, unit
    return 86400.0, "d"


def _times(snapshots: Sequence[Snapshot]) -> tuple[Floats, str]:
    scale, unit = _time_unit(snapshots[-1].time)
    time = _means(snapshots, lambda snapshot: snapshot.time)
    # Averages would leave a gap at both ends of the axis.
    time[0], time[-1] = snapshots[0].time, snapshots[-1].time
    return time / scale, unit


def _means(snapshots: Sequence[Snapshot], value: Callable[[Snapshot], float]) -> Floats:
    """Return one value per snapshot, averaged over neighbours down to `POINTS` of them."""
    values = np.array([value(snapshot) for snapshot in snapshots], dtype=float)
    if len(values) <= POINTS:
        return values
    edges = np.linspace(0, len(values), POINTS + 1).astype(int)
    means = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    return np.asarray(means, dtype=np.float64)
