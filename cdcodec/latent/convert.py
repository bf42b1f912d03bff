"""The checkpoints of the authors of DiffEIC and RDEIC, taken apart.

What their trainers save is a PyTorch Lightning checkpoint, {"state_dict", …}, of a model that holds
Stable Diffusion besides: its tensors, where a file has them, are left to `nn.stable_diffusion`. The
authors' own are `preprocess_model.*`, the compression networks, and `control_model.*`. Names are
checked strictly, as the authors' own loading isn't: a prior under other names stays random there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from cdcodec.errors import WeightsError

COMPRESSION = "preprocess_model."
CONTROL = "control_model."

# Parts of Stable Diffusion, the network of a loss, and the buffers of the process itself, whose
# names have no dot. All of them are known without the checkpoint.
_FOREIGN = re.compile(
    r"^((model\.diffusion_model|first_stage_model|cond_stage_model|model_ema|perceptual_loss)\.|"
    r"[^.]+$)"
)

# Tables that CompressAI computes from the rest, and what the codebook's training counts.
_DERIVED = re.compile(
    r"\.(_offset|_quantized_cdf|_cdf_length|scale_table|scale_bound|bound|target|embed_prob)$"
)

_MAX_NAMES = 5  # of missing or unexpected parameters in a message

Adapt = Callable[[str, Tensor], Tensor]
"""Maps an authors' name and tensor to the tensor in our layout."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read an authors' file, a PyTorch checkpoint or its tensors as safetensors, without pickles.

    Raises:
        WeightsError: The file can't be read as one of these.
    """
    try:
        if path.suffix == ".safetensors":
            saved: Any = safetensors.torch.load_file(path)
        else:
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises anything on bytes that are no checkpoint
        raise WeightsError(f"cannot read {path.name} as a checkpoint") from error
    if isinstance(saved, Mapping) and isinstance(saved.get("state_dict"), Mapping):
        saved = saved["state_dict"]
    if not isinstance(saved, Mapping):
        raise WeightsError(f"{path.name} holds no model")
    return {str(name): value for name, value in saved.items() if isinstance(value, Tensor)}


def split(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    checkpoint_name: Callable[[str], str],
    adapt: Adapt,
    *,
    model: str,
    hint: str,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return our state dict of the compression networks, and the control tensors as they are.

    Args:
        tensors: What read_checkpoint returned.
        expected: Our state dict, for names and shapes; its tensors may be on the meta device.
        checkpoint_name: Gives the authors' name of a parameter of ours, their prefix included.
        adapt: See Adapt.
        model: What the model is called in a message.
        hint: Where checkpoints that fit come from.

    Returns:
        The state dict, in float32, and the tensors of the control network under the authors' names
        without their prefix.

    Raises:
        WeightsError: A parameter is missing, has another shape, isn't finite, or isn't known.
    """
    control = {
        name.removeprefix(CONTROL): tensor
        for name, tensor in tensors.items()
        if name.startswith(CONTROL)
    }
    left = {
        name: tensor
        for name, tensor in tensors.items()
        if not (name.startswith(CONTROL) or _FOREIGN.match(name) or _DERIVED.search(name))
    }
    state, missing, misshapen, infinite = {}, [], [], []
    for name, parameter in expected.items():
        theirs = checkpoint_name(name)
        if theirs not in left:
            missing.append(theirs)
            continue
        given = left.pop(theirs)
        tensor = adapt(theirs, given)
        if tensor.shape != parameter.shape:
            misshapen.append(f"{theirs} {tuple(given.shape)}")
        state[name] = tensor.to(torch.float32).contiguous()
        if not state[name].isfinite().all():
            infinite.append(theirs)
    infinite += [CONTROL + name for name, tensor in control.items() if not tensor.isfinite().all()]
    if not control:
        missing.append(CONTROL + "*")
    problems = [
        f"{what}: {_listed(names)}"
        for what, names in [
            ("missing", missing),
            ("unexpected", sorted(left)),
            ("wrong shape", misshapen),
            ("not finite", infinite),
        ]
        if names
    ]
    if problems:
        raise WeightsError(
            f"not a checkpoint of this {model} model; {'; '.join(problems)}", hint=hint
        )
    return state, control


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
