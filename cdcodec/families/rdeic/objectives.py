"""Training objectives of RDEIC (paper 002, eq. 9 and 10); what is shared lies in latent.stages."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from cdcodec.diffusion import samplers, schedules
from cdcodec.diffusion.prediction import from_eps
from cdcodec.errors import InputError
from cdcodec.families.rdeic import export
from cdcodec.families.rdeic.config import PRESETS
from cdcodec.families.rdeic.network import RdeicNetwork, build
from cdcodec.latent import stages, start


class IndependentObjective(stages.JointObjective):
    """Stage I: steps up to the relay are trained one by one (eq. 6 to 9)."""

    network: RdeicNetwork

    def steps(self, u: Tensor) -> Tensor:
        """Draw from the steps after the relay only."""
        return (u * self.network.config.relay).long()

    def diffuse(self, z_0: Tensor, z_c: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the residual z_c - z_0 into the noise (eq. 6)."""
        relay = float(self.schedule.alpha_bar[self.network.config.relay - 1])
        mixed = eps + math.sqrt(relay / (1 - relay)) * (z_c - z_0)
        return self.schedule.diffuse(z_0, mixed, t), mixed

    def weight(self, t: Tensor) -> Tensor:
        """Return omega_n of eq. 8: the error is that of z_0."""
        return 1 / self.schedule.snr(t)


class FixedStepObjective(stages.ChainObjective):
    """Stage II: fixed-step fine-tuning through the whole chain (eq. 10)."""

    network: RdeicNetwork

    def parameters(self) -> list[nn.Parameter]:
        """Those of the control network."""
        return list(self.network.control.parameters())

    def sample(
        self, z_c: Tensor, hint: Tensor, steps: int, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Run the relay sampler."""
        relay = self.network.config.relay
        alpha_bar = self.schedule.alpha_bar

        def draw(_number: int) -> Tensor:
            return torch.randn(z_c.shape, generator=generator, device=z_c.device)

        denoise = from_eps(lambda z_t, n: self.eps(z_t, n, hint), alpha_bar)
        indices = schedules.spaced_timesteps(steps, relay)
        return samplers.relay(denoise, z_c, indices, alpha_bar, draw), 1.0


def initial(preset: str, seed: int, batches: Callable[[], Tensor]) -> RdeicNetwork:
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


def read(path: Path) -> RdeicNetwork:
    """Return the networks of a weight file."""
    return export.read(path)


def write(network: nn.Module, path: Path) -> None:
    """Write a weight file."""
    assert isinstance(network, RdeicNetwork)
    export.write(network, path)


OBJECTIVES: dict[str, tuple[type, type]] = {
    "independent": (IndependentObjective, stages.JointConfig),
    "fixed-step": (FixedStepObjective, stages.ChainConfig),
}
"""Objectives by the name that recipes use, each with its configuration."""
