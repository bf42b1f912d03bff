"""Training objectives of palette diffusion (paper 000, sec. 3.3), in two stages.

joint  Encoder, decoder and restoration network at once (eq. 12): contrast of features (eq. 9 and
       10), restoration of latents (eq. 8), reconstruction of images (eq. 11).
chain  Through chains (eq. 7), with perceptual terms. If the encoder is frozen, files stay what they
       are, so that this stage can go on for ever.

Deviations from the paper, with their reasons. Several crops share their palettes, as the parts of
a picture do: a crop of its own would have better palettes than any picture has. Half of the images
are decoded directly, so that readers can do without restoration. The reconstruction is a squared
error with more weight on colour, and in the second stage LPIPS and a patch discriminator, instead
of L1 alone: L1 gives the median of what a latent may mean, which is blurred. `smooth`, which the
paper lacks, makes latents cheap to code: it is what neighbours' difference costs relative to the
width of a palette's cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cdcodec.errors import InputError
from cdcodec.families.palette.config import CENTRE, PRESETS, UNIT
from cdcodec.families.palette.contrast import Contrast
from cdcodec.families.palette.degrade import Degradation, walk_back
from cdcodec.families.palette.export import read, write
from cdcodec.families.palette.ladder import POINTS, heights
from cdcodec.families.palette.network import PaletteNetwork, build
from cdcodec.families.palette.texture import PseudoLabels
from cdcodec.families.palette.walk import STRIDE
from cdcodec.nn.device import autocast
from cdcodec.nn.discriminator import Adversary
from cdcodec.nn.klt import karhunen_loeve, photograph_blocks
from cdcodec.nn.losses import detail_energy, distortion, grid_energy, psnr, rate_positions
from cdcodec.nn.perceptual import Lpips
from cdcodec.nn.vgg16 import Vgg16

__all__ = ["OBJECTIVES", "initial", "read", "write"]

START_BLOCKS = 40_000
LEAST_START = 64
"""Entries that palettes start at in training, at least. Those of files start at 256, which takes
three times as long and leaves hardly other palettes."""

LABELLED = 1200
"""Crops that pseudo-labels are found on."""

Batches = Callable[[], Tensor]
"""Gives the next batch of crops [B, 3, H, W] in -1..1."""

Logs = dict[str, float]


@dataclass(frozen=True)
class Degraded:
    """A batch of latents and what palettes left of them.

    Attributes:
        z: Latents in 8 bits [B, GC, h, w].
        z_t: Of the same shape; gradients reach z.
        entries: Of each palette [B, G].
        weight: Of the images [B], mean 1: errors are small where palettes are large.
        sets: Images that share palettes, with these, float32 [K, C] a group.
    """

    z: Tensor
    z_t: Tensor
    entries: Tensor
    weight: Tensor
    sets: list[tuple[slice, list[Tensor]]]


@dataclass(frozen=True)
class JointConfig:
    """Weights of the joint stage.

    Attributes:
        share: Images that share their palettes.
        distortion: Of the squared error on -1..1; colour and hue as in nn.losses.distortion.
        grid: Of grids in step with the networks' blocks.
        restoration: Of the absolute error of z_0_hat: lambda_2.
        contrast: Of the contrastive term, lambda_1; 0 leaves it out.
        vgg16: File with the network that pseudo-labels are made with.
        lpips: That of LPIPS, which stands in if there is no such file.
        smooth: Of the logarithm of differences to neighbours.
        balance: Images of a batch weigh as their palettes' entries to this power.
    """

    share: int = 3
    distortion: float = 10.0
    colour: float = 1.0
    hue: float = 3.0
    grid: float = 0.05
    restoration: float = 0.3
    contrast: float = 0.0
    vgg16: str = ""
    lpips: str = "lpips_squeeze.safetensors"
    smooth: float = 0.015
    balance: float = 0.2


class _Objective:
    """What both stages share."""

    def __init__(self, network: PaletteNetwork) -> None:
        self.network = network
        self.step = 0

    def degrade(
        self, z: Tensor, share: int, balance: float, generator: torch.Generator
    ) -> Degraded:
        """Take z [B, GC, h, w] through palettes of random sizes, a few images at a time."""
        config = self.network.config
        count = -(-len(z) // share)
        u = rate_positions(z[:count], generator)
        order = torch.randperm(count, generator=generator, device=z.device)
        parts, entries, sets = [], [], []
        for k, position in enumerate(u[order].tolist()):
            images = slice(k * share, (k + 1) * share)
            height = heights(config.groups)[round(position * (POINTS - 1))]
            # A palette has fewer entries than steps; of several, none has half of all steps.
            start = max(height if config.groups == 1 else height // 2, LEAST_START)
            degradation = Degradation(z[images], config.channels, config.weights, start)
            z_t, palettes = degradation.at(height)
            parts.append(z_t)
            entries += [list(map(len, palettes))] * len(z_t)
            sets.append((images, palettes))
        fixed = torch.cat(parts)
        sizes_of = torch.tensor(entries, dtype=torch.float32, device=z.device)
        weight = sizes_of.sum(1) ** balance
        return Degraded(z, z + (fixed - z).detach(), sizes_of, weight / weight.mean(), sets)

    def neighbours(self, degraded: Degraded) -> Tensor:
        """Return about the bits a position costs [B]: differences in units of a palette's cell."""
        z, groups = degraded.z, self.network.config.groups
        batch, _, rows, columns = z.shape
        shape = batch, groups, -1, rows, columns
        cell = (degraded.z_t - z).detach().square().reshape(shape)
        cell = cell.mean((2, 3, 4), keepdim=True) + 1.0
        grouped = z.reshape(shape)
        cost = torch.zeros(len(z), device=z.device)
        for axis in (3, 4):
            difference = grouped.diff(dim=axis).square() / cell
            bits = 0.5 * torch.log2(1 + difference).sum(2).mean((2, 3))
            # A palette of one entry costs nothing.
            cost = cost + (bits * (degraded.entries > 1)).sum(1)
        return cost / 2


