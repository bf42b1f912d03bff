"""From weight files to what a codec of these families is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch

from cdcodec.latent import objectives
from cdcodec.latent.network import LatentNetwork
from cdcodec.latent.walk import LatentWalk
from cdcodec.nn.device import pick
from cdcodec.nn.latent_diffusion import SmallPrior

Network = TypeVar("Network", bound=LatentNetwork)


def small(
    prior_path: Path, network: Network, walk: LatentWalk, device: str
) -> tuple[SmallPrior, Network, LatentWalk, torch.device]:
    """Put a small preset on its device, beside its prior.

    Raises:
        WeightsError: If the prior can't be read.
        InputError: If the device isn't there.
    """
    where = pick(device)
    prior = objectives.read(prior_path)
    for module in (prior, network):
        module.to(where, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return prior, network, walk, where
