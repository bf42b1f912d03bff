"""The decoders of DiffEIC. No torch is imported, so that `info` can list them quickly."""

from __future__ import annotations

from cdcodec.codec import DecoderInfo


def _decoders(steps: int) -> dict[str, DecoderInfo]:
    """List the decoders for networks that do best with so many steps."""

    def sampler(summary: str) -> DecoderInfo:
        return DecoderInfo(summary, steps, stochasticity=1.0, guidance=1.0, min_steps=0)

    return {
        "ddpm": sampler("fresh noise in every step"),  # spaced DDPM, as in the paper (003)
        "ddim": sampler("deterministic steps from noise"),
        "direct": DecoderInfo("content variables, without diffusion", 0, min_steps=0, max_steps=0),
    }


SMALL = _decoders(steps=20)
PAPER = _decoders(steps=50)  # the authors' choice
