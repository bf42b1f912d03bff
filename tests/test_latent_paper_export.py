"""The authors' hyper decoders and context models in integers do what they do in float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cdcodec.entropy.coder import Meter, Reader, Writer
from cdcodec.entropy.exact_graph import ExactGraph
from cdcodec.entropy.tables import Tables, gaussian_sigma
from cdcodec.families.diffeic import paper as diffeic
from cdcodec.families.rdeic import paper as rdeic
from cdcodec.latent import paper_export
from cdcodec.latent.walk import LatentWalk
from cdcodec.nn.context import checkerboard
from cdcodec.nn.elic import ResidualBlock, UpBlock
from cdcodec.nn.elic_context import SCALE_BOUND, PaperContext, SliceContext
from cdcodec.nn.prior import bits, gaussian_likelihood

WIDTH, HEIGHT = 256, 192
ODD = 201, 130


@dataclass(frozen=True)
class Model:
    """A small compression module, its walk, and latents that it could have made."""

    network: rdeic.PaperCompression | diffeic.PaperCompression
    walk: LatentWalk
    hyper: NDArray[np.int32]

    @property
    def name(self) -> str:
        return self.walk.hyper.name

    def planes(self) -> Tensor:
        """What h_s sees [1, N, h, w]."""
        return self.network.planes(torch.from_numpy(self.hyper)[None])

    def y(self) -> NDArray[np.int32]:
        """A latent in units of 1/64 [M, 4h, 4w]."""
        rows, columns = (4 * extent for extent in self.hyper.shape[-2:])
        shape = sum(self.network.config.slices), rows, columns
        return np.rint(64 * np.random.default_rng(2).normal(0, 4, shape)).astype(np.int32)


def spread(network: nn.Module) -> None:
    """Give a fresh network parameters as large as those of trained ones, and spread its scales."""
    for name, parameter in network.named_parameters():
        if name.startswith(("h_s.", "context.")):
            if parameter.ndim > 1:
                parameter.normal_(0, 1.4 / parameter[0].numel() ** 0.5)
            else:
                parameter.normal_(0, 0.1)
        if name.endswith("nchor.4.bias"):
            parameter[: len(parameter) // 2] += torch.linspace(0, 8, len(parameter) // 2)


@torch.no_grad()
def rdeic_model() -> Model:
    network = rdeic.PaperCompression(rdeic.PAPER_TINY)
    spread(network)
    vectors, h_s, context = network.codebook.vectors, network.h_s, network.context
    walk = paper_export.codebook_walk(vectors, h_s, context)
    indices = np.random.default_rng(1).integers(0, len(vectors), (3, 4)).astype(np.int32)
    return Model(network.eval().requires_grad_(False), walk, indices)


@torch.no_grad()
def diffeic_model() -> Model:
    network = diffeic.PaperCompression(diffeic.PAPER_TINY)
    spread(network)
    network.prior.medians.normal_(0, 0.3)
    walk = paper_export.tabled_walk(network.prior, network.h_s, network.context)
    shape = network.prior.channels, 3, 4
    z = np.random.default_rng(1).integers(-4, 5, shape).astype(np.int32)
    return Model(network.eval().requires_grad_(False), walk, z)


@pytest.fixture(scope="module", params=[rdeic_model, diffeic_model], ids=["rdeic", "diffeic"])
def model(request: pytest.FixtureRequest) -> Model:
    make: Callable[[], Model] = request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


class Watch(Meter):
    """Keeps the table indices that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.indices: list[NDArray[np.int64]] = []

    def symbols(
        self,
        name: str,
        values: NDArray[np.int32] | None,
        table_index: NDArray[np.int64],
        tables: Tables,
    ) -> NDArray[np.int32]:
        if name == "y":
            self.indices.append(table_index.ravel())
        return super().symbols(name, values, table_index, tables)


