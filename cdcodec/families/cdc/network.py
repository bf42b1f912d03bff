"""The networks of a small CDC preset in one module, and the arithmetic between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdcodec.families.cdc.config import CdcConfig
from cdcodec.families.cdc.denoiser import Denoiser
from cdcodec.families.cdc.transforms import (
    Analysis,
    Context,
    Gains,
    HyperAnalysis,
    HyperSynthesis,
)
from cdcodec.nn.blocks import Embedding

Pyramid = tuple[Tensor, Tensor, Tensor, Tensor]


class CdcNetwork(nn.Module):
    """All trained parameters of one weight set, in float."""

    def __init__(self, config: CdcConfig) -> None:
        super().__init__()
        self.config = config
        self.g_a = Analysis(config)
        self.h_a = HyperAnalysis(config)
        self.h_s = HyperSynthesis(config)
        self.gains = Gains(config)
        self.rate = Embedding(config.condition)
        self.context = Context(config)
        self.denoiser = Denoiser(config)

    def pyramid(self, y_hat: Tensor, u: Tensor) -> Pyramid:
        """Decode y_hat [B, M, h, w] at rate positions u [B] in 0..1 into the context maps."""
        pyramid: Pyramid = self.context(y_hat, self.rate(u))
        return pyramid

    def predict(
        self, x_t: Tensor, noise_level: Tensor, signal: Tensor, pyramid: Pyramid, u: Tensor
    ) -> Tensor:
        """Predict x_0 [B, 3, H, W] from x_t; see Denoiser."""
        x_0: Tensor = self.denoiser(x_t, noise_level, signal, pyramid, self.rate(u))
        return x_0

    def entropy_parameters(self) -> list[nn.Parameter]:
        """Parameters that decide bits: everything but the context pyramid and the denoiser."""
        decoder = {id(p) for m in (self.context, self.denoiser, self.rate) for p in m.parameters()}
        return [p for p in self.parameters() if id(p) not in decoder]

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Parameters that turn latents into pixels; training them never changes a file's size."""
        return [p for m in (self.context, self.denoiser, self.rate) for p in m.parameters()]


def build(config: CdcConfig, seed: int = 0) -> CdcNetwork:
    """Return a network with seeded random weights; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CdcNetwork(config)
