"""What rows come to: means per curve and target, and tables of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING

from cdcodec.evaluation.bjontegaard import Delta, deltas
from cdcodec.evaluation.rows import OK, Row

if TYPE_CHECKING:
    from cdcodec.evaluation.metrics import Metric

__all__ = ["Delta", "Point", "deltas", "markdown", "points"]

NO_VALUE = "–"

EXPLANATION = """\
Piecewise cubic (PCHIP) over log10(bpp). Two codecs are compared on the same pictures: those that
have a file of both at all the targets that count. First the difference of rate at equal score:
negative saves bits. In brackets the rates of {reference}, in bpp, at the scores both curves have.
"""

BAR = r"\|"
"""A bar that ends no cell."""


@dataclass(frozen=True)
class Point:
    """A codec at a target: means over the pictures whose files reached it.

    Means of two points compare only if both are over all pictures: see is_whole.

    Attributes:
        curve: Row.curve; codec and steps likewise.
        target_bpp: What was asked for.
        pictures: That reached the target; of: that were asked for.
        bpp: Mean; None, like the seconds, if no picture reached the target.
        scores: Means by name of the metric, and scores of the whole set of these pictures. None
            where no picture has one; empty if no picture reached the target.
        encode_seconds: Mean of the sum over all stages; decode_seconds likewise.
        note: Why a picture didn't reach the target, the first of those that didn't.
    """

    curve: str
    codec: str
    steps: int | None
    target_bpp: float
    pictures: int
    of: int
    bpp: float | None
    scores: Mapping[str, float | None]
    encode_seconds: float | None
    decode_seconds: float | None
    note: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether every picture reached the target."""
        return self.pictures == self.of


def points(
    rows: Sequence[Row],
    whole: Mapping[tuple[str, float], Mapping[str, float | None]] = MappingProxyType({}),
) -> list[Point]:
    """Average rows per curve and target.

    Args:
        rows: One for each picture, target and curve; of several the last counts.
        whole: Scores of whole sets of pictures, by curve and target.

    Returns:
        Curves in order of appearance, targets of each ascending. A target that no picture reached
        has its Point too.
    """
    curves: dict[str, dict[float, dict[tuple[str, str], Row]]] = {}
    for row in rows:
        targets = curves.setdefault(row.curve, {})
        targets.setdefault(row.target_bpp, {})[row.image, row.sha256] = row
    return [
        _mean(list(targets[target].values()), whole.get((curve, target), {}))
        for curve, targets in curves.items()
        for target in sorted(targets)
    ]


def _mean(asked: Sequence[Row], whole: Mapping[str, float | None]) -> Point:
    reached = [row for row in asked if row.status == OK]
    scores: dict[str, float | None] = {}
    for name in dict.fromkeys(name for row in reached for name in row.scores):
        known = [score for row in reached if (score := row.scores.get(name)) is not None]
        scores[name] = fmean(known) if known else None
    first = asked[0]
    return Point(
        curve=first.curve,
        codec=first.codec,
        steps=first.steps,
        target_bpp=first.target_bpp,
        pictures=len(reached),
        of=len(asked),
        bpp=fmean(row.bpp for row in reached if row.bpp is not None) if reached else None,
        scores={**scores, **whole} if reached else {},
        encode_seconds=_seconds([row.encode_seconds for row in reached]),
        decode_seconds=_seconds([row.decode_seconds for row in reached]),
        note=next((row.note for row in asked if row.status != OK), ""),
    )


def _seconds(stages: Sequence[Mapping[str, float]]) -> float | None:
    return fmean(sum(each.values()) for each in stages) if stages else None


def markdown(points: Sequence[Point], deltas: Sequence[Delta], metrics: Sequence[Metric]) -> str:
    """Return tables: one for each target, and two of deltas for each reference.

    The best value of a metric is bold, among curves that reached the target with all pictures.
    """
    targets = sorted({point.target_bpp for point in points})
    parts = [_table([p for p in points if p.target_bpp == t], metrics) for t in targets]
    for reference in dict.fromkeys(delta.reference for delta in deltas):
        parts.append(_delta_tables([d for d in deltas if d.reference == reference], metrics))
    return "\n".join(parts)


