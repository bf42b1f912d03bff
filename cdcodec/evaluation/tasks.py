"""What a machine still sees: a detector's answers for decoded pictures against the originals'.

This is the measure of content-adaptive palette diffusion (section 4.3 and Table 3 there): "machine
vision results on the original data are used as ground truth", average precision and recall as
COCO's at IoU 0.50:0.95, area=all, maxDets=100. A detector's own mistakes count as truth too: the
scores say how far a codec changes its answers, not how right these are. They don't compare with the
figures of Table 3, where the originals themselves have an mAP below 1.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdcodec.codec import Pixels
from cdcodec.errors import InputError
from cdcodec.evaluation import metrics
from cdcodec.evaluation.detectors import Detections, Detector, Faces, Objects, People
from cdcodec.evaluation.metrics import Metric, SetScore

_MAX_DETECTIONS = 100
"""In a picture; the surest are taken."""

_TITLES = {"faces": "Face", "people": "People", "objects": "Object"}

TASKS: dict[str, Metric] = {
    f"{task}_{measure.lower()}": Metric(
        f"{task}_{measure.lower()}", f"{title} {measure}", whole=True
    )
    for task, title in _TITLES.items()
    for measure in ("mAP", "AR")
}
"""By name: mAP and AR of every task, both 0..1, 1 where the detector finds the same."""


def metrics_of(task: str) -> tuple[Metric, Metric]:
    """Return the mAP and the AR of a task: "faces", "people" or "objects=MODEL".

    Raises:
        InputError: If it is none of these.
    """
    kind, _ = _parsed(task)
    return TASKS[f"{kind}_map"], TASKS[f"{kind}_ar"]


def load(tasks: Sequence[str], device: str = "auto") -> dict[str, SetScore]:
    """Make ready to score sets of pictures.

    Args:
        tasks: "faces", "people", and "objects=MODEL" with a folder or a name on the hub, at most
            one of these since their scores have the same names.
        device: Where a model of objects runs, as `nn.device.pick` names it.

    Returns:
        Scores by a name that stands for the detector and its version. Each gives both metrics of
        its task, by their names in TASKS, after one run of the detector. They are None where it
        finds nothing in any original.

    Raises:
        InputError: If there is no such task, or a package isn't installed.
        WeightsError: If a model can't be loaded.
    """
    parsed = [_parsed(task) for task in dict.fromkeys(tasks)]
    if sum(kind == "objects" for kind, _ in parsed) > 1:
        raise InputError("objects can be given only once")
    if parsed:
        metrics.library("pycocotools.cocoeval")  # better missed now than after hours of coding
    scores: dict[str, SetScore] = {}
    for kind, model in parsed:
        detector = _detector(kind, model, device)
        scores[f"{kind}: {detector.version}"] = Agreement(kind, detector)
    return scores


class Agreement:
    """mAP and AR of a detector's answers for decoded pictures.

    What it finds in an original is kept, so that it looks at one once, however many codecs there
    are.
    """

    def __init__(self, task: str, detector: Detector) -> None:
        self._task = task
        self._detector = detector
        self._wanted: dict[bytes, Detections] = {}

    def __call__(self, pairs: Iterable[tuple[Pixels, Pixels]]) -> dict[str, float | None]:
        """Score pairs of original and decoded picture, both [H, W, 3]."""
        wanted, found = [], []
        for original, decoded in pairs:
            wanted.append(self._truth(original))
            found.append(self._detector(decoded))
        precision, recall = agreement(wanted, found)
        return {f"{self._task}_map": precision, f"{self._task}_ar": recall}

    def _truth(self, original: Pixels) -> Detections:
        digest = hashlib.sha256(repr(original.shape).encode())
        digest.update(original.tobytes())
        key = digest.digest()
        if key not in self._wanted:
            found = self._detector(original)
            self._wanted[key] = found.surest(self._detector.confident)
        return self._wanted[key]


def agreement(
    wanted: Sequence[Detections], found: Sequence[Detections]
) -> tuple[float | None, float | None]:
    """Return COCO's mAP and AR, 0..1, with IoU 0.50:0.05:0.95.

    A picture in which nothing is wanted counts by what is wrongly found in it. Classes of which
    nothing is wanted in any picture don't count.

    Args:
        wanted: What there is, for every picture; the scores don't matter.
        found: What was found, for the same pictures.

    Returns:
        The two, or None for both if nothing is wanted in any picture.
    """
    if not any(map(len, wanted)):
        return None, None
    # Its progress goes to stdout, where data belongs.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = metrics.library("pycocotools.cocoeval").COCOeval(
            _coco(wanted), _coco(found), "bbox"
        )
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
        evaluation.params.maxDets = [_MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    return _mean(precision), _mean(recall)


def _mean(values: NDArray[np.float64]) -> float:
    # -1 marks classes that are found, but not wanted. COCOeval adds 2e-16 to what it divides by:
    # without rounding, all right would be a hair below 1.
    return round(float(values[values > -1].mean()), 9)


def _coco(pictures: Sequence[Detections]) -> Any:
    """Return detections in the form that COCOeval reads, whether as truth or as results."""
    boxes = [
        {
            "image_id": number,
            "category_id": int(label),
            "bbox": box.tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": 0,
            "score": float(score),
        }
        for number, one in enumerate(pictures)
        for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True)
    ]
    coco = metrics.library("pycocotools.coco").COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(len(pictures))],
        "categories": [{"id": label} for label in sorted({box["category_id"] for box in boxes})],
        # COCOeval takes a match with the id 0 for none.
        "annotations": [{"id": number, **box} for number, box in enumerate(boxes, 1)],
    }
    coco.createIndex()
    return coco


def _parsed(task: str) -> tuple[str, str]:
    kind, _, model = task.partition("=")
    if kind not in _TITLES:
        near = difflib.get_close_matches(kind, _TITLES, 1)
        raise InputError(
            f"there is no task {task!r}",
            hint=f"did you mean {near[0]}?" if near else "faces, people, objects=MODEL",
        )
    if (kind == "objects") != bool(model):
        raise InputError(
            "objects needs a model" if kind == "objects" else f"{kind} takes no model",
            hint="objects=MODEL, with a folder or a name on the hub",
        )
    return kind, model


def _detector(kind: str, model: str, device: str) -> Detector:
    if kind == "objects":
        return Objects(model, device)
    return Faces() if kind == "faces" else People()
