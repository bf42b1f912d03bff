"""FID and KID are the distances of their papers, on the patches that papers take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cdcodec.codec import Pixels
from cdcodec.errors import InputError, WeightsError
from cdcodec.evaluation import sets
from cdcodec.evaluation.metrics import SetScore
from cdcodec.nn import inception
from cdcodec.nn.inception import Inception


def colours(patches: Tensor) -> Tensor:
    """Stand in for the network: the mean of each channel."""
    return patches.float().mean((2, 3))


def flat(colour: np.ndarray) -> Pixels:
    return np.full((256, 256, 3), colour, np.uint8)


@pytest.fixture
def originals() -> list[Pixels]:
    """Pictures of one patch each."""
    random = np.random.default_rng(1)
    return [flat(random.integers(10, 120, 3)) for _ in range(40)]


def features(pictures: list[Pixels]) -> np.ndarray:
    return np.stack([picture[0, 0] for picture in pictures]).astype(np.float64)


def scorer(name: str) -> SetScore:
    (found,) = sets.load([name], colours).values()
    return found


def score(name: str, originals: list[Pixels], decoded: list[Pixels]) -> float:
    pairs = zip(originals, decoded, strict=True)
    value = scorer(name)(pairs)[name]
    assert value is not None
    return value


def test_patches_are_a_grid_and_the_same_shifted_by_half() -> None:
    rows, columns = np.indices((512, 768), np.uint16)
    pixels = np.stack([rows // 128, columns // 128, rows * 0], -1).astype(np.uint8)
    corners = [tuple(128 * patch[0, 0, :2].astype(int)) for patch in sets.patches(pixels)]
    whole = [(0, 0), (0, 256), (0, 512), (256, 0), (256, 256), (256, 512)]
    assert corners == [*whole, (128, 128), (128, 384)]
    assert all(patch.shape == (256, 256, 3) for patch in sets.patches(pixels))


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(255, 900, 0), (256, 256, 1), (383, 640, 2), (384, 384, 1), (511, 512, 2), (512, 512, 5)],
)
def test_what_a_grid_leaves_over_is_not_used(height: int, width: int, count: int) -> None:
    assert len(list(sets.patches(np.zeros((height, width, 3), np.uint8)))) == count


def test_fid_of_a_set_and_itself_is_zero(originals: list[Pixels]) -> None:
    assert score("fid", originals, originals) == pytest.approx(0, abs=1e-6)


def test_fid_of_a_shifted_set_is_the_square_of_the_shift(originals: list[Pixels]) -> None:
    shifted = [picture + np.array([3, 4, 12], np.uint8) for picture in originals]
    assert score("fid", originals, shifted) == pytest.approx(3**2 + 4**2 + 12**2, rel=1e-6)


def test_fid_of_a_stretched_set_is_the_closed_form(originals: list[Pixels]) -> None:
    """Of f and 2f it is |mean|² + trace(cov): the root of 4 cov² is 2 cov."""
    x = features(originals)
    expected = (x.mean(0) ** 2).sum() + np.cov(x.T).trace()
    assert score("fid", originals, [2 * p for p in originals]) == pytest.approx(expected, rel=1e-5)


def test_kid_is_the_unbiased_estimate_of_the_paper(originals: list[Pixels]) -> None:
    """Bińkowski et al. 2018, eq. 4, with the cubic kernel."""
    decoded = [255 - picture for picture in originals]
    x, y = features(originals), features(decoded)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 3 + 1) ** 3

    n = len(x)
    within = [(k.sum() - k.trace()) / (n * (n - 1)) for k in (kernel(x, x), kernel(y, y))]
    expected = sum(within) - 2 * kernel(x, y).mean()
    assert score("kid", originals, decoded) == pytest.approx(expected, rel=1e-5)


def test_kid_of_many_patches_is_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "_KID_SUBSETS", 3)
    monkeypatch.setattr(sets, "_KID_SUBSET_PATCHES", 20)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(50, 8, generator=generator)
    y = torch.rand(50, 8, generator=generator)
    state = torch.random.get_rng_state()
    value = sets.kernel(x, y)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert sets.kernel(x, y) == value
    assert value == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_a_few_patches_have_no_distance(name: str, originals: list[Pixels]) -> None:
    distance = scorer(name)
    few = originals[: sets.MIN_PATCHES - 1]
    small = originals[-1][:200]
    assert distance(zip(few, few, strict=True)) == {name: None}
    assert distance([(x, x) for x in (*few, small)]) == {name: None}
    assert distance([]) == {name: None}
    assert distance([(x, x) for x in (*few, small, few[0])])[name] is not None


def test_features_are_computed_once(originals: list[Pixels]) -> None:
    seen = []

    def counted(patches: Tensor) -> Tensor:
        seen.append(len(patches))
        return colours(patches)

    decoded = [picture + np.uint8(1) for picture in originals]
    chosen = sets.load(["fid", "kid"], counted)
    for _ in range(2):
        for distance in chosen.values():
            distance(zip(originals, decoded, strict=True))
    assert sum(seen) == len({picture.tobytes() for picture in (*originals, *decoded)})


def test_memory_for_features_is_bounded(
    monkeypatch: pytest.MonkeyPatch, originals: list[Pixels]
) -> None:
    monkeypatch.setattr(sets, "_REMEMBERED_PATCHES", 3)
    seen = []

    def counted(patches: Tensor) -> Tensor:
        seen.append(len(patches))
        return colours(patches)

    known = sets.Features(counted)
    for number in (0, 1, 2, 0, 3, 0, 1):  # 3 drops 1, which was used least lately
        known.of(originals[number])
    assert sum(seen) == 5


# What may be missing


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_a_distance_without_its_weights_is_refused_by_name(name: str) -> None:
    message = f"^{name} needs the weight set inception-fid, which is not here"
    with pytest.raises(WeightsError, match=message):
        sets.load([name])


def test_only_metrics_of_sets_are_taken() -> None:
    assert sets.load([]) == {}
    with pytest.raises(InputError, match="psnr is no metric of whole sets"):
        sets.load(["psnr"], colours)
    with pytest.raises(InputError, match="unknown metric 'fidd'"):
        sets.load(["fidd"], colours)


# The network


def test_resizing_is_that_of_tensorflow_1() -> None:
    x = torch.rand(1, 1, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = inception.resize(x, 7)
    for row in range(7):
        for column in range(7):
            top, left = row * 5 / 7, column * 4 / 7
            i, j = int(top), int(left)
            down, right = min(i + 1, 4), min(j + 1, 3)
            a, b = top - i, left - j
            expected = (1 - a) * ((1 - b) * x[0, 0, i, j] + b * x[0, 0, i, right])
            expected = expected + a * ((1 - b) * x[0, 0, down, j] + b * x[0, 0, down, right])
            assert float(got[0, 0, row, column]) == pytest.approx(float(expected), abs=1e-12)


def test_the_network_loads_a_checkpoint_by_its_names(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = Inception().eval()
    stored = {n: t for n, t in network.state_dict().items() if "num_batches" not in n}
    assert len(stored) == 94 * 5  # of 94 convolutions the weight, and the four of its norm
    assert stored["Mixed_6b.branch7x7dbl_2.conv.weight"].shape == (128, 128, 7, 1)
    assert stored["Mixed_7c.branch3x3dbl_3a.bn.running_var"].shape == (384,)
    path = tmp_path / "inception.safetensors"
    save_file({**stored, "fc.weight": torch.zeros(1008, 2048)}, path)
    loaded = Inception.load(path)
    patches = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(patches), network(patches))
        assert loaded(patches).shape == (1, inception.FEATURES)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_another_file_is_not_taken_for_the_network(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    with pytest.raises(WeightsError, match="cannot read the weights of Inception"):
        Inception.load(path)
    save_file({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(WeightsError, match="is not the Inception of FID"):
        Inception.load(path)
