"""CGDM: a consistency guided diffusion model with neural syntax, behind a base codec.

Kuang et al., "Consistency Guided Diffusion Model with Neural Syntax for Perceptual Image
Compression", MM 2024 (paper 004); there is no code of the authors. The post-processor lifts what
any base codec gives. The paper's base is MS-ILLM, in the modules msillm_*. That of the small
presets is another weight set, which weights.toml names: for cgdm-nano the first step of cdc-nano,
which noise doesn't reach. A base of the family's own would have been another ten megabytes to ship
and hours to train, for a worse picture. The price: new bits of cdc-nano are new bits of cgdm-nano,
which then has to be trained for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cdcodec.errors import WeightsError

if TYPE_CHECKING:
    from cdcodec.codec import Codec, DecoderInfo, Walk


def list_decoders(preset: str) -> Mapping[str, DecoderInfo]:
    """List the decoders of a preset; see families.Family."""
    from cdcodec.families.cgdm.decoders import MSILLM, SMALL

    return MSILLM if preset == "paper" else SMALL


def open_walk(path: Path, base: Walk | None = None) -> Walk:
    """Load the entropy-coded half of a weight file; MS-ILLM is a base and has none."""
    if base is None:
        from cdcodec.families.cgdm.msillm_walk import MsIllmWalk

        return MsIllmWalk.load(path)
    from cdcodec.families.cgdm.walk import CgdmWalk, SyntaxTables

    if isinstance(base, CgdmWalk):
        raise WeightsError(f"{path.name} can't work on the pictures of another post-processor")
    return CgdmWalk(base, SyntaxTables.load(path))


def open_codec(paths: Sequence[Path], walk: Walk, device: str, base: Codec | None = None) -> Codec:
    """Load a weight file whole; see families.Family."""
    (path,) = paths
    if base is None:
        from cdcodec.families.cgdm.msillm_codec import MsIllmCodec
        from cdcodec.families.cgdm.msillm_walk import MsIllmWalk

        assert isinstance(walk, MsIllmWalk)
        return MsIllmCodec.load(path, walk, device)
    from cdcodec.families.cgdm.codec import CgdmCodec
    from cdcodec.families.cgdm.walk import CgdmWalk

    assert isinstance(walk, CgdmWalk)
    return CgdmCodec.load(path, walk, device, base)
