"""RDEIC as a codec: the relay sampler around the compression module and the prior."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cdcodec.codec import DecoderInfo, Decoding, Progress
from cdcodec.diffusion import samplers, schedules
from cdcodec.diffusion.prediction import Denoiser
from cdcodec.families.rdeic.decoders import RELAY, SMALL
from cdcodec.latent.codec import Draw, LatentCodec


class RdeicCodec(LatentCodec):
    """See LatentCodec."""

    decoders: Mapping[str, DecoderInfo] = SMALL

    def sample(
        self, denoise: Denoiser, z_c: Tensor, draw: Draw, decoding: Decoding, step: Progress
    ) -> Tensor:
        """See LatentCodec."""
        assert decoding.steps is not None
        indices = schedules.spaced_timesteps(decoding.steps, RELAY)
        return samplers.relay(denoise, z_c, indices, self.schedule.alpha_bar, draw, step)
