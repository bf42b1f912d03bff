"""Weight files of our own: a network's floats, the arrays that decide bits, and a description.

Nothing here imports torch before it is asked for a network's floats.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cdcodec.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

METADATA_KEY = "cdcodec"
"""The only key of a weight file's metadata: safetensors writes several in random order."""

EXACT_PREFIX = "exact."
"""Arrays under this prefix decide bits; the model id covers them all."""


def read_metadata(path: Path) -> str:
    """Return what a weight file says of itself; empty if nothing.

    Raises:
        WeightsError: If it can't be read.
    """
    with _opened(path, "numpy") as file:
        return str((file.metadata() or {}).get(METADATA_KEY, ""))


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's arrays, without those that decide bits.

    Raises:
        WeightsError: If the file can't be read.
    """
    with _opened(path, "numpy") as file:
        names = [name for name in file.keys() if not name.startswith(EXACT_PREFIX)]  # noqa: SIM118
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def read_exact(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays that decide bits, by their whole names.

    Raises:
        WeightsError: If the file can't be read.
    """
    with _opened(path, "numpy") as file:
        names = [name for name in file.keys() if name.startswith(EXACT_PREFIX)]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}


def read_floats(path: Path) -> dict[str, Tensor]:
    """Return all other arrays, as they are stored.

    Raises:
        WeightsError: If the file can't be read.
    """
    with _opened(path, "pt") as file:
        names = [name for name in file.keys() if not name.startswith(EXACT_PREFIX)]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Make the tensors of a weight file a network's own.

    Raises:
        WeightsError: If names or shapes aren't the network's.
    """
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"weights {path.name} do not fit their configuration") from error


def halves(network: nn.Module, without: tuple[str, ...] = ()) -> dict[str, NDArray[np.float16]]:
    """Return a network's tensors in float16, but for those whose names start like that.

    Raises:
        OverflowError: If a weight is beyond float16's range: training has diverged.
    """
    rounded = {}
    for name, tensor in network.state_dict().items():
        if name.startswith(without):
            continue
        array = tensor.detach().cpu().numpy()
        if not np.abs(array).max() < np.finfo(np.float16).max:
            raise OverflowError(f"{name} is beyond float16: training has diverged")
        # safetensors writes an array's memory as it lies, and training keeps channels last.
        rounded[name] = np.ascontiguousarray(array, np.float16)
    return rounded


def write(path: Path, arrays: Mapping[str, NDArray[Any]], description: str) -> None:
    """Write a weight file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(pack(arrays, description))
    os.replace(part, path)


def pack(arrays: Mapping[str, NDArray[Any]], description: str) -> bytes:
    """Return a weight file."""
    return save(dict(arrays), {METADATA_KEY: description})


@contextmanager
def _opened(path: Path, framework: str) -> Iterator[Any]:
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read weights {path.name}: {error}") from error
