"""How a figure becomes a file: one self-contained SVG for both pages of a report.

The same numbers give the same bytes. Text stays text. Everything drawn in `INK` takes the colour of the text around it,
so that a page can switch to dark.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import write_atomically

if TYPE_CHECKING:  # matplotlib takes a second to import, and most commands draw nothing
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

NAME = 30  # characters of a row's name in one line
TITLE = 46  # of a panel's title, or of a label in the legend
LINE = 0.21  # inches, of a legend or a row's name
WIDTH = 5.0  # inches: 360 units of the SVG, so that a phone shows text at about its own size
INK, OUTLINE = "#1c2321", "#8a8f98"
# Tones that stand out from both a white and a black page.
COLOURS = {"student": "#2f9e62", "control": "#a06cd5", "search": "#2f9e62", "random_search": "#a06cd5"}
PALETTE = ("#2f9e62", "#a06cd5", "#e08214", "#3d8bd4", "#d0505a", "#8a8f98", "#35b5a5", "#d05fa8", "#a8742c")
SETTINGS: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "sprig",
    "text.parse_math": False,  # a name may hold dollar signs
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Plot:
    """A figure of a report; `draw` fills an empty one."""

    name: str  # of its file, without the suffix
    title: str
    says: str  # what it shows, for readers that do not see it
    draw: Callable[[Figure], None]
    height: float = 3.3  # inches, with two lines of a legend; more of them add to it

    @property
    def file(self) -> str:
        return f"{self.name}.svg"

    def figure(self) -> Figure:
        import matplotlib
        from matplotlib.figure import Figure  # without pyplot: no global state, no display

        with matplotlib.rc_context(SETTINGS):
            figure = Figure(figsize=(WIDTH, self.height), layout="constrained")
            self.draw(figure)
        return figure

    def svg(self) -> str:
        import matplotlib

        text, figure = io.StringIO(), self.figure()
        with matplotlib.rc_context(SETTINGS):
            figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        drawn = text.getvalue().replace(INK, "currentColor")
        drawn = re.sub(r'<g id="[^"]+">', "<g>", drawn)  # unused, and the same in every figure of a page
        root = f'<svg role="img" aria-label="{escape(self.says)}" style="color: {INK}; background: #fff" '
        return drawn.replace("<svg ", root, 1)


def write(plots: list[Plot], folder: Path) -> None:
    for plot in plots:
        write_atomically(folder / plot.file, plot.svg())


def inline(svg: str) -> str:
    """The SVG of a file as an element of a page."""
    return svg[svg.index("<svg ") :]


def short(value: float, _: object = None) -> str:
    """A count as an axis shows it: 4,096, 20k, 1.5M, 10B, 3e+18."""
    size = abs(value)
    if size < 1e4 or size >= 1e15:
        return f"{value:,.5g}" if size < 1e4 else f"{value:.3g}"
    scale, unit = next((scale, unit) for scale, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if size >= scale)
    return f"{value / scale:,.4g}{unit}"


def rows(axes: Axes, names: list[str], first: float = 0) -> None:
    """Names the rows of a figure, long names in several lines, so that they leave room for what the figure shows. It
    becomes higher if a name takes more than two."""
    labels = [textwrap.fill(name, NAME) for name in names]
    axes.set_yticks([first + number for number in range(len(names))], labels)
    if (lines := max((label.count("\n") + 1 for label in labels), default=0)) > 2:
        figure: Any = axes.figure  # typed as if it could be a SubFigure
        figure.set_figheight(figure.get_figheight() + LINE * (lines - 2) * len(names))


def titled(axes: Axes, title: str) -> None:
    """Names a panel, in as many lines as its width takes."""
    axes.set_title(textwrap.fill(title, TITLE))


def scientific(value: float, _: object = None) -> str:
    """FLOPs as an axis shows them."""
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")


def counted(axis: Axis, form: Callable[[float, object], str] = short, integer: bool = False) -> None:
    """A linear axis of counts, with few ticks."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5, integer=integer))
    axis.set_major_formatter(FuncFormatter(form))


def logarithmic(axes: Axes, which: str, form: Callable[[float, object], str] = short) -> None:
    """Makes axis "x" or "y" logarithmic, without powers of ten and with some ticks in every decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(form))
    axis.set_minor_formatter(NullFormatter())


def scaled(axes: Axes) -> None:
    """Makes y logarithmic, or linear where its values span less than a decade, in which a logarithmic axis may have no
    tick."""
    from matplotlib.ticker import FuncFormatter

    low, high = axes.dataLim.intervaly
    if high >= 10 * low > 0:
        logarithmic(axes, "y")
    else:
        axes.set_yscale("linear")
        axes.yaxis.set_major_formatter(FuncFormatter(short))


def legend(figure: Figure) -> None:
    """Above the panels, which keep their size: each label once, in two columns if all are short."""
    once = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if once:
        names = [textwrap.fill(label, TITLE) for label in once]
        columns = 2 if max(map(len, names)) <= TITLE // 2 else 1
        lines = math.ceil(sum(name.count("\n") + 1 for name in names) / columns)
        figure.set_figheight(figure.get_figheight() + LINE * max(0, lines - 2))
        figure.legend(list(once.values()), names, loc="outside upper left", ncols=columns)
