"""What a detector finds in decoded pictures is compared with what it finds in the originals."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data

from cdcodec.codec import Pixels
from cdcodec.errors import InputError, WeightsError
from cdcodec.evaluation import tasks
from cdcodec.evaluation.detectors import Detections, Faces, Objects, People

GREY = np.full((224, 192, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def face() -> Pixels:
    """An astronaut's head."""
    return np.ascontiguousarray(data.astronaut()[20:244, 130:322])


@pytest.fixture(scope="module")
def person() -> Pixels:
    """The whole astronaut."""
    return np.asarray(data.astronaut())


def blurred(pixels: Pixels, radius: float) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def boxes(*found: tuple[float, ...]) -> Detections:
    """Detections from (left, top, width, height, score, label)."""
    table = np.array(found, np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


NOTHING = boxes()


class Scripted:
    """A detector that knows what it will find, and remembers what it was shown."""

    version = "1"
    confident = 0.5

    def __init__(self, found: dict[int, Detections]) -> None:
        self.found = found
        self.seen: list[int] = []

    def __call__(self, pixels: Pixels) -> Detections:
        self.seen.append(int(pixels[0, 0, 0]))
        return self.found[self.seen[-1]]


def flat(value: int) -> Pixels:
    return np.full((2, 2, 3), value, np.uint8)


def test_map_and_ar_of_a_worked_example() -> None:
    wanted = [boxes((0, 0, 10, 10, 1, 1), (20, 20, 10, 10, 1, 1))]
    # In order of their scores: a hit at every IoU, a miss, and a hit at IoU 0.72.
    found = [
        boxes((20, 20, 10, 7.2, 0.7, 1), (50, 50, 9, 9, 0.8, 1), (0, 0, 10, 10, 0.9, 1)),
    ]
    # At the five IoUs up to 0.70: precision 1 up to recall 0.5 (51 of the 101 points), then 2/3.
    # At the five above: 1 at the same 51 points, then 0.
    precision, recall = tasks.agreement(wanted, found)
    assert precision == pytest.approx((51 + 50 * (2 / 3) / 2) / 101, abs=1e-9)
    assert recall == pytest.approx((1 + 0.5) / 2)


def test_the_mean_is_over_the_classes_that_are_wanted() -> None:
    wanted = [boxes((0, 0, 10, 10, 1, 1), (20, 20, 10, 10, 1, 2))]
    found = [boxes((0, 0, 10, 10, 0.9, 1), (20, 20, 10, 10, 0.9, 3))]
    assert tasks.agreement(wanted, found) == (pytest.approx(0.5), pytest.approx(0.5))


def test_a_find_where_nothing_is_wanted_costs_precision() -> None:
    one = boxes((0, 0, 10, 10, 0.8, 1))
    assert tasks.agreement([one, NOTHING], [one, NOTHING]) == (1, 1)
    wrong = boxes((0, 0, 10, 10, 0.9, 1))
    assert tasks.agreement([one, NOTHING], [one, wrong]) == (pytest.approx(0.5), 1)


def test_finding_nothing_of_what_is_wanted_is_0() -> None:
    assert tasks.agreement([boxes((0, 0, 10, 10, 1, 1))], [NOTHING]) == (0, 0)


def test_where_nothing_is_wanted_at_all_there_is_no_score() -> None:
    assert tasks.agreement([NOTHING], [boxes((0, 0, 10, 10, 1, 1))]) == (None, None)
    assert tasks.agreement([], []) == (None, None)


def test_the_comparison_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    one = [boxes((0, 0, 10, 10, 1, 1))]
    tasks.agreement(one, one)
    assert capfd.readouterr() == ("", "")


def test_only_what_is_sure_in_the_original_is_wanted() -> None:
    found = boxes((0, 0, 10, 10, 0.9, 1), (20, 20, 10, 10, 0.3, 1))
    score = tasks.Agreement("faces", Scripted({1: found}))
    assert score([(flat(1), flat(1))]) == {"faces_map": 1, "faces_ar": 1}


def test_an_original_is_looked_at_once() -> None:
    one = boxes((0, 0, 10, 10, 0.9, 1))
    detector = Scripted({1: one, 2: NOTHING, 3: one})
    score = tasks.Agreement("faces", detector)
    assert score(iter([(flat(1), flat(2))]))["faces_map"] == 0
    assert score(iter([(flat(1), flat(3))]))["faces_map"] == 1
    assert detector.seen == [1, 2, 3]


def test_the_cascade_finds_a_face(face: Pixels) -> None:
    found = Faces()(face)
    assert len(found) == 1
    left, top, width, height = found.boxes[0]
    assert left < 95 < left + width  # her nose, by eye
    assert top < 100 < top + height


def test_the_same_picture_has_the_same_faces_and_a_worse_one_has_less(face: Pixels) -> None:
    (score,) = tasks.load(["faces"]).values()
    assert score([(face, face)]) == {"faces_map": 1, "faces_ar": 1}
    precision = score([(face, blurred(face, 6))])["faces_map"]
    assert precision is not None
    assert precision < 1
    assert score([(face, GREY)]) == {"faces_map": 0, "faces_ar": 0}
    assert score([(GREY, GREY)]) == {"faces_map": None, "faces_ar": None}


def test_the_same_picture_has_the_same_people_and_a_grey_one_has_none(person: Pixels) -> None:
    (score,) = tasks.load(["people"]).values()
    assert score([(person, person)]) == {"people_map": 1, "people_ar": 1}
    assert score([(person, np.full_like(person, 128))]) == {"people_map": 0, "people_ar": 0}


@pytest.mark.parametrize("detector", [Faces, People])
def test_a_detector_finds_nothing_in_the_smallest_pictures(
    detector: type[Faces] | type[People],
) -> None:
    for height, width in ((1, 1), (8, 200), (200, 8)):
        assert len(detector()(np.zeros((height, width, 3), np.uint8))) == 0


def test_the_number_of_threads_changes_nothing_and_stays(person: Pixels) -> None:
    import cv2

    before = cv2.getNumThreads()
    found = []
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            found.append(People()(person))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(found[0].boxes, found[1].boxes)
    assert np.array_equal(found[0].scores, found[1].scores)


def test_every_task_has_both_metrics() -> None:
    assert list(tasks.TASKS) == [
        "faces_map", "faces_ar", "people_map", "people_ar", "objects_map", "objects_ar",
    ]  # fmt: skip
    for name, metric in tasks.TASKS.items():
        assert metric.name == name
        assert metric.whole
        assert metric.higher_is_better
    first, second = tasks.metrics_of("objects=somewhere")
    assert (first.title, second.title) == ("Object mAP", "Object AR")


@pytest.mark.parametrize("missing", ["cv2", "pycocotools.cocoeval"])
def test_a_missing_package_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    package = missing.partition(".")[0]
    with pytest.raises(InputError, match=f"^{package} is not installed$") as caught:
        tasks.load(["faces"])
    assert caught.value.hint == "in a checkout of cdcodec: pip install '.[eval]'"


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["face"], "did you mean faces?"),
        (["licence plates"], "faces, people, objects=MODEL"),
        (["objects"], "objects=MODEL, with a folder or a name on the hub"),
        (["faces=model"], "objects=MODEL, with a folder or a name on the hub"),
        (["objects=a", "objects=b"], None),
    ],
)
def test_a_wrong_task_is_refused(names: list[str], hint: str | None) -> None:
    with pytest.raises(InputError) as caught:
        tasks.load(names)
    assert caught.value.hint == hint


