"""RDEIC as a codec: the relay sampler around the compression module and the prior."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cdcodec.codec import DecoderInfo, Decoding, Progress
from cdcodec.diffusion import samplers, schedules
from cdcodec.diffusion.prediction import Denoiser
from cdcodec.families.rdeic.config import RELAY
from cdcodec.latent.codec import Draw, LatentCodec


class RdeicCodec(LatentCodec):
    """See LatentCodec. More than two steps bring the small presets nothing."""

    decoders: Mapping[str, DecoderInfo] = {
        "relay": DecoderInfo(
            "from content variables with a little noise (paper 002, eq. 2), by DDPM steps",
            steps=2,
            stochasticity=1.0,
            min_steps=0,
            max_steps=RELAY,
        ),
        "direct": DecoderInfo("content variables, without diffusion", 0, 0.0, 0, 0),
    }

    def sample(
        self, denoise: Denoiser, z_c: Tensor, draw: Draw, decoding: Decoding, step: Progress
    ) -> Tensor:
        """See LatentCodec."""
        assert decoding.steps is not None
        indices = schedules.spaced_timesteps(decoding.steps, RELAY)
        return samplers.relay(denoise, z_c, indices, self.schedule.alpha_bar, draw, step)