def _table(points: Sequence[Point], metrics: Sequence[Metric]) -> str:
    """Return the curves at one target."""
    best = {metric.name: _best(points, metric) for metric in metrics}

    def cells(point: Point) -> Iterator[str]:
        yield point.curve
        yield _number(point.bpp, 4)
        yield _count([point.pictures], point.of)
        for metric in metrics:
            text = _number(point.scores.get(metric.name), metric.digits)
            yield f"**{text}**" if point.is_whole and text == best[metric.name] else text
        yield _number(point.encode_seconds, 2)
        yield _number(point.decode_seconds, 2)

    head = ["curve", "bpp", "pictures", *map(_heading, metrics), "encode, s", "decode, s"]
    lines = [list(cells(point)) for point in points if point.pictures]
    remarks = ""
    for point in points:
        if not point.is_whole:
            missing = f"{point.of - point.pictures} of {point.of}"
            remarks += f"- {point.curve}: out of reach for {missing} pictures"
            remarks += "; means over the others only" if point.pictures else ""
            remarks += f" (first: {point.note})\n" if point.note else "\n"
    parts = [f"### {points[0].target_bpp:g} bpp\n", _grid(head, lines) if lines else "", remarks]
    return "\n".join(part for part in parts if part)


def _best(points: Sequence[Point], metric: Metric) -> str | None:
    """Return the best value as it is shown; what looks equal to it is as good."""
    known = [p.scores.get(metric.name) for p in points if p.is_whole]
    values = [value for value in known if value is not None]
    if len(values) < 2:
        return None
    return _number(max(values) if metric.higher_is_better else min(values), metric.digits)


def _delta_tables(deltas: Sequence[Delta], metrics: Sequence[Metric]) -> str:
    """Return the deltas against one reference: of rate, and of scores."""
    reference = deltas[0].reference
    curves: dict[str, dict[str, Delta]] = {}
    for delta in deltas:
        curves.setdefault(delta.curve, {})[delta.metric] = delta
    metrics = [m for m in metrics if any(m.name in of for of in curves.values())]
    parts = [f"### Bjøntegaard deltas against {reference}\n"]
    compared = {curve: of for curve, of in curves.items() if any(map(_has_value, of.values()))}
    if compared:
        parts += [
            EXPLANATION.format(reference=reference),
            _delta_table(compared, metrics, _rate_cell),
            "Difference of score at equal rate. In brackets the rates that both curves have.\n",
            _delta_table(compared, metrics, _score_cell),
        ]
    parts.append(
        "".join(
            f"- {curve}: {'; '.join(dict.fromkeys(delta.note for delta in of.values()))}\n"
            for curve, of in curves.items()
            if curve not in compared
        )
    )
    return "\n".join(part for part in parts if part)


def _has_value(delta: Delta) -> bool:
    return delta.rate_percent is not None or delta.score is not None


def _delta_table(
    curves: Mapping[str, Mapping[str, Delta]],
    metrics: Sequence[Metric],
    cell: Callable[[Delta, Metric], str],
) -> str:
    lines = []
    for curve, by_metric in curves.items():
        every = list(by_metric.values())
        targets = _span([delta.points for delta in every])
        pictures = _count([delta.pictures for delta in every], every[0].of)
        cells = [cell(by_metric[m.name], m) if m.name in by_metric else NO_VALUE for m in metrics]
        lines.append([curve, targets, pictures, *cells])
    return _grid(["curve", "targets", "pictures", *map(_heading, metrics)], lines)


def _rate_cell(delta: Delta, metric: Metric) -> str:
    if delta.rate_percent is None:
        return delta.note
    return f"{delta.rate_percent:+.1f} % {_rates(delta.low_bpp, delta.high_bpp)}"


def _score_cell(delta: Delta, metric: Metric) -> str:
    if delta.score is None:
        return delta.note
    rates = _rates(delta.score_low_bpp, delta.score_high_bpp)
    return f"{delta.score:+.{metric.digits}f} {rates}"


def _rates(low: float | None, high: float | None) -> str:
    return f"({_number(low, 3)}–{_number(high, 3)})"


def _span(counts: Collection[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low}–{high}"


def _count(pictures: Collection[int], of: int) -> str:
    return _span(pictures) if min(pictures) == of else f"{_span(pictures)} of {of}"


def _heading(metric: Metric) -> str:
    unit = f", {metric.unit}" if metric.unit else ""
    return f"{metric.title}{unit} {'↑' if metric.higher_is_better else '↓'}"


def _number(value: float | None, digits: int) -> str:
    return NO_VALUE if value is None else f"{value:.{digits}f}"


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(cell.replace('|', BAR) for cell in row)} |\n" for row in rows)
