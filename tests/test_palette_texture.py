"""Pseudo-labels of texture and content, and the contrastive loss that learns from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.errors import InputError, WeightsError
from cdcodec.families.palette import texture
from cdcodec.families.palette.contrast import Contrast
from cdcodec.families.palette.texture import PseudoLabels, descriptors, distance, elbow, k_means
from cdcodec.nn.perceptual import Lpips
from cdcodec.nn.vgg16 import Vgg16

SIDE = 96
TEXTURES = ("brick", "grass", "gravel")
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def tensor(pixels: np.ndarray) -> Tensor:
    """Map pixels [H, W] or [H, W, 3] to [1, 3, H, W] in -1..1."""
    colour = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels
    return torch.from_numpy(colour.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def crops(name: str, count: int, seed: int = 0) -> Tensor:
    pixels = getattr(data, name)()
    draw = np.random.default_rng(seed)
    tops, lefts = (draw.integers(0, length - SIDE, count) for length in pixels.shape[:2])
    return torch.cat(
        [
            tensor(pixels[top : top + SIDE, left : left + SIDE])
            for top, left in zip(tops, lefts, strict=True)
        ]
    )


@pytest.fixture(scope="module")
def labels() -> PseudoLabels:
    """Labels by a trunk with seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = Lpips()
        for layer in trunk.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    return PseudoLabels(trunk.requires_grad_(False).taps)


def blobs(number: int, points_each: int = 30) -> Tensor:
    """Return descriptors [number * points_each, 40] about as many directions."""
    generator = torch.Generator().manual_seed(number)
    centres = torch.eye(number, 40).repeat_interleave(points_each, 0)
    return F.normalize(centres + 0.03 * torch.randn(centres.shape, generator=generator), dim=1)


# Spectra


