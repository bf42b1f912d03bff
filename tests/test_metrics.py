"""Metrics of one picture agree with others' code or with formulas written out again here."""

from __future__ import annotations

import hashlib
import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import skimage.metrics
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from cdcodec import weights
from cdcodec.codec import Pixels
from cdcodec.errors import InputError, WeightsError
from cdcodec.evaluation import metrics
from cdcodec.evaluation.metrics import METRICS
from cdcodec.nn.perceptual import Lpips
from cdcodec.nn.vgg import Dists

Floats = NDArray[np.float64]

PICTURES = ["astronaut", "coffee", "chelsea"]
CLOSE = 1e-3
OF_ONE = [name for name, metric in METRICS.items() if not metric.whole]
WITHOUT_WEIGHTS = [name for name in OF_ONE if METRICS[name].weights is None]


def picture(name: str, height: int = 176, width: int = 208) -> Pixels:
    whole: Pixels = getattr(skimage.data, name)()
    return whole[60 : 60 + height, 90 : 90 + width].copy()


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data))


def grey(pixels: Pixels) -> Floats:
    return pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


@pytest.fixture
def add_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Make a file of tensors the registered weights of a set, and add it to the cache."""
    monkeypatch.setenv("CDCODEC_CACHE", str(tmp_path / "cache"))
    sets = weights.load_registry(weights.registry_path())
    monkeypatch.setattr(weights.registry, "load_registry", lambda: sets)

    def add(name: str, tensors: dict[str, torch.Tensor]) -> None:
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path)
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        (file,) = sets[name].files
        file = replace(file, sha256=digest, bytes=len(data))
        sets[name] = replace(sets[name], files=(file,))
        weights.add(name, path)

    return add


# Against others


@pytest.mark.parametrize("name", PICTURES)
def test_psnr_is_that_of_skimage(name: str) -> None:
    x, y = picture(name), jpeg(picture(name), 20)
    expected = skimage.metrics.peak_signal_noise_ratio(x, y, data_range=255)
    assert metrics.psnr(x, y) == pytest.approx(expected, abs=1e-9)


def test_psnr_of_equal_pictures_is_a_number() -> None:
    x = picture("coffee")
    assert metrics.psnr(x, x) == metrics.PSNR_OF_EQUALS_DB
    y = x.copy()
    y[0, 0, 0] ^= 1
    assert 90 < metrics.psnr(x, y) < metrics.PSNR_OF_EQUALS_DB


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("size", [(176, 208), (97, 300), (300, 300)])
def test_ssim_is_that_of_skimage_at_full_resolution(name: str, size: tuple[int, int]) -> None:
    x = picture(name, *size)
    y = jpeg(x, 20)
    expected = skimage.metrics.structural_similarity(
        x,
        y,
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert metrics.load(["ssim"])["ssim"](x, y) == pytest.approx(expected, abs=CLOSE)


def ssim_terms(x: Floats, y: Floats) -> tuple[float, float]:
    """Return the means of SSIM and of its contrast-structure part, of one channel in 0..255."""
    place = np.arange(-5, 6)
    window = np.exp(-(place**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(z: Floats) -> Floats:
        for axis in (0, 1):
            z = scipy.ndimage.correlate1d(z, window, axis)
        return z[5:-5, 5:-5]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = blur(x), blur(y)
    contrast = (2 * (blur(x * y) - mx * my) + c2) / (blur(x * x) - mx**2 + blur(y * y) - my**2 + c2)
    luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    return float((luminance * contrast).mean()), float(contrast.mean())


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("quality", [5, 30])
def test_ms_ssim_is_that_of_the_paper(name: str, quality: int) -> None:
    """Wang et al. 2003, eq. 7, per channel; sides that halve four times leave no edge to argue."""
    x = picture(name)
    y = jpeg(x, quality)
    exponents = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    values = []
    for channel in range(3):
        a, b = x[..., channel].astype(np.float64), y[..., channel].astype(np.float64)
        value = 1.0
        for exponent in exponents[:-1]:
            value *= ssim_terms(a, b)[1] ** exponent
            a, b = (z.reshape(len(z) // 2, 2, -1, 2).mean((1, 3)) for z in (a, b))
        values.append(value * ssim_terms(a, b)[0] ** exponents[-1])
    measured = metrics.load(["ms_ssim"])["ms_ssim"](x, y)
    assert measured == pytest.approx(np.mean(values), abs=CLOSE)


@pytest.mark.parametrize("name", PICTURES)
def test_gmsd_is_that_of_the_paper(name: str) -> None:
    """Xue et al. 2014, eq. 4 to 6, on luma that is halved first; c is 170 for samples to 255."""
    x = picture(name)
    y = jpeg(x, 10)
    prewitt = np.array([[1, 0, -1]] * 3) / 3

    def gradients(pixels: Pixels) -> Floats:
        z = grey(pixels).reshape(88, 2, 104, 2).mean((1, 3))
        parts = [scipy.ndimage.correlate(z, k, mode="constant") for k in (prewitt, prewitt.T)]
        return np.hypot(*parts)

    a, b = gradients(x), gradients(y)
    expected = ((2 * a * b + 170) / (a**2 + b**2 + 170)).std()
    assert metrics.load(["gmsd"])["gmsd"](x, y) == pytest.approx(expected, abs=CLOSE)


def convolve(x: Floats, weight: Floats, bias: Floats, stride: int = 1, pad: int = 0) -> Floats:
    """Correlate x [C, H, W] with weight [D, C, K, K]."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    return np.tensordot(weight, windows, ((1, 2, 3), (0, 3, 4))) + bias[:, None, None]


