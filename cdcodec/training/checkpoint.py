"""Resumable checkpoints: safetensors only, written whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cdcodec.errors import InputError

NAME = "checkpoint.safetensors"


@dataclass
class Progress:
    """How far a run is: updates done and seconds spent on them."""

    step: int = 0
    seconds: float = 0.0


def store(
    folder: Path,
    progress: Progress,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
) -> None:
    """Write all that a run needs to go on."""
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }
    for number, parameter in enumerate(parameters):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{number}.{key}"] = torch.as_tensor(value).cpu().contiguous()
    metadata = {"progress": json.dumps(vars(progress))}
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{NAME}.part"
    part.write_bytes(save(tensors, metadata))
    os.replace(part, folder / NAME)


def restore(
    folder: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
) -> Progress:
    """Undo store, in place.

    Raises:
        InputError: If there is no checkpoint, or it is of another network.
    """
    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            progress = Progress(**json.loads(file.metadata()["progress"]))
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"cannot resume from {path}: {error}") from error
    try:
        for name, module in modules.items():
            start = f"{name}."
            module.load_state_dict(
                {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            )
    except RuntimeError as error:
        raise InputError(f"{path} is of another network than the recipe's") from error
    for number, parameter in enumerate(parameters):
        start = f"optimizer.{number}."
        state = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        if state:
            optimizer.state[parameter] = {
                k: v.to(parameter.device) if v.ndim else v for k, v in state.items()
            }
    return progress
