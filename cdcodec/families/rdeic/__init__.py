"""RDEIC: relay residual diffusion for extreme image compression.

"Diffusion-based extreme image compression with compressed feature initialization" (paper 002); the
authors' code is huai-chang/RDEIC, commit 5874b65, without a licence. Written anew from the paper;
the modules paper and paper_* have the authors' networks, the others the small presets that we
train. What it shares with DiffEIC lies in cdcodec.latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdcodec.codec import Codec, Walk


def open_walk(path: Path) -> Walk:
    """Load the entropy-coded half of a weight file; see families.Family."""
    from cdcodec.latent.walk import LatentWalk

    return LatentWalk.load(path)


def open_codec(paths: Sequence[Path], walk: Walk, device: str) -> Codec:
    """Load a weight file and the prior's; see families.Family."""
    from cdcodec.families.rdeic import export
    from cdcodec.families.rdeic.codec import RdeicCodec
    from cdcodec.latent import loading
    from cdcodec.latent.walk import LatentWalk

    assert isinstance(walk, LatentWalk)
    own, prior = paths
    return RdeicCodec(*loading.small(prior, export.read(own), walk, device))
