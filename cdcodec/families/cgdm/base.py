"""The base codec in front of the post-processor (paper 004, eq. 3): any codec.Codec."""

from __future__ import annotations

from cdcodec.codec import Codec, Decoding, Latents, Pixels


def decode_base(base: Codec, latents: Latents, width: int, height: int, point: int) -> Pixels:
    """Return x_tilde, the picture [height, width, 3] that a base codec gives in its fewest steps.

    None of the reader's choices matter to it: encoder and decoder must see the same.

    Args:
        base: The codec.
        latents: What its walk returned.
        width: Of the picture, in pixels.
        height: Likewise.
        point: Rate point.
    """
    name, info = next(iter(base.decoders.items()))
    plain = Decoding(
        steps=info.min_steps,
        decoder=name,
        stochasticity=info.stochasticity,
        guidance=info.guidance,
    )
    return base.synthesise(latents, width, height, point, plain)
