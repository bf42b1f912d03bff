"""Print how fast the entropy path is.

Run ``OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_entropy``. Nothing here fails when
it is slow; figures depend on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cdcodec.entropy import Coder, ExactLayer, ExactNet, Meter, Reader, Writer, gaussian_tables

TABLES = gaussian_tables()


def seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Return the median time of one call, the first one left out."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def latents(channels: int, height: int, width: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Gaussian y [channels, height, width] with the scales of a low rate, and its table indices."""
    rng = np.random.default_rng(0)
    scale = rng.normal(0, 10, (channels, 1, 1)) + rng.normal(0, 6, (1, height, width)) + 12
    index = np.clip(np.round(scale), 0, 63).astype(np.uint8)
    sigma = 0.11 * (256 / 0.11) ** (index / 63)
    return np.round(rng.normal(0, 1, index.shape) * sigma).astype(np.int32), index


def bench_coders(channels: int, height: int, width: int) -> None:
    """Time one walk of all three coders."""
    values, index = latents(channels, height, width)

    def walk(coder: Coder) -> Coder:
        coder.symbols("y", values, index, TABLES)
        return coder

    def write() -> bytes:
        writer = Writer()
        walk(writer)
        return writer.finish()

    payload = write()

    def read() -> None:
        reader = Reader(payload)
        walk(reader)
        reader.finish()

    bits = 8 * len(payload) / values.size
    print(f"{values.size:,} symbols, 64 tables, {bits:.2f} bits a symbol")
    for name, work in [("Writer", write), ("Reader", read), ("Meter", lambda: walk(Meter()))]:
        taken = seconds(work)
        print(f"  {name:7}{1e3 * taken:8.2f} ms {values.size / taken / 1e6:8.1f} M symbols/s")


def bench_network() -> None:
    """Time a hyper-decoder for a 768x512 image: three 3x3 layers, two of them doubling the size."""
    rng = np.random.default_rng(0)
    layers = tuple(
        ExactLayer(
            weight=rng.integers(-(2**15), 2**15, (256, 64, 3, 3), np.int16),
            bias=np.zeros(256, np.int64),
            multiplier=np.ones(256, np.int32),
            shift=20,
            low=np.zeros(256, np.int32),
            high=np.full(256, 32767, np.int32),
            upsample=upsample,
        )
        for upsample in (2, 2, 1)
    )
    net = ExactNet(layers, 255)
    z = rng.integers(-20, 20, (64, 8, 12))
    print(f"ExactNet, z {z.shape} to {net(z).shape}: {1e3 * seconds(lambda: net(z)):.1f} ms")


if __name__ == "__main__":
    bench_coders(128, 32, 48)
    bench_coders(192, 128, 128)
    bench_network()
