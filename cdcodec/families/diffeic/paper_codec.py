"""The authors' networks as a codec, for converted checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cdcodec.codec import DecoderInfo
from cdcodec.families.diffeic import paper_network
from cdcodec.families.diffeic.codec import DiffeicCodec
from cdcodec.families.diffeic.decoders import PAPER
from cdcodec.latent import paper_codec
from cdcodec.latent.walk import LatentWalk


class PaperDiffeicCodec(paper_codec.PaperCodec, DiffeicCodec):
    """See latent.paper_codec."""

    decoders: Mapping[str, DecoderInfo] = PAPER

    @classmethod
    def open(cls, path: Path, walk: LatentWalk, device: str) -> PaperDiffeicCodec:
        """Read a weight file, and Stable Diffusion's.

        Raises:
            WeightsError: If one is missing, damaged or doesn't fit.
            InputError: If the device isn't there.
        """
        return cls(*paper_codec.load(paper_network.read(path), walk, device))
