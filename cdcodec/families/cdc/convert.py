"""The authors' CDC checkpoints (x-prediction), read into our networks at the paper's scale.

A checkpoint is what their trainer saves: {"step", "model", "ema"}, where "ema" holds the averaged
weights that were published and evaluated, under `ema_model.`. Every parameter of ours has exactly
one name there, so the mapping is a list of substitutions. Nothing else of the package unpickles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from cdcodec.errors import WeightsError
from cdcodec.families.cdc import paper_export
from cdcodec.families.cdc.paper import PAPER, PaperCdc, PaperConfig

_NAMES = [  # our name → the authors': substitutions made one after the other
    (r"^compressor\.prior\.matrices\.(\d)$", r"context_fn.prior.affine.\1.weight"),
    (r"^compressor\.prior\.biases\.(\d)$", r"context_fn.prior.affine.\1.bias"),
    (r"^compressor\.prior\.gates\.(\d)$", r"context_fn.prior.a.\1"),
    (r"^compressor\.prior\.medians$", r"context_fn.prior._medians"),
    (r"^compressor\.h_a\.layers\.(\d)\.", r"context_fn.hyper_enc.\1.0."),
    (r"^compressor\.h_s\.layers\.(\d)\.", r"context_fn.hyper_dec.\1.0."),
    (r"^compressor\.g_a\.(\d)\.block\.", r"context_fn.enc.\1.0."),
    (r"^compressor\.g_a\.(\d)\.resample\.", r"context_fn.enc.\1.1.conv."),
    (r"^compressor\.g_s\.(\d)\.block\.", r"context_fn.dec.\1.0."),
    (r"^compressor\.g_s\.(\d)\.resample\.", r"context_fn.dec.\1.1.conv."),
    (r"^unet\.(downs|ups)\.(\d)\.block1\.", r"denoise_fn.\1.\2.0."),
    (r"^unet\.(downs|ups)\.(\d)\.block2\.", r"denoise_fn.\1.\2.1."),
    (r"^unet\.(downs|ups)\.(\d)\.attention\.", r"denoise_fn.\1.\2.2."),
    (r"^unet\.(downs|ups)\.(\d)\.resample\.", r"denoise_fn.\1.\2.3.conv."),
    (r"^unet\.middle(\d)\.", r"denoise_fn.mid_block\1."),
    (r"^unet\.middle_attention\.", r"denoise_fn.mid_attn."),
    (r"^unet\.time\.", r"denoise_fn.time_mlp."),
    (r"^unet\.norm\.gain$", r"denoise_fn.final_conv.0.g"),
    (r"^unet\.norm\.bias$", r"denoise_fn.final_conv.0.b"),
    (r"^unet\.out\.", r"denoise_fn.final_conv.1."),
    (r"\.(block\d)\.conv\.", r".\1.block.0."),
    (r"\.(block\d)\.norm\.gain$", r".\1.block.1.g"),
    (r"\.(block\d)\.norm\.bias$", r".\1.block.1.b"),
    (r"\.time\.(weight|bias)$", r".mlp.1.\1"),
    (r"\.skip\.", r".res_conv."),
    (r"\.norm\.gain$", r".fn.norm.g"),
    (r"\.norm\.bias$", r".fn.norm.b"),
    (r"\.attention\.(to_qkv|to_out)\.", r".fn.fn.\1."),
]

# The training loss's VGG and the schedule, which is computed, are no part of the model.
_DROPPED = re.compile(r"^(loss_fn_vgg\.|train_)")

_MAX_NAMES = 5  # of missing or unexpected parameters in a message


def checkpoint_name(name: str) -> str:
    """Return the authors' name of a parameter of `PaperCdc`."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read an authors' file, a PyTorch checkpoint or its tensors as safetensors, without pickles.

    Returns the averaged weights where the file has them, else the plain ones, under the names
    that the authors' model gives them.

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
    for part in ("ema", "model"):
        if isinstance(saved, Mapping) and isinstance(saved.get(part), Mapping):
            saved = saved[part]
            break
    if not isinstance(saved, Mapping):
        raise WeightsError(f"{path.name} holds no model")
    tensors = {str(k): v for k, v in saved.items() if isinstance(v, Tensor)}
    averaged = "ema_model."
    if any(name.startswith(averaged) for name in tensors):
        # Besides them the averaging keeps the online model, and its own counters.
        return {k.removeprefix(averaged): v for k, v in tensors.items() if k.startswith(averaged)}
    return tensors


def convert(tensors: Mapping[str, Tensor], config: PaperConfig = PAPER) -> dict[str, Tensor]:
    """Rename the authors' tensors into the state dict of `PaperCdc(config)`, in float32.

    Raises:
        WeightsError: A parameter is missing, has another shape, isn't finite, or isn't known.
    """
    with torch.device("meta"):
        expected = PaperCdc(config).state_dict()
    left = {name: t for name, t in tensors.items() if not _DROPPED.match(name)}
    state, missing, misshapen, infinite = {}, [], [], []
    for name, parameter in expected.items():
        theirs = checkpoint_name(name)
        if theirs not in left:
            missing.append(theirs)
            continue
        tensor = left.pop(theirs)
        if theirs.startswith("context_fn.prior.") and tensor.ndim == 5:
            tensor = tensor.squeeze((1, 2))  # [C, 1, 1, in, out] there
        if tensor.shape != parameter.shape:
            misshapen.append(f"{theirs} {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
        state[name] = tensor.to(torch.float32).contiguous()
        if not state[name].isfinite().all():
            infinite.append(theirs)
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
            f"not a checkpoint of this CDC model; {'; '.join(problems)}",
            hint="only the x-prediction models of https://huggingface.co/rhyang/CDC_params fit",
        )
    return state


def weight_file(tensors: Mapping[str, Tensor], config: PaperConfig = PAPER) -> bytes:
    """Turn the authors' tensors into a weight file that encodes and decodes.

    Raises:
        WeightsError: As convert does, or the hyper decoder's weights are too large to be exact.
    """
    with torch.device("meta"):
        network = PaperCdc(config)
    network.load_state_dict(convert(tensors, config), assign=True)
    return paper_export.pack(network)


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
