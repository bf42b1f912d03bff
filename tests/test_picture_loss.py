"""Distances in two trunks, and the discriminator beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cdcodec.nn.perceptual import Lpips
from cdcodec.nn.picture_loss import PictureLoss


@pytest.fixture
def pictures(tmp_path: Path) -> PictureLoss:
    path = tmp_path / "lpips.safetensors"
    tensors = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, tensor in Lpips().state_dict().items():
            if name.startswith("heads."):
                tensors[f"lin{name[6:]}.model.1.weight"] = torch.rand_like(tensor)
            else:
                number = name.removeprefix("fires.") if name.startswith("fires") else f"0{name[4:]}"
                tensors[f"trunk.features.{number}"] = tensor.contiguous()
        save_file(tensors, path)
        return PictureLoss(path, torch.device("cpu"), learning_rate=1e-3)


def test_equal_pictures_have_no_distance_and_unlike_ones_have(pictures: PictureLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    near, far = x * 0.9, x.flip(2)
    same, close, apart = (pictures.compare(each, x, x, generator) for each in (x, near, far))
    # A norm has no gradient at zero, so a hundred-thousandth is added under each root.
    assert same.trunk.max() < 4e-3
    assert same.lpips.max() < 7 * 4e-3
    for name in ("lpips", "trunk"):
        assert (getattr(same, name) < getattr(close, name)).all()
        assert (getattr(close, name) < getattr(apart, name)).all()


def test_gradients_reach_the_pictures_and_nothing_else(pictures: PictureLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    x, faithful = (torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1 for _ in range(2))
    x_0 = faithful.clone().requires_grad_()
    compared = pictures.compare(x_0, x, faithful, generator)
    (compared.lpips + compared.trunk - compared.opinion).sum().backward()  # type: ignore[no-untyped-call]
    assert x_0.grad is not None
    assert x_0.grad.abs().sum() > 0
    for network in (pictures.lpips, pictures.trunk, pictures.discriminator):
        assert all(parameter.grad is None for parameter in network.parameters())


def test_the_discriminator_learns_to_tell_noise_from_pictures(pictures: PictureLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.linspace(-1, 1, 64).expand(2, 3, 64, 64)
    noise = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    losses = []
    for _ in range(12):
        pictures.compare(noise, smooth, smooth, generator)
        losses.append(pictures.learn())
    assert losses[-1] < 0.7 * losses[0]
