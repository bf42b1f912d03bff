"""Settings that must be there before numpy and torch are imported, and what many tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Tests run small networks, often beside other work: threads that wait for each other cost more
# than they bring. What must not depend on their number has tests that set it themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep out of the tests what their user has fetched and converted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDCODEC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A photograph of a woman, uint8 [512, 512, 3]."""
    from skimage import data

    pixels: np.ndarray = data.astronaut()
    return pixels


@pytest.fixture(scope="session")
def batch(photograph: np.ndarray) -> Tensor:
    """Four crops [4, 3, 64, 64] in -1..1."""
    import numpy as np
    import torch

    corners = [(20, 180), (120, 60), (300, 250), (400, 400)]
    crops = np.stack([photograph[top : top + 64, left : left + 64] for top, left in corners])
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture
def lpips(tmp_path: Path) -> Path:
    """A weight file of the perceptual loss with seeded random weights."""
    import torch
    from safetensors.torch import save_file

    from cdcodec.nn.perceptual import Lpips

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = Lpips().state_dict()
        tensors = {}
        for name, tensor in state.items():
            kind, rest = name.split(".", 1)
            if kind == "heads":
                tensors[f"lin{rest}.weight"] = torch.rand_like(tensor) / tensor.numel()
            elif kind == "stem":
                tensors[f"trunk.features.0.{rest}"] = tensor
            else:
                tensors[f"trunk.features.{rest}"] = tensor
    path = tmp_path / "lpips.safetensors"
    save_file(tensors, path)
    return path
