"""Sizes of the palette family's networks, and what its weight files say of them. No torch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from cdcodec.errors import WeightsError

FAMILY = "palette"

CENTRE = 128.0
UNIT = 32.0
"""Networks see latents less CENTRE, in units of so many steps of the 8-bit quantiser."""


@dataclass(frozen=True)
class PaletteConfig:
    """Sizes of the small networks; the paper names none but those of its U-Net.

    Attributes:
        groups: Groups of the latent's channels, each with a palette of its own.
        channels: Channels of a group.
        weights: What a squared error counts for when entries are merged, by group. Those of the
            first, block means, cost least bits for what they bring.
        encoder: Channels of the encoder at 1/4 and 1/8 of the image.
        decoder: Channels of the decoder at 1/8 and 1/4.
        decoder_depths: Residual blocks there.
        restoration: Channels of the restoration network at 1/8, 1/16 and so on. With two scales it
            is the small one, with more that of the paper's size.
        restoration_depths: Residual blocks at each scale, on the way down and up.
        condition: Length of the vector that tells the networks how many entries palettes have.
    """

    groups: int = 4
    channels: int = 3
    weights: tuple[int, ...] = (24, 6, 5, 4)
    encoder: tuple[int, int] = (48, 80)
    decoder: tuple[int, int] = (96, 48)
    decoder_depths: tuple[int, int] = (2, 1)
    restoration: tuple[int, ...] = (64, 96)
    restoration_depths: tuple[int, int] = (1, 1)
    condition: int = 32

    @property
    def latent(self) -> int:
        """Channels of the latent."""
        return self.groups * self.channels


PRESETS = {
    "nano": PaletteConfig(),
    "tiny": PaletteConfig(
        groups=2,
        channels=2,
        weights=(16, 16),
        encoder=(8, 12),
        decoder=(12, 8),
        decoder_depths=(1, 1),
        restoration=(8, 12),
        condition=8,
    ),
    "paper": PaletteConfig(
        encoder=(128, 256),
        decoder=(256, 128),
        decoder_depths=(4, 4),
        restoration=(128, 256, 384, 512),
        restoration_depths=(2, 2),
        condition=768,
    ),
}


def describe(config: PaletteConfig) -> str:
    """Return the metadata of a weight file."""
    return json.dumps({"family": FAMILY, "config": dataclasses.asdict(config)}, sort_keys=True)


def parse(metadata: str) -> PaletteConfig:
    """Return the sizes in a weight file's metadata.

    Raises:
        WeightsError: If it isn't a weight file of this family.
    """
    try:
        table = json.loads(metadata)
        family = table.get("family")
    except (ValueError, AttributeError) as error:
        raise WeightsError("weight file does not say what it holds") from error
    if family != FAMILY:
        raise WeightsError(f"weight file is of family {family}, not {FAMILY}")
    try:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in table["config"].items()
        }
        return PaletteConfig(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError("weight file does not hold a PaletteConfig") from error