class JointObjective(_Objective):
    """Eq. 12, all networks at once."""

    def __init__(self, network: PaletteNetwork, config: JointConfig) -> None:
        super().__init__(network)
        self.config = config
        self.contrast = Contrasting(network, config) if config.contrast else None

    def parameters(self) -> list[nn.Parameter]:
        """All of them."""
        if self.contrast is None:
            return list(self.network.parameters())
        projection = self.contrast.contrast.projection
        return [*self.network.parameters(), *projection.parameters()]

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint has to keep beside the network."""
        if self.contrast is None:
            return {}
        return {"contrast": self.contrast.contrast, "labels": self.contrast.labels}

    def loss(self, batches: Batches, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the loss of the next batch."""
        config, network = self.config, self.network
        x = batches()
        with autocast(x.device):
            z = network.encode(x)
        degraded = self.degrade(z, config.share, config.balance, generator)
        z_t, entries = degraded.z_t, degraded.entries
        with autocast(x.device):
            z_0 = network.restore(z_t, entries)
        restored = torch.rand(len(x), generator=generator, device=x.device) < 0.5
        shown = torch.where(restored[:, None, None, None], z_0, z_t)
        with autocast(x.device):
            x_hat = network.decode(shown, entries, restored)
        error = distortion(x_hat, x, config.colour, config.hue) / (255**2 / 4)
        with autocast(x.device):
            estimate = network.restore(z_t.detach(), entries)
        absolute = (estimate - z.detach()).abs().mean((1, 2, 3)) / UNIT
        grid = grid_energy(x_hat, x)
        cost = self.neighbours(degraded)
        wanted = config.distortion * error + config.restoration * absolute + config.smooth * cost
        loss = (degraded.weight * wanted).mean() + config.grid * grid
        logs = {
            "psnr": psnr(x_hat, x),
            "l1": absolute.mean().item(),
            "l1_direct": ((z_t - z).abs().mean() / UNIT).item(),
            "grid": grid.item(),
            "neighbours": cost.mean().item(),
            "z": z.std().item(),
        }
        if self.contrast is not None:
            contrast = self.contrast.loss(x, z, batches)
            logs["contrast"] = contrast.item()
            loss = loss + config.contrast * contrast
        self.step += 1
        return loss, {"loss": loss.item(), **logs}


