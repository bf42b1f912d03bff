"""Detectors of faces, people and objects: what a machine sees in a picture.

Those of faces and people come with OpenCV and need no weights. Objects are found by any detection
model that transformers can load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cdcodec.codec import Pixels
from cdcodec.errors import InputError, WeightsError
from cdcodec.evaluation import metrics


@dataclass(frozen=True)
class Detections:
    """What was found in one picture.

    Attributes:
        boxes: [N, 4]: left, top, width and height in pixels.
        scores: [N]: confidence, larger is surer; comparable only between those of one detector.
        labels: [N]: number of the class, as the detector counts.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.boxes)

    def surest(self, score: float) -> Detections:
        """Return those of at least a score."""
        sure = self.scores >= score
        return Detections(self.boxes[sure], self.scores[sure], self.labels[sure])


class Detector(Protocol):
    """Finds things in pictures; the same in the same picture, every time.

    Attributes:
        version: Stands for everything that its answers depend on.
        confident: A detection of this score counts as one. Those below only rank after it.
    """

    version: str
    confident: float

    def __call__(self, pixels: Pixels) -> Detections:
        """Look at pixels [H, W, 3]."""


class Faces:
    """OpenCV's cascade for frontal faces (Viola and Jones 2001; Lienhart's "alt" training).

    Of "default", "alt" and "alt2", tried with groups of five windows on the originals of Kodak's 24
    pictures, it alone finds the four large faces and nothing else; it misses small ones.
    """

    confident = -np.inf

    def __init__(self) -> None:
        self._cv2 = metrics.library("cv2")
        name = "haarcascade_frontalface_alt"
        self._cascade = self._cv2.CascadeClassifier(f"{self._cv2.data.haarcascades}{name}.xml")
        self.version = f"{name}, OpenCV {self._cv2.__version__}"

    def __call__(self, pixels: Pixels) -> Detections:
        """Look at pixels [H, W, 3]; the score is the sum of the last stage that was passed."""
        grey = self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2GRAY)
        with _one_thread(self._cv2):
            boxes, _, scores = self._cascade.detectMultiScale3(
                grey, scaleFactor=1.1, minNeighbors=5, outputRejectLevels=True
            )
        return _of_one_class(boxes, scores)


class People:
    """OpenCV's detector of people who stand upright (Dalal and Triggs 2005), with its own SVM.

    It is a weak one: of six finds in Kodak's 24 originals three have nobody in them. What it finds
    in an original counts from 0.5 on; what it finds in a decoded picture down to -0.3, but ranks
    last. With OpenCV's one bar at 0 for both, finds that were hardly there before are lost at once:
    Kodak as JPEG of quality 75 had an mAP of 0.43 instead of 0.77. Both bars were chosen on Kodak.
    """

    confident = 0.5
    _least = -0.3

    def __init__(self) -> None:
        self._cv2 = metrics.library("cv2")
        self._hog = self._cv2.HOGDescriptor()
        self._hog.setSVMDetector(self._cv2.HOGDescriptor_getDefaultPeopleDetector())
        self.version = f"HOG, OpenCV {self._cv2.__version__}"

    def __call__(self, pixels: Pixels) -> Detections:
        """Look at pixels [H, W, 3]; the score is the distance from the SVM's plane."""
        width, height = self._hog.winSize
        if pixels.shape[0] < height or pixels.shape[1] < width:  # OpenCV fails an assertion there
            return _of_one_class((), ())
        bgr = self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2BGR)
        with _one_thread(self._cv2):
            boxes, scores = self._hog.detectMultiScale(
                bgr, hitThreshold=self._least, winStride=(8, 8), padding=(8, 8), scale=1.05
            )
        return _of_one_class(boxes, scores)


class Objects:
    """A detection model of transformers, with its own preprocessing, such as a DETR or YOLOS."""

    confident = 0.5
    _least = 0.05  # what is less sure only lengthens the tail of the precision-recall curve

    def __init__(self, model: str, device: str = "auto") -> None:
        """Load a model.

        Args:
            model: A folder, or the name of a repository on the hub.
            device: Where it runs, as `nn.device.pick` names it.

        Raises:
            InputError: If transformers isn't installed, the model needs what isn't, or there is no
                such device.
            WeightsError: If it isn't there, or isn't a detection model in safetensors.
        """
        transformers = metrics.library("transformers")
        import torch

        from cdcodec.nn.device import pick

        self._device = pick(device)
        # A relative name that exists is a folder for transformers too; one that looks like a path
        # and doesn't exist would be looked up on the hub, and be told of as a malformed name.
        if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
            raise WeightsError(f"{model} is not a folder")
        name = str(Path(model).expanduser()) if model.startswith("~") else model
        try:
            with _without_bars(transformers):
                self._processor = transformers.AutoImageProcessor.from_pretrained(name)
                self._model, loading = transformers.AutoModelForObjectDetection.from_pretrained(
                    name,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
        except ImportError as error:
            raise InputError(f"cannot run {model}: {_first_line(error)}") from error
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"cannot load {model}: {_first_line(error)}",
                hint="objects= takes a folder or the hub's name of a model with config.json, "
                "preprocessor_config.json and model.safetensors",
            ) from error
        if loading["missing_keys"] or loading["mismatched_keys"]:
            raise WeightsError(f"{model} lacks weights of a detection model")
        if not hasattr(self._processor, "post_process_object_detection"):
            raise InputError(f"{model} is no model that detects objects")
        self._model.eval().to(self._device)
        self.version = (
            f"{self._model.config.model_type} {self._digest()}, "
            f"transformers {transformers.__version__}"
        )

    def __call__(self, pixels: Pixels) -> Detections:
        """Look at pixels [H, W, 3]; the score is a probability."""
        import torch

        batch = self._processor(
            images=pixels, input_data_format="channels_last", return_tensors="pt"
        )
        with torch.inference_mode():
            output = self._model(**batch.to(self._device))
        found = self._processor.post_process_object_detection(
            output, threshold=self._least, target_sizes=[pixels.shape[:2]]
        )[0]
        boxes, scores, labels = (found[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
        boxes = boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return Detections(boxes, scores.astype(np.float64), labels.astype(np.int64))

    def _digest(self) -> str:
        """Return 16 digits that change with the weights or the preprocessing."""
        digest = hashlib.sha256(self._processor.to_json_string().encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]


def _of_one_class(boxes: Any, scores: Any) -> Detections:
    # OpenCV gives a tuple where nothing was found, and scores as [N] or [N, 1] by version.
    found = np.asarray(boxes, np.float64).reshape(-1, 4)
    return Detections(
        found, np.asarray(scores, np.float64).reshape(-1), np.ones(len(found), np.int64)
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextmanager
def _one_thread(cv2: Any) -> Iterator[None]:
    # Windows are grouped in the order in which threads found them: with several of them, boxes
    # and scores would differ from run to run.
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
