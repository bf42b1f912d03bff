"""A walk under a context model gives the same bytes whatever numpy makes of its sums."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cdcodec.entropy import ExactNet, Reader, Tables, Writer, tables_from_pmf
from cdcodec.entropy.context import ExactContext, ExactSlice
from cdcodec.latent.walk import Codebook, LatentWalk
from tests.test_entropy import scrambled
from tests.test_exact import layer
from tests.test_exactness import NUMPY_SETTINGS, result, start

PINNED = "fbfed1e49434c4cd4f19eee8984eb420a92f0351d2e06e9d182f4977c3959d77"

DIGEST = """
import json
from tests.test_context_exactness import fixed_digest
print(json.dumps({"sha256": fixed_digest()}))
"""


def fixed_walk() -> LatentWalk:
    """A walk of some size, made without any library's random numbers."""

    def weight(rows: int, channels: int, kernel: int, seed: int) -> NDArray[np.int64]:
        shape = (rows, channels, kernel, kernel)
        return scrambled(rows * channels * kernel**2, 65535, seed).reshape(shape) - 32767

    def head(channels: int, support: int, seed: int) -> ExactNet:
        last = layer(weight(2 * channels, 24, 1, seed + 1), multiplier=5, shift=33)
        low = np.repeat([-(2**12), 0], channels).astype(np.int32)
        high = np.repeat([2**12, 20], channels).astype(np.int32)
        hidden = layer(weight(24, support, 1, seed), multiplier=9, shift=21, low=0, high=2**20)
        return ExactNet((hidden, replace(last, low=low, high=high)), 2**20)

    bounds = {"low": -(2**20), "high": 2**20}
    slices, before, hyper = [], 0, 16
    for k, own in enumerate((4, 12, 16)):
        seed = 10 * k
        channel = None
        if k:
            first = layer(weight(24, before, 5, seed), multiplier=77, shift=21, low=0, high=2**20)
            last = layer(weight(2 * own, 24, 3, seed + 1), multiplier=33, shift=22, **bounds)
            channel = ExactNet((first, last), 2**16)
        local = layer(weight(2 * own, own, 5, seed + 2), multiplier=99, shift=20, **bounds)
        support = hyper + (2 * own if k else 0)
        anchor, nonanchor = head(own, support, seed + 3), head(own, support + 2 * own, seed + 5)
        slices.append(ExactSlice(channel, anchor, ExactNet((local,), 2**16), nonanchor))
        before += own
    h_s = ExactNet(
        (
            layer(weight(64, 9, 3, 1), multiplier=99, shift=13, low=0, high=2**20, upsample=2),
            layer(weight(64, 16, 3, 2), multiplier=99, shift=22, upsample=2, **bounds),
        ),
        255,
    )
    vectors = (scrambled(64 * 8, 400, 3) - 200).reshape(64, 8).astype(np.int16)
    context = ExactContext(tuple(slices), hyper)
    return LatentWalk.build(fixed_tables(), Codebook(vectors, 256), h_s, context)


def fixed_tables() -> Tables:
    """Triangles, as no library computes them differently."""
    pmfs = []
    for width in range(1, 22):
        rising = [float(v) for v in range(1, width + 1)]
        pmf = np.array(rising + rising[-2::-1])
        pmfs.append((1 - width, pmf / (2.0 ** np.ceil(np.log2(pmf.sum())))))
    return tables_from_pmf(pmfs)


def fixed_digest() -> str:
    """Code a fixed picture's latents, read them again, and digest what came out."""
    walk = fixed_walk()
    width, height = 400, 304
    latents = {
        "l": scrambled(7 * 5, 63, 1).reshape(5, 7).astype(np.int32),
        "y": (scrambled(32 * 19 * 25, 800, 2) - 400).reshape(32, 19, 25).astype(np.int32),
    }
    writer = Writer()
    walk.code(writer, latents, width, height, 77)
    payload = writer.finish()
    reader = Reader(payload)
    y_hat = walk.code(reader, None, width, height, 77)["y"]
    reader.finish()
    return hashlib.sha256(walk.model_id + payload + y_hat.astype("<i4").tobytes()).hexdigest()


def test_the_output_of_a_fixed_walk_never_changes() -> None:
    assert fixed_digest() == PINNED


@pytest.mark.parametrize("setting", NUMPY_SETTINGS)
def test_neither_threads_nor_kernels_matter(setting: str) -> None:
    assert result(start(NUMPY_SETTINGS[setting], "-c", DIGEST)) == {"sha256": PINNED}
