"""The small presets of the latent diffusion families, and their prior: files and training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cdcodec import families, weights
from cdcodec.entropy.coder import Meter
from cdcodec.errors import InputError, WeightsError
from cdcodec.families.diffeic import objectives as diffeic_objectives
from cdcodec.families.rdeic import config as rdeic_config
from cdcodec.families.rdeic import network as rdeic_network
from cdcodec.families.rdeic import objectives as rdeic_objectives
from cdcodec.latent import objectives, stages
from cdcodec.latent.codec import LatentCodec
from cdcodec.latent.network import LatentNetwork
from cdcodec.nn import latent_diffusion
from cdcodec.nn.control import controlled_noise
from cdcodec.nn.unet import predict_noise

FAMILIES = {"rdeic": rdeic_objectives, "diffeic": diffeic_objectives}
JOINT = {"rdeic": "independent", "diffeic": "joint"}


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def codec(family: str) -> LatentCodec:
    codec = families.load_codec(f"{family}-tiny", "cpu", True)
    assert isinstance(codec, LatentCodec)
    return codec


@pytest.fixture
def network(family: str) -> LatentNetwork:
    (path, _prior) = weights.resolve(f"{family}-tiny", offline=True)
    network = FAMILIES[family].read(path)
    assert isinstance(network, LatentNetwork)
    return network.train()


def descend(
    objective: Any, batch: Tensor, *, steps: int, learning_rate: float
) -> Iterator[dict[str, float]]:
    """Take optimiser steps on one batch, with the same random numbers in all of them."""
    optimizer = torch.optim.Adam(objective.parameters(), lr=learning_rate)
    for _ in range(steps):
        loss, logs = objective.loss(lambda: batch, torch.Generator().manual_seed(0))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        assert np.isfinite(list(logs.values())).all()
        yield {**logs, "total": loss.item()}


def test_exporting_what_was_exported_gives_the_same_file(
    family: str, network: LatentNetwork, tmp_path: Path
) -> None:
    (stored, _prior) = weights.resolve(f"{family}-tiny", offline=True)
    FAMILIES[family].write(network, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == stored.read_bytes()


def test_weights_that_diverged_are_not_written(
    family: str, network: LatentNetwork, tmp_path: Path
) -> None:
    with torch.no_grad():
        next(network.control.parameters()).fill_(1e6)
    with pytest.raises(OverflowError, match="diverged"):
        FAMILIES[family].write(network, tmp_path / "never.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_family_is_refused(family: str) -> None:
    (other,) = set(FAMILIES) - {family}
    (path, prior) = weights.resolve(f"{other}-tiny", offline=True)
    with pytest.raises(WeightsError, match=f"{other}, not {family}"):
        FAMILIES[family].read(path)
    with pytest.raises(WeightsError):
        FAMILIES[family].read(prior)
    with pytest.raises(WeightsError, match="small latent prior"):
        objectives.read(path)


def test_a_prior_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    prior = latent_diffusion.build(latent_diffusion.TINY, seed=4).half().float()
    objectives.write(prior, path)
    again = objectives.read(path)
    assert again.config == prior.config
    for name, tensor in prior.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_control_starts_as_no_control_at_all() -> None:
    prior = latent_diffusion.build(latent_diffusion.TINY)
    network = rdeic_network.build(rdeic_config.TINY)
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    with torch.no_grad():
        guided = controlled_noise(prior.unet, network.control, z, t, torch.randn(2, 8, 8, 8))
        assert torch.equal(guided, predict_noise(prior.unet, z, t))


def test_guidance_goes_from_the_prior_alone_to_the_guided_one(codec: LatentCodec) -> None:
    hint_channels = {"RdeicCodec": 8, "DiffeicCodec": 4}[type(codec).__name__]
    hint, z = torch.randn(1, hint_channels, 8, 8), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        none, half, whole = (codec.denoiser(hint, s)(z, 200) for s in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (none + whole) / 2)
    assert not torch.allclose(none, whole)


def test_no_steps_are_the_direct_decode_and_take_no_noise(
    codec: LatentCodec, photograph: np.ndarray
) -> None:
    pixels = photograph[:90, :130]
    point = codec.walk.rate_points - 1
    latents = codec.quantise(codec.analyse(pixels), point)
    latents = codec.walk.code(Meter(), latents, 130, 90, point)
    name = next(iter(codec.decoders))

    def decoded(decoder: str, steps: int, seed: int) -> np.ndarray:
        from cdcodec.codec import Decoding

        info = codec.decoders[decoder]
        decoding = Decoding(steps, decoder, seed, info.stochasticity, info.guidance)
        return codec.synthesise(latents, 130, 90, point, decoding)

    np.testing.assert_array_equal(decoded(name, 0, 1), decoded("direct", 0, 2))
    assert (decoded(name, 0, 1) != decoded(name, 1, 1)).any()


def test_training_counts_the_bits_that_the_walk_spends(
    codec: LatentCodec, network: LatentNetwork, photograph: np.ndarray
) -> None:
    pixels = photograph[:256, :256]
    point = 4  # random networks know nothing of deviations: higher up, most symbols are escapes
    meter = Meter()
    codec.walk.code(meter, codec.quantise(codec.analyse(pixels), point), 256, 256, point)
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        features = codec.prior.features(x)
        z_0 = codec.prior.latent(features)
        generator = torch.Generator().manual_seed(0)
        u = torch.tensor([point / (codec.walk.rate_points - 1)])
        coded = network.eval().code(x, features, z_0, u, generator)
    assert coded.bpp.item() == pytest.approx(meter.total_bits / 256**2, rel=0.1)


def test_ten_steps_of_the_joint_stage_lower_its_loss(
    family: str, network: LatentNetwork, batch: Tensor
) -> None:
    kind, _options = FAMILIES[family].OBJECTIVES[JOINT[family]]
    # Through a random prior, pixels tell nothing.
    config = stages.JointConfig(latent=1.0, pixels=0.0, rate_warmup_steps=0)
    objective = kind(network, config)
    logs = list(descend(objective, batch, steps=10, learning_rate=2e-3))
    assert logs[-1]["total"] < 0.98 * logs[0]["total"]
    assert all(not p.requires_grad for p in objective.prior.parameters())


def test_the_second_stage_lowers_its_loss_and_leaves_files_alone(
    family: str, network: LatentNetwork, batch: Tensor, lpips: Path, tmp_path: Path
) -> None:
    kind, options = FAMILIES[family].OBJECTIVES[{"rdeic": "fixed-step", "diffeic": "chain"}[family]]
    before = {name: t.clone() for name, t in network.state_dict().items()}
    config = replace(options(), lpips=str(lpips), chain_steps=(2,), adversarial_start=5)
    objective = kind(network, config)
    logs = list(descend(objective, batch, steps=10, learning_rate=2e-3))
    assert logs[4]["total"] < logs[0]["total"]  # afterwards the discriminator moves it too
    assert "discriminator" in logs[-1]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.startswith("control."), name


def test_the_autoencoder_starts_as_a_block_transform(batch: Tensor) -> None:
    prior = objectives.initial("tiny", 0, lambda: batch.repeat(8, 1, 1, 1))
    with torch.no_grad():
        x_hat = prior.decode(prior.latent(prior.features(batch)))
    assert (x_hat - batch).square().mean() < 0.2 * batch.var()


@pytest.mark.parametrize("name", ["autoencoder", "decoder", "noise"])
def test_ten_steps_of_the_prior_lower_its_loss(name: str, batch: Tensor, lpips: Path) -> None:
    prior = objectives.initial("tiny", 0, lambda: batch.repeat(8, 1, 1, 1))
    kind, options = objectives.OBJECTIVES[name]
    config = options(lpips=str(lpips)) if name != "noise" else options()
    before = prior.encoder.head.weight.clone()
    objective = kind(prior, config)
    logs = list(descend(objective, batch, steps=10, learning_rate=2e-3))
    assert logs[-1]["total"] < logs[0]["total"]
    assert torch.equal(before, prior.encoder.head.weight) == (name != "autoencoder")


def test_training_starts_with_a_direct_decode_that_gives_the_latent_back(
    family: str, batch: Tensor
) -> None:
    network = FAMILIES[family].initial("tiny", 0, lambda: batch.repeat(64, 1, 1, 1))
    prior = stages.load_prior("tiny")
    with torch.no_grad():
        features = prior.features(batch)
        z_0 = prior.latent(features)
        coded = network.code(batch, features, z_0, torch.ones(4), torch.Generator().manual_seed(0))
    error = (coded.z_c - z_0).square().mean() / z_0.var()
    assert error < 0.5


def test_unknown_presets_are_refused(family: str, batch: Tensor) -> None:
    for module in (FAMILIES[family], objectives):
        with pytest.raises(InputError, match="preset"):
            module.initial("giant", 0, lambda: batch)


def test_a_prior_cannot_encode(photograph: np.ndarray) -> None:
    from PIL import Image

    from cdcodec import api

    with pytest.raises(InputError, match="cannot code by themselves"):
        api.encode(Image.fromarray(photograph), model="latent-tiny", offline=True)
