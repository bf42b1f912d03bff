"""Sizes of the small DiffEIC presets (the paper's own: paper.py)."""

from __future__ import annotations

from dataclasses import dataclass

from cdcodec.latent.config import LatentConfig

FAMILY = "diffeic"


@dataclass(frozen=True)
class DiffeicConfig(LatentConfig):
    """What DiffEIC has beside the common sizes.

    Attributes:
        z_channels: Channels of the hyper latent z.
        guide: Channels of w, what f_c makes of it.
        sft: Channels inside the networks that make scales and shifts of the guidance.
    """

    z_channels: int = 32
    guide: int = 32
    sft: int = 32


NANO = DiffeicConfig()
TINY = DiffeicConfig(
    prior="tiny",
    widths=(8, 8),
    slices=(2, 2, 4),
    hyper_width=8,
    hyper=8,
    context_width=8,
    control_widths=(8, 8, 8),
    condition=8,
    anchors=3,
    points=16,
    z_channels=4,
    guide=4,
    sft=8,
)
PRESETS = {"nano": NANO, "tiny": TINY}
