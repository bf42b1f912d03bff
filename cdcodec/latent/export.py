"""From a trained small preset to a weight file, and back.

The file holds the networks in float16, but for those that decide bits (codebook, h_s and context
model), which it holds as integers, beside the tables.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from cdcodec.entropy.exact import ExactNet
from cdcodec.entropy.tables import gaussian_tables
from cdcodec.errors import WeightsError
from cdcodec.latent import export_context as exact
from cdcodec.latent.config import METADATA_KEY, describe
from cdcodec.latent.network import LatentNetwork
from cdcodec.latent.walk import EXACT_PREFIX, Codebook, HyperLatent, LatentWalk

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
    halves = {}
    for name, tensor in network.state_dict().items():
        if name.startswith(EXACT_PARTS):
            continue
        array = tensor.detach().cpu().numpy()
        if not np.abs(array).max() < np.finfo(np.float16).max:
            raise OverflowError(f"{name} is beyond float16: training has diverged")
        # safetensors writes an array's memory as it lies, and training keeps channels last.
        halves[name] = np.ascontiguousarray(array, np.float16)
    metadata = {METADATA_KEY: describe(family, network.config)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(save({**halves, **walk.arrays()}, metadata))
    os.replace(part, path)


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


def read_metadata(path: Path) -> str:
    """Return what a weight file says of itself; empty if nothing.

    Raises:
        WeightsError: If it can't be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get(METADATA_KEY, ""))
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read weights {path.name}: {error}") from error


def fill(network: Network, walk: LatentWalk, path: Path) -> Network:
    """Give a fresh network the tensors of a weight file, and return it.

    Raises:
        WeightsError: If names or shapes aren't the network's.
    """
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if not name.startswith(EXACT_PREFIX)]  # noqa: SIM118
        tensors: dict[str, Tensor] = {name: file.get_tensor(name).float() for name in names}
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
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"weights {path.name} do not fit their configuration") from error
    return network


def _inputs(hyper: HyperLatent) -> tuple[float, int]:
    """Return unit and limit of what h_s sees of a hyper latent."""
    if isinstance(hyper, Codebook):
        return exact.CODE_UNIT, exact.CODE_LIMIT
    return 1.0, exact.Z_LIMIT


def positions(points: int) -> Tensor:
    """Return the rate positions of all points, [points] in 0..1."""
    return torch.linspace(0, 1, points)
