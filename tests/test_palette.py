"""What the palette family's networks promise beside the contract of all families."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cdcodec import api, families
from cdcodec.codec import Decoding, Pixels
from cdcodec.errors import InputError, WeightsError
from cdcodec.families.palette import export, objectives
from cdcodec.families.palette.codec import BORDER, PaletteCodec
from cdcodec.families.palette.config import PRESETS, describe, parse
from cdcodec.families.palette.degrade import REACH, Degradation, assign, grouped, passing, walk_back
from cdcodec.families.palette.ladder import steps_below
from cdcodec.families.palette.network import PaletteNetwork, build, to_8_bits
from cdcodec.families.palette.walk import PaletteWalk

MODEL = "palette-tiny"
TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def codec() -> PaletteCodec:
    codec = families.load_codec(MODEL, "cpu", True)
    assert isinstance(codec, PaletteCodec)
    return codec


@pytest.fixture
def network() -> PaletteNetwork:
    return build(TINY, seed=2)


@pytest.fixture
def latent(batch: Tensor) -> Tensor:
    """Block means of photographs as a latent [4, 4, 8, 8] in 8 bits."""
    means = torch.nn.functional.avg_pool2d(batch, 8)
    return to_8_bits(128 + 100 * torch.cat([means, means[:, :1].flip(2)], 1))


# Degradation (eq. 4)


def test_more_entries_are_nearer_to_the_latent(latent: Tensor) -> None:
    chain = Degradation(latent, TINY.channels, TINY.weights)
    errors = [(chain.at(height)[0] - latent).square().mean().item() for height in (0, 20, 90, 999)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2  # all but a few positions have an entry of their own
    z_t, palettes = chain.at(0)
    assert [len(palette) for palette in palettes] == [1, 1]
    assert len(torch.unique(z_t[:, 0])) == 1


def test_a_latent_is_grouped_as_the_walk_groups_it(latent: Tensor, codec: PaletteCodec) -> None:
    one = latent[:1]
    at_all = codec.walk.latents_at(codec.walk.start(one[0].to(torch.int32).numpy()), 255)
    sizes = [len(at_all[f"palette_{g}"]) for g in range(2)]
    assert sizes == [len(np.unique(points, axis=0)) for points in grouped(one, 2)]
    z_t, _ = Degradation(one, TINY.channels, TINY.weights).at(999)
    planes = [at_all[f"palette_{g}"][at_all["index"][g]].transpose(2, 0, 1) for g in range(2)]
    np.testing.assert_array_equal(np.concatenate(planes), z_t[0].numpy())


@pytest.mark.parametrize("size", [(1, 1), (9, 1), (130, 67)])
def test_a_flat_picture_needs_one_colour_a_group(
    size: tuple[int, int], codec: PaletteCodec
) -> None:
    flat = np.full((*size[::-1], 3), (90, 140, 60), np.uint8)
    latents = codec.quantise(codec.analyse(flat), 255)
    assert [len(latents[f"palette_{g}"]) for g in range(2)] == [1, 1]


def test_the_encoder_sees_no_further_than_pictures_are_mirrored(network: PaletteNetwork) -> None:
    x = torch.rand(1, 3, 8 * (2 * BORDER + 1), 8 * (2 * BORDER + 1)) * 2 - 1
    wider = torch.nn.functional.pad(x, (16, 16, 16, 16), value=1.0)
    with torch.no_grad():
        inner, outer = network.encoder(x), network.encoder(wider)
    torch.testing.assert_close(inner[..., BORDER, BORDER], outer[..., BORDER + 2, BORDER + 2])


# The reverse process (eq. 6 and 7)


def test_entries_that_a_chain_passes_for_rise_from_the_files_own() -> None:
    palettes, z = [torch.zeros(9, 2), torch.zeros(1, 2)], torch.zeros(3, 4, 2, 2)
    start, middle, end = (passing(palettes, z, done) for done in (0.0, 0.5, 1.0))
    assert start.tolist() == [[9, 1]] * 3
    assert torch.allclose(middle, torch.tensor([[48.0, 16.0]] * 3))
    assert end.tolist() == [[256, 256]] * 3


def test_nearest_colours_are_found_group_by_group(latent: Tensor) -> None:
    chain = Degradation(latent, TINY.channels, TINY.weights)
    of_file, palettes = chain.at(steps_below(12))
    nearest = assign(latent, palettes)
    errors = (nearest - latent).unflatten(1, (2, 2)).square().sum(2)
    for g, palette in enumerate(palettes):
        points = latent[:, 2 * g : 2 * g + 2].permute(0, 2, 3, 1)
        least = (points[..., None, :] - palette).square().sum(-1).min(-1).values
        torch.testing.assert_close(errors[:, g], least)
    torch.testing.assert_close(assign(of_file, palettes), of_file)


def test_a_perfect_restoration_is_approached_evenly(latent: Tensor) -> None:
    chain = Degradation(latent, TINY.channels, TINY.weights)
    _, palettes = chain.at(30)
    z_t = assign(latent, palettes)
    seen: list[tuple[int, int]] = []
    for links in range(5):
        z, _ = walk_back(
            lambda _z, _entries: latent,
            z_t,
            palettes,
            5,
            links,
            lambda done, total: seen.append((done, total)),
        )
        # Eq. 13: with R exact, every link is the latent at its level.
        torch.testing.assert_close(z, latent + (1 - REACH * links / 5) * (z_t - latent))
    assert seen[-4:] == [(k, 5) for k in (1, 2, 3, 4)]


def test_one_step_of_the_chain_is_one_shot(codec: PaletteCodec, photograph: Pixels) -> None:
    file = api.encode(_png(photograph[:96, :120]), model=MODEL, quality=10).data
    chain, shot, direct = (
        api.decode(file, Decoding(decoder=name, steps=steps, device="cpu")).picture.pixels
        for name, steps in (("cold", 1), ("oneshot", 1), ("cold", 0))
    )
    np.testing.assert_array_equal(chain, shot)
    assert (shot != direct).any()
    np.testing.assert_array_equal(
        direct, api.decode(file, Decoding(decoder="direct", device="cpu")).picture.pixels
    )


# Networks and weight files


def test_gradients_pass_rounding_but_not_the_ends_of_the_range() -> None:
    z = torch.tensor([-3.0, 0.4, 77.6, 300.0], requires_grad=True)
    rounded = to_8_bits(z)
    assert rounded.tolist() == [0, 0, 78, 255]
    rounded.sum().backward()
    assert z.grad is not None
    assert z.grad.tolist() == [0, 1, 1, 1]  # only the last may go down again


def test_the_paper_preset_has_the_papers_size() -> None:
    pytest.importorskip("diffusers")
    with torch.device("meta"):
        network = PaletteNetwork(PRESETS["paper"])
    count = sum(p.numel() for p in network.restoration.parameters())
    assert count == pytest.approx(108.4e6, rel=0.01)  # tab. 8


def test_a_small_network_of_the_papers_kind_restores_any_size() -> None:
    pytest.importorskip("diffusers")
    config = replace(TINY, restoration=(32, 32, 32, 32), restoration_depths=(1, 1), condition=16)
    network = build(config, seed=0).eval()
    with torch.inference_mode():
        z = torch.full((1, config.latent, 5, 11), 100.0)
        few, many = (network.restore(z, torch.tensor([[n, n]])) for n in (2.0, 200.0))
    assert few.shape == z.shape
    assert (few - many).abs().max() > 1e-3  # it heeds the palettes' entries


def test_exporting_what_was_exported_gives_the_same_file(
    network: PaletteNetwork, tmp_path: Path
) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    export.write(network, first)
    export.write(export.read(first), second)
    assert first.read_bytes() == second.read_bytes()


def test_the_model_id_depends_on_the_encoder_alone(network: PaletteNetwork, tmp_path: Path) -> None:
    def model_id(name: str) -> bytes:
        export.write(network, tmp_path / name)
        return PaletteWalk.load(tmp_path / name).model_id

    before = model_id("a.safetensors")
    with torch.no_grad():
        network.decoder.stem.weight.add_(0.1)
        network.restoration.stem.weight.add_(0.1)
    assert model_id("b.safetensors") == before
    with torch.no_grad():
        network.encoder.stem.weight.add_(0.1)
    assert model_id("c.safetensors") != before


def test_a_diverged_network_is_not_exported(network: PaletteNetwork, tmp_path: Path) -> None:
    with torch.no_grad():
        network.decoder.stem.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(OverflowError, match="diverged"):
        export.write(network, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_says_its_sizes_and_nothing_else_is_taken(tmp_path: Path) -> None:
    assert parse(describe(TINY)) == TINY
    for wrong in ("", "{}", '{"family": "cdc"}', '{"family": "palette", "config": {"depth": 3}}'):
        with pytest.raises(WeightsError):
            parse(wrong)
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(WeightsError, match="cannot read weights"):
        export.read(tmp_path / "text")


# Training


def test_training_starts_at_block_means(batch: Tensor) -> None:
    network = objectives.initial("tiny", 0, lambda: batch)
    with torch.no_grad():
        grey = network.encode(torch.zeros(1, 3, 16, 16))
        light = network.encode(torch.full((1, 3, 16, 16), 0.5))
        x_hat = network.decoder.linear((network.encode(batch) - 128) / 32)
    assert (grey[0, :, 0, 0] == 128).all()
    assert (light[:, 0] - grey[:, 0]).abs().mean() > 40  # a quarter of the range
    blocks = torch.nn.functional.pixel_unshuffle(batch, 8)
    assert (x_hat - blocks).square().mean() < 0.5 * blocks.var()


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("joint", {}),
        ("chain", {"chain_steps": (1,)}),
        ("chain", {"chain_steps": (3,), "adversarial_start": 2}),
    ],
)
def test_ten_steps_lower_the_loss(
    stage: str, options: dict[str, object], batch: Tensor, lpips: Path
) -> None:
    network = objectives.initial("tiny", 0, lambda: batch)
    kind, config = objectives.OBJECTIVES[stage]
    logs = list(descend(kind(network, config(lpips=str(lpips), **options)), batch, 10))
    assert logs[-1]["loss"] < logs[0]["loss"]


def test_contrast_moves_the_encoder_too(
    batch: Tensor, lpips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives, "LABELLED", 40)
    encoders = []
    for weight in (0.0, 5.0):
        network = objectives.initial("tiny", 0, lambda: batch)
        config = objectives.JointConfig(lpips=str(lpips), contrast=weight)
        logs = list(descend(objectives.JointObjective(network, config), batch, 3))
        assert ("contrast" in logs[-1]) == bool(weight)
        encoders.append(network.encoder.linear.weight.detach())
    assert not torch.allclose(*encoders, atol=1e-4)


def test_the_chain_stage_leaves_the_encoder_and_hence_files_alone(
    network: PaletteNetwork, batch: Tensor, lpips: Path
) -> None:
    before = [p.clone() for p in network.encoder.parameters()]
    objective = objectives.ChainObjective(network, objectives.ChainConfig(lpips=str(lpips)))
    list(descend(objective, batch, 2))
    for kept, now in zip(before, network.encoder.parameters(), strict=True):
        assert torch.equal(kept, now)


def test_unknown_presets_are_refused(batch: Tensor) -> None:
    with pytest.raises(InputError, match="preset"):
        objectives.initial("giant", 0, lambda: batch)


def descend(
    objective: objectives.JointObjective | objectives.ChainObjective, batch: Tensor, steps: int
) -> Iterator[dict[str, float]]:
    """Train on one batch with the same draws in every step, and yield what is logged."""
    optimizer = torch.optim.Adam(objective.parameters(), 2e-4)
    for _ in range(steps):
        loss, logs = objective.loss(lambda: batch, torch.Generator().manual_seed(1))
        yield logs
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _png(pixels: Pixels) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
