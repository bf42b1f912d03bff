"""From a trained small preset to a weight file, and back.

The file holds the networks in float16, but for those that decide bits (codebook, h_s and context
model), which it holds as integers, beside the tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from cdcodec import weight_file
from cdcodec.entropy.exact import ExactNet
from cdcodec.entropy.tables import gaussian_tables
from cdcodec.latent import export_context as exact
from cdcodec.latent.config import describe
from cdcodec.latent.network import LatentNetwork
from cdcodec.latent.walk import Codebook, HyperLatent, LatentWalk

Network = TypeVar("Network", bound=LatentNetwork)

EXACT_PARTS = ("h_s.", "context.", "codebook")
"""Parameters that a file holds as integers."""


def write(network: LatentNetwork, walk: LatentWalk, family: str, path: Path) -> None:
    """Write a weight file, whole or not at all. Writing what was read gives the same file.

    Args:
        network: Trained.
        walk: What walk_of made of it.
        family: Its name.
        path: Where to.

    Raises:
        OverflowError: If a weight is beyond float16's range: training has diverged.
    """
    halves = weight_file.halves(network, without=EXACT_PARTS)
    weight_file.write(path, {**halves, **walk.arrays()}, describe(family, network.config))


def walk_of(network: LatentNetwork, hyper: HyperLatent) -> LatentWalk:
    """Build the integer half of a trained network.

    Args:
        network: Trained.
        hyper: Its codebook or its tables of z.

    Raises:
        WeightsError: If weights are too large to be exact.
    """
    unit, limit = _inputs(hyper)
    return LatentWalk.build(
        gaussian_tables(),
        hyper,
        exact.exact_h_s(network.h_s, network.config.points, unit=unit, limit=limit),
        exact.exact_context(network.context),
    )


def fill(network: Network, walk: LatentWalk, path: Path) -> Network:
    """Give a fresh network the tensors of a weight file, and return it.

    Raises:
        WeightsError: If names or shapes aren't the network's.
    """
    tensors = {name: tensor.float() for name, tensor in weight_file.read_floats(path).items()}
    assert isinstance(walk.h_s, ExactNet)
    unit, _limit = _inputs(walk.hyper)
    parts = {
        "h_s": exact.float_h_s(walk.h_s, walk.rate_points, unit=unit),
        "context": exact.float_context(walk.context),
    }
    for part, state in parts.items():
        tensors.update({f"{part}.{name}": tensor for name, tensor in state.items()})
    if isinstance(walk.hyper, Codebook):
        tensors["codebook"] = exact.float_codebook(walk.hyper)
    weight_file.fill(network, tensors, path)
    return network


def _inputs(hyper: HyperLatent) -> tuple[float, int]:
    """Return unit and limit of what h_s sees of a hyper latent."""
    if isinstance(hyper, Codebook):
        return exact.CODE_UNIT, exact.CODE_LIMIT
    return 1.0, exact.Z_LIMIT


def positions(points: int) -> Tensor:
    """Return the rate positions of all points, [points] in 0..1."""
    return torch.linspace(0, 1, points)
