"""The Inception-V3 of FID and KID: the TensorFlow network of 2015-12-05, up to its last pooling.

It differs from torchvision's in its pooling alone: averages leave the padding out, and the last
block takes maxima. Modules are named as in torchvision and in the checkpoint
pt_inception-2015-12-05-6726825d.pth of github.com/mseitzer/pytorch-fid, so that its tensors,
saved as safetensors, are the weights; those of its classifier (fc) are not used.

Pictures are resized and scaled as in torch-fidelity, on which the figures of papers that use
torchmetrics rest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.nn.published import frozen, read

FEATURES = 2048
_SIDE = 299

_average = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
_shrink = partial(F.max_pool2d, kernel_size=3, stride=2)


class Unit(nn.Module):
    """A convolution without bias, normalised and rectified."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to [B, width, H', W']."""
        return F.relu(self.bn(self.conv(x)))


class MixedA(nn.Module):
    """Branches of 1x1, 5x5 and two times 3x3 (figure 5 of Szegedy et al. 2015)."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(channels, 64, 1)
        self.branch5x5_1 = Unit(channels, 48, 1)
        self.branch5x5_2 = Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Unit(channels, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, channels, H, W] to [B, 224 + pooled, H, W]."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], 1)


class MixedB(nn.Module):
    """From 35x35 to 17x17."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = Unit(channels, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, channels, H, W] to [B, 480 + channels, H / 2, W / 2]."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, _shrink(x)], 1)


class MixedC(nn.Module):
    """Branches of 7x7, each taken apart into lines and columns (figure 6)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        line, column = partial(_flat, 7), partial(_tall, 7)
        self.branch1x1 = Unit(channels, 192, 1)
        self.branch7x7_1 = Unit(channels, width, 1)
        self.branch7x7_2 = line(width, width)
        self.branch7x7_3 = column(width, 192)
        self.branch7x7dbl_1 = Unit(channels, width, 1)
        self.branch7x7dbl_2 = column(width, width)
        self.branch7x7dbl_3 = line(width, width)
        self.branch7x7dbl_4 = column(width, width)
        self.branch7x7dbl_5 = line(width, 192)
        self.branch_pool = Unit(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, channels, H, W] to [B, 768, H, W]."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], 1)


class MixedD(nn.Module):
    """From 17x17 to 8x8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = Unit(channels, 192, 1)
        self.branch3x3_2 = Unit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Unit(channels, 192, 1)
        self.branch7x7x3_2 = _flat(7, 192, 192)
        self.branch7x7x3_3 = _tall(7, 192, 192)
        self.branch7x7x3_4 = Unit(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, channels, H, W] to [B, 512 + channels, H / 2, W / 2]."""
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        three = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat([three, self.branch7x7x3_4(seven), _shrink(x)], 1)


class MixedE(nn.Module):
    """Branches that end in a line beside a column (figure 7)."""

    def __init__(self, channels: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Unit(channels, 320, 1)
        self.branch3x3_1 = Unit(channels, 384, 1)
        self.branch3x3_2a = _flat(3, 384, 384)
        self.branch3x3_2b = _tall(3, 384, 384)
        self.branch3x3dbl_1 = Unit(channels, 448, 1)
        self.branch3x3dbl_2 = Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _flat(3, 384, 384)
        self.branch3x3dbl_3b = _tall(3, 384, 384)
        self.branch_pool = Unit(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, channels, H, W] to [B, 2048, H, W]."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        branches += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([*branches, self.branch_pool(self.pool(x))], 1)


class Inception(nn.Module):
    """Pictures to the 2048 features that FID and KID compare."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b = MixedA(192, 32)
        self.Mixed_5c = MixedA(256, 64)
        self.Mixed_5d = MixedA(288, 64)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b = MixedC(768, 128)
        self.Mixed_6c = MixedC(768, 160)
        self.Mixed_6d = MixedC(768, 160)
        self.Mixed_6e = MixedC(768, 192)
        self.Mixed_7a = MixedD(768)
        self.Mixed_7b = MixedE(1280, _average)
        self.Mixed_7c = MixedE(2048, _maximum)

    @classmethod
    def load(cls, path: Path) -> Inception:
        """Read the weights; they are frozen.

        Raises:
            WeightsError: If the file isn't there or isn't this network's.
        """
        stored = read(path, "Inception")
        network = cls()
        # The checkpoint has no counts of batches, which nothing needs once training is over.
        counts = {n: t for n, t in network.state_dict().items() if n.endswith("batches_tracked")}
        tensors = {n: t for n, t in stored.items() if not n.startswith(("fc.", "AuxLogits."))}
        return frozen(network, counts | tensors, path, "the Inception of FID")

    def forward(self, x: Tensor) -> Tensor:
        """Return the features [B, 2048] of x [B, 3, H, W] uint8, which is resized to 299x299."""
        x = (resize(x.float(), _SIDE) - 128) / 128
        x = _shrink(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _shrink(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


def resize(x: Tensor, side: int) -> Tensor:
    """Return x [B, C, H, W] at side x side, interpolated as TensorFlow 1 did.

    Its sample i lies at i * H / side, half a sample off from where it belongs; the network has seen
    nothing else.
    """
    for axis in (2, 3):
        length = x.shape[axis]
        place = torch.arange(side, dtype=x.dtype, device=x.device) * (length / side)
        low = place.long()
        part = (place - low).view([-1 if each == axis else 1 for each in range(4)])
        near, far = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=length - 1))
        x = near + part * (far - near)
    return x


def _flat(length: int, channels: int, width: int) -> Unit:
    return Unit(channels, width, (1, length), padding=(0, length // 2))


def _tall(length: int, channels: int, width: int) -> Unit:
    return Unit(channels, width, (length, 1), padding=(length // 2, 0))
