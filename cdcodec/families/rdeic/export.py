"""Weight files of the small RDEIC presets; see latent.export."""

from __future__ import annotations

from pathlib import Path

from cdcodec.families.rdeic.config import FAMILY, RdeicConfig
from cdcodec.families.rdeic.network import RdeicNetwork, build
from cdcodec.latent import config, export
from cdcodec.latent.export_context import exact_codebook
from cdcodec.latent.walk import LatentWalk
from cdcodec.weight_file import read_metadata


def write(network: RdeicNetwork, path: Path) -> None:
    """Write a weight file, whole or not at all.

    Raises:
        OverflowError: If a weight is beyond float16's range: training has diverged.
        WeightsError: If weights are too large to be exact.
    """
    hyper = exact_codebook(network.codebook, network.config.points)
    export.write(network, export.walk_of(network, hyper), FAMILY, path)


def read(path: Path) -> RdeicNetwork:
    """Read a weight file, to decode with or to train on.

    Raises:
        WeightsError: If names or shapes aren't those of its configuration.
    """
    sizes = config.parse(read_metadata(path), FAMILY, RdeicConfig)
    return export.fill(build(sizes), LatentWalk.load(path), path)
