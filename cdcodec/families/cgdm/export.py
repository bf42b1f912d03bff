"""From the trained networks to a weight file, and back: float16, and tables beside them."""

from __future__ import annotations

from pathlib import Path

import torch

from cdcodec import weight_file
from cdcodec.entropy.tables import gaussian_tables
from cdcodec.families.cgdm.config import describe, parse
from cdcodec.families.cgdm.network import CgdmNetwork, build
from cdcodec.families.cgdm.syntax import INDEX_UNIT
from cdcodec.families.cgdm.walk import SyntaxTables


def write(network: CgdmNetwork, path: Path) -> None:
    """Write a weight file, whole or not at all. Writing what was read gives the same file.

    Raises:
        OverflowError: If a weight is beyond float16's range: training has diverged.
    """
    arrays = {**weight_file.halves(network), **tables_of(network).arrays()}
    weight_file.write(path, arrays, describe(network.config))


def read(path: Path) -> CgdmNetwork:
    """Read a weight file, to decode with or to train on.

    Raises:
        WeightsError: If names or shapes aren't those of its configuration.
    """
    network = build(parse(weight_file.read_metadata(path)))
    tensors = {name: tensor.float() for name, tensor in weight_file.read_floats(path).items()}
    weight_file.fill(network, tensors, path)
    return network


def tables_of(network: CgdmNetwork) -> SyntaxTables:
    """Return how the syntax vectors of a trained network are coded."""
    tables = gaussian_tables()
    # Rounded as the weight file will have it: exporting what was exported gives the same file.
    index = INDEX_UNIT * network.syntax.index.detach().half().float()
    rounded = index.round().clamp(0, len(tables) - 1).to(torch.uint8)
    return SyntaxTables(tables, rounded.cpu().numpy())
