"""RDEIC: relay residual diffusion for extreme image compression.

"Diffusion-based extreme image compression with compressed feature initialization" (paper 002); the
authors' code is huai-chang/RDEIC, commit 5874b65, without a licence. Written anew from the paper;
the modules paper and paper_* have the authors' networks, the others the small presets that we
train. What it shares with DiffEIC lies in cdcodec.latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdcodec.codec import Codec, DecoderInfo, Walk


def list_decoders(preset: str) -> Mapping[str, DecoderInfo]:
    """List the decoders of a preset; see families.Family."""
    from cdcodec.families.rdeic.decoders import PAPER, SMALL

    return PAPER if preset == "paper" else SMALL


def open_walk(path: Path) -> Walk:
    """Load the entropy-coded half of a weight file; see families.Family."""
    from cdcodec.latent.walk import LatentWalk

    return LatentWalk.load(path)


def open_codec(paths: Sequence[Path], walk: Walk, device: str) -> Codec:
    """Load a weight file and the prior's; see families.Family.

    The prior of the paper's preset is the weight set sd21-base; it is none of the paths.
    """
    from cdcodec.families.rdeic import config, export
    from cdcodec.families.rdeic.codec import RdeicCodec
    from cdcodec.latent import loading
    from cdcodec.latent.config import PAPER, preset_of
    from cdcodec.latent.walk import LatentWalk
    from cdcodec.weight_file import read_metadata

    assert isinstance(walk, LatentWalk)
    own, *others = paths
    if preset_of(read_metadata(own), config.FAMILY) == PAPER:
        from cdcodec.families.rdeic.paper_codec import PaperRdeicCodec

        return PaperRdeicCodec.open(own, walk, device)
    (prior,) = others
    return RdeicCodec(*loading.small(prior, export.read(own), walk, device))
