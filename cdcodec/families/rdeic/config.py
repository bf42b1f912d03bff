"""Sizes of the small RDEIC presets (the paper's own: paper.py)."""

from __future__ import annotations

from dataclasses import dataclass

from cdcodec.families.rdeic.decoders import RELAY
from cdcodec.latent.config import LatentConfig

FAMILY = "rdeic"


@dataclass(frozen=True)
class RdeicConfig(LatentConfig):
    """What RDEIC has beside the common sizes.

    Attributes:
        codes: Entries of the hyper latent's codebook (paper: 16,384), a power of two.
        code_channels: Their length.
        hint: Channels of the guide features that the control network sees.
        relay: RELAY, as files say it; the decoder takes no other.
    """

    codes: int = 1024
    code_channels: int = 32
    hint: int = 64
    relay: int = RELAY


NANO = RdeicConfig()
TINY = RdeicConfig(
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
    codes=16,
    code_channels=4,
    hint=8,
)
PRESETS = {"nano": NANO, "tiny": TINY}