def relu(x: Floats) -> Floats:
    return np.maximum(x, 0)


def shrink(x: Floats) -> Floats:
    """Take maxima of 3x3 at every second place; the last ones may reach over the edge."""
    _, height, width = x.shape
    x = np.pad(x, ((0, 0), (0, 1 - height % 2), (0, 1 - width % 2)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return windows[:, ::2, ::2].max((3, 4))


def random_like(module: torch.nn.Module, seed: int, bias: float = 0.05) -> dict[str, torch.Tensor]:
    """Return weights that keep the scale of what goes through."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in module.state_dict().items():
        inputs = tensor[0].numel()
        scale = (2 / inputs) ** 0.5 if tensor.ndim == 4 else bias
        tensors[name] = scale * torch.randn(tensor.shape, generator=generator)
    return tensors


def stored_lpips() -> dict[str, torch.Tensor]:
    tensors = {}
    for name, tensor in random_like(Lpips(), 1).items():
        kind, _, rest = name.partition(".")
        if kind == "heads":
            tensors[f"lin{rest}.model.1.weight"] = tensor.abs() * tensor.shape[1] ** 0.5
        else:
            tensors["trunk.features." + (f"0.{rest}" if kind == "stem" else rest)] = tensor
    return tensors


def lpips_by_hand(x: Pixels, y: Pixels, stored: dict[str, Floats]) -> float:
    """Return d of Zhang et al. 2018, eq. 1, with the layers of SqueezeNet 1.1."""
    mean, spread = [-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]

    def layer(z: Floats, name: str, **how: int) -> Floats:
        name = f"trunk.features.{name}"
        return relu(convolve(z, stored[f"{name}.weight"], stored[f"{name}.bias"], **how))

    def maps(pixels: Pixels) -> list[Floats]:
        z = ((pixels / 127.5 - 1 - mean) / spread).transpose(2, 0, 1)
        found = [z := layer(z, "0", stride=2)]
        for number in range(2, 13):
            if number in (2, 5, 8):
                z = shrink(z)
                continue
            z = layer(z, f"{number}.squeeze")
            z = np.concatenate(
                [layer(z, f"{number}.expand1x1"), layer(z, f"{number}.expand3x3", pad=1)]
            )
            if number not in (3, 6):
                found.append(z)
        return [z / np.sqrt((z**2).sum(0, keepdims=True) + 1e-10) for z in found]

    distance = 0.0
    for number, (a, b) in enumerate(zip(maps(x), maps(y), strict=True)):
        head = stored[f"lin{number}.model.1.weight"][0]
        distance += float((head * (a - b) ** 2).sum(0).mean())
    return distance


def test_lpips_is_the_formula_of_the_paper(add_weights) -> None:
    stored = stored_lpips()
    add_weights("lpips-squeeze", stored)
    score = metrics.load(["lpips"])["lpips"]
    plain = {name: tensor.double().numpy() for name, tensor in stored.items()}
    for name in PICTURES:
        x = picture(name, 50, 63)
        y = jpeg(x, 10)
        expected = lpips_by_hand(x, y, plain)
        assert expected > 0.05
        assert score(x, y) == pytest.approx(expected, abs=1e-5)
        assert score(x, x) == 0


def dists_by_hand(x: Pixels, y: Pixels, stored: dict[str, Floats]) -> float:
    """Return D of Ding et al. 2020, eq. 7, with the layers of VGG-16."""
    hann = np.outer([1, 2, 1], [1, 2, 1]) / 16

    def maps(pixels: Pixels) -> list[Floats]:
        z = pixels.transpose(2, 0, 1) / 255
        found = [z]
        z = (z - np.array([[[0.485]], [[0.456]], [[0.406]]])) / np.array(
            [[[0.229]], [[0.224]], [[0.225]]]
        )
        for number in range(30):
            if number in (4, 9, 16, 23):
                found.append(z)
                square = scipy.ndimage.correlate(z**2, hann[None], mode="constant")
                z = np.sqrt(square[:, ::2, ::2] + 1e-12)
            elif f"features.{number}.weight" in stored:
                weight, bias = (stored[f"features.{number}.{part}"] for part in ("weight", "bias"))
                z = relu(convolve(z, weight, bias, pad=1))
        return [*found, z]

    texture, structure = [], []
    for a, b in zip(maps(x), maps(y), strict=True):
        a, b = (z.reshape(len(z), -1) for z in (a, b))
        ma, mb = a.mean(1), b.mean(1)
        texture.append((2 * ma * mb + 1e-6) / (ma**2 + mb**2 + 1e-6))
        covariance = ((a - ma[:, None]) * (b - mb[:, None])).mean(1)
        structure.append((2 * covariance + 1e-6) / (a.var(1) + b.var(1) + 1e-6))
    alpha, beta = stored["alpha"].ravel(), stored["beta"].ravel()
    similarity = alpha @ np.concatenate(texture) + beta @ np.concatenate(structure)
    return float(1 - similarity / (alpha.sum() + beta.sum()))


def test_dists_is_the_formula_of_the_paper(add_weights) -> None:
    stored = random_like(Dists(), 2)
    stored |= {name: stored[name].abs() for name in ("alpha", "beta")}
    add_weights("dists", stored)
    score = metrics.load(["dists"])["dists"]
    plain = {name: tensor.double().numpy() for name, tensor in stored.items()}
    for name, size in zip(PICTURES, [(32, 40), (35, 33), (16, 21)], strict=True):
        x = picture(name, *size)
        y = jpeg(x, 5)
        expected = dists_by_hand(x, y, plain)
        assert expected > 0.01
        assert score(x, y) == pytest.approx(expected, abs=1e-4)
        assert score(x, x) == pytest.approx(0, abs=1e-5)


# What holds for all


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_more_loss_gives_a_worse_score(name: str) -> None:
    x = picture("astronaut")
    score = metrics.load([name])[name]
    scores = [score(x, x), score(x, jpeg(x, 60)), score(x, jpeg(x, 10))]
    assert None not in scores
    assert sorted(scores, reverse=METRICS[name].higher_is_better) == scores
    assert len(set(scores)) == 3


@pytest.mark.parametrize("name", [n for n in WITHOUT_WEIGHTS if METRICS[n].min_side > 1])
def test_there_is_no_score_below_the_least_side(name: str) -> None:
    score = metrics.load([name])[name]
    least = METRICS[name].min_side
    for height, width in ((least, least), (least, 170), (170, least), (least + 1, least)):
        x = picture("coffee", height, width)
        assert isinstance(score(x, jpeg(x, 30)), float)
    for height, width in ((least - 1, 170), (170, least - 1), (1, 1)):
        x = picture("coffee", height, width)
        assert score(x, jpeg(x, 30)) is None


def test_networks_have_least_sides_too(add_weights) -> None:
    add_weights("lpips-squeeze", stored_lpips())
    score, least = metrics.load(["lpips"])["lpips"], METRICS["lpips"].min_side
    x = picture("coffee", least, least)
    assert score(x, jpeg(x, 30)) is not None
    assert score(x[1:], jpeg(x, 30)[1:]) is None


def test_flat_pictures_have_scores() -> None:
    x = np.full((170, 170, 3), 128, np.uint8)
    for name, score in metrics.load(WITHOUT_WEIGHTS).items():
        for y in (x, np.zeros_like(x)):
            assert isinstance(score(x, y), float), name


def test_vif_knows_the_original_from_the_decoded_picture() -> None:
    x = picture("astronaut")
    faded = (50 + 0.6 * x).astype(np.uint8)
    score = metrics.load(["vif"])["vif"]
    assert score(x, faded) < 1 < score(faded, x)  # more contrast is more than the original has


def test_pictures_of_different_sizes_are_refused() -> None:
    x = picture("coffee", 20, 30)
    for score in metrics.load(["psnr", "ssim"]).values():
        with pytest.raises(InputError, match="30x20 and 30x19 pixels"):
            score(x, x[1:])


# What may be missing


@pytest.mark.parametrize(("name", "needed"), [("lpips", "lpips-squeeze"), ("dists", "dists")])
def test_a_metric_without_its_weights_is_refused_by_name(name: str, needed: str) -> None:
    message = f"^{name} needs the weight set {needed}, which is not here: "
    with pytest.raises(WeightsError, match=message):
        metrics.load(["psnr", name])


def test_the_hint_for_missing_weights_is_a_command() -> None:
    with pytest.raises(WeightsError) as caught:
        metrics.load(["lpips"])
    assert "cdcodec weights add lpips-squeeze FILE" in str(caught.value.hint)


def test_the_default_has_lpips_when_its_weights_are_here(add_weights) -> None:
    here, left_out = metrics.default_names()
    assert left_out == ["lpips"]
    assert list(metrics.load(here)) == here
    add_weights("lpips-squeeze", stored_lpips())
    assert metrics.default_names() == ([*here, "lpips"], [])


@pytest.mark.parametrize("module", ["perceptual", "vgg"])
def test_weights_of_another_network_are_refused(add_weights, tmp_path: Path, module: str) -> None:
    name, needed = {"perceptual": ("lpips", "lpips-squeeze"), "vgg": ("dists", "dists")}[module]
    add_weights(needed, {"lin0.model.1.weight": torch.zeros(3)})
    with pytest.raises(WeightsError, match="is not"):
        metrics.load([name])


def test_unknown_metrics_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown metric 'msssim'") as caught:
        metrics.load(["psnr", "msssim"])
    assert caught.value.hint == "did you mean ms_ssim?"
    with pytest.raises(InputError, match="fid is a metric of whole sets"):
        metrics.load(["fid"])


def test_every_weight_set_that_a_metric_names_is_registered() -> None:
    needed = {metric.weights for metric in METRICS.values() if metric.weights}
    assert needed <= weights.load_registry(weights.registry_path()).keys()


def forget_piq(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "piq"]:
        monkeypatch.delitem(sys.modules, name)


def test_piq_loads_without_torchvision_and_leaves_no_stand_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forget_piq(monkeypatch)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert len(metrics.load(WITHOUT_WEIGHTS)) == len(WITHOUT_WEIGHTS)
    assert "piq" not in sys.modules


@pytest.mark.parametrize(("name", "package"), [("gmsd", "piq"), ("ssimulacra2", "ssimulacra2")])
def test_a_missing_library_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    forget_piq(monkeypatch)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"{package} is not installed") as caught:
        metrics.load([name])
    assert caught.value.hint == "in a checkout of cdcodec: pip install '.[eval]'"
