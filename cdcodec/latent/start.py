"""Where training of the small compression modules starts: the KLT of the prior's latents.

The linear halves of g_a and g_s begin as the Karhunen-Loève transform of 2x2 blocks of z_0, the
context model as one that knows nothing but every channel's deviation at every rate; the networks
beside them learn what that leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.latent.network import LatentNetwork
from cdcodec.nn.context import SpaceChannelContext
from cdcodec.nn.klt import karhunen_loeve
from cdcodec.nn.latent_diffusion import SmallPrior
from cdcodec.nn.losses import SCALES, SIGMA_MAX, SIGMA_MIN

START_BLOCKS = 40_000
STEP_SQUARED = 0.27
"""lambda times the square of the quantiser step that suits it: the slope of the high-rate model
D = step^2 / 12, 6 dB a bit, for as many components as there are, where the error counts twice: in
the latent and in the pixels."""

INDEX_PER_NAT = (SCALES - 1) / math.log(SIGMA_MAX / SIGMA_MIN)
REST_DEVIATION = 0.05
"""Of the channels beyond the linear transform's, which start as nearly nothing."""


@torch.no_grad()
def initialise(
    network: LatentNetwork,
    forward: nn.Conv2d,
    backward: nn.Conv2d,
    prior: SmallPrior,
    batches: Callable[[], Tensor],
) -> None:
    """Set linear halves, gains, and the context model's first guess, in place.

    Args:
        network: Fresh, with random weights.
        forward: The linear half of its g_a, 4 C channels to M.
        backward: That of its g_s, M to 4 C.
        prior: Trained.
        batches: Gives crops [B, 3, H, W] in -1..1.
    """
    blocks = _latent_blocks(prior, batches)
    components = min(blocks.shape[1], network.config.y_channels)
    mean, deviation, basis = karhunen_loeve(blocks, components)
    for layer in (forward, backward):
        layer.weight.zero_()
        assert layer.bias is not None
        layer.bias.zero_()
    assert forward.bias is not None
    assert backward.bias is not None
    forward.weight[:components, :, 0, 0] = _tensor((basis / deviation).T)
    forward.bias[:components] = _tensor(-(mean @ basis) / deviation)
    backward.weight[:, :components, 0, 0] = _tensor(basis * deviation)
    backward.bias.copy_(_tensor(mean))

    config = network.config
    unit = torch.full((config.y_channels,), REST_DEVIATION)
    unit[:components] = _tensor(deviation)
    low, high = config.lambda_range
    ladder = torch.linspace(math.log(low), math.log(high), config.anchors)
    step_gain = 0.5 * (ladder - math.log(STEP_SQUARED))
    network.log_gain.copy_(step_gain[:, None] + unit.log())
    network.log_gain[:, components:] = step_gain[:, None]
    _guess(network, (unit.log() + step_gain[0] - math.log(SIGMA_MIN)) * INDEX_PER_NAT)


def _guess(network: LatentNetwork, lowest: Tensor) -> None:
    """Make the context model tell a table index by channel and rate alone.

    Args:
        network: Its first hyper plane and the first hidden unit of every pointwise network will
            hold the rate position.
        lowest: Table index of every channel [M] at the first rate point.
    """
    low, high = network.config.lambda_range
    slope = 0.5 * math.log(high / low) * INDEX_PER_NAT
    h_s = network.h_s
    for layer, source, rows in ((h_s.conv1, -1, 4), (h_s.conv2, 0, 4), (h_s.conv3, 0, 1)):
        assert layer.bias is not None
        layer.weight[:rows] = 0.0
        layer.bias[:rows] = 0.0
        layer.weight[:rows, source, 1, 1] = 1.0
    context: SpaceChannelContext = network.context
    start = 0
    for k, channels in enumerate(network.config.slices):
        for head, before in (
            (context.anchor[k], 0),
            (context.nonanchor[k], 2 * channels),
        ):
            assert isinstance(head, nn.Sequential)
            first, last = head[0], head[-1]
            assert isinstance(first, nn.Conv2d)
            assert isinstance(last, nn.Conv2d)
            assert first.bias is not None
            assert last.bias is not None
            plane = before + (2 * channels if k else 0)
            first.weight[0] = 0.0
            first.bias[0] = 0.0
            first.weight[0, plane, 0, 0] = 1.0
            last.weight[channels:, 0, 0, 0] = slope
            last.bias[channels:] = lowest[start : start + channels]
        start += channels


def _latent_blocks(prior: SmallPrior, batches: Callable[[], Tensor]) -> np.ndarray:
    """Collect 2x2 blocks of latents [n, 4 C], channel first."""
    device = prior.shift.device
    blocks: list[Tensor] = []
    while sum(map(len, blocks)) < START_BLOCKS:
        x = batches().to(device)
        z = F.pixel_unshuffle(prior.latent(prior.features(x)), 2)
        blocks.append(z.permute(0, 2, 3, 1).flatten(0, 2).cpu())
    return torch.cat(blocks).numpy()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()
