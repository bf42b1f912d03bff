"""VGG-16 up to its last convolution (Simonyan and Zisserman 2015), for features of pictures.

The weights are torchvision's, published by others as safetensors (timm/vgg16.tv_in1k on Hugging
Face) with these names, beside those of a classifier that isn't used:

    features.N.weight, features.N.bias   the 13 convolutions, numbered as in torchvision's vgg16

They come from a file that the user has; encoding and decoding don't need them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.nn.published import frozen, read

# Of pictures in -1..1; ImageNet's are (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225) in 0..1.
_MEAN = (-0.030, -0.088, -0.188)
_SPREAD = (0.458, 0.448, 0.450)
STAGES = (
    ((0, 2), 64),
    ((5, 7), 128),
    ((10, 12, 14), 256),
    ((17, 19, 21), 512),
    ((24, 26, 28), 512),
)
"""Of every stage the numbers of its convolutions in torchvision's `features`, and its width."""

_CLASSIFIER = ("pre_logits.", "head.")


def convolutions() -> nn.ModuleDict:
    """Return VGG-16's convolutions by their number, with random weights."""
    features, channels = nn.ModuleDict(), 3
    for numbers, width in STAGES:
        for number in numbers:
            features[str(number)] = nn.Conv2d(channels, width, 3, padding=1)
            channels = width
    return features


class Vgg16(nn.Module):
    """The trunk of VGG-16: five stages with a pooling between."""

    def __init__(self) -> None:
        super().__init__()
        self.features = convolutions()
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN)[None, :, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor(_SPREAD)[None, :, None, None], persistent=False)

    @classmethod
    def load(cls, path: Path) -> Vgg16:
        """Read the weights; they are frozen.

        Raises:
            WeightsError: If the file isn't there or isn't this network's.
        """
        hint = "cdcodec weights add vgg16 FILE adds them; show vgg16 says from where"
        stored = read(path, "VGG-16", hint=hint)
        tensors = {n: tensor for n, tensor in stored.items() if not n.startswith(_CLASSIFIER)}
        return frozen(cls(), tensors, path, "VGG-16")

    def taps(self, x: Tensor) -> list[Tensor]:
        """Return the last map of every stage: conv1_2, 2_2, 3_3, 4_3 and 5_3, rectified.

        Args:
            x: Pictures [B, 3, H, W] in -1..1, H and W at least 16.
        """
        x = (x - self.mean) / self.spread
        taps = []
        for stage, (numbers, _) in enumerate(STAGES):
            if stage:
                x = F.max_pool2d(x, 2)
            for number in numbers:
                x = F.relu(self.features[str(number)](x))
            taps.append(x)
        return taps
