"""Plots as files: SVG that looks the same in a paper, on slides and on any page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pal.monitor.page import LIGHT

FOLDER: Final = "figures"
_FONTS: Final = "Helvetica, Arial, 'Liberation Sans', sans-serif"


def standalone(svg: str) -> str:
    """Return a plot of the report with the light page's colours, on white."""
    text = re.sub(r"var\(--([\w-]+)\)", lambda found: LIGHT[found[1]], svg)
    text = text.replace("currentColor", LIGHT["ink"])
    text = re.sub(r"font-family: ?[^;\"]*", f"font-family: {_FONTS}", text)
    ground = f'<rect width="100%" height="100%" fill="{LIGHT["page"]}"/>'
    return re.sub(r"(<svg[^>]*>)", rf"\1{ground}", text, count=1)


def write_figures(folder: Path, plots: Mapping[str, str]) -> None:
    """Write plots {name: svg} into `folder`/figures; what could not be drawn is left out."""
    drawn = {name: svg for name, svg in plots.items() if svg}
    if drawn:
        (folder / FOLDER).mkdir(exist_ok=True)
    for name, svg in drawn.items():
        path = folder / FOLDER / f"{name}.svg"
        path.write_text(standalone(svg), encoding="utf-8", errors="replace")
