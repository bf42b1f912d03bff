"""Curves of score over rate, as SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdcodec.errors import InputError, extra_hint
from cdcodec.evaluation.summary import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from cdcodec.evaluation.metrics import Metric

STRONG = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""For codecs with steps: Okabe and Ito's colours but for yellow, which is faint on white."""

GREYS = ("#333333", "#5c5c5c", "#808080", "#a0a0a0")
"""For other codecs; dashes and markers tell them apart."""

DASHES: tuple[tuple[float, Sequence[float]], ...] = (
    (0, ()),
    (0, (4, 1.5)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (1, 1.3)),
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
)
"""Solid, dashed, and so on: the strokes and gaps of matplotlib."""

MARKERS = ("s", "^", "D", "v", "P", "X", "*")

MARGIN = 1.1
"""Factor by which the horizontal axis is longer at either end than the rates."""

COLUMNS = 3
PANEL = (3.7, 2.7)
"""Width and height in inches."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched and is small
    "svg.hashsalt": "cdcodec",  # ids are the same every time
    "text.parse_math": False,  # a dollar in a label is a dollar
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#808080",
    "axes.formatter.useoffset": False,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True)
class _Curve:
    label: str
    points: Sequence[Point]
    colour: str
    dashes: tuple[float, Sequence[float]]
    marker: str
    order: int


def svg(points: Sequence[Point], metrics: Sequence[Metric]) -> str:
    """Draw one panel for each metric that has values: score over bpp, a line for each curve.

    A point that not all pictures reached is hollow and on no line, since its mean is over other
    pictures; one that fewer than half of them reached isn't drawn. The ground is white, so that
    a dark page can show it as well.

    Returns:
        An <svg> element that is a file of its own too; the same for the same points. Empty text
        if there is nothing to draw.

    Raises:
        InputError: If matplotlib is missing.
    """
    drawn = [p for p in points if p.bpp is not None and 2 * p.pictures >= p.of]
    shown = [m for m in metrics if any(p.scores.get(m.name) is not None for p in drawn)]
    if not shown:
        return ""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plots need matplotlib", hint=extra_hint("eval")) from error
    curves = _curves(drawn)
    columns = min(COLUMNS, len(shown))
    lines = math.ceil(len(shown) / columns)
    with matplotlib.rc_context():  # gives back whatever the user had
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        legend = [_stroke(curve) for curve in curves]
        if not all(point.is_whole for point in drawn):
            legend.append(_remark())
        height = PANEL[1] * lines + 0.25 * math.ceil(len(legend) / columns) + 0.1
        figure = Figure((PANEL[0] * columns, height), facecolor="white", layout="constrained")
        rates = [point.bpp for point in drawn if point.bpp is not None]
        panels = list(figure.subplots(lines, columns, squeeze=False).flat)
        for panel, metric in zip(panels, shown, strict=False):
            _draw(panel, curves, metric)
            _scale(panel, min(rates), max(rates))
        for panel in panels[max(0, len(shown) - columns) : len(shown)]:
            panel.set_xlabel("bpp")
        for panel in panels[len(shown) :]:
            panel.remove()
        figure.legend(handles=legend, loc="outside lower center", ncols=columns, frameon=False)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    # Within a page there is no place for a document type, and the style is not the page's.
    text = text[text.index("<svg") :]
    return text.replace('<style type="text/css">*{', '<style type="text/css">#figure_1 *{')


def _curves(points: Sequence[Point]) -> list[_Curve]:
    by_label: dict[str, list[Point]] = {}
    for point in points:
        by_label.setdefault(point.curve, []).append(point)
    curves = []
    ours = others = 0
    for label, members in by_label.items():
        if members[0].steps is not None:
            colour, dashes = STRONG[ours % len(STRONG)], DASHES[ours // len(STRONG) % len(DASHES)]
            curves.append(_Curve(label, members, colour, dashes, "o", 3))
            ours += 1
        else:
            colour, dashes = GREYS[others % len(GREYS)], DASHES[others % len(DASHES)]
            marker = MARKERS[others % len(MARKERS)]
            curves.append(_Curve(label, members, colour, dashes, marker, 2))
            others += 1
    return curves


def _draw(panel: Axes, curves: Sequence[_Curve], metric: Metric) -> None:
    for curve in curves:
        whole: list[tuple[float, float]] = []
        partial: list[tuple[float, float]] = []
        for point in curve.points:
            score = point.scores.get(metric.name)
            if point.bpp is not None and score is not None:
                (whole if point.is_whole else partial).append((point.bpp, score))
        if whole:
            panel.add_line(_stroke(curve, sorted(whole)))
        if partial:
            panel.add_line(_stroke(curve, partial, hollow=True))
    panel.autoscale_view()
    unit = f", {metric.unit}" if metric.unit else ""
    panel.set_title(f"{metric.title}{unit} {'↑' if metric.higher_is_better else '↓'}")
    panel.grid(color="#dddddd", linewidth=0.6)


def _scale(panel: Axes, low: float, high: float) -> None:
    """Let the horizontal axis run from low to high in bpp, and a little beyond."""
    ticks = _ticks(low, high)
    panel.set_xscale("log")
    panel.set_xlim(low / MARGIN, high * MARGIN)
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()


def _stroke(
    curve: _Curve, points: Sequence[tuple[float, float]] = (), *, hollow: bool = False
) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D(
        [bpp for bpp, _ in points],
        [score for _, score in points],
        label=curve.label,
        color=curve.colour,
        linestyle="none" if hollow else curve.dashes,
        marker=curve.marker,
        markerfacecolor="white" if hollow else curve.colour,
        zorder=curve.order,
    )


def _remark() -> Line2D:
    from matplotlib.lines import Line2D

    label = "hollow: only some of the pictures"
    return Line2D([], [], linestyle="none", marker="o", mfc="white", mec="#5c5c5c", label=label)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers in the range of the axis, in bpp."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5), (1, 2, 5), (1,)):
        every = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        ticks = [tick for tick in every if low / MARGIN <= tick <= high * MARGIN]
        if len(ticks) <= 7:
            break
    return ticks or [float(f"{low:.2g}")]
