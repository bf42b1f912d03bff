"""Autoencoder and restoration network of palette diffusion (paper 000, fig. 3).

x ─► E ─► z ─► 8 bits ─► palettes C(z, t) ─► z_t ─► R ─► z_0_hat ─► D ─► x_hat
                                              └────────────────────► D ─► x_hat, decoded directly

Latents are in steps of the 8-bit quantiser, 0..255; inside the networks they are centred and
scaled.

Deviations from the paper, with their reasons. The paper's encoder has VGG-16 as its backbone (sec.
3.1.1), its decoder isn't described; ours are small and convolutional, upon a linear transform of
8x8 blocks, so that training need not find what is known. D is told whether a latent was restored:
if not, its picture is to be faithful, else natural, so that one file gives both. R learns what to
add to z_t. It is told how many entries each palette has, which is the t of a chain with several
palettes; the small one by modulation, as cross-attention is slow on a CPU.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.families.palette.config import CENTRE, UNIT, PaletteConfig
from cdcodec.families.palette.paper import PaperRestoration
from cdcodec.families.palette.walk import STRIDE
from cdcodec.nn.blocks import Stack, Upsample, conv, round_through

LARGEST = 255.0

LOG_ENTRIES = math.log(256.0)


class _Clamp(torch.autograd.Function):
    """Clamp to 0..255; outside, only gradients that lead back inside pass."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.clamp(0, LARGEST)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        blocked = ((z < 0) & (gradient > 0)) | ((z > LARGEST) & (gradient < 0))
        return gradient.masked_fill(blocked, 0.0)


def to_8_bits(z: Tensor) -> Tensor:
    """Round z, of any shape, to integers 0..255 (Q in sec. 3.2.1); gradients pass."""
    return round_through(_Clamp.apply(z))  # type: ignore[no-untyped-call]


class Encoder(nn.Module):
    """E: image to latent."""

    def __init__(self, config: PaletteConfig) -> None:
        super().__init__()
        a, b = config.encoder
        self.stem = conv(48, a)
        self.stack4 = Stack(a, 1)
        self.down = conv(a, b, stride=2)
        self.stack8 = Stack(b, 1)
        self.head = conv(b, config.latent)
        self.linear = conv(3 * STRIDE * STRIDE, config.latent, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, 3, H, W] in -1..1, H and W multiples of 8, to z [B, GC, H/8, W/8]."""
        h = self.stack4(self.stem(F.pixel_unshuffle(x, 4)))
        h = self.head(self.stack8(self.down(h)))
        with torch.autocast(x.device.type, enabled=False):
            linear = self.linear(F.pixel_unshuffle(x.float(), STRIDE))
        z: Tensor = CENTRE + UNIT * (linear + h.float())
        return z


class Decoder(nn.Module):
    """D: latent to image."""

    def __init__(self, config: PaletteConfig) -> None:
        super().__init__()
        a, b = config.decoder
        self.stem = conv(config.latent, a)
        self.stack8 = Stack(a, config.decoder_depths[0], config.condition)
        self.up = Upsample(a, b)
        self.stack4 = Stack(b, config.decoder_depths[1], config.condition)
        self.head = conv(b, 48)
        self.linear = conv(config.latent, 3 * STRIDE * STRIDE, kernel=1)

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        """Map z [B, GC, h, w] to x_hat [B, 3, 8h, 8w] in about -1..1; condition is [B, D]."""
        z = (z - CENTRE) / UNIT
        h = self.stack4(self.up(self.stack8(self.stem(z), condition)), condition)
        # In bfloat16 a smooth sky would have steps of half a grey level.
        with torch.autocast(z.device.type, enabled=False):
            linear = F.pixel_shuffle(self.linear(z.float()), STRIDE)
        return linear + F.pixel_shuffle(self.head(h).float(), 4)


def is_paper(config: PaletteConfig) -> bool:
    """Tell whether the restoration network is that of the paper's size."""
    return len(config.restoration) > 2


class Restoration(nn.Module):
    """R: a latent as its palettes left it to what it was, a U-Net of two scales (sec. 3.2.2)."""

    def __init__(self, config: PaletteConfig) -> None:
        super().__init__()
        a, b = config.restoration
        fine, coarse = config.restoration_depths
        self.stem = conv(config.latent, a)
        self.before = Stack(a, fine, config.condition)
        self.down = conv(a, b, stride=2)
        self.middle = Stack(b, coarse, config.condition)
        self.up = Upsample(b, a)
        self.join = conv(2 * a, a, kernel=1)
        self.after = Stack(a, fine, config.condition)
        self.head = conv(a, config.latent)
        with torch.no_grad():
            self.head.weight.mul_(0.1)  # nearly the identity to begin with

    def forward(self, z_t: Tensor, condition: Tensor) -> Tensor:
        """Map z_t [B, GC, h, w], h and w even, to z_0_hat of the same shape; condition [B, D]."""
        h = self.before(self.stem((z_t - CENTRE) / UNIT), condition)
        low = self.up(self.middle(self.down(h), condition))
        h = self.after(self.join(torch.cat([h, low], 1)), condition)
        z_0: Tensor = z_t + UNIT * self.head(h).float()
        return z_0


class Entries(nn.Module):
    """How many entries palettes have, as a condition vector."""

    def __init__(self, config: PaletteConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3 * config.groups, config.condition),
            nn.SiLU(),
            nn.Linear(config.condition, config.condition),
        )

    def forward(self, entries: Tensor) -> Tensor:
        """Map numbers of entries [B, G], 1..256, to [B, D]."""
        u = entries.clamp(1, 256).log() / LOG_ENTRIES
        phase = torch.pi * u
        condition: Tensor = self.layers(torch.cat([u, phase.sin(), phase.cos()], 1))
        return condition


class PaletteNetwork(nn.Module):
    """All of a weight set's networks."""

    def __init__(self, config: PaletteConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.restoration = PaperRestoration(config) if is_paper(config) else Restoration(config)
        self.entries = Entries(config)
        self.naturalness = nn.Parameter(torch.randn(config.condition))

    @property
    def multiple(self) -> int:
        """What the restoration network's rows and columns are multiples of."""
        return int(2 ** (len(self.config.restoration) - 1))

    def encode(self, x: Tensor) -> Tensor:
        """Map x [B, 3, H, W] in -1..1 to z in 8 bits [B, GC, H/8, W/8]."""
        return to_8_bits(self.encoder(x))

    def decode(self, z: Tensor, entries: Tensor, restored: Tensor) -> Tensor:
        """Map z [B, GC, h, w] to x_hat [B, 3, 8h, 8w].

        Args:
            z: A latent as its palettes left it, or restored.
            entries: Of its palettes [B, G].
            restored: Which it is, bool [B].
        """
        condition = self.entries(entries) + restored[:, None] * self.naturalness
        x: Tensor = self.decoder(z, condition)
        return x

    def restore(self, z_t: Tensor, entries: Tensor) -> Tensor:
        """Map z_t [B, GC, h, w] to z_0_hat (eq. 6), of any height and width."""
        rows, columns = z_t.shape[-2:]
        multiple = self.multiple
        padded = F.pad(z_t, (0, -columns % multiple, 0, -rows % multiple), mode="replicate")
        z_0: Tensor = self.restoration(padded, self.entries(entries))
        return z_0[..., :rows, :columns]


def build(config: PaletteConfig, seed: int) -> PaletteNetwork:
    """Return networks with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PaletteNetwork(config)
