"""Probability models of quantised latents, in float: for training, and to make the coder's tables.

Nothing here is evaluated while a file is written or read; see `entropy` for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LIKELIHOOD_FLOOR = 1e-9


class FactorizedPrior(nn.Module):
    """A learned univariate density for each channel (Ballé et al. 2018, appendix 6.1).

    The cumulative distribution is a small monotone network: F = sigmoid ∘ f_K ∘ … ∘ f_1 with
    f_k(x) = u + tanh(a_k) ⊙ tanh(u), u = softplus(H_k) x + b_k, and no tanh in f_K.

    Attributes:
        matrices: H_k, each [C, r_k, r_(k+1)], applied from the right.
        biases: b_k, each [C, 1, r_(k+1)].
        gates: a_k, each [C, 1, r_(k+1)], k < K.
        medians: [1, C, 1, 1]; values are rounded about them.
    """

    def __init__(
        self, channels: int, widths: Sequence[int] = (3, 3, 3), spread: float = 10
    ) -> None:
        super().__init__()
        self.channels = channels
        sizes = (1, *widths, 1)
        per_layer = spread ** (1 / (len(widths) + 1))  # so that the first density is `spread` wide
        self.matrices, self.biases, self.gates = (nn.ParameterList() for _ in range(3))
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
            entry = math.log(math.expm1(1 / per_layer / fan_out))
            self.matrices.append(nn.Parameter(torch.full((channels, fan_in, fan_out), entry)))
            self.biases.append(nn.Parameter(torch.empty(channels, 1, fan_out).uniform_(-0.5, 0.5)))
        for width in widths:
            self.gates.append(nn.Parameter(torch.zeros(channels, 1, width)))
        self.medians = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def logits(self, x: Tensor) -> Tensor:
        """Return the logit of the cumulative distribution at x [C, n], same shape."""
        return self._logits(x, [*self.matrices], [*self.biases], [*self.gates])

    def _logits(
        self, x: Tensor, matrices: list[Tensor], biases: list[Tensor], gates: list[Tensor]
    ) -> Tensor:
        u = x[:, :, None]
        for k, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
            u = torch.baddbmm(bias, u, F.softplus(matrix))
            if k < len(gates):
                u = u + torch.tanh(gates[k]) * torch.tanh(u)
        return u[:, :, 0]

    def quantise(self, z: Tensor) -> Tensor:
        """Round z [B, C, H, W] about the medians."""
        return torch.round(z - self.medians) + self.medians

    def likelihood(self, z: Tensor) -> Tensor:
        """Return the probability of the unit interval around each value of z [B, C, H, W]."""
        values = z.transpose(0, 1).flatten(1)
        lower, upper = self.logits(values - 0.5), self.logits(values + 0.5)
        # Both logits go to the side where sigmoid doesn't saturate, or their difference is lost.
        side = -torch.sign(lower + upper).detach()
        probability = torch.abs(torch.sigmoid(side * upper) - torch.sigmoid(side * lower))
        channels_first = z.transpose(0, 1).shape
        return probability.view(channels_first).transpose(0, 1).clamp_min(LIKELIHOOD_FLOOR)

    def median_loss(self) -> Tensor:
        """Return a loss that moves the medians to those of the densities, and nothing else."""
        at_medians = self._logits(
            self.medians.view(self.channels, 1),
            [matrix.detach() for matrix in self.matrices],
            [bias.detach() for bias in self.biases],
            [gate.detach() for gate in self.gates],
        )
        return at_medians.abs().sum()

    @torch.no_grad()
    def pmf(self, low: int, high: int) -> npt.NDArray[np.float64]:
        """Return the probabilities of the symbols low .. high, [C, high - low + 1], in float64.

        Symbol k of channel c stands for the value medians[c] + k. What the two ends leave out is
        the difference of a row's sum to 1.
        """
        edges = torch.arange(low, high + 2, dtype=torch.float64) - 0.5
        values = self.medians.double().cpu().view(self.channels, 1) + edges
        logits = self._logits(
            values,
            [matrix.double().cpu() for matrix in self.matrices],
            [bias.double().cpu() for bias in self.biases],
            [gate.double().cpu() for gate in self.gates],
        )
        lower, upper = logits[:, :-1], logits[:, 1:]
        side = -torch.sign(lower + upper)
        probability = torch.abs(torch.sigmoid(side * upper) - torch.sigmoid(side * lower))
        result: npt.NDArray[np.float64] = probability.numpy()
        return result


def gaussian_likelihood(y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return the probability of the unit interval around y under a Gaussian, of the same shape.

    y, mean and scale (positive) have shapes that broadcast together.
    """
    # The tail is on the left for the same reason as in FactorizedPrior.likelihood.
    distance = torch.abs(y - mean)
    factor = math.sqrt(0.5) / scale
    upper = torch.erfc((distance - 0.5) * factor)
    lower = torch.erfc((distance + 0.5) * factor)
    return (0.5 * (upper - lower)).clamp_min(LIKELIHOOD_FLOOR)


def bits(likelihood: Tensor) -> Tensor:
    """Return the information content of symbols of these probabilities, in bits, summed."""
    return -torch.log2(likelihood).sum()
