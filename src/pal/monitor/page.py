"""The HTML of the report: one page, no outside resource, light and dark, fit for print.

Every function takes plain text and escapes it; only `svg` and `body` arguments are markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

LIGHT: Final = {
    "page": "#ffffff", "ink": "#1c2024", "muted": "#60676f", "grid": "#e6e8eb",
    "card": "#f6f7f9", "good": "#00664b",
    "series-1": "#0072b2", "series-2": "#d55e00", "series-3": "#009e73",
    "series-4": "#b04f86", "series-5": "#3f9fd1", "series-6": "#8a6d00",
}  # fmt: skip
"""The colours of the light page, which plots in files have, too."""

_VARIABLES: Final = " ".join(f"--{name}: {colour};" for name, colour in LIGHT.items())

_CSS = (
    f":root {{ color-scheme: light dark; {_VARIABLES} }}"
    + """
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181c; --ink: #e7eaee; --muted: #9aa3ad; --grid: #2b3036; --card: #1e2227;
    --good: #4fd1a5;
    --series-1: #56b4e9; --series-2: #ff8f4d; --series-3: #35c796; --series-4: #e391bf;
    --series-5: #9bd3f3; --series-6: #e6c229;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1120px; padding: 2.5rem 1.5rem 4rem;
  background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
    "Liberation Sans", sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 2rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 0.9rem; }
p { margin: 0.35rem 0; max-width: 46rem; }
.tiles + ul { margin-top: 1rem; }
.quiet, figcaption { color: var(--muted); font-size: 0.875rem; }
.lead { font-size: 1.15rem; margin: 1rem 0; }
.tiles { display: grid; gap: 0.75rem; margin-top: 1.6rem;
  grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); }
.tile { background: var(--card); border-radius: 10px; padding: 0.85rem 1rem; }
.tile .name { color: var(--muted); font-size: 0.8rem; }
.tile .value { font-size: 1.55rem; font-weight: 600; line-height: 1.25; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.tile .unit { font-size: 0.9rem; font-weight: 400; color: var(--muted); }
.tile .note { font-size: 0.8rem; color: var(--muted); }
.tile.good .value { color: var(--good); }
.figures { display: grid; gap: 1.8rem 2.2rem; grid-template-columns: repeat(2, 1fr); }
.figures .wide { grid-column: 1 / -1; }
@media screen and (max-width: 760px) { .figures { grid-template-columns: 1fr; } }
figure { margin: 0; }
figure h3 { font-size: 0.95rem; margin: 0 0 0.3rem; }
figcaption { margin-top: 0.3rem; }
svg { display: block; width: 100%; height: auto; color: var(--ink); }
.plot { overflow-x: auto; }
@media screen { .wide svg { min-width: 640px; } }
svg text { font-family: inherit !important; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem;
  font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin-top: 1.2rem; }
details .scroll { margin-top: 0; }
th { text-align: left; font-weight: 500; color: var(--muted); }
th, td { padding: 0.35rem 1.2rem 0.35rem 0; border-bottom: 1px solid var(--grid);
  vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; }
details { margin-top: 0.8rem; }
summary { cursor: pointer; font-weight: 500; }
details[open] > summary { margin-bottom: 0.5rem; }
pre { font-size: 0.78rem; line-height: 1.4; white-space: pre-wrap; background: var(--card);
  border-radius: 6px; padding: 0.6rem 0.8rem; margin: 0.3rem 0 0; }
ul { margin: 0.4rem 0; padding-left: 1.2rem; }
@media print {
  :root {
    color-scheme: light;
    --page: #ffffff; --ink: #000000; --muted: #444444; --grid: #dddddd; --card: #ffffff;
    --good: #00664b;
    --series-1: #0072b2; --series-2: #d55e00; --series-3: #009e73; --series-4: #b04f86;
    --series-5: #3f9fd1; --series-6: #8a6d00;
  }
  html { font-size: 11px; }
  body { max-width: none; padding: 0; font-size: 1rem; }
  .tile { border: 1px solid var(--grid); }
  figure, .tile, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""
)


def page(title: str, body: str) -> str:
    """Return the whole document. The browser is told to load nothing from elsewhere."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    """Return a headed part of the page; nothing when it has no body."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>\n" if body else ""


def paragraph(text: str, style: str = "") -> str:
    """Return a paragraph; style "quiet" or "lead"."""
    return f'<p class="{style}">{escape(text)}</p>\n' if text else ""


def bullets(items: Sequence[str]) -> str:
    """Return a list of short texts."""
    rows = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{rows}</ul>\n" if rows else ""


def tile(name: str, value: str, *, unit: str = "", note: str = "", good: bool = False) -> str:
    """Return one summary figure."""
    return (
        f'<div class="tile{" good" if good else ""}"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)} <span class="unit">{escape(unit)}</span></div>'
        f'<div class="note">{escape(note)}</div></div>\n'
    )


def figure(title: str, svg: str, caption: str = "", *, wide: bool = False) -> str:
    """Return a plot with its title and caption; nothing when there is no plot."""
    if not svg:
        return ""
    return (
        f'<figure class="{"wide" if wide else ""}"><h3>{escape(title)}</h3>\n'
        f'<div class="plot">{svg}</div>\n'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def figures(*parts: str) -> str:
    """Lay figures out in two columns."""
    return f'<div class="figures">\n{"".join(parts)}</div>\n' if any(parts) else ""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> str:
    """Return a table whose last `numbers` columns are set as numbers."""
    first = len(columns) - numbers

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if place >= first else ''}>{escape(text)}</{tag}>"
            for place, text in enumerate(row)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table>\n<thead><tr>{cells("th", columns)}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
    )


def details(title: str, body: str) -> str:
    """Return a part that is closed until it is clicked."""
    return f"<details><summary>{escape(title)}</summary>\n{body}</details>\n"


def preformatted(text: str) -> str:
    """Return text with its own line breaks, such as a traceback."""
    return f"<pre>{escape(text)}</pre>\n"
