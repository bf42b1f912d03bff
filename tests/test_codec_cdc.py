"""The small CDC presets: export, quantisation, tiles and training objectives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from cdcodec import families
from cdcodec.codec import Decoding
from cdcodec.diffusion import pictures, samplers, schedules
from cdcodec.entropy.coder import Meter
from cdcodec.entropy.exact import ExactLayer
from cdcodec.entropy.quantise import dequantise, quantise
from cdcodec.errors import WeightsError
from cdcodec.families.cdc import export, objectives
from cdcodec.families.cdc.codec import CdcCodec
from cdcodec.families.cdc.config import TINY, CdcConfig, describe, parse
from cdcodec.families.cdc.loss import code
from cdcodec.families.cdc.network import CdcNetwork, build
from cdcodec.families.cdc.walk import MEAN_ONE, CdcWalk
from cdcodec.nn.losses import gaussian_bits, psnr
from cdcodec.nn.perceptual import Lpips


@pytest.fixture
def network() -> CdcNetwork:
    return build(TINY, seed=3)


@pytest.fixture(scope="module")
def tiny() -> CdcCodec:
    codec = families.load_codec("cdc-tiny", "cpu", True)
    assert isinstance(codec, CdcCodec)
    return codec


def integers(network: CdcNetwork, x: Tensor, u: float) -> list[Tensor]:
    """Return what decides bits: y after its gain, z, and what h_s makes of it."""
    with torch.no_grad():
        y = network.g_a(x)
        gain, z_index = network.gains(torch.full((len(x),), u))
        z = network.h_a(y * gain)
        return [y, gain, z_index, z, *network.h_s(z.round(), *y.shape[-2:])]


def test_the_configuration_comes_back_from_its_text() -> None:
    assert parse(describe(TINY), CdcConfig) == TINY
    changed = describe(TINY)
    for text in ("", "{}", "[]", changed.replace("widths", "wides"), changed.replace("cdc", "x")):
        with pytest.raises(WeightsError):
            parse(text, CdcConfig)


def test_exporting_what_was_exported_gives_the_same_file(
    network: CdcNetwork, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    export.write(network, first)
    export.write(export.read(first), second)
    assert second.read_bytes() == first.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] in (
        ["first.safetensors", "second.safetensors"],
        ["second.safetensors", "first.safetensors"],
    )


def test_the_layout_of_weights_in_memory_does_not_change_the_file(
    network: CdcNetwork, tmp_path: Path
) -> None:
    export.write(network, tmp_path / "rows.safetensors")
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    export.write(network, tmp_path / "channels.safetensors")
    rows, channels = (tmp_path / f"{name}.safetensors" for name in ("rows", "channels"))
    assert rows.read_bytes() == channels.read_bytes()


def test_the_bundled_weights_export_to_their_own_model_id(tiny: CdcCodec) -> None:
    assert export.walk_of(tiny.network).model_id == tiny.walk.model_id


def test_an_exported_network_codes_as_the_float_one_would(
    network: CdcNetwork, tmp_path: Path, batch: Tensor
) -> None:
    path = tmp_path / "net.safetensors"
    export.write(network, path)
    again = export.read(path)
    for before, after in zip(
        integers(network, batch, 0.5), integers(again, batch, 0.5), strict=True
    ):
        # float16 keeps eleven bits, of everything but h_s.
        torch.testing.assert_close(after, before, rtol=0.02, atol=0.02)


def test_weights_that_diverged_are_not_written(network: CdcNetwork, tmp_path: Path) -> None:
    with torch.no_grad():
        network.g_a.head.bias[0] = float("nan")  # type: ignore[index]
    with pytest.raises(OverflowError, match="g_a.head.bias"):
        export.write(network, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_weight_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(WeightsError):
        export.read(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(WeightsError):
        export.read(path)
    save_file({"g_a.stem.weight": torch.zeros(1)}, path, {"cdcodec": describe(TINY)})
    with pytest.raises(WeightsError, match="never exported"):
        CdcWalk.load(path)


def test_the_integer_h_s_gives_what_the_float_one_does(tiny: CdcCodec) -> None:
    generator = np.random.default_rng(5)
    z = generator.integers(-40, 41, (TINY.z_channels, 5, 7)).astype(np.int32)
    mean, index = np.split(tiny.walk.h_s(z), 2)
    with torch.no_grad():
        float_mean, float_index = tiny.network.h_s(torch.from_numpy(z).float()[None], 20, 28)
    difference = np.abs(mean / MEAN_ONE - float_mean[0].numpy())
    assert difference.max() <= 0.6 / MEAN_ONE
    clamped = float_index[0].clamp(0, len(tiny.walk.tables) - 1).numpy()
    assert np.abs(index - clamped).max() <= 0.51


def test_z_beyond_the_input_limit_changes_nothing_more(tiny: CdcCodec) -> None:
    limit = tiny.walk.h_s.input_limit
    z = np.full((TINY.z_channels, 1, 1), limit, np.int32)
    np.testing.assert_array_equal(tiny.walk.h_s(z), tiny.walk.h_s(z * 100))


@pytest.mark.parametrize("seed", range(4))
def test_a_layer_survives_dequantising_and_quantising(seed: int) -> None:
    generator = np.random.default_rng(seed)
    outputs, limit = 6, 1000
    unit_in, unit_out = 1 / 64, generator.uniform(0.01, 1, outputs)
    # Trained weights are float32, and come back as such from a weight file.
    weight = generator.normal(0, 0.3, (outputs, 4, 3, 3)).astype(np.float32).astype(np.float64)
    bias = generator.normal(0, 5, outputs).astype(np.float32).astype(np.float64)
    low, high = np.full(outputs, -(2**20), np.int32), np.full(outputs, 2**20, np.int32)

    def requantised(weight: np.ndarray, bias: np.ndarray) -> ExactLayer:
        return quantise(
            weight, bias, input_limit=limit, unit_in=unit_in, unit_out=unit_out, low=low, high=high
        )

    layer = requantised(weight, bias)
    back = [
        array.astype(np.float32).astype(np.float64)
        for array in dequantise(layer, unit_in=unit_in, unit_out=unit_out)
    ]
    again = requantised(*back)
    for field in ("weight", "bias", "multiplier", "shift"):
        np.testing.assert_array_equal(getattr(again, field), getattr(layer, field))

    plane = generator.integers(-limit, limit + 1, (4, 6, 6)).astype(np.int32)
    exact = F.conv2d(
        torch.from_numpy(plane * unit_in)[None], torch.from_numpy(weight),
        torch.from_numpy(bias), padding=1,
    )[0].numpy() / unit_out[:, None, None]  # fmt: skip
    error = np.abs(layer(plane) - exact)
    assert error.max() <= 0.51 + 1e-4 * np.abs(exact).max()


def test_quantised_latents_are_what_the_walk_wants(tiny: CdcCodec, photograph: np.ndarray) -> None:
    latents = tiny.quantise(tiny.analyse(photograph[:90, :130]), 7)
    assert latents["y"].shape == (TINY.y_channels, 6, 9)
    assert latents["z"].shape == (TINY.z_channels, 2, 3)
    coded = tiny.walk.code(Meter(), latents, 130, 90, 7)
    # The walk rounds to whole steps from the mean, and y counts in 64ths of a step.
    assert np.abs(coded["y"] - latents["y"]).max() <= MEAN_ONE // 2
    np.testing.assert_array_equal(coded["z"], latents["z"])


def test_a_higher_point_quantises_more_finely(tiny: CdcCodec, photograph: np.ndarray) -> None:
    analysis = tiny.analyse(photograph[:128, :128])
    bits = []
    for point in range(tiny.walk.rate_points):
        meter = Meter()
        tiny.walk.code(meter, tiny.quantise(analysis, point), 128, 128, point)
        bits.append(meter.total_bits)
    assert bits == sorted(bits)


def test_analysis_in_tiles_is_that_of_the_whole(
    tiny: CdcCodec, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = photograph[:400, :450]
    whole = tiny.analyse(pixels)
    monkeypatch.setattr(pictures, "ANALYSIS_TILE", 128)
    tiled = tiny.analyse(pixels)
    assert whole.shape == tiled.shape == (TINY.y_channels, 25, 29)
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-5)


def test_the_first_step_depends_on_the_file_alone(tiny: CdcCodec, photograph: np.ndarray) -> None:
    latents = tiny.walk.code(
        Meter(), tiny.quantise(tiny.analyse(photograph[:64, :64]), 9), 64, 64, 9
    )
    images = [
        tiny.synthesise(latents, 64, 64, 9, Decoding(1, "ddim", seed, 0.8)).astype(int)
        for seed in (1, 2)
    ]
    assert np.abs(images[0] - images[1]).max() <= 2


def test_training_counts_the_bits_that_the_walk_spends(
    tiny: CdcCodec, photograph: np.ndarray
) -> None:
    pixels = photograph[:256, :256]
    point = tiny.walk.rate_points - 1
    meter = Meter()
    tiny.walk.code(meter, tiny.quantise(tiny.analyse(pixels), point), 256, 256, point)
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        coded = code(tiny.network, x, torch.ones(1), torch.Generator().manual_seed(0))
    assert coded.bpp.item() == pytest.approx(meter.total_bits / 256**2, rel=0.1)


def test_the_float_gaussian_agrees_with_the_tables(tiny: CdcCodec) -> None:
    tables = tiny.walk.tables
    for index in (0, 16, 40, 63):
        values = torch.arange(-3, 4)
        bits = gaussian_bits(values.float(), torch.full((7,), float(index)))
        start = int(tables.starts[index])
        costs = tables.costs[start + values.numpy() - tables.lows[index]] if index else None
        if costs is not None:
            np.testing.assert_allclose(bits.numpy(), costs, atol=0.02)


def descend(
    objective: objectives.BaseObjective | objectives.ChainObjective,
    batch: Tensor,
    *,
    steps: int,
    learning_rate: float,
    chain: int = 1,
) -> Iterator[dict[str, float]]:
    """Take optimiser steps on one batch, with the same random numbers in each chain of them."""
    optimizer = torch.optim.Adam(objective.parameters(), lr=learning_rate)
    for step in range(steps):
        if step % chain == 0:
            generator = torch.Generator().manual_seed(0)
        loss, logs = objective.loss(lambda: batch, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert np.isfinite(list(logs.values())).all()
        yield {**logs, "total": loss.item()}


def test_ten_steps_of_the_base_stage_lower_its_loss(network: CdcNetwork, batch: Tensor) -> None:
    objective = objectives.BaseObjective(network, objectives.BaseConfig(rate_warmup_steps=0))
    before = network.g_a.stem.weight.detach().clone()
    logs = list(descend(objective, batch, steps=10, learning_rate=2e-3))
    assert logs[-1]["total"] < 0.95 * logs[0]["total"]
    assert logs[-1]["bpp_low"] < logs[-1]["bpp_high"]
    assert not torch.equal(before, network.g_a.stem.weight)


def test_the_rate_term_grows_during_its_warm_up(network: CdcNetwork, batch: Tensor) -> None:
    objective = objectives.BaseObjective(network, objectives.BaseConfig(rate_warmup_steps=100))
    generator = torch.Generator()
    losses = []
    for _ in range(3):
        with torch.no_grad():
            losses.append(objective.loss(lambda: batch, generator.manual_seed(0))[0].item())
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_the_chain_stage_lowers_its_loss_and_leaves_the_bits_alone(
    network: CdcNetwork, batch: Tensor, lpips: Path
) -> None:
    config = objectives.ChainConfig(lpips=str(lpips), chain_steps=(2,), adversarial_start=0)
    before = integers(network, batch, 0.4)
    frozen = {
        id(parameter): parameter.detach().clone() for parameter in network.entropy_parameters()
    }
    model_id = export.walk_of(network).model_id
    objective = objectives.ChainObjective(network, config)
    every = config.first_every
    logs = list(descend(objective, batch, steps=4 * every, learning_rate=2e-3, chain=every))

    assert ["psnr_first" in log for log in logs] == ([True] + [False] * (every - 1)) * 4
    for place in range(every):
        assert logs[place - every]["total"] < logs[place]["total"]

    for parameter in network.entropy_parameters():
        assert not parameter.requires_grad
        assert torch.equal(parameter, frozen[id(parameter)])
    for old, new in zip(before, integers(network, batch, 0.4), strict=True):
        assert torch.equal(old, new)
    assert export.walk_of(network).model_id == model_id
    trained = {id(parameter) for parameter in objective.parameters()}
    assert trained.isdisjoint(frozen)
    assert len(trained) + len(frozen) == len(list(network.parameters()))


def test_the_discriminator_learns_beside_the_chain(
    network: CdcNetwork, batch: Tensor, lpips: Path
) -> None:
    objective = objectives.ChainObjective(
        network, objectives.ChainConfig(lpips=str(lpips), chain_steps=(3,))
    )
    (discriminator,) = objective.modules().values()
    before = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    objective.loss(lambda: batch, torch.Generator().manual_seed(0))
    after = discriminator.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("heads") for name in changed)
    assert not any(name.startswith("mixers") for name in changed)


def test_the_links_of_training_are_the_steps_of_the_sampler(
    network: CdcNetwork, batch: Tensor, lpips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network sees what ddim would show it, from the first step to the last."""
    config = objectives.ChainConfig(lpips=str(lpips), chain_steps=(4,))
    objective = objectives.ChainObjective(network, config)
    seen: list[tuple[Tensor, Tensor]] = []

    def predict(x_t: Tensor, level: Tensor, *_rest: object) -> Tensor:
        seen.append((x_t, level))
        return torch.tanh(x_t + level[:, None, None, None]).requires_grad_()

    pyramid = network.pyramid(torch.zeros(4, TINY.y_channels, 4, 4), torch.zeros(4))
    monkeypatch.setattr(network, "pyramid", lambda *_: pyramid)
    monkeypatch.setattr(network, "predict", predict)
    seed = 0
    while len(seen) != 4:  # until the last link is drawn
        seen.clear()
        generator = torch.Generator().manual_seed(seed := seed + 1)
        objective.loss(lambda: batch, generator)

    schedule = schedules.cosine(TINY.train_steps)
    indices = schedules.trailing_timesteps(4, len(schedule))
    assert [level[0].item() for _, level in seen[1:]] == pytest.approx(
        [n / len(schedule) for n in indices[1:]]
    )
    alpha = float(schedule.alpha_bar[indices[1]])
    first = torch.tanh(torch.ones_like(seen[1][0]))
    start = (seen[1][0] - alpha**0.5 * first) / (1 - alpha) ** 0.5

    def denoise(x_t: Tensor, n: int) -> Tensor:
        if n == indices[0]:
            return first
        torch.testing.assert_close(x_t, seen[indices.index(n)][0], atol=1e-4, rtol=1e-4)
        return torch.tanh(x_t + n / len(schedule))

    samplers.ddim(denoise, start, indices, schedule.alpha_bar)


