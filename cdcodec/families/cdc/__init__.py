"""CDC: lossy image compression with conditional diffusion models.

Yang and Mandt, "Lossy Image Compression with Conditional Diffusion Models", NeurIPS 2023 (paper
001); the authors' code is buggyyang/CDC_compression, commit 00b10de (MIT). Written anew from the
paper; the modules paper and paper_* have the authors' networks, the others the
small presets that we train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdcodec.codec import Codec, DecoderInfo, Walk


def list_decoders(preset: str) -> Mapping[str, DecoderInfo]:
    """List the decoders of a preset; see families.Family."""
    from cdcodec.families.cdc.decoders import PAPER, SMALL

    return PAPER if preset == "paper" else SMALL


def open_walk(path: Path) -> Walk:
    """Load the entropy-coded half of a weight file; see families.Family."""
    from cdcodec.families.cdc.walk import CdcWalk

    return CdcWalk.load(path)


def open_codec(paths: Sequence[Path], walk: Walk, device: str) -> Codec:
    """Load a weight file whole; see families.Family."""
    from cdcodec.families.cdc import config
    from cdcodec.families.cdc.codec import CdcCodec
    from cdcodec.families.cdc.paper_codec import PaperCodec
    from cdcodec.families.cdc.walk import CdcWalk
    from cdcodec.weight_file import read_metadata

    assert isinstance(walk, CdcWalk)
    (path,) = paths
    preset = config.preset_of(read_metadata(path))
    return (PaperCodec if preset == config.PAPER else CdcCodec).load(path, walk, device)
