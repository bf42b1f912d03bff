"""A space-channel context model: each part of y is predicted from all that is decoded before it.

The channels of y come in slices of unequal width, each slice in two halves of a checkerboard (He et
al. 2022, ELIC; the entropy model of papers 002 and 003):

    earlier slices ─► channel ─┬──────────────► anchor ────► mean, index of the anchors
                       hyper ──┤
    anchors ────────► local ───┴──────────────► nonanchor ─► mean, index of the other half

Networks run on whole planes here, and masks choose; entropy/context.py computes the same in
integers, where it is needed only.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.nn.blocks import conv, round_through
from cdcodec.nn.losses import gaussian_bits

START_INDEX = 16.0
"""Table index of every element before training, a standard deviation of 0.79."""


@dataclass(frozen=True)
class ContextConfig:
    """Sizes of a context model and of the network that feeds it.

    Attributes:
        slices: Channels of each slice of y.
        hyper: Planes at the size of y that the hyper-latent is decoded to.
        hyper_inputs: Channels of what enters h_s, the rate not counted.
        hyper_width: Channels of the hidden layers of h_s.
        channel_widths: Hidden layers of the networks over earlier slices.
        mlp_widths: Hidden layers of the pointwise networks.
        channel_kernel: Side of the kernels over earlier slices.
        local_kernel: Side of the kernels over anchors.
    """

    slices: tuple[int, ...]
    hyper: int
    hyper_inputs: int
    hyper_width: int
    channel_widths: tuple[int, ...]
    mlp_widths: tuple[int, ...]
    channel_kernel: int = 3
    local_kernel: int = 3


class HyperSynthesis(nn.Module):
    """h_s: the hyper-latent, and where between the rates it is, to planes at the size of y.

    Convolutions, ReLU and pixel shuffle only, as the integer network has no more.
    """

    def __init__(self, config: ContextConfig) -> None:
        super().__init__()
        width = config.hyper_width
        self.conv1 = conv(config.hyper_inputs + 1, 4 * width)
        self.conv2 = conv(width, 4 * width)
        self.conv3 = conv(width, config.hyper)

    def forward(self, z: Tensor, u: Tensor, height: int, width: int) -> Tensor:
        """Map z [B, N, h, w] at rate positions u [B] in 0..1 to planes [B, H, height, width]."""
        rate = u[:, None, None, None].expand(-1, 1, *z.shape[-2:])
        # In bfloat16 training would not see what the integers will do.
        with torch.autocast(z.device.type, enabled=False):
            h = torch.cat([z.float(), rate.float()], 1)
            h = F.pixel_shuffle(F.relu(self.conv1(h)), 2)
            h = F.pixel_shuffle(F.relu(self.conv2(h)), 2)
            # One row and one column more than is kept, for the kernels to see.
            planes: Tensor = self.conv3(h[..., : height + 1, : width + 1])
        return planes[..., :height, :width]


class SpaceChannelContext(nn.Module):
    """The networks of all slices; every one of them gives means, then table indices.

    Attributes:
        channel: channel[k - 1]: earlier slices [.., sum, h, w] to 2 c_k planes, for slices k > 0.
        anchor: cat(channel, hyper) to 2 c_k planes, pointwise.
        local: Anchors of the slice, zeros between them, to 2 c_k planes.
        nonanchor: cat(local, channel, hyper) to 2 c_k planes, pointwise.
    """

    def __init__(self, config: ContextConfig) -> None:
        super().__init__()
        self.config = config
        slices = config.slices
        self.channel = nn.ModuleList(
            _chain((before, *config.channel_widths, 2 * own), config.channel_kernel)
            for before, own in zip(accumulate(slices), slices[1:], strict=False)
        )
        self.local = nn.ModuleList(conv(own, 2 * own, config.local_kernel) for own in slices)
        self.anchor = nn.ModuleList()
        self.nonanchor = nn.ModuleList()
        for k, own in enumerate(slices):
            support = config.hyper + (2 * own if k else 0)
            self.anchor.append(_head((support, *config.mlp_widths, 2 * own)))
            self.nonanchor.append(_head((2 * own + support, *config.mlp_widths, 2 * own)))

    def forward(self, y: Tensor, hyper: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Count the bits of y under noise, and round it.

        Args:
            y: Gained latent [B, M, h, w].
            hyper: Planes [B, H, h, w].
            noise: In -0.5..0.5, of y's shape; it stands for rounding where bits are counted.

        Returns:
            y_hat, rounded to whole steps from its mean, with the gradient of y; and the bits of
            each image [B]. Contexts see y_hat, and gradients pass through it.
        """
        with torch.autocast(y.device.type, enabled=False):
            y, hyper = y.float(), hyper.float()
            anchors = checkerboard(y.shape[-2], y.shape[-1], y.device)
            decoded: list[Tensor] = []
            means: list[Tensor] = []
            indices: list[Tensor] = []
            for k, own in enumerate(torch.split(y, list(self.config.slices), 1)):
                support = hyper
                if k:
                    support = torch.cat([self.channel[k - 1](torch.cat(decoded, 1)), hyper], 1)
                first = self.anchor[k](support)
                known = _rounded(own, first.chunk(2, 1)[0]) * anchors
                second = self.nonanchor[k](torch.cat([self.local[k](known), support], 1))
                mean, index = torch.where(anchors, first, second).chunk(2, 1)
                decoded.append(_rounded(own, mean))
                means.append(mean)
                indices.append(index)
            distance = y - torch.cat(means, 1) + noise
            bits = gaussian_bits(distance, torch.cat(indices, 1)).sum((1, 2, 3))
            return torch.cat(decoded, 1), bits


def checkerboard(height: int, width: int, device: torch.device) -> Tensor:
    """Return where anchors lie, bool [height, width]: row + column is odd."""
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)
    return (rows + columns) % 2 == 1


def _rounded(y: Tensor, mean: Tensor) -> Tensor:
    return round_through(y - mean) + mean


def _chain(widths: tuple[int, ...], kernel: int) -> nn.Sequential:
    """Return convolutions with a ReLU between any two."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [conv(before, after, kernel), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _head(widths: tuple[int, ...]) -> nn.Sequential:
    """Return a pointwise chain that begins with means of nearly 0 and one index for all."""
    chain = _chain(widths, 1)
    last = chain[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()
        last.bias[widths[-1] // 2 :] = START_INDEX
    return chain