def following(context: PaperContext, y_hat: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales and means of the float context where it follows what integers decided.

    Else a difference of one mean would show in all that come after it.
    """
    is_anchor = checkerboard(y_hat.shape[-2], y_hat.shape[-1], y_hat.device)
    found = []
    start = 0
    for size, networks in zip(context.sizes, context.slices, strict=True):
        assert isinstance(networks, SliceContext)
        known = networks.known(y_hat[:, :start], hyper)
        local = networks.local(y_hat[:, start : start + size].where(is_anchor, 0))
        first, second = networks.anchor(known), networks.nonanchor(torch.cat([local, known], 1))
        found.append(torch.where(is_anchor, first, second).chunk(2, 1))
        start += size
    scales, means = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    return scales, means


def test_hyper_planes_are_those_of_the_float_network(model: Model) -> None:
    planes = model.hyper
    if model.name == "l":
        _, planes = model.walk.hyper.code(Meter(), model.hyper, model.walk.tables, (3, 4), 0)
    expected = model.network.h_s(model.planes())[0].numpy()
    found = model.walk.h_s(planes) * paper_export.ACTIVATION_UNIT
    assert np.abs(expected).max() > 1
    assert np.abs(found - expected).max() < 0.005


def test_means_and_tables_are_those_of_the_float_context(model: Model) -> None:
    y = model.y()
    watch = Watch()
    latents = {model.name: model.hyper, "y": y}
    found = model.walk.code(watch, latents, WIDTH, HEIGHT, 0)["y"]
    y_hat = torch.from_numpy(found)[None] / 64
    planes = model.network.h_s(model.planes())
    all_scales, means = following(model.network.context, y_hat, planes)
    # y_hat is a whole number of steps from the integers' mean.
    off = (y_hat - means).numpy()
    assert np.abs(off - np.rint(off)).max() <= 1 / 64
    assert means.abs().max() > 2
    scales = model.network.context.in_coding_order(all_scales).numpy()
    between = [gaussian_sigma(i + 0.5) for i in range(63)]
    index = np.searchsorted(between, scales, side="right")
    distance = np.abs(np.concatenate(watch.indices) - index)
    assert distance.max() <= 1
    assert np.count_nonzero(distance) < 0.03 * distance.size
    assert len(np.unique(index)) > 20


def test_files_are_as_long_as_the_float_networks_say(model: Model) -> None:
    y = model.y()
    coded = model.network.context(torch.from_numpy(y)[None] / 64, model.network.h_s(model.planes()))
    scales = coded.scales.clamp_min(SCALE_BOUND)
    meter = Meter()
    model.walk.code(meter, {model.name: model.hyper, "y": y}, WIDTH, HEIGHT, 0)
    # An escape costs less than the 30 bits at which the estimate stops, so only where it is sure.
    likelihood = gaussian_likelihood(coded.y_hat, coded.means, scales)
    sure = float(bits(likelihood[likelihood > 1e-6]))
    assert sure < meter.bits["y"] < float(bits(likelihood))
    if isinstance(model.network, diffeic.PaperCompression):
        expected = float(bits(model.network.prior.likelihood(model.planes())))
        assert meter.bits["z"] == pytest.approx(expected, rel=0.01)
    else:
        assert meter.bits["l"] == model.hyper.size * 5


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), ODD, (193, 177)])
def test_a_reader_gets_what_the_writer_wrote(model: Model, size: tuple[int, int]) -> None:
    width, height = size
    rows, columns = -(-height // 16), -(-width // 16)
    latents = {model.name: model.hyper, "y": model.y()[:, :rows, :columns]}
    writer = Writer()
    written = model.walk.code(writer, latents, *size, 0)
    reader = Reader(writer.finish())
    read = model.walk.code(reader, None, *size, 0)
    reader.finish()
    for name in written:
        np.testing.assert_array_equal(read[name], written[name])
    assert np.abs(written["y"] - latents["y"]).max() <= 32


def test_a_walk_comes_back_from_its_arrays(model: Model) -> None:
    again = LatentWalk.from_arrays(model.walk.arrays())
    assert again.model_id == model.walk.model_id
    assert isinstance(again.h_s, ExactGraph)
    y = model.y()
    latents = {model.name: model.hyper, "y": y}
    one, other = (w.code(Meter(), latents, WIDTH, HEIGHT, 0) for w in (model.walk, again))
    np.testing.assert_array_equal(one["y"], other["y"])


@pytest.mark.parametrize(
    "module",
    [
        nn.ConvTranspose2d(3, 4, 5, stride=2, padding=2, output_padding=1),
        nn.ConvTranspose2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 5, padding=2),
        nn.GELU(),
        ResidualBlock(3),
        ResidualBlock(3, 4),
        UpBlock(3),
    ],
    ids=["doubling", "transposed", "conv", "gelu", "residual", "widening", "upsampling"],
)
def test_every_module_is_the_same_in_integers(module: nn.Module) -> None:
    generator = np.random.default_rng(3)
    planes = generator.integers(-3 * 4096, 3 * 4096, (3, 5, 6)).astype(np.int32)
    limit = paper_export.ACTIVATION_LIMIT
    program = paper_export._Program(3, limit, paper_export.ACTIVATION_UNIT)
    program.module(0, module)
    with torch.no_grad():
        expected = module(torch.from_numpy(planes)[None] / 4096)[0].numpy()
    found = program.graph()(planes)
    assert found.shape == expected.shape
    assert np.abs(found / 4096 - expected).max() < 0.002
