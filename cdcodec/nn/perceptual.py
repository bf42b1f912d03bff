"""LPIPS with the SqueezeNet 1.1 trunk (Zhang et al. 2018, v0.1 heads): a loss and a metric.

The weights are public (torchvision's trunk, the heads of richzhang/PerceptualSimilarity) and come
from a file that the user has; encoding and decoding don't need them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.nn.published import frozen, read

_MEAN = (-0.030, -0.088, -0.188)
_SPREAD = (0.458, 0.448, 0.450)
# Number in torchvision's `features`, squeeze width and expand width of the fire modules.
_FIRES = {
    3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128),
    9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256),
}  # fmt: skip
_POOL_BEFORE = (3, 6, 9)
_TAPS = (4, 7, 9, 10, 11, 12)
_TAP_CHANNELS = (64, 128, 256, 384, 384, 512, 512)


class Fire(nn.Module):
    """SqueezeNet's module: squeeze with 1x1, expand with 1x1 and 3x3."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to [B, 2 * expand, H, W]."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class Lpips(nn.Module):
    """The distance d of eq. 8: 0 for equal images, about 0.7 for unrelated ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, stride=2)
        self.fires = nn.ModuleDict({str(number): Fire(*size) for number, size in _FIRES.items()})
        self.heads = nn.ParameterList(torch.zeros(1, c, 1, 1) for c in _TAP_CHANNELS)
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN)[None, :, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor(_SPREAD)[None, :, None, None], persistent=False)

    @classmethod
    def load(cls, path: Path) -> Lpips:
        """Read the weights; they are frozen.

        Raises:
            WeightsError: If the file isn't there or isn't this network's.
        """
        hint = "cdcodec weights add lpips-squeeze FILE adds them; show says from where"
        stored = read(path, "the perceptual loss", hint=hint)
        tensors = {}
        for name, tensor in stored.items():
            if name.startswith("lin"):
                tensors[f"heads.{name[3 : name.index('.')]}"] = tensor
            else:
                number, rest = name.removeprefix("trunk.features.").split(".", 1)
                tensors[f"stem.{rest}" if number == "0" else f"fires.{number}.{rest}"] = tensor
        return frozen(cls(), tensors, path, "LPIPS with a SqueezeNet trunk")

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the seven tapped maps of x [B, 3, H, W] in -1..1, unit length over channels."""
        return [_unit(tap.float()) for tap in self.taps(x)]

    def taps(self, x: Tensor) -> list[Tensor]:
        """Return those maps as they are."""
        x = F.relu(self.stem((x - self.mean) / self.spread))
        taps = [x]
        for number, fire in self.fires.items():
            if int(number) in _POOL_BEFORE:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = fire(x)
            if int(number) in _TAPS:
                taps.append(x)
        return taps

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance of x and y, both [B, 3, H, W] in -1..1, per image [B]."""
        distance = torch.zeros(len(x), device=x.device)
        for a, b, head in zip(self.features(x), self.features(y), self.heads, strict=True):
            distance = distance + ((a - b).square() * head.float()).sum(1).mean((1, 2))
        return distance


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt()
