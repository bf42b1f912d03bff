"""Training objectives of DiffEIC (paper 003, eq. 10 to 13); what is shared lies in latent.stages.

The paper has one stage. The second is ours: noise is estimated far too roughly by a prior as small
as that of the small presets, and where nearly all is noise a little error in it is a large one in
z_0, so that pictures come out in wrong colours. The control network goes on with what it is to lead
to, the picture, on the states that the sampler really meets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from cdcodec.diffusion import samplers, schedules
from cdcodec.diffusion.prediction import from_eps
from cdcodec.errors import InputError
from cdcodec.families.diffeic import export
from cdcodec.families.diffeic.config import PRESETS
from cdcodec.families.diffeic.network import DiffeicNetwork, build
from cdcodec.latent import stages, start


class JointObjective(stages.JointObjective):
    """Rate, space alignment and noise estimation (eq. 13)."""

    network: DiffeicNetwork

    def steps(self, u: Tensor) -> Tensor:
        """Draw from all steps."""
        return (u * len(self.schedule)).long()

    def diffuse(self, z_0: Tensor, z_c: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Add noise (eq. 8), which is what is to be predicted (eq. 10)."""
        return self.schedule.diffuse(z_0, eps, t), eps


def initial(preset: str, seed: int, batches: Callable[[], Tensor]) -> DiffeicNetwork:
    """Return networks of a preset as training starts with them, see latent.start.

    Raises:
        InputError: If there is no such preset.
        WeightsError: If there is no prior to train with.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset}, not one of {', '.join(PRESETS)}")
    network = build(PRESETS[preset], seed)
    prior = stages.load_prior(network.config.prior)
    start.initialise(network, network.g_a.linear, network.g_s.linear, prior, batches)
    with torch.no_grad():
        for head in (network.g_a.head, network.g_s.head):
            head.weight.mul_(0.1)
    return network


class ChainObjective(stages.ChainObjective):
    """DDPM chains from noise; see the module's docstring."""

    network: DiffeicNetwork

    def parameters(self) -> list[nn.Parameter]:
        """Those of the control network."""
        return list(self.network.control.parameters())

    def sample(
        self, z_c: Tensor, hint: Tensor, steps: int, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Run the DDPM sampler up to some link, and return that link's estimate of z_0.

        Gradients pass that link only, as chains are long. The loss counts with the link's ratio of
        signal to noise, up to 1: where nearly all is noise, an error of the network is fifteen
        times as large in z_0, and those links would drown all others.
        """
        alpha_bar = self.schedule.alpha_bar
        indices = schedules.spaced_timesteps(steps, len(alpha_bar))
        stop = int(torch.randint(steps, (), generator=generator, device=z_c.device)) + 1
        indices = indices[:stop]

        def eps(z_t: Tensor, n: int) -> Tensor:
            with torch.set_grad_enabled(n == indices[-1]):
                return self.eps(z_t, n, hint)

        def draw(_number: int) -> Tensor:
            return torch.randn(z_c.shape, generator=generator, device=z_c.device)

        z_0 = samplers.ddpm(from_eps(eps, alpha_bar), draw(0), indices, alpha_bar, draw)
        signal = float(alpha_bar[indices[-1]])
        return z_0, min(1.0, signal / (1 - signal))


def read(path: Path) -> DiffeicNetwork:
    """Return the networks of a weight file."""
    return export.read(path)


def write(network: nn.Module, path: Path) -> None:
    """Write a weight file."""
    assert isinstance(network, DiffeicNetwork)
    export.write(network, path)


OBJECTIVES: dict[str, tuple[type, type]] = {
    "joint": (JointObjective, stages.JointConfig),
    "chain": (ChainObjective, stages.ChainConfig),
}
"""Objectives by the name that recipes use, each with its configuration."""
