"""The report of a comparison: one HTML page with all that it needs inside.

The page's own text, style and script are package data, in the folder `page`. What was measured is
embedded as JSON, and the script builds tables and viewer of it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from PIL import Image

from cdcodec import image
from cdcodec.evaluation.rows import OK, Row
from cdcodec.evaluation.work import TOLERANCE

if TYPE_CHECKING:
    from cdcodec.evaluation.metrics import Metric
    from cdcodec.evaluation.summary import Delta, Point

WEBP_QUALITY = 95
"""Of the pictures in the page. The figures are of the exact pixels."""

WEBP_MAX_SIDE = 16_383  # pixels; a larger picture can't be embedded


@dataclass(frozen=True)
class Report:
    """What a page is made of.

    Attributes:
        title: Its heading.
        rows: What was measured, in the order of pictures and curves that the page keeps.
        points: Averages of them.
        deltas: Bjøntegaard deltas of them.
        metrics: Of the columns, in their order; those over whole sets have none per picture.
        settings: What tells a reader how to do it again (command, versions, machine, data set),
            by the words that stand before it.
        plots: Inline SVG, put into the page as it is.
    """

    title: str
    rows: Sequence[Row]
    points: Sequence[Point]
    deltas: Sequence[Delta]
    metrics: Sequence[Metric]
    settings: Mapping[str, str]
    plots: str


class _Pool:
    """Pictures of the page, each once however often it is shown."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def add(self, path: Path) -> int:
        """Return the number of a picture's file; the same for the same pixels.

        Raises:
            InputError: If the file can't be read.
        """
        pixels = image.to_srgb(image.load(path)).pixels
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "WEBP", quality=WEBP_QUALITY)
        return self._numbers.setdefault(buffer.getvalue(), len(self._numbers))

    def elements(self) -> Iterable[str]:
        """Yield them as elements that a browser neither runs nor decodes."""
        for data, number in self._numbers.items():
            text = base64.b64encode(data).decode()
            yield (
                f'<script type="text/plain" id="image-{number}">data:image/webp;base64,{text}'
                "</script>"
            )


def html(report: Report, folder: Path, originals: Mapping[str, Path], viewer: int) -> str:
    """Return the page: one file that asks nothing of a network or of other files.

    Args:
        report: What was measured.
        folder: What Row.picture is relative to.
        originals: Files of the pictures, by Row.image. Those that aren't here, and those with a
            side of more than WEBP_MAX_SIDE pixels, can't be viewed.
        viewer: Pictures to embed for the viewer, spread evenly over the data set.

    Raises:
        InputError: If a picture that is to be embedded can't be read.
    """
    pool = _Pool()
    data = _data(report, folder, originals, viewer, pool)
    page = resources.files(__package__) / "page"
    script = (page / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template((page / "page.html").read_text(encoding="utf-8")).substitute(
        # Plots bring attributes of style along; of scripts there is this one.
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        style=(page / "page.css").read_text(encoding="utf-8"),
        script=script,
        title=_text(report.title),
        settings="".join(
            f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>"
            for name, value in report.settings.items()
        ),
        plots=report.plots,
        quality=WEBP_QUALITY,
        tolerance=f"{TOLERANCE:.0%}",
        data=_json(data),
        images="\n".join(pool.elements()),
    )


def spread(names: Sequence[str], count: int) -> list[str]:
    """Take `count` names evenly over all of them, the first among them; all if there are fewer."""
    count = min(count, len(names))
    return [names[k * len(names) // count] for k in range(count)]


def _data(
    report: Report, folder: Path, originals: Mapping[str, Path], viewer: int, pool: _Pool
) -> dict[str, Any]:
    pictures = {row.image: row for row in report.rows}
    curves = list(dict.fromkeys([row.curve for row in report.rows]))
    fit = [name for name, row in pictures.items() if max(row.width, row.height) <= WEBP_MAX_SIDE]
    viewed = spread([name for name in fit if name in originals], viewer)
    return {
        "metrics": [
            {
                "name": metric.name,
                "title": metric.title,
                "unit": metric.unit,
                "higher": metric.higher_is_better,
                "digits": metric.digits,
                "whole": metric.whole,
            }
            for metric in report.metrics
        ],
        "curves": [
            {"name": curve, "codec": next(r.codec for r in report.rows if r.curve == curve)}
            for curve in curves
        ],
        "targets": sorted({row.target_bpp for row in report.rows}),
        "pictures": [
            {
                "name": name,
                "width": row.width,
                "height": row.height,
                "original": pool.add(originals[name]) if name in viewed else None,
            }
            for name, row in pictures.items()
        ],
        "rows": [_row(row, folder, pool if row.image in viewed else None) for row in report.rows],
        "points": [_point(point) for point in report.points],
        "deltas": [
            {
                "curve": delta.curve,
                "reference": delta.reference,
                "metric": delta.metric,
                "rate": delta.rate_percent,
                "score": delta.score,
                "rates": [delta.low_bpp, delta.high_bpp],
                "scoreRates": [delta.score_low_bpp, delta.score_high_bpp],
                "note": delta.note,
                "points": delta.points,
                "pictures": delta.pictures,
                "of": delta.of,
            }
            for delta in report.deltas
        ],
    }


def _row(row: Row, folder: Path, pool: _Pool | None) -> dict[str, Any]:
    """Return a row for the page, with its picture if there is a pool to put it into."""
    reached = row.status == OK
    return {
        "picture": row.image,
        "curve": row.curve,
        "target": row.target_bpp,
        "reached": reached,
        "note": row.note,
        "setting": row.setting,
        "bytes": row.file_bytes if reached else None,
        "bpp": row.bpp,
        "scores": dict(row.scores),
        "encode": sum(row.encode_seconds.values()) if reached else None,
        "decode": sum(row.decode_seconds.values()) if reached else None,
        "image": pool.add(folder / row.picture) if pool and reached and row.picture else None,
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        "curve": point.curve,
        "target": point.target_bpp,
        "pictures": point.pictures,
        "of": point.of,
        "bpp": point.bpp,
        "scores": dict(point.scores),
        "encode": point.encode_seconds,
        "decode": point.decode_seconds,
    }


def _json(value: object) -> str:
    """Return JSON that no text in it can end the element around, ASCII throughout."""
    return json.dumps(_finite(value), allow_nan=False).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """Replace what JSON has no word for by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(text: str) -> str:
    """Return text for HTML, ASCII throughout: a path of the command may hold stray bytes."""
    return escape(text).encode("ascii", "xmlcharrefreplace").decode()
