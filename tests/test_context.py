"""The space-channel context model: what is written is read, in the integers of the format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from cdcodec.entropy import (
    ExactNet,
    Meter,
    Reader,
    Writer,
    gaussian_tables,
    tables_from_pmf,
)
from cdcodec.entropy.context import ExactContext, ExactSlice, checkerboard
from cdcodec.entropy.exact_graph import Bend, ExactGraph, Leak, Network, Node, Run
from cdcodec.errors import DesyncError, WeightsError
from cdcodec.latent import export_context
from cdcodec.latent.walk import Codebook, LatentWalk, Tabled, hyper_shape, y_shape
from cdcodec.nn.context import ContextConfig, HyperSynthesis, SpaceChannelContext

CONFIG = ContextConfig(
    slices=(2, 1, 4),
    hyper=6,
    hyper_inputs=3,
    hyper_width=8,
    channel_widths=(8,),
    mlp_widths=(8,),
)
CODES, POINTS = 16, 9
SIZES = [(1, 1), (16, 16), (17, 1), (1, 40), (64, 64), (65, 33), (150, 90)]
GAUSSIANS = gaussian_tables()

Networks = tuple[HyperSynthesis, SpaceChannelContext, torch.Tensor]


def networks(seed: int = 0) -> Networks:
    """Return networks whose means and indices differ from place to place, as trained ones do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        h_s, context = HyperSynthesis(CONFIG), SpaceChannelContext(CONFIG)
        with torch.no_grad():
            h_s.conv3.weight.mul_(30)
            for head in (*context.anchor, *context.nonanchor):
                assert isinstance(head, torch.nn.Sequential)
                last = head[-1]
                assert isinstance(last, torch.nn.Conv2d)
                assert last.bias is not None
                last.weight.mul_(40)
                last.bias.mul_(1.6)
        return h_s, context, torch.randn(CODES, CONFIG.hyper_inputs)


def walk_of(networks: Networks) -> LatentWalk:
    h_s, context, vectors = networks
    return LatentWalk.build(
        GAUSSIANS,
        export_context.exact_codebook(vectors, POINTS),
        export_context.exact_h_s(
            h_s, POINTS, unit=export_context.CODE_UNIT, limit=export_context.CODE_LIMIT
        ),
        export_context.exact_context(context),
    )


def tabled_walk() -> LatentWalk:
    """Return a walk with thresholds and a table for each channel of z, as converted ones have."""
    h_s, context, _ = networks(1)
    index = np.arange(CONFIG.hyper_inputs, dtype=np.uint16)[None] + 7
    thresholds = np.array([3, 10, 20, 21, 50], np.int32)
    return LatentWalk.build(
        GAUSSIANS,
        Tabled(index),
        export_context.exact_h_s(h_s, 1, unit=1.0, limit=export_context.Z_LIMIT),
        export_context.exact_context(context),
        thresholds,
    )


