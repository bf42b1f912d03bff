"""Training objectives of DiffEIC (paper 003, eq. 10 to 13); what is shared lies in latent.stages.

The paper has one stage. The second is ours: with a prior as small as that of the small presets,
noise estimation alone leaves textures that no photograph has, so the control network goes on
through whole DDIM chains as RDEIC's does.
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
    """Whole DDIM chains from noise; see the module's docstring."""

    network: DiffeicNetwork

    def parameters(self) -> list[nn.Parameter]:
        """Those of the control network."""
        return list(self.network.control.parameters())

    def sample(self, z_c: Tensor, hint: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Run the DDIM sampler."""
        alpha_bar = self.schedule.alpha_bar
        start = torch.randn(z_c.shape, generator=generator, device=z_c.device)
        denoise = from_eps(lambda z_t, n: self.eps(z_t, n, hint), alpha_bar)
        indices = schedules.spaced_timesteps(steps, len(alpha_bar))
        return samplers.ddim(denoise, start, indices, alpha_bar)


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
