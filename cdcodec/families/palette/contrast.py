"""The contrastive loss of paper 000 (eq. 9), by momentum and a queue (He et al. 2020, MoCo).

A latent is drawn to those of pictures with the same pseudo-label and away from all others, through
a projection that training alone has. The positives of eq. 9, one a query, are here all keys with
the query's label, and their terms are averaged (L_out of Khosla et al. 2020, "Supervised
Contrastive Learning"); where a query has one, that is eq. 9.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

QUEUE = 1024
"""Keys for small runs; the paper's scale, MoCo's for small sets, is 4096."""

TEMPERATURE = 0.07
MOMENTUM = 0.999

_WIDTH = 128
_SIDE = 64
_NONE = -1  # label of a place in the queue that has no key yet
_FAR = -1e4  # logit of what doesn't take part; minus infinity times zero would be no number


class Projection(nn.Module):
    """Maps latents to points on a sphere, by mean and spread of their channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * channels, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _SIDE)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return float32 [B, 64] of length one for z [B, C, h, w], values of about one."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            mean = z.mean((2, 3))
            spread = (z.var((2, 3), correction=0) + 1e-6).sqrt()
            return F.normalize(self.layers(torch.cat([mean, spread], 1)), dim=1)


class Contrast(nn.Module):
    """The loss with what it remembers: a slow copy of the encoder, and keys with their labels.

    Only `projection` has parameters to train. An update goes like this:

        with torch.no_grad():
            z_key = contrast.encoder(x)
        loss = contrast.loss(encoder(x), z_key, labels)
        contrast.enqueue(z_key, labels)
        ... descend ...
        contrast.update_momentum(encoder)
    """

    def __init__(
        self,
        encoder: nn.Module,
        channels: int,
        queue: int = QUEUE,
        temperature: float = TEMPERATURE,
        momentum: float = MOMENTUM,
    ) -> None:
        """Copy the encoder, whose latents have so many channels, and empty the queue."""
        super().__init__()
        self.temperature = temperature
        self.momentum = momentum
        self.projection = Projection(channels)
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.key_projection = copy.deepcopy(self.projection).requires_grad_(False)
        self.keys: Tensor
        self.labels: Tensor
        self.place: Tensor
        self.register_buffer("keys", torch.zeros(queue, _SIDE))
        self.register_buffer("labels", torch.full((queue,), _NONE))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def loss(self, z_query: Tensor, z_key: Tensor, labels: Tensor) -> Tensor:
        """Return the mean of eq. 9 over queries that have a positive; 0 if none has.

        The keys are those of the queue and of this batch, but for a query's own: to be like itself
        teaches it nothing.

        Args:
            z_query: Latents of the encoder [B, C, h, w]; gradients go here.
            z_key: Latents of the slow copy for the same pictures, likewise.
            labels: Their pseudo-labels, int64 [B], from 0.
        """
        queries = self.projection(z_query)
        with torch.no_grad():
            keys = torch.cat([self.key_projection(z_key), self.keys])
        their_labels = torch.cat([labels, self.labels])
        own = torch.eye(len(labels), len(keys), dtype=torch.bool, device=keys.device)
        absent = own | (their_labels == _NONE)
        positive = (labels[:, None] == their_labels) & ~absent
        with torch.autocast(queries.device.type, enabled=False):
            logits = (queries @ keys.T / self.temperature).masked_fill(absent, _FAR)
        terms = (F.log_softmax(logits, 1) * positive).sum(1)
        count = positive.sum(1)
        counted = (count > 0).sum().clamp_min(1)
        return -(terms / count.clamp_min(1)).sum() / counted

    @torch.no_grad()
    def enqueue(self, z_key: Tensor, labels: Tensor) -> None:
        """Put keys in the place of the oldest.

        Args:
            z_key: Latents of the slow copy [B, C, h, w].
            labels: Their pseudo-labels, int64 [B].
        """
        places = (self.place + torch.arange(len(labels), device=labels.device)) % len(self.keys)
        # Of more keys than there are places the last stay.
        last = slice(max(0, len(labels) - len(self.keys)), None)
        self.keys[places[last]] = self.key_projection(z_key)[last]
        self.labels[places[last]] = labels[last]
        self.place.copy_((self.place + len(labels)) % len(self.keys))

    @torch.no_grad()
    def update_momentum(self, encoder: nn.Module) -> None:
        """Move the slow copies a little towards the encoder and the projection."""
        for slow, fast in ((self.encoder, encoder), (self.key_projection, self.projection)):
            for weight, goal in zip(slow.parameters(), fast.parameters(), strict=True):
                weight.lerp_(goal, 1 - self.momentum)
            for kept, now in zip(slow.buffers(), fast.buffers(), strict=True):
                kept.copy_(now)