@dataclass(frozen=True)
class ChainConfig:
    """Weights of the chain stage.

    Attributes:
        lpips: File with the weights of the perceptual loss.
        share: Images that share their palettes.
        direct: Fraction of images that are decoded without restoration, for distortion alone.
        faithful: Their error weighs so many times as much: beside the perceptual terms of the
            others it would not be heard.
        encoder: Whether the encoder is trained too: then a new model comes out.
        smooth: As in the joint stage, where the encoder is trained.
        chain_steps: Lengths of chains to train, drawn evenly.
        restoration: Of the absolute error of z_0_hat.
        contours: Of that error's differences between neighbours: where a gentle slope has become
            steps, the error itself is small, and the eye sees little else.
        distortion: Of the squared error on -1..1; colour and hue as in nn.losses.distortion.
        perceptual: Of LPIPS.
        energy: Of the error in the energy of fine detail.
        grid: Of grids in step with the networks' blocks.
        adversarial: Of the discriminator's opinion.
        adversarial_start: Updates without it.
        discriminator_lr: Adam's learning rate for it.
        balance: Images of a batch weigh as their palettes' entries to this power.
    """

    lpips: str = "lpips_squeeze.safetensors"
    share: int = 3
    direct: float = 0.25
    faithful: float = 8.0
    encoder: bool = False
    smooth: float = 0.015
    chain_steps: tuple[int, ...] = (1, 1, 2, 4)
    restoration: float = 0.3
    contours: float = 0.3
    distortion: float = 8.0
    colour: float = 2.0
    hue: float = 6.0
    perceptual: float = 2.0
    energy: float = 0.1
    grid: float = 0.1
    adversarial: float = 0.12
    adversarial_start: int = 100
    discriminator_lr: float = 2e-4
    balance: float = 0.2