def test_the_perceptual_loss_is_zero_for_equal_images(lpips: Path, batch: Tensor) -> None:
    network = Lpips.load(lpips)
    assert torch.equal(network(batch, batch), torch.zeros(4))
    assert (network(batch, batch.flip(0)) > 0).all()
    with pytest.raises(WeightsError):
        Lpips.load(lpips.with_name("missing.safetensors"))


def test_one_rate_point_is_a_model_too(tmp_path: Path, photograph: np.ndarray) -> None:
    path = tmp_path / "single.safetensors"
    export.write(build(replace(TINY, points=1), seed=0), path)
    walk = families.open_walk("cdc", path)
    assert walk.rate_points == 1
    assert isinstance(walk, CdcWalk)
    codec = CdcCodec.load(path, walk, "cpu")
    latents = walk.code(Meter(), codec.quantise(codec.analyse(photograph[:32, :32]), 0), 32, 32, 0)
    pixels = codec.synthesise(latents, 32, 32, 0, Decoding(2, "ddim", 0, 0.8))
    assert pixels.shape == (32, 32, 3)


def test_training_starts_as_a_block_transform_that_gives_the_image_back(
    photograph: np.ndarray,
) -> None:
    pixels = photograph[: len(photograph) // 16 * 16, : photograph.shape[1] // 16 * 16]
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    config = replace(TINY, y_channels=64)

    def batches() -> Tensor:
        side = 64
        tops = range(0, x.shape[2] - side + 1, 16)
        return torch.cat([x[..., top : top + side, :side] for top in tops])

    with mock.patch.dict(objectives.PRESETS, {"wide": config}):
        network = objectives.initial("wide", 0, batches)
    with torch.no_grad():
        y = network.g_a(x[..., :64])
        u = torch.tensor([0.5])
        x_0 = objectives.first_link(network, network.pyramid(y, u), x[..., :64], u)
    # 64 of 768 coefficients, without rounding, and networks that add nothing yet.
    assert psnr(x_0, x[..., :64]) > 25
