"""Networks of other people's metrics and losses: published weights, which stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cdcodec.errors import WeightsError

Network = TypeVar("Network", bound=nn.Module)


def read(path: Path, of: str, *, hint: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name.

    Raises:
        WeightsError: If it can't be read; the message says what the weights are of.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read the weights of {of}: {error}", hint=hint) from error


def frozen(network: Network, tensors: dict[str, Tensor], path: Path, what: str) -> Network:
    """Give a network its weights, and return it ready for use.

    Raises:
        WeightsError: If the file that the tensors came from isn't what it should be.
    """
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path} is not {what}") from error
    return network.requires_grad_(False).eval()
