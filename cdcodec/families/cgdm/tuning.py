"""Syntax vectors of whole pictures, and their optimisation for a picture (paper 004, sec. 3.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cdcodec.codec import IntArray, Pixels, Progress
from cdcodec.diffusion import pictures, samplers, schedules
from cdcodec.diffusion.prediction import Denoiser, from_x0
from cdcodec.families.cgdm.config import TEXTURE, TRAIN_STEPS
from cdcodec.families.cgdm.decoders import STEPS
from cdcodec.families.cgdm.network import CgdmNetwork
from cdcodec.families.cgdm.syntax import INDEX_UNIT, SyntaxGenerator
from cdcodec.families.cgdm.walk import LIMIT
from cdcodec.nn.blocks import round_through
from cdcodec.nn.device import autocast
from cdcodec.nn.losses import detail_energy, gaussian_bits

TILE = 1024
"""Side in pixels of what the generator sees at once; its means are taken over the picture."""

PATCH, LEAST_PATCH = 128, 32
"""Sides in pixels of the patches that a vector is tuned on: usually, and of thin pictures."""

LEARNING_RATE = 0.6
"""Adam's, in whole steps of the vector."""

JUDGE_EVERY = 10
"""Iterations between two looks at what the rounded vector gives on all patches."""

ENERGY, RATE = 0.02, 20.0
"""Weights of the energy of fine detail and of the vector's bits per pixel, against L1. With 0.05
vectors ask for more texture than LPIPS finds natural, for 0.3 dB; with 0.01 for too little."""


def denoiser(network: CgdmNetwork, x_tilde: Tensor, s: Tensor) -> Denoiser:
    """Bind x_tilde [B, 3, H, W] and syntax [B, S] to the network: (x_t, n) to x_0, clamped."""
    features = network.features(x_tilde)

    def x_0(x_t: Tensor, n: int) -> Tensor:
        t = torch.full((len(x_t),), n, device=x_t.device)
        return x_tilde + network.residual(x_t, t, features, s)

    return from_x0(x_0, limit=1.0)


@torch.no_grad()
def generate(
    generator: SyntaxGenerator, original: Pixels, decoded: Pixels, device: torch.device
) -> IntArray:
    """Return the syntax vector [S] of pixels [H, W, 3] and what a base codec made of them."""
    total, weight = torch.zeros((), device=device), 0
    height, width = original.shape[:2]
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            at = np.s_[top : top + TILE, left : left + TILE]
            x, x_tilde = (pictures.to_tensor(each[at], device) for each in (original, decoded))
            with autocast(device):
                features = generator.features(x, x_tilde)
            area = x.shape[2] * x.shape[3]
            total, weight = total + area * features, weight + area
    return _integers(generator.vector(total / weight))


@dataclass
class Tuner:
    """The patches of a picture, and what a vector is worth on them.

    The paper's objective (eq. 7) has perceptual terms whose networks no user need have; here the
    energy of fine detail stands for them. The paper tunes the generator's parameters, 250 times at
    5e-5, on patches drawn at random; these can do no more for one picture than move its vector,
    which is what is tuned here, on four fixed patches, so that vectors can be compared.

    Attributes:
        network: Whose parameters stay as they are.
        x: Patches of the original [P, 3, H, W].
        x_tilde: Patches of its base decode.
        x_t: The noise that their chains start from.
        pixels: Of the whole picture.
    """

    network: CgdmNetwork
    schedule: schedules.Schedule
    x: Tensor
    x_tilde: Tensor
    x_t: Tensor
    pixels: int

    def objective(self, s: Tensor, patches: slice) -> Tensor:
        """Return what a vector [1, S] costs; the less, the better."""
        x, x_tilde, x_t = (each[patches] for each in (self.x, self.x_tilde, self.x_t))
        indices = schedules.timesteps(STEPS, TRAIN_STEPS)
        with autocast(x.device):
            denoise = denoiser(self.network, x_tilde, s.expand(len(x), -1))
            x_0 = samplers.ddim(denoise, x_t, indices, self.schedule.alpha_bar)
        x_0 = torch.lerp(x_tilde, x_0, TEXTURE)
        index = INDEX_UNIT * self.network.syntax.index.detach()
        bpp = gaussian_bits(s, index).sum() / self.pixels
        return F.l1_loss(x_0, x) + ENERGY * detail_energy(x_0, x) + RATE * bpp

    @torch.no_grad()
    def judge(self, s: Tensor) -> float:
        """Return the objective of a rounded vector [1, S] over all patches."""
        return self.objective(s, slice(None)).item()


