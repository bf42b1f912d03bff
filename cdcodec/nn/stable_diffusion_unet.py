"""Stable Diffusion's U-Net as rows that a control network can reach into, and such a network.

The parts are those of diffusers, which is imported when one is made and not before. Its own forward
would let nothing in between the rows of the way down.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.errors import WeightsError, extra_hint
from cdcodec.nn.stable_diffusion_config import SD21_CONTROL, ControlConfig
from cdcodec.nn.unet import UnetShape


class Block(nn.Module):
    """A row: a residual block, a transformer and a change of scale, as far as it has them."""

    def __init__(
        self,
        resnet: nn.Module | None = None,
        attention: nn.Module | None = None,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.resnet = resnet
        self.attention = attention
        self.resample = resample

    def forward(self, h: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        """Map h [B, C, h, w], given the time's vector [B, T] and the text's [B, 77, D]."""
        if self.resnet is not None:
            h = self.resnet(h, emb)
        if self.attention is not None:
            h = self.attention(h, encoder_hidden_states=context, return_dict=False)[0]
        return h if self.resample is None else self.resample(h)


class SdDownHalf(nn.Module):
    """The way down of a U-Net of Stable Diffusion's kind, and its middle; see unet.BlockUnet.

    Attributes:
        context: Embedding of the empty prompt [1, 77, D], see bind. Not part of the state.
    """

    context: Tensor

    def __init__(
        self,
        frequencies: nn.Module,
        time: nn.Module,
        rows: list[Block],
        bottom: list[Block],
        shape: UnetShape,
    ) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.time = time
        self.rows = nn.ModuleList(rows)
        self.bottom = nn.ModuleList(bottom)
        self.shape = shape
        self.register_buffer("context", torch.zeros(1, 0, 0), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """What the rows compute in; they take any and give this one."""
        return next(self.rows.parameters()).dtype

    def bind(self, context: Tensor) -> None:
        """Set the embedding of the empty prompt [1, 77, D]."""
        parameter = next(self.rows.parameters())
        self.context = context.detach().to(parameter.device, parameter.dtype)

    def embed(self, t: Tensor) -> Tensor:
        """See BlockUnet; the time's own layers stay in float32, see place."""
        own = next(self.time.parameters()).dtype
        emb: Tensor = self.time(self.frequencies(t).to(own)).to(self.dtype)
        return emb

    def input(self, i: int, h: Tensor, emb: Tensor) -> Tensor:
        """See BlockUnet; height and width of the latent are multiples of 8."""
        return self._run(self.rows[i], h, emb)

    def middle(self, h: Tensor, emb: Tensor) -> Tensor:
        """See BlockUnet."""
        for block in self.bottom:
            h = self._run(block, h, emb)
        return h

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move to a device, in a precision that is fast there."""
        self.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # A thousand times are more than bfloat16 tells apart.
        self.time.float()

    def _run(self, block: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
        assert self.context.shape[1], "bind the empty prompt first"
        out: Tensor = block(h.to(self.dtype), emb, self.context.expand(len(h), -1, -1))
        return out


class SdUnet(SdDownHalf):
    """Stable Diffusion's U-Net as rows, see unet.BlockUnet: 12 down, a middle, 12 up."""

    def __init__(self, network: Any) -> None:
        rows = [Block(resample=network.conv_in)]
        for block in network.down_blocks:
            rows += _blocks(block)
            if block.downsamplers is not None:
                rows.append(Block(resample=block.downsamplers[0]))
        (attention,) = network.mid_block.attentions
        first, second = network.mid_block.resnets
        rises: list[Block] = []
        for block in network.up_blocks:
            rises += _blocks(block)
            if block.upsamplers is not None:
                rises[-1].resample = block.upsamplers[0]
        middle = first.out_channels
        outputs = [_channels(row) for row in rises]
        shape = UnetShape(tuple(_channels(row) for row in rows), middle, (middle, *outputs[:-1]))
        time, frequencies = network.time_embedding, network.time_proj
        bottom = [Block(first, attention), Block(second)]
        super().__init__(frequencies, time, rows, bottom, shape)
        self.rises = nn.ModuleList(rises)
        self.norm = network.conv_norm_out
        self.last = network.conv_out

    def output(self, i: int, h: Tensor, skip: Tensor, emb: Tensor) -> Tensor:
        """See BlockUnet; all scales but the last are doubled by their third block."""
        h = torch.cat([h.to(self.dtype), skip.to(self.dtype)], 1)
        return self._run(self.rises[i], h, emb)

    def head(self, h: Tensor) -> Tensor:
        """See BlockUnet; eps is float32, as samplers want it."""
        eps: Tensor = self.last(F.silu(self.norm(h.to(self.dtype))))
        return eps.float()

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the transformers, where the time goes, with torch.compile's arguments.

        There are no more kinds of them than there are widths and scales, so that it is soon done.
        """
        repeated = diffusers_module("models.attention").BasicTransformerBlock
        for module in self.modules():
            if isinstance(module, repeated):
                module.compile(*args, **options)


def control_half(in_channels: int, config: ControlConfig = SD21_CONTROL) -> SdDownHalf:
    """Return a narrow way down for nn.control.Control; its prompt is to be bound, see bind.

    Args:
        in_channels: Of cat(z_t, hint).
        config: Its sizes.

    Raises:
        WeightsError: If diffusers isn't installed.
    """
    resnets = diffusers_module("models.resnet")
    transformers = diffusers_module("models.transformers.transformer_2d")
    embeddings = diffusers_module("models.embeddings")

    def resnet(before: int, width: int) -> Any:
        return resnets.ResnetBlock2D(
            in_channels=before,
            out_channels=width,
            temb_channels=config.condition,
            groups=_groups(before),
            groups_out=_groups(width),
            eps=1e-5,
        )

    def attention(width: int) -> Any:
        return transformers.Transformer2DModel(
            num_attention_heads=width // config.head_channels,
            attention_head_dim=config.head_channels,
            in_channels=width,
            norm_num_groups=_groups(width),
            cross_attention_dim=config.context,
            use_linear_projection=True,
        )

    before = config.widths[0]
    rows = [Block(resample=nn.Conv2d(in_channels, before, 3, padding=1))]
    inputs = [before]
    lowest = len(config.widths) - 1
    for level, width in enumerate(config.widths):
        for _ in range(2):
            rows.append(Block(resnet(before, width), attention(width) if level < lowest else None))
            before = width
        inputs += [width, width]
        if level < lowest:
            rows.append(Block(resample=nn.Conv2d(width, width, 3, stride=2, padding=1)))
            inputs.append(width)
    bottom = [Block(resnet(before, before), attention(before)), Block(resnet(before, before))]
    frequencies = embeddings.Timesteps(
        config.frequencies, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    time = embeddings.TimestepEmbedding(config.frequencies, config.condition)
    return SdDownHalf(frequencies, time, rows, bottom, UnetShape(tuple(inputs), before, ()))


def _blocks(stage: Any) -> list[Block]:
    """Return the rows of a stage of diffusers' U-Net, without its change of scale."""
    attentions = getattr(stage, "attentions", None) or [None] * len(stage.resnets)
    return [Block(*pair) for pair in zip(stage.resnets, attentions, strict=True)]


def _channels(row: Block) -> int:
    part: Any = row.resnet if row.resnet is not None else row.resample
    channels: int = part.out_channels
    return channels


def _groups(width: int) -> int:
    """Return the largest divisor of a width up to 32, the authors' number of groups."""
    return max(n for n in range(1, 33) if width % n == 0)


def diffusers_module(module: str) -> Any:
    """Import a module of diffusers.

    Raises:
        WeightsError: It isn't installed.
    """
    try:
        return import_module(f"diffusers.{module}")
    except ImportError as error:
        raise WeightsError(
            f"this model needs diffusers, which can't be imported: {error}",
            hint=extra_hint("sd"),
        ) from error
