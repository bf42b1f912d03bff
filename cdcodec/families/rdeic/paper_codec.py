"""The authors' networks as a codec, for converted checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cdcodec.families.rdeic import paper_network
from cdcodec.families.rdeic.codec import RdeicCodec
from cdcodec.latent import paper_codec
from cdcodec.latent.walk import LatentWalk

STEPS = 5
"""What the authors' checkpoints for the lower three of their five rates are made for."""


class PaperRdeicCodec(paper_codec.PaperCodec, RdeicCodec):
    """See latent.paper_codec; checkpoints are made for 2 or for 5 steps, as their names say."""

    decoders: ClassVar = {
        name: replace(info, steps=STEPS) if info.steps else info
        for name, info in RdeicCodec.decoders.items()
    }

    @classmethod
    def open(cls, path: Path, walk: LatentWalk, device: str) -> PaperRdeicCodec:
        """Read a weight file, and Stable Diffusion's.

        Raises:
            WeightsError: If one is missing, damaged or doesn't fit.
            InputError: If the device isn't there.
        """
        return cls(*paper_codec.load(paper_network.read(path), walk, device))
