"""What figures and charts share: the palette, an empty matplotlib figure, short numbers on axes."""

from __future__ import annotations

import logging
from typing import Any, TypeAlias

# matplotlib's classes. It is imported only where a figure is drawn: a training that draws none does not wait for it.
Axes: TypeAlias = Any
Figure: TypeAlias = Any
Line2D: TypeAlias = Any

# The palette of Okabe and Ito, which colour-blind readers can tell apart, and two colours more; legible on white and
# on black.
BLUE, VERMILION, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY_BLUE, PURPLE, GREY = "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"

COLOURS = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY_BLUE, PURPLE, GREY)
"""In the order in which the configurations of a report take them."""


def empty_figure(width: float, height: float) -> Figure:
    """An empty figure (sizes in inches) with a canvas of its own: without pyplot, a window or global state."""
    matplotlib_log = logging.getLogger("matplotlib")
    level = matplotlib_log.level
    matplotlib_log.setLevel(logging.ERROR)  # its first import on a machine logs that it builds a font cache
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    finally:
        matplotlib_log.setLevel(level)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def thousands(value: float) -> str:
    """A count in few characters: 1M, 20k, 500."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"
