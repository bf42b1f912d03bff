"""Palette: content-adaptive palettes and cold diffusion along the chain that merges them.

Guo et al., "Toward Scalable Image Feature Compression: A Content-Adaptive and Diffusion-Based
Approach", MM 2024 (paper 000); there is no code of the authors. A file holds a state on the
way down that chain, and with it all that come after: smaller files are made of it without the
original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdcodec.codec import Codec, DecoderInfo, Walk


def list_decoders(preset: str) -> Mapping[str, DecoderInfo]:
    """List the decoders of a preset; see families.Family."""
    from cdcodec.families.palette.decoders import DECODERS

    return DECODERS


def open_walk(path: Path) -> Walk:
    """Load the entropy-coded half of a weight file; see families.Family."""
    from cdcodec.families.palette.walk import PaletteWalk

    return PaletteWalk.load(path)


def open_codec(paths: Sequence[Path], walk: Walk, device: str) -> Codec:
    """Load a weight file whole; see families.Family."""
    from cdcodec.families.palette.codec import PaletteCodec
    from cdcodec.families.palette.walk import PaletteWalk

    assert isinstance(walk, PaletteWalk)
    (path,) = paths
    return PaletteCodec.load(path, walk, device)
