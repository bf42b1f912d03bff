"""Sizes of CGDM's networks, and what its weight files say of them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from cdcodec.errors import WeightsError

FAMILY = "cgdm"
MSILLM = "msillm"
"""The preset that metadata of an MS-ILLM base names; a post-processor's names none."""

TRAIN_STEPS = 1000
"""Length of the diffusion process."""

TEXTURE = 0.65
"""How far a picture goes from x_tilde, the most faithful, to the chain's end.

The estimators with the best trade of distortion for naturalness lie on the line between the two
ends (Freirich et al. 2021, "A theory of the distortion-perception tradeoff in Wasserstein space").
On four photographs that are neither trained nor reported on (scikit-image's astronaut, coffee,
chelsea and rocket) LPIPS is no worse here than at the end, and PSNR 0.2 to 0.4 dB better.
"""


@dataclass(frozen=True)
class CgdmConfig:
    """Sizes of the post-processor; the base codec has its own.

    The paper leaves sizes to a supplement that isn't public; its U-Net is that of IDM (Gao et al.
    2023) "with fewer parameters" and without self-attention.

    Attributes:
        block: Pixels of block x block are laid out as channels before the first convolution.
        widths: Channels at the N scales, the first 1/block of the image, each half of the one
            before.
        diffusion: Residual blocks of the diffusion encoder at each scale.
        consistency: Of the consistency encoder.
        decoder: Of the decoder.
        condition: Length of the vector that tells the networks the step.
        syntax: Values of the syntax vector.
        syntax_widths: Channels of the syntax generator's pyramid.
        fusion: Width of the nets that make kernels.
        rank: Rank of a kernel's pointwise part.
    """

    block: int = 4
    widths: tuple[int, ...] = (64, 64, 64)
    diffusion: tuple[int, ...] = (1, 1, 1)
    consistency: tuple[int, ...] = (2, 1, 1)
    decoder: tuple[int, ...] = (2, 1, 1)
    condition: int = 48
    syntax: int = 16
    syntax_widths: tuple[int, ...] = (16, 24, 32)
    fusion: int = 32
    rank: int = 2

    @property
    def stride(self) -> int:
        """Pixels that a sample of the coarsest scale stands for."""
        return self.block << (len(self.widths) - 1)


NANO = CgdmConfig()
TINY = CgdmConfig(
    widths=(8, 8),
    diffusion=(1, 1),
    consistency=(1, 1),
    decoder=(1, 1),
    condition=8,
    syntax_widths=(4, 4),
    fusion=8,
    rank=1,
)
PAPER = CgdmConfig(
    block=1,
    widths=(64, 128, 256, 256, 512),
    diffusion=(1, 1, 1, 1, 1),
    consistency=(1, 1, 1, 1, 1),
    decoder=(2, 2, 2, 2, 2),
    condition=256,
    syntax_widths=(16, 32, 64),
    fusion=128,
    rank=8,
)
PRESETS = {"nano": NANO, "tiny": TINY, "paper": PAPER}


def describe(config: CgdmConfig) -> str:
    """Return a weight file's metadata."""
    table = {"family": FAMILY, "config": dataclasses.asdict(config)}
    return json.dumps(table, sort_keys=True)


def preset_of(metadata: str) -> str | None:
    """Return MSILLM if that is what metadata names, and None for a post-processor.

    Raises:
        WeightsError: If the metadata isn't of this family, or names a preset that isn't known.
    """
    try:
        table = json.loads(metadata)
        family, preset = table.get("family"), table.get("preset")
    except (ValueError, AttributeError) as error:
        raise WeightsError("weight file does not say what it holds") from error
    if family != FAMILY:
        raise WeightsError(f"weight file is of family {family}, not {FAMILY}")
    if preset not in (None, MSILLM):
        raise WeightsError(f"unknown preset {preset} of {FAMILY}", hint="it needs a newer cdcodec")
    return MSILLM if preset == MSILLM else None


def parse(metadata: str) -> CgdmConfig:
    """Return the sizes in a weight file's metadata.

    Raises:
        WeightsError: If it isn't a post-processor of this family.
    """
    if preset_of(metadata) is not None:
        raise WeightsError("weight file holds a base codec, not a post-processor")
    try:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in json.loads(metadata)["config"].items()
        }
        return CgdmConfig(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError("weight file does not hold a CgdmConfig") from error
