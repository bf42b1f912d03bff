"""Parameters of the reference vectors: a tensor's name and shape alone decide its values.

Normal values from a Philox stream keyed by the SHA-256 of the name, times a scale, plus an offset.
Names are those of the authors' checkpoints.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GAIN = [  # pattern, factor on the scale
    (r"^context_fn\.enc\.3\.1\.conv\.weight$", 2.0),
    (r"^context_fn\.hyper_dec\.2\.0\.weight$", 6.0),
    (r"^denoise_fn\.final_conv\.1\.weight$", 0.4),
    (r"^preprocess_model\.hyper_dec\.hyper_dec\.4\.weight$", 6.0),
    (r"^preprocess_model\.entropy_parameters_(anchor|nonanchor)\.\d+\.fusion\.4\.weight$", 1.5),
    (r"^preprocess_model\.decoder\.g_s4\.weight$", 0.1),
    (r"^preprocess_model\.decoder\.g_s\.0\.weight$", 0.2),
    (r"^control_model\.(enc_zero_convs_out|dec_zero_convs_out|middle_block_out)\.", 0.5),
]
_SHIFT = [  # pattern, offset of a bias
    (r"^context_fn\.hyper_dec\.2\.0\.bias$", 2.0),
    (r"^preprocess_model\.entropy_parameters_(anchor|nonanchor)\.\d+\.fusion\.4\.bias$", 2.0),
]


def fill(name: str, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return the values of a parameter, which its name in the authors' checkpoints decides."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    stream = np.random.Generator(np.random.Philox(key=key))
    normal = stream.standard_normal(tuple(shape), dtype=np.float32)
    scale, offset = _scale_and_offset(name, tuple(shape))
    return normal * np.float32(scale) + np.asarray(offset, np.float32)


def _scale_and_offset(name: str, shape: tuple[int, ...]) -> tuple[float, float | list[float]]:
    leaf = name.rsplit(".", 1)[-1]
    if re.search(r"\.prior\.|_bottleneck\.", name):
        if leaf == "quantiles":
            return 0.3, [-10, 0, 10]
        if leaf == "weight" or leaf.startswith("_matrix"):
            width, layers = (shape[-1], 4) if leaf == "weight" else (shape[1], 5)
            return 0.1, math.log(math.expm1(10 ** (-1 / layers) / width))
        return (0.3 if leaf == "_medians" else 0.1), 0.0
    if name.endswith("quantize.embedding.weight"):
        return 1.0, 0.0
    if leaf in ("b", "bias", "beta"):
        return 0.05, _first(_SHIFT, name, 0.0)
    if leaf in ("g", "gamma") or len(shape) == 1:
        return 0.1, 1.0
    return _first(_GAIN, name, 1.0) / math.sqrt(math.prod(shape[1:])), 0.0


def _first(table: list[tuple[str, float]], name: str, default: float) -> float:
    return next((value for pattern, value in table if re.search(pattern, name)), default)
