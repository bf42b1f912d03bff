"""The authors' networks as a codec, for converted checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cdcodec.codec import DecoderInfo
from cdcodec.families.rdeic import paper_network
from cdcodec.families.rdeic.codec import RdeicCodec
from cdcodec.families.rdeic.decoders import PAPER, PAPER_STEPS, paper
from cdcodec.latent import paper_codec, paper_file
from cdcodec.latent.walk import LatentWalk


class PaperRdeicCodec(paper_codec.PaperCodec, RdeicCodec):
    """See latent.paper_codec; a checkpoint is made for 2 or for 5 steps, which its file says."""

    decoders: Mapping[str, DecoderInfo] = PAPER

    @classmethod
    def open(cls, path: Path, walk: LatentWalk, device: str) -> PaperRdeicCodec:
        """Read a weight file, and Stable Diffusion's.

        Raises:
            WeightsError: If one is missing, damaged or doesn't fit.
            InputError: If the device isn't there.
        """
        codec = cls(*paper_codec.load(paper_network.read(path), walk, device))
        codec.decoders = paper(paper_file.steps_of(path) or PAPER_STEPS)
        return codec
