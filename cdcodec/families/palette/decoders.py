"""The decoders of palette. No torch is imported, so that `info` can list them quickly."""

from __future__ import annotations

from cdcodec.codec import DecoderInfo

COLD, ONE_SHOT, DIRECT = "cold", "oneshot", "direct"

STEPS = 4

# Paper 000, eq. 7 and 6.
DECODERS = {
    COLD: DecoderInfo("a chain of restorations", STEPS, min_steps=0),
    ONE_SHOT: DecoderInfo("one restoration", 1, max_steps=1),
    DIRECT: DecoderInfo("the palettes' colours as they are", 0, min_steps=0, max_steps=0),
}
