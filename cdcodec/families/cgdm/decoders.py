"""The decoders of CGDM. No torch is imported, so that `info` can list them quickly."""

from __future__ import annotations

from cdcodec.codec import DecoderInfo

STEPS = 9
"""Length of the chain that the networks are trained for (paper 004, sec. 3.5)."""

SMALL = {
    # Paper 004, sec. 3.4.
    "ddim": DecoderInfo(
        "deterministic steps from one tile of noise", STEPS, stochasticity=1.0, min_steps=0
    ),
    "base": DecoderInfo("the base codec's picture as it is", 0, min_steps=0, max_steps=0),
}

MSILLM = {
    "base": DecoderInfo("the decoder of MS-ILLM, without diffusion", 0, min_steps=0, max_steps=0)
}
