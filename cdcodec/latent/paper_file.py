"""Weight files at the paper's scale: from a checkpoint to one that encodes and decodes, and back.

The file holds all networks in float32, so that it is what the authors published to the bit: unlike
bundled files it doesn't travel, and its size matters little. Beside them lie the tables and the
integer networks that decide bits, see `paper_export`. Stable Diffusion is another weight set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from cdcodec import weight_file
from cdcodec.errors import WeightsError
from cdcodec.latent.config import describe_paper, parse
from cdcodec.latent.paper_network import PaperNetwork, PaperSizes
from cdcodec.nn.stable_diffusion_config import ControlConfig, SdConfig
from cdcodec.nn.stable_diffusion_names import control_state

Config = TypeVar("Config")
Network = TypeVar("Network", bound=PaperNetwork[Any])


def assemble(
    network: Network, compression: Mapping[str, Tensor], control: Mapping[str, Tensor]
) -> Network:
    """Give a network without values what `convert.split` found in a checkpoint, and return it.

    Raises:
        WeightsError: The control network's tensors aren't those of the authors' own.
    """
    expected = network.control.state_dict()
    network.control.load_state_dict(control_state(control, expected), assign=True)
    assert isinstance(network.compression, torch.nn.Module)
    network.compression.load_state_dict(compression, assign=True)
    return network


def pack(network: PaperNetwork[Any], family: str, steps: int | None = None) -> bytes:
    """Return the weight file of a network, made for a certain number of steps or for any.

    Raises:
        WeightsError: If weights are too large to be exact.
    """
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    description = describe_paper(family, network.parts, steps)
    return weight_file.pack({**tensors, **network.walk().arrays()}, description)


def steps_of(path: Path) -> int | None:
    """Return the steps that the networks of a weight file were trained for, if the file says so.

    Raises:
        WeightsError: If the file can't be read, or its number of steps is impossible.
    """
    steps = json.loads(weight_file.read_metadata(path)).get("steps")
    if steps is not None and (type(steps) is not int or steps < 1):
        raise WeightsError(f"weights {path.name} are for {steps} steps, which can't be")
    return steps


def read(
    path: Path, family: str, kind: type[Config], build: Callable[[PaperSizes[Config]], Network]
) -> Network:
    """Read a weight file.

    Args:
        path: The file.
        family: Its name.
        kind: Sizes of the family's compression networks.
        build: Makes the network.

    Raises:
        WeightsError: If names or shapes aren't those of its configuration.
    """
    metadata = weight_file.read_metadata(path)
    sizes = PaperSizes(
        parse(metadata, family, kind),
        parse(metadata, family, ControlConfig, "control"),
        parse(metadata, family, SdConfig, "prior"),
    )
    with torch.device("meta"):  # no time for random numbers that are overwritten at once
        network = build(sizes)
    weight_file.fill(network, weight_file.read_floats(path), path)
    return network