def choose_patches(
    network: CgdmNetwork,
    schedule: schedules.Schedule,
    original: Pixels,
    decoded: Pixels,
    noise_tile: Tensor,
) -> Tuner:
    """Choose patches of a picture [H, W, 3], spread over it.

    Args:
        network: Whose vector it is.
        schedule: Of its diffusion process.
        original: The picture.
        decoded: What a base codec made of it.
        noise_tile: What the decoder starts from [1, 3, T, T], repeated over the picture.
    """
    stride = network.config.stride
    height, width = original.shape[:2]
    rows, columns = (
        max(LEAST_PATCH, min(PATCH, extent + -extent % stride)) for extent in (height, width)
    )
    corners = [
        (int(down * max(0, height - rows)), int(right * max(0, width - columns)))
        for down in (0.25, 0.75)
        for right in (0.25, 0.75)
    ]

    def cut(pixels: Pixels) -> Tensor:
        margins = ((0, max(0, rows - height)), (0, max(0, columns - width)), (0, 0))
        padded = np.pad(pixels, margins, mode="edge")
        patches = [padded[y : y + rows, x : x + columns] for y, x in corners]
        return torch.cat([pictures.to_tensor(patch, noise_tile.device) for patch in patches])

    x_t = torch.cat([repeated(noise_tile, y, x, rows, columns) for y, x in corners])
    return Tuner(network, schedule, cut(original), cut(decoded), x_t, height * width)


def repeated(tile: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Return a window of the plane that a tile [1, C, T, T] covers again and again."""
    side = tile.shape[-1]
    rows = torch.arange(top, top + height, device=tile.device) % side
    columns = torch.arange(left, left + width, device=tile.device) % side
    return tile[:, :, rows[:, None], columns]


def tune(
    tuner: Tuner,
    start: IntArray,
    iterations: int,
    fit: Callable[[IntArray], IntArray],
    progress: Progress | None = None,
) -> IntArray:
    """Improve a vector [S] by Adam through the whole chain, and return the best one seen.

    It is never worse than the start by the tuner's own objective.

    Args:
        tuner: What a vector is worth.
        start: Where to start.
        iterations: Updates.
        fit: Makes a vector one that a file can take; only those are judged.
        progress: Called with (iterations done, iterations in all).
    """
    device = tuner.x.device

    def row(integers: IntArray) -> Tensor:
        return torch.from_numpy(integers.astype(np.float32)).to(device)[None]

    best = fit(start)
    least = tuner.judge(row(best))
    vector = row(best).requires_grad_(True)
    optimizer = torch.optim.Adam([vector], lr=LEARNING_RATE)
    for done in range(1, iterations + 1):
        patch = done % len(tuner.x)
        rounded = round_through(vector.clamp(-LIMIT, LIMIT))
        optimizer.zero_grad(set_to_none=True)
        tuner.objective(rounded, slice(patch, patch + 1)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if done % JUDGE_EVERY == 0 or done == iterations:
            candidate = fit(_integers(vector.detach().clamp(-LIMIT, LIMIT)))
            cost = tuner.judge(row(candidate))
            if cost < least:
                best, least = candidate, cost
        if progress is not None:
            progress(done, iterations)
    return best


def _integers(vector: Tensor) -> IntArray:
    integers: IntArray = vector[0].round().to(torch.int32).cpu().numpy()
    return integers
