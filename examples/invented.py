"""Show which detail of a decoded picture is invented: decode it with several seeds and compare.

Where decodes differ, the decoder invented the detail. Where they agree, the detail comes from the
file, or the decoder invents the same every time. Some models give nearly the same picture for every
seed; rdeic-nano and diffeic-nano give different ones:

cdcodec encode photo.jpg --model rdeic-nano
python examples/invented.py photo.cdc differences.png
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

import cdcodec

SEEDS = range(4)
GAIN = 16
"""Differences are a few levels of 255; so many times brighter, they can be seen."""
LEAST = 0.5
"""Mean difference in levels below which pictures look alike."""


def main() -> None:
    source, target = sys.argv[1:]
    decodes = [np.asarray(cdcodec.decode(source, seed=seed).convert("RGB")) for seed in SEEDS]
    deviation = np.std(np.stack(decodes).astype(np.float32), axis=0).mean(axis=2)
    Image.fromarray(np.clip(GAIN * deviation, 0, 255).astype(np.uint8)).save(target)
    print(f"{target}: {len(decodes)} seeds differ by {deviation.mean():.2f} of 255 on average")
    if deviation.mean() < LEAST:
        model = cdcodec.info(source).model
        print(
            f"{model} draws nearly the same picture for every seed, which doesn't say that nothing "
            "is invented: try a file of rdeic-nano"
        )


if __name__ == "__main__":
    main()
