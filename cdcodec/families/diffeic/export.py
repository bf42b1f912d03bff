"""Weight files of the small DiffEIC presets; see latent.export."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from cdcodec.families.diffeic.config import FAMILY, DiffeicConfig
from cdcodec.families.diffeic.network import DiffeicNetwork, build
from cdcodec.latent import config, export
from cdcodec.latent.walk import LatentWalk, Tabled
from cdcodec.nn.losses import SCALES
from cdcodec.weight_file import read_metadata


def write(network: DiffeicNetwork, path: Path) -> None:
    """Write a weight file, whole or not at all.

    Raises:
        OverflowError: If a weight is beyond float16's range: training has diverged.
        WeightsError: If weights are too large to be exact.
    """
    # Rounded as the weight file will have it: exporting what was exported gives the same file.
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        rounded.z_scale.copy_(network.z_scale.half().float())
        index = rounded.z_index(export.positions(network.config.points))[:, :, 0, 0]
    table = index.round().clamp(0, SCALES - 1).numpy().astype(np.uint8)
    export.write(network, export.walk_of(network, Tabled(table)), FAMILY, path)


def read(path: Path) -> DiffeicNetwork:
    """Read a weight file, to decode with or to train on.

    Raises:
        WeightsError: If names or shapes aren't those of its configuration.
    """
    sizes = config.parse(read_metadata(path), FAMILY, DiffeicConfig)
    return export.fill(build(sizes), LatentWalk.load(path), path)