def test_no_tasks_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    assert tasks.load([]) == {}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLOS of random weights that is sure of the classes of what it sees."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("model")
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=[64, 64], patch_size=16, num_detection_tokens=5, num_labels=3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.YolosForObjectDetection(config)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        network.class_labels_classifier.layers[-1].bias.data[1] += 20
        network.bbox_predictor.layers[-1].weight.data /= 20
    bars = transformers.utils.logging
    bars.disable_progress_bar()
    network.save_pretrained(folder)
    bars.enable_progress_bar()
    preprocessing = {
        "image_processor_type": "YolosImageProcessor",
        "size": {"shortest_edge": 64, "longest_edge": 64},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")
    return folder


def test_any_model_of_transformers_finds_objects(model: Path, face: Pixels) -> None:
    found = Objects(str(model), "cpu")(face)
    assert len(found)
    assert found.scores.min() >= 0.05
    assert found.boxes[:, 2:].max() <= 2 * max(face.shape)
    ((name, score),) = tasks.load([f"objects={model}"], "cpu").items()
    assert name.startswith("objects: yolos ")
    assert score([(face, face)]) == {"objects_map": 1, "objects_ar": 1}
    other = score([(face, np.zeros_like(face))])["objects_map"]
    assert other is not None
    assert other < 1


def test_a_model_goes_by_its_weights_and_preprocessing(model: Path, tmp_path: Path) -> None:
    (same,) = tasks.load([f"objects={model}"], "cpu")
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert list(tasks.load([f"objects={tmp_path}"], "cpu")) == [same]
    preprocessing = tmp_path / "preprocessor_config.json"
    preprocessing.write_text(preprocessing.read_text().replace("64", "48"), encoding="utf-8")
    assert list(tasks.load([f"objects={tmp_path}"], "cpu")) != [same]


def test_loading_a_model_says_nothing(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Objects(str(model), "cpu")
    assert capfd.readouterr() == ("", "")


def test_a_model_that_is_not_there_is_a_weights_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is not a folder"):
        tasks.load([f"objects={tmp_path / 'none'}"])
    with pytest.raises(WeightsError, match="cannot load") as caught:
        tasks.load([f"objects={tmp_path}"])
    assert "\n" not in str(caught.value)


def test_another_kind_of_model_is_a_weights_error(model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "bbox_predictor" not in name}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match="lacks weights"):
        tasks.load([f"objects={tmp_path}"])