class ChainObjective(_Objective):
    """One link of a chain an update, on what the links before it make."""

    def __init__(self, network: PaletteNetwork, config: ChainConfig) -> None:
        super().__init__(network)
        self.config = config
        device = network.encoder.linear.weight.device
        self.lpips = Lpips.load(Path(config.lpips)).to(device)
        self.adversary = Adversary(device, config.discriminator_lr)
        network.encoder.requires_grad_(config.encoder)

    def parameters(self) -> list[nn.Parameter]:
        """Those of decoder and restoration network, and of the encoder if it is trained."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint has to keep beside the network."""
        return {"discriminator": self.adversary.discriminator}

    def loss(self, batches: Batches, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the loss of the next link."""
        config, network = self.config, self.network
        x = batches()
        with autocast(x.device):
            z = network.encode(x)
        degraded = self.degrade(z, config.share, config.balance, generator)
        as_they_are = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        with torch.no_grad(), autocast(x.device):
            direct = network.decode(degraded.z_t, degraded.entries, as_they_are)
        z_i, at_link = self._link(degraded, generator)
        with autocast(x.device):
            z_0 = network.restore(z_i, at_link)
            skips = torch.rand(len(x), generator=generator, device=x.device) < config.direct
            skips[0] = False
            shown = torch.where(skips[:, None, None, None], degraded.z_t, z_0)
            x_hat = network.decode(shown, degraded.entries, ~skips)
            # What is decoded directly is to be faithful and no more.
            made, true, base = (images[~skips] for images in (x_hat, x, direct))
            perceptual = self.lpips(made, true)
        error = distortion(x_hat, x, config.colour, config.hue) / (255**2 / 4)
        if config.encoder:
            # Rounding lets gradients pass, but no latent is easier to restore for being moved.
            with autocast(x.device):
                estimate = network.restore(z_i.detach(), at_link)
        else:
            estimate = z_0
        absolute = (estimate - z.detach()).abs().mean((1, 2, 3)) / UNIT
        energy, grid = detail_energy(made, true), grid_energy(x_hat, x)
        heard = torch.where(skips, config.faithful, 1.0)
        wanted = config.distortion * heard * error + config.restoration * absolute
        wanted = wanted + config.contours * _contours(estimate - z.detach())
        loss = (degraded.weight * wanted).mean()
        loss = loss + config.perceptual * (degraded.weight[~skips] * perceptual).mean()
        loss = loss + config.energy * energy + config.grid * grid
        if config.encoder:
            cost = self.neighbours(degraded)
            loss = loss + config.smooth * (degraded.weight * cost).mean()
        logs = {
            "lpips": perceptual.mean().item(),
            "energy": energy.item(),
            "grid": grid.item(),
            "psnr": psnr(made, true),
            "psnr_direct": psnr(base, true),
            "l1": absolute.mean().item(),
            "l1_direct": ((degraded.z_t - z).abs().mean() / UNIT).item(),
            "contours": _contours(z_0 - z).mean().item(),
            "contours_direct": _contours(degraded.z_t - z).mean().item(),
        }
        self.step += 1
        if self.step > config.adversarial_start:
            loss = loss - config.adversarial * self.adversary.opinion(made, base)
            logs["discriminator"] = self.adversary.learn(true, made.detach(), base)
        return loss, {"loss": loss.item(), **logs}

    def _link(self, degraded: Degraded, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return what a random link of a chain starts with, and its palettes' entries."""
        network, lengths = self.network, self.config.chain_steps
        steps = lengths[int(torch.randint(len(lengths), (), generator=generator))]
        link = int(torch.randint(steps, (), generator=generator))
        z, entries = degraded.z_t, degraded.entries
        if link == 0:
            return z, entries

        @torch.no_grad()
        def restore(z_t: Tensor, sizes: Tensor) -> Tensor:
            with autocast(z_t.device):
                return network.restore(z_t, sizes)

        parts, sizes = [], []
        for images, palettes in degraded.sets:
            walked = walk_back(restore, z[images].detach(), palettes, steps, link)
            parts.append(walked[0])
            sizes.append(walked[1])
        return torch.cat(parts), torch.cat(sizes)


def _contours(error: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbours [B], of errors [B, GC, h, w], in UNITs."""
    steps = [error.diff(dim=axis).abs().mean((1, 2, 3)) for axis in (2, 3)]
    return (steps[0] + steps[1]) / (2 * UNIT)


class Contrasting:
    """The contrastive term (eq. 9) on an encoder, with labels from a trunk's features (sec. 3.1).

    Labels are found on the first pictures that are asked about.
    """

    def __init__(self, network: PaletteNetwork, config: JointConfig) -> None:
        device = network.encoder.linear.weight.device
        self.network = network
        trunk = Vgg16.load(Path(config.vgg16)) if config.vgg16 else Lpips.load(Path(config.lpips))
        self.labels = PseudoLabels(trunk.to(device).taps).to(device)
        self.contrast = Contrast(network.encoder, network.config.latent).to(device)

    def loss(self, x: Tensor, z: Tensor, batches: Batches) -> Tensor:
        """Return the term for pictures x and their latents z; the queue and its keys move on."""
        if not self.labels.fitted:
            self.labels.fit(batches() for _ in range(-(-LABELLED // len(x))))
        self.contrast.update_momentum(self.network.encoder)
        with torch.no_grad(), autocast(x.device):
            labels = self.labels.label(x)
            key = (self.contrast.encoder(x) - CENTRE) / UNIT
        loss = self.contrast.loss((z - CENTRE) / UNIT, key, labels)
        self.contrast.enqueue(key, labels)
        return loss


@torch.no_grad()
def initial(preset: str, seed: int, batches: Batches) -> PaletteNetwork:
    """Return networks whose linear halves are the KLT of 8x8 blocks, the rest random or zero.

    The first group holds the means of blocks, the others what is left of the largest variance.

    Raises:
        InputError: If there is no such preset.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset}, not one of {', '.join(PRESETS)}")
    network = build(PRESETS[preset], seed)
    config = network.config
    blocks = photograph_blocks(batches, STRIDE, START_BLOCKS)
    colours = blocks.reshape(len(blocks), 3, -1).mean(2, keepdims=True)
    flat = np.repeat(colours, STRIDE * STRIDE, 2).reshape(len(blocks), -1)
    means = min(3, config.channels)
    mean, _, first = karhunen_loeve(flat, means)
    _, _, rest = karhunen_loeve(blocks - flat, config.latent - means)
    basis = np.concatenate([first, rest], 1)
    # The range of 8 bits for block means from black to white, and the same steps for the rest.
    gain = np.full(config.latent, 127.0 / UNIT / (STRIDE * np.sqrt(3.0)))
    gain[1:means] *= HUE_GAIN
    encoder, decoder = network.encoder, network.decoder
    for layer in (encoder.head, decoder.head):
        layer.weight.zero_()
        assert layer.bias is not None
        layer.bias.zero_()
    assert encoder.linear.bias is not None
    assert decoder.linear.bias is not None
    encoder.linear.weight.copy_(_tensor((basis * gain).T)[:, :, None, None])
    encoder.linear.bias.zero_()
    decoder.linear.weight.copy_(_tensor(basis / gain)[:, :, None, None])
    decoder.linear.bias.zero_()
    return network


HUE_GAIN = 1.5
"""How much more the colour of a block counts in palettes than its brightness."""


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()


OBJECTIVES: dict[str, tuple[type, type]] = {
    "joint": (JointObjective, JointConfig),
    "chain": (ChainObjective, ChainConfig),
}
"""Objectives by the name that recipes use, each with its configuration."""