@pytest.fixture(params=[(16, 16), (15, 22), (7, 12), (1, 5)], ids=str)
def maps(request: pytest.FixtureRequest) -> Tensor:
    return torch.rand(2, 3, *request.param, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("of", [texture.spectrum, texture.bands])
def test_a_map_that_moves_round_its_edges_keeps_its_spectrum(maps: Tensor, of) -> None:
    moved = maps.roll((3, -5), (-2, -1))
    torch.testing.assert_close(of(moved), of(maps))


@pytest.mark.parametrize("of", [texture.spectrum, texture.bands])
@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
def test_a_mirrored_map_keeps_its_spectrum(maps: Tensor, of, axes: tuple[int, ...]) -> None:
    torch.testing.assert_close(of(maps.flip(axes)), of(maps))


def test_a_turned_map_does_not_keep_its_spectrum() -> None:
    stripes = torch.cos(torch.arange(16) * np.pi / 2).expand(1, 1, 16, 16)
    apart = texture.spectrum(stripes) - texture.spectrum(stripes.transpose(-1, -2))
    assert apart.abs().max() > 1


def test_bands_add_up_to_the_power_of_the_map(maps: Tensor) -> None:
    power = texture.bands(maps).square()
    torch.testing.assert_close(power[..., 0], maps.mean((2, 3)).square())
    torch.testing.assert_close(power.sum(-1), maps.square().mean((2, 3)))


def test_no_stage_outweighs_the_others(maps: Tensor) -> None:
    described = descriptors([maps, maps[:, :1]])
    torch.testing.assert_close(descriptors([1000 * maps, maps[:, :1]]), described)
    torch.testing.assert_close(described.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(described[:, :9].norm(dim=1), torch.full((2,), 0.5**0.5))


def test_black_maps_have_a_descriptor_too() -> None:
    assert torch.isfinite(descriptors([torch.zeros(1, 3, 8, 8)])).all()


# Pictures


def test_moved_and_mirrored_crops_are_nearer_than_other_pictures(labels: PseudoLabels) -> None:
    described = []
    for name in (*TEXTURES, *PHOTOGRAPHS):
        pixels = getattr(data, name)()
        crop, moved = (tensor(pixels[n : n + SIDE, 120:][:, :SIDE]) for n in (100, 105))
        described.append(labels.describe(torch.cat([crop, moved, crop.flip(-1), crop.flip(-2)])))
    crops = torch.stack([each[0] for each in described])
    to_others = distance(crops, crops).fill_diagonal_(torch.inf)
    for each, apart in zip(described, to_others, strict=True):
        to_itself = distance(each[:1], each[1:])
        assert to_itself.max() < apart.min()
        assert 3 * to_itself.mean() < apart[apart.isfinite()].mean()


def test_crops_of_textures_cluster_by_texture(labels: PseudoLabels) -> None:
    labels.fit((crops(name, 10) for name in TEXTURES), candidates=(3,))
    found = torch.stack([labels.label(crops(name, 8, seed=1)) for name in TEXTURES])
    usual = found.mode(1).values
    assert sorted(usual.tolist()) == [0, 1, 2]
    assert (found == usual[:, None]).float().mean() > 0.9


def test_labels_come_back_from_a_checkpoint(labels: PseudoLabels) -> None:
    features = labels._features[0]
    kept, fresh = PseudoLabels(features), PseudoLabels(features)
    assert not kept.fitted
    kept.fit([crops(name, 4) for name in TEXTURES], candidates=(3, 5))
    assert list(kept.state_dict()) == ["centroids"]
    fresh.load_state_dict(kept.state_dict())
    assert fresh.fitted
    x = crops("coffee", 4)
    torch.testing.assert_close(fresh.label(x), kept.label(x))
    assert kept.label(x).dtype == torch.int64


def test_labels_are_the_same_under_autocast(labels: PseudoLabels) -> None:
    maps = [torch.rand(4, 5, 12, 12, generator=torch.Generator().manual_seed(0))]
    fixed = PseudoLabels(lambda x: maps)
    x = torch.zeros(4, 3, 12, 12)
    plain = fixed.describe(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fixed.describe(x), plain)


# Clusters


@pytest.mark.parametrize("number", [2, 3, 5, 8])
def test_the_elbow_is_the_number_of_well_separated_clusters(number: int) -> None:
    labels = PseudoLabels(lambda x: [x])
    candidates = (1, *texture.CANDIDATES)  # no bend is at the first of them
    curve = labels.fit_descriptors(blobs(number), candidates)
    assert curve.chosen == number == len(labels.centroids)
    assert curve.candidates == candidates
    assert len(curve.variation) == len(curve.candidates)


def test_a_curve_without_a_bend_bends_at_its_start() -> None:
    assert elbow((2, 4, 8), (0.9, 0.7, 0.3)).chosen == 2
    assert elbow((2, 4, 8), (0.9, 0.3, 0.25)).chosen == 4
    assert elbow((6,), (0.9,)).chosen == 6


def test_clusters_are_the_same_every_time() -> None:
    points = F.normalize(torch.randn(200, 20, generator=torch.Generator().manual_seed(3)), dim=1)
    first, second = k_means(points, 7, seed=4), k_means(points, 7, seed=4)
    assert torch.equal(first.centroids, second.centroids)
    assert torch.equal(first.labels, second.labels)


def test_all_clusters_are_used_even_by_equal_points() -> None:
    points = F.normalize(torch.eye(4).repeat(5, 1), dim=1)
    found = k_means(points, 4)
    assert sorted(torch.bincount(found.labels).tolist()) == [5, 5, 5, 5]
    assert k_means(points, 6).variation == pytest.approx(0, abs=1e-6)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="8 pictures are too few for 32 clusters"):
        PseudoLabels(lambda x: [x]).fit_descriptors(blobs(2, 4))


# The contrastive loss


@pytest.fixture
def contrast() -> Contrast:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Contrast(nn.Conv2d(3, 4, 8, stride=8), 4, queue=16)


def latents(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 5, 6, generator=torch.Generator().manual_seed(seed))


def test_the_loss_falls_when_equal_labels_come_together(contrast: Contrast) -> None:
    labels = torch.tensor([0, 0, 1, 1])
    means = torch.tensor([[3.0], [-3.0]]).expand(2, 4)[:, :, None, None]
    together, mixed = (latents(4) + means[torch.tensor(at)] for at in ([0, 0, 1, 1], [0, 1, 0, 1]))
    assert contrast.loss(together, together, labels) < contrast.loss(mixed, mixed, labels)


def test_descending_the_loss_brings_equal_labels_together(contrast: Contrast) -> None:
    labels = torch.tensor([0, 1, 0, 1])
    apart = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None, None]
    contrast.enqueue(latents(4, seed=1) + apart, labels)
    z = latents(4).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    losses = []
    for _ in range(30):
        loss = contrast.loss(z, latents(4, seed=2) + apart, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_with_one_positive_it_is_the_formula_of_the_paper(contrast: Contrast) -> None:
    keys, query = latents(5, seed=1), latents(1)
    contrast.enqueue(keys, torch.arange(5))
    q, k = contrast.projection(query), contrast.key_projection(keys)
    exponentials = (q @ k.T / 0.07).exp()[0]
    expected = -(exponentials[3] / exponentials.sum()).log()
    found = contrast.loss(query, latents(1, seed=9), torch.tensor([3]))
    torch.testing.assert_close(found, expected)


def test_queries_without_a_positive_have_no_gradient(contrast: Contrast) -> None:
    z = latents(3).requires_grad_()
    loss = contrast.loss(z, latents(3, seed=1), torch.tensor([0, 1, 2]))  # the queue is empty
    loss.backward()
    assert loss.item() == 0
    assert not z.grad.any()
    contrast.enqueue(latents(2, seed=2), torch.tensor([1, 7]))
    z.grad = None
    alone = contrast.loss(z, latents(3, seed=1), torch.tensor([0, 1, 2]))
    alone.backward()
    assert not z.grad[[0, 2]].any()
    assert z.grad[1].any()


def test_keys_get_no_gradient(contrast: Contrast) -> None:
    z_key = latents(2, seed=1).requires_grad_()
    contrast.loss(latents(2).requires_grad_(), z_key, torch.tensor([0, 0])).backward()
    assert z_key.grad is None
    trained = {n for n, p in contrast.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in contrast.named_parameters() if n.startswith("projection.")}


def test_the_queue_wraps_round(contrast: Contrast) -> None:
    for start in range(0, 24, 6):
        contrast.enqueue(latents(6, seed=start), torch.arange(start, start + 6))
    assert contrast.labels.tolist() == [*range(16, 24), *range(8, 16)]
    torch.testing.assert_close(
        contrast.keys[2:8], contrast.key_projection(latents(6, seed=18)).detach()
    )


def test_more_keys_than_places_leave_the_last(contrast: Contrast) -> None:
    contrast.enqueue(latents(3), torch.arange(3))
    contrast.enqueue(latents(40), torch.arange(100, 140))
    assert sorted(contrast.labels.tolist()) == list(range(124, 140))
    contrast.enqueue(latents(1), torch.tensor([7]))
    assert 124 not in contrast.labels.tolist()


def test_the_slow_copy_follows_the_encoder() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    contrast = Contrast(encoder, 4, momentum=0.9)
    before = contrast.encoder[0].weight.clone()
    with torch.no_grad():
        encoder[0].weight += 1
        encoder[1].running_mean += 1
        contrast.projection.layers[0].bias += 1
    bias = contrast.key_projection.layers[0].bias.clone()
    contrast.update_momentum(encoder)
    torch.testing.assert_close(contrast.encoder[0].weight, before + 0.1)
    torch.testing.assert_close(contrast.key_projection.layers[0].bias, bias + 0.1)
    torch.testing.assert_close(contrast.encoder[1].running_mean, torch.ones(4))
    assert encoder[0].weight.requires_grad


def test_latents_in_bfloat16_give_a_loss_in_float32(contrast: Contrast) -> None:
    labels = torch.tensor([0, 0, 1, 1])
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrast.loss(latents(4).bfloat16(), latents(4, seed=1).bfloat16(), labels)
    assert loss.dtype == torch.float32
    plain = contrast.loss(latents(4), latents(4, seed=1), labels)
    assert loss.item() == pytest.approx(plain.item(), rel=0.1)


def test_flat_latents_have_a_gradient(contrast: Contrast) -> None:
    z = torch.zeros(2, 4, 3, 3, requires_grad=True)
    contrast.loss(z, z.detach(), torch.tensor([0, 0])).backward()
    assert torch.isfinite(z.grad).all()


# VGG-16


@pytest.fixture(scope="module")
def vgg_state() -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in Vgg16().state_dict().items()}


