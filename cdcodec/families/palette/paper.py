"""The restoration network at the paper's size: 108.4 million parameters (paper 000, tab. 8).

The paper describes a U-Net of residual blocks with skips, "conditioned on t by cross-attention
between the blocks" (sec. 3.2.2), and gives no sizes but that sum. Ours is diffusers' conditional
U-Net with 108.1 million; what it attends to is a token for each palette. Attention is to these
alone, never between positions, so that memory grows with the picture and not with its square.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cdcodec.families.palette.config import CENTRE, UNIT, PaletteConfig
from cdcodec.nn.stable_diffusion_unet import diffusers_module

HEADS = 8


class PaperRestoration(nn.Module):
    """R on diffusers' UNet2DConditionModel."""

    def __init__(self, config: PaletteConfig) -> None:
        super().__init__()
        self.groups = config.groups
        widths = config.restoration
        deeper = len(widths) - 1
        module: Any = diffusers_module("models.unets.unet_2d_condition")
        self.unet: nn.Module = module.UNet2DConditionModel(
            in_channels=config.latent,
            out_channels=config.latent,
            block_out_channels=widths,
            layers_per_block=config.restoration_depths[0],
            cross_attention_dim=config.condition // config.groups,
            only_cross_attention=True,
            attention_head_dim=HEADS,
            down_block_types=("CrossAttnDownBlock2D",) * deeper + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * deeper,
        )

    def forward(self, z_t: Tensor, condition: Tensor) -> Tensor:
        """Map z_t [B, GC, h, w], h and w multiples of 8, to z_0_hat; condition is [B, D]."""
        tokens = condition.view(len(condition), self.groups, -1)
        t = torch.zeros(len(z_t), device=z_t.device)  # all that it would say is in the tokens
        change: Tensor = self.unet(
            (z_t - CENTRE) / UNIT, t, encoder_hidden_states=tokens, return_dict=False
        )[0]
        return z_t + UNIT * change.float()
