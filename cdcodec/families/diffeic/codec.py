"""DiffEIC as a codec: DDPM or DDIM from noise around the compression module and the prior."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cdcodec.codec import DecoderInfo, Decoding, Progress
from cdcodec.diffusion import samplers, schedules
from cdcodec.diffusion.prediction import Denoiser
from cdcodec.families.diffeic.decoders import SMALL
from cdcodec.latent.codec import Draw, LatentCodec


class DiffeicCodec(LatentCodec):
    """See LatentCodec."""

    decoders: Mapping[str, DecoderInfo] = SMALL

    def sample(
        self, denoise: Denoiser, z_c: Tensor, draw: Draw, decoding: Decoding, step: Progress
    ) -> Tensor:
        """See LatentCodec."""
        assert decoding.steps is not None
        alpha_bar = self.schedule.alpha_bar
        indices = schedules.spaced_timesteps(decoding.steps, len(alpha_bar))
        if decoding.decoder == "ddim":
            return samplers.ddim(denoise, draw(0), indices, alpha_bar, step)
        return samplers.ddpm(denoise, draw(0), indices, alpha_bar, draw, step)