def test_the_file_of_vgg_16_is_read_without_its_classifier(
    tmp_path: Path, vgg_state: dict[str, Tensor]
) -> None:
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    names = {f"features.{n}.{kind}" for n in convolutions for kind in ("weight", "bias")}
    assert set(vgg_state) == names
    classifier = {"pre_logits.fc1.weight": torch.zeros(2), "head.fc.bias": torch.zeros(2)}
    path = tmp_path / "vgg16.safetensors"
    save_file(vgg_state | classifier, path)
    network = Vgg16.load(path)
    torch.testing.assert_close(network.features["28"].weight, vgg_state["features.28.weight"])
    assert not any(parameter.requires_grad for parameter in network.parameters())
    taps = network.taps(torch.zeros(1, 3, 35, 32))
    assert [tuple(each.shape[1:]) for each in taps] == [
        (64, 35, 32), (128, 17, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2),
    ]  # fmt: skip


def test_the_taps_of_vgg_16_are_those_of_its_layers_by_hand(vgg_state: dict[str, Tensor]) -> None:
    network = Vgg16()
    network.load_state_dict(vgg_state)
    x = crops("coffee", 1)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    y = ((x + 1) / 2 - mean[:, None, None]) / spread[:, None, None]
    for number in (0, 2):
        y = F.conv2d(
            y,
            vgg_state[f"features.{number}.weight"],
            vgg_state[f"features.{number}.bias"],
            padding=1,
        ).relu()
    with torch.no_grad():
        torch.testing.assert_close(network.taps(x)[0], y)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_another_file_than_vgg_16s_is_refused(
    tmp_path: Path, vgg_state: dict[str, Tensor], change: str
) -> None:
    stored = {name: torch.zeros_like(value, dtype=torch.uint8) for name, value in vgg_state.items()}
    if change == "missing":
        del stored["features.28.bias"]
    elif change == "unknown":
        stored["features.3.weight"] = torch.zeros(1)  # vgg16_bn has one
    else:
        stored["features.0.weight"] = torch.zeros(64, 3, 5, 5)
    path = tmp_path / "vgg16.safetensors"
    save_file(stored, path)
    with pytest.raises(WeightsError, match="is not VGG-16"):
        Vgg16.load(path)
    with pytest.raises(WeightsError, match="cannot read the weights of VGG-16"):
        Vgg16.load(tmp_path / "none.safetensors")
