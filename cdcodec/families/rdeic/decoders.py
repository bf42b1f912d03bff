"""The decoders of RDEIC. No torch is imported, so that `info` can list them quickly."""

from __future__ import annotations

from dataclasses import replace

from cdcodec.codec import DecoderInfo

RELAY = 300
"""Step of 1,000 at which decoding starts: N in the paper, the same in all its models."""

SMALL = {
    # Paper 002, eq. 2-6. The small presets gain nothing from more than two steps.
    "relay": DecoderInfo(
        "from content variables with a little noise",
        steps=2,
        stochasticity=1.0,
        guidance=1.0,
        min_steps=0,
        max_steps=RELAY,
    ),
    "direct": DecoderInfo("content variables, without diffusion", 0, min_steps=0, max_steps=0),
}

PAPER_STEPS = 5
"""Steps that the authors' checkpoints for the lower three of their five rates are trained for."""


def paper(steps: int) -> dict[str, DecoderInfo]:
    """List the decoders of an authors' checkpoint that is trained for so many steps."""
    return {**SMALL, "relay": replace(SMALL["relay"], steps=steps)}


PAPER = paper(PAPER_STEPS)
