"""A latent diffusion family at the paper's scale: its compression networks and the control network.

What the authors publish in one checkpoint. The prior beside it is Stable Diffusion.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from cdcodec.latent.walk import LatentWalk
from cdcodec.nn.control import Control
from cdcodec.nn.stable_diffusion_config import SD21_BASE, SD21_CONTROL, ControlConfig, SdConfig
from cdcodec.nn.stable_diffusion_unet import SdDownHalf, control_half

Config = TypeVar("Config")


@dataclass(frozen=True)
class PaperSizes(Generic[Config]):
    """Sizes of all networks.

    Attributes:
        compression: Of the family's compression networks.
        control: Of the narrow half of the control network.
        prior: Of Stable Diffusion, which the control network reaches into.
    """

    compression: Config
    control: ControlConfig = SD21_CONTROL
    prior: SdConfig = SD21_BASE


class Transforms(Protocol):
    """A family's compression networks: what codec.Compression asks for, but for the control."""

    def gain(self, u: Tensor) -> Tensor:
        """See codec.Compression."""

    def analyse(self, x: Tensor, features: Tensor, z_0: Tensor) -> Tensor:
        """See codec.Compression."""

    def hyper_latent(self, y: Tensor, z_0: Tensor, u: Tensor) -> tuple[str, Tensor]:
        """See codec.Compression."""

    def planes(self, hyper: Tensor) -> Tensor:
        """See codec.Compression."""

    def synthesise(self, y_hat: Tensor, planes: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """See codec.Compression."""


Compression = TypeVar("Compression", bound=Transforms)


class PaperNetwork(nn.Module, ABC, Generic[Compression]):
    """All that a checkpoint of the authors holds of their own; a latent.codec.Compression.

    Attributes:
        compression: The family's compression networks, which compute in float32.
        control: The control network; bind it to a prior before it is used.
    """

    def __init__(self, compression: Compression, hint: int, sizes: PaperSizes[Any]) -> None:
        """Put the two together.

        Args:
            compression: Transforms and entropy model.
            hint: Channels of the hint that it gives the control network.
            sizes: Of all networks.

        Raises:
            WeightsError: If diffusers isn't installed.
        """
        super().__init__()
        self.sizes = sizes
        self.compression: Compression = compression
        half = control_half(4 + hint, sizes.control)
        self.control = Control(half, sizes.prior.unet_shape)

    @abstractmethod
    def walk(self) -> LatentWalk:
        """Return tables and integer networks of the entropy model.

        Raises:
            WeightsError: If weights are too large to be exact.
        """

    @property
    def parts(self) -> dict[str, Any]:
        """Sizes by the name that a weight file's metadata has for them."""
        sizes = self.sizes
        return {"config": sizes.compression, "control": sizes.control, "prior": sizes.prior}

    def place(self, device: torch.device, dtype: torch.dtype, context: Tensor) -> None:
        """Move to a device, in the precision of the prior's U-Net there.

        Args:
            device: Where to.
            dtype: Of the control network; the compression networks stay in float32.
            context: Embedding of the empty prompt [1, 77, D].
        """
        half = self.control.narrow
        assert isinstance(half, SdDownHalf)
        half.bind(context)  # first, as it has no values before that could be moved
        self.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.control.to(dtype)
        half.place(device, dtype)

    def gain(self, u: Tensor) -> Tensor:
        """See codec.Compression."""
        return self.compression.gain(u)

    def analyse(self, x: Tensor, features: Tensor, z_0: Tensor) -> Tensor:
        """See codec.Compression; height and width are multiples of 64."""
        return self.compression.analyse(x, features, z_0)

    def hyper_latent(self, y: Tensor, z_0: Tensor, u: Tensor) -> tuple[str, Tensor]:
        """See codec.Compression."""
        return self.compression.hyper_latent(y, z_0, u)

    def planes(self, hyper: Tensor) -> Tensor:
        """See codec.Compression."""
        return self.compression.planes(hyper)

    def synthesise(self, y_hat: Tensor, planes: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """See codec.Compression."""
        return self.compression.synthesise(y_hat, planes, u)
