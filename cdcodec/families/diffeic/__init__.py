"""DiffEIC: extreme image compression with latent feature guidance and a diffusion prior.

Li et al., "Toward extreme image compression with latent feature guidance and diffusion prior",
2024 (paper 003); the authors' code is huai-chang/DiffEIC, commit 9c21915 (Apache-2.0). Written anew
from the paper; the modules paper and paper_* have the authors' networks, the others the small
presets that we train. What it shares with RDEIC lies in cdcodec.latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdcodec.codec import Codec, DecoderInfo, Walk


def list_decoders(preset: str) -> Mapping[str, DecoderInfo]:
    """List the decoders of a preset; see families.Family."""
    from cdcodec.families.diffeic.decoders import PAPER, SMALL

    return PAPER if preset == "paper" else SMALL


def open_walk(path: Path) -> Walk:
    """Load the entropy-coded half of a weight file; see families.Family."""
    from cdcodec.latent.walk import LatentWalk

    return LatentWalk.load(path)


def open_codec(paths: Sequence[Path], walk: Walk, device: str) -> Codec:
    """Load a weight file and the prior's; see families.Family.

    The prior of the paper's preset is the weight set sd21-base; it is none of the paths.
    """
    from cdcodec.families.diffeic import config, export
    from cdcodec.families.diffeic.codec import DiffeicCodec
    from cdcodec.latent import loading
    from cdcodec.latent.config import PAPER, preset_of
    from cdcodec.latent.walk import LatentWalk
    from cdcodec.weight_file import read_metadata

    assert isinstance(walk, LatentWalk)
    own, *others = paths
    if preset_of(read_metadata(own), config.FAMILY) == PAPER:
        from cdcodec.families.diffeic.paper_codec import PaperDiffeicCodec

        return PaperDiffeicCodec.open(own, walk, device)
    (prior,) = others
    return DiffeicCodec(*loading.small(prior, export.read(own), walk, device))