def latents_of(walk: LatentWalk, width: int, height: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    y = random.laplace(0, 100, (walk.context.channels, *y_shape(width, height)))
    shape = hyper_shape(width, height)
    if walk.hyper.name == "l":
        hyper = random.integers(0, CODES, shape)
    else:
        hyper = random.integers(-4, 5, (walk.hyper.planes, *shape))
    return {walk.hyper.name: hyper, "y": np.rint(y).astype(np.int32)}


WALK, TABLED = walk_of(networks()), tabled_walk()
WALKS = pytest.mark.parametrize("walk", [WALK, TABLED], ids=["codebook", "tabled"])


def round_trip(walk: LatentWalk, width: int, height: int, point: int) -> None:
    latents = latents_of(walk, width, height)
    writer, meter = Writer(), Meter()
    written = walk.code(writer, latents, width, height, point)
    measured = walk.code(meter, latents, width, height, point)
    payload = writer.finish()
    reader = Reader(payload)
    read = walk.code(reader, None, width, height, point)
    reader.finish()
    assert set(read) == {walk.hyper.name, "y"}
    for name in read:
        assert read[name].dtype == np.int32
        np.testing.assert_array_equal(read[name], written[name])
        np.testing.assert_array_equal(read[name], measured[name])
    assert np.abs(read["y"] - latents["y"]).max() <= 32
    assert reader.digest() == writer.digest()
    assert meter.bits == pytest.approx(writer.bits)
    assert len(payload) * 8 == pytest.approx(writer.total_bits, abs=72)


@WALKS
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_what_is_written_is_read(walk: LatentWalk, width: int, height: int) -> None:
    round_trip(walk, width, height, walk.rate_points - 1)


def test_the_rate_point_reaches_the_context() -> None:
    latents = latents_of(WALK, 64, 64)
    bits = []
    for point in (0, POINTS - 1):
        meter = Meter()
        WALK.code(meter, latents, 64, 64, point)
        bits.append(meter.bits["y"])
    assert bits[0] != bits[1]


@WALKS
def test_halves_of_slices_are_what_whole_planes_with_masks_give(walk: LatentWalk) -> None:
    """formats/entropy.md once more, word by word: every network on whole planes."""
    width, height = 100, 60
    latents = latents_of(walk, width, height)
    y_hat = walk.code(Meter(), latents, width, height, 0)["y"]
    planes = latents.get("z")
    if planes is None:
        assert isinstance(walk.hyper, Codebook)
        planes = walk.hyper.vectors[latents["l"]].transpose(2, 0, 1)
    rate = np.zeros((1, *hyper_shape(width, height)), np.int32)
    rows, columns = y_shape(width, height)
    hyper = walk.h_s(np.concatenate([planes, rate]).astype(np.int32))[:, :rows, :columns]
    mask = np.array([[(r + c) % 2 == 1 for c in range(columns)] for r in range(rows)])
    before = 0
    for own in walk.context.slices:
        stop = before + own.channels
        support = [hyper] if own.channel is None else [own.channel(y_hat[:before]), hyper]
        mean, _ = np.split(own.anchor(np.concatenate(support)), 2)
        anchors = np.where(mask, y_hat[before:stop], 0)
        assert ((anchors - mean)[:, mask] % 64 == 0).all()
        local = own.local(anchors)
        mean, _ = np.split(own.nonanchor(np.concatenate([local, *support])), 2)
        assert ((y_hat[before:stop] - mean)[:, ~mask] % 64 == 0).all()
        before = stop
    assert before == walk.context.channels


def test_anchors_are_where_row_and_column_add_to_an_odd_number() -> None:
    assert checkerboard(2, 3).tolist() == [[False, True, False], [True, False, True]]


# ---- damage


@WALKS
def test_any_payload_gives_integers_in_range_or_a_desync(walk: LatentWalk) -> None:
    random = np.random.default_rng(5)
    for length in (0, 1, 3, 40, 400):
        payload = random.bytes(length)[:-1] + b"\1" if length else b""
        reader = Reader(payload)
        try:
            latents = walk.code(reader, None, 90, 70, 0)
            assert np.abs(latents["y"].astype(np.int64)).max() <= 2**22
            if walk.hyper.name == "l":
                assert 0 <= latents["l"].min() <= latents["l"].max() < CODES
            reader.finish()
        except DesyncError:
            pass


def test_values_far_from_any_mean_are_coded() -> None:
    latents = latents_of(WALK, 40, 40)
    latents["y"][0, 0, 0] = 2**30
    latents["y"][1, 1, 0] = -(2**30)
    writer = Writer()
    written = WALK.code(writer, latents, 40, 40, 0)
    reader = Reader(writer.finish())
    np.testing.assert_array_equal(WALK.code(reader, None, 40, 40, 0)["y"], written["y"])
    assert written["y"].max() > 2**20
    assert written["y"].min() < -(2**20)


def test_a_latent_of_another_shape_is_refused() -> None:
    latents = latents_of(WALK, 64, 64)
    with pytest.raises(ValueError, match="shape"):
        WALK.code(Writer(), {**latents, "y": latents["y"][:-1]}, 64, 64, 0)
    with pytest.raises(ValueError, match="shape"):
        WALK.code(Writer(), latents, 64, 80, 0)


# ---- integers and floats


def test_integers_do_what_the_float_networks_do() -> None:
    h_s, context, vectors = networks()
    width, height, point = 320, 256, 4
    latents = latents_of(WALK, width, height)
    meter = Meter()
    found = WALK.code(meter, latents, width, height, point)["y"] / 64
    y = torch.from_numpy(latents["y"] / 64).float()[None]
    z = vectors[torch.from_numpy(latents["l"])].permute(2, 0, 1)[None]
    with torch.no_grad():
        hyper = h_s(z, torch.tensor([point / (POINTS - 1)]), *y_shape(width, height))
        y_hat, _ = context(y, hyper, torch.zeros_like(y))
        # With this noise the distances from the mean are whole.
        _, bits = context(y, hyper, y_hat - y)
    assert meter.bits["y"] == pytest.approx(bits.item(), rel=0.01)
    difference = np.abs(y_hat[0].numpy() - found)
    # A rounding that falls to the other side changes all contexts after it, a little.
    assert np.median(difference) <= 1 / 64
    assert (difference < 0.1).mean() > 0.9


def test_exporting_what_was_exported_changes_nothing() -> None:
    assert isinstance(WALK.hyper, Codebook)
    assert isinstance(WALK.h_s, ExactNet)
    h_s, context = HyperSynthesis(CONFIG), SpaceChannelContext(CONFIG)
    unit = export_context.CODE_UNIT
    h_s.load_state_dict(export_context.float_h_s(WALK.h_s, POINTS, unit=unit))
    context.load_state_dict(export_context.float_context(WALK.context))
    vectors = export_context.float_codebook(WALK.hyper)
    assert walk_of((h_s, context, vectors)).model_id == WALK.model_id


def test_training_lowers_the_bits_and_every_network_learns() -> None:
    torch.manual_seed(0)
    context = SpaceChannelContext(CONFIG)
    hyper = torch.randn(4, CONFIG.hyper, 6, 6)
    y = 3 * hyper[:, :1].repeat(1, 7, 1, 1) + torch.randn(4, 7, 6, 6)
    optimiser = torch.optim.Adam(context.parameters(), 1e-2)
    costs = []
    for _ in range(30):
        y_hat, bits = context(y, hyper, torch.rand(y.shape) - 0.5)
        costs.append(bits.mean().item())
        optimiser.zero_grad()
        (bits.mean() + (y_hat - y).square().mean()).backward()
        assert all(
            p.grad is not None and p.grad.isfinite().all() and p.grad.any()
            for p in context.parameters()
        )
        optimiser.step()
    assert costs[-1] < 0.8 * costs[0]
    assert (y_hat - y).abs().max() <= 0.5 + 1e-4


# ---- storage


@WALKS
def test_a_walk_comes_back_from_a_file(walk: LatentWalk, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    arrays = {name: np.ascontiguousarray(array) for name, array in walk.arrays().items()}
    save_file({**arrays, "g_a.weight": np.zeros(3, np.float16)}, path)
    again = LatentWalk.load(path)
    assert again.model_id == walk.model_id
    assert again.rate_points == walk.rate_points
    assert {name: array.tolist() for name, array in again.arrays().items()} == {
        name: array.tolist() for name, array in arrays.items()
    }
    save_file({"g_a.weight": np.zeros(3, np.float16)}, path)
    with pytest.raises(WeightsError, match="never exported"):
        LatentWalk.load(path)
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="cannot read"):
        LatentWalk.load(path)


@WALKS
def test_every_array_decides_the_model_id(walk: LatentWalk) -> None:
    arrays = walk.arrays()
    ids = {walk.model_id}
    for name, array in arrays.items():
        changed = array.copy()
        changed.flat[-1] ^= 1
        try:
            ids.add(LatentWalk.from_arrays({**arrays, name: changed}).model_id)
        except WeightsError:
            assert name.startswith("exact.gaussian") or name.endswith(".upsample"), name
            ids.add(name.encode())
    assert len(ids) == 1 + len(arrays)


@WALKS
def test_an_array_that_lacks_is_a_weights_error(walk: LatentWalk) -> None:
    arrays = walk.arrays()
    for name in arrays:
        if name != "exact.scale_thresholds":
            rest = {key: value for key, value in arrays.items() if key != name}
            with pytest.raises(WeightsError):
                LatentWalk.from_arrays(rest)


def test_parts_that_do_not_fit_are_refused() -> None:
    first, second, third = WALK.context.slices
    context = WALK.context
    hidden, last = first.anchor.layers
    wide = replace(last, low=np.full(4, -(2**22), np.int32))
    anchor = ExactNet((hidden, wide), first.anchor.input_limit)
    for slices, words in [
        ((), "no slices"),
        ((second, third), "other inputs"),
        ((first, first, third), "lacks it"),
        ((first, third), "other inputs"),
        ((replace(first, anchor=second.anchor), second, third), "other channels"),
        ((replace(first, anchor=first.local), second, third), "other channels"),
        ((replace(first, anchor=anchor), second, third), "out of range"),
    ]:
        with pytest.raises(WeightsError, match=words):
            ExactContext(slices, context.hyper)
    few = tables_from_pmf([(0, [1.0])] * 9)
    four_planes = ExactContext((replace_support(first),), 4)
    codebook = Codebook(np.zeros((4, 3), np.int16), 257)
    wide_codebook = Codebook(np.zeros((4, 9), np.int16), 1)
    table = Tabled(np.full((1, 3), 64, np.uint8))
    h_s = WALK.h_s
    for tables, hyper, model, words in [
        (few, WALK.hyper, context, "indices"),
        (GAUSSIANS, WALK.hyper, four_planes, "context model"),
        (GAUSSIANS, wide_codebook, context, "hyper-latent"),
        (GAUSSIANS, codebook, context, "rate points"),
        (GAUSSIANS, table, context, "z_index"),
    ]:
        with pytest.raises(WeightsError, match=words):
            LatentWalk.build(tables, hyper, h_s, model)


def replace_support(own: ExactSlice) -> ExactSlice:
    """Return a first slice that sees four planes."""
    last = own.anchor.layers[-1]
    anchor = replace(last, weight=last.weight[:, :4].copy())
    nonanchor = replace(last, weight=last.weight.copy())
    return ExactSlice(None, ExactNet((anchor,), 99), own.local, ExactNet((nonanchor,), 99))


def test_graphs_can_stand_where_networks_do() -> None:
    """Each network as a graph of one node, or of three, gives the same integers."""

    def graph(net: Network | None) -> ExactGraph | None:
        if net is None:
            return None
        assert isinstance(net, ExactNet)
        limits = [net.input_limit, *(each.output_limit for each in net.layers)]
        *hidden, last = (ExactNet((a,), b) for a, b in zip(net.layers, limits, strict=False))
        nodes: list[Node] = [Run(k, each) for k, each in enumerate(hidden)]
        nodes += [Leak(len(nodes), 2**16), Run(len(nodes) + 1, last)]
        return ExactGraph(tuple(nodes), net.channels_in, net.input_limit)

    slices = []
    for own in WALK.context.slices:
        channel, anchor, local, nonanchor = (
            graph(net) for net in (own.channel, own.anchor, own.local, own.nonanchor)
        )
        assert anchor
        assert local
        assert nonanchor
        slices.append(ExactSlice(channel, anchor, local, nonanchor))
    context = ExactContext(tuple(slices), WALK.context.hyper)
    walk = LatentWalk.build(GAUSSIANS, WALK.hyper, WALK.h_s, context)
    latents = latents_of(WALK, 70, 50)
    expected = WALK.code(Meter(), latents, 70, 50, 3)["y"]
    np.testing.assert_array_equal(walk.code(Meter(), latents, 70, 50, 3)["y"], expected)
    again = LatentWalk.from_arrays(walk.arrays())
    assert again.model_id == walk.model_id != WALK.model_id
    bent = Bend(len(slices[0].anchor.nodes), np.zeros(1, np.int32))
    anchor = replace(slices[0].anchor, nodes=(*slices[0].anchor.nodes, bent))
    unbounded = ExactContext((replace(slices[0], anchor=anchor), *slices[1:]), context.hyper)
    with pytest.raises(WeightsError, match="indices"):
        LatentWalk.build(GAUSSIANS, WALK.hyper, WALK.h_s, unbounded)
