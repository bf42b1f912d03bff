"""Converting published checkpoints: MS-ILLM's, the paper's base codec. CGDM's own aren't public."""

from __future__ import annotations

from cdcodec.families.cgdm.msillm_convert import LICENCE, read_checkpoint, weight_file

__all__ = ["LICENCE", "read_checkpoint", "weight_file"]
