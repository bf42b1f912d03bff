"""Names of Stable Diffusion's parameters: ours, which are those of diffusers, and CompVis'.

The checkpoints of DiffEIC and RDEIC, and the single files of Stable Diffusion, have the names of
the code that it was first published with. Every parameter has exactly one name there, so the
mapping is a list of substitutions, and it is strict in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cdcodec.errors import WeightsError

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CONTROL = "control_model."
"""What CompVis' names begin with in a whole checkpoint; see below."""

_MAX_NAMES = 5  # of missing or unexpected parameters in a message

_RESNET = {  # only inside residual blocks: transformers have a norm1 and norm2 of their own
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_PART = {"resnets": 0, "attentions": 1}


def unet_checkpoint_name(name: str) -> str:
    """Return CompVis' name of a parameter of diffusers' U-Net with 12/1/12 blocks."""
    place, _, rest = name.partition(".")
    if match := re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name):
        way, level, part, k, rest = match.groups()
        row = 3 * int(level) + int(k)
        side = f"input_blocks.{row + 1}" if way == "down" else f"output_blocks.{row}"
        return f"{side}.{_PART[part]}.{_inner(rest, part)}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        part, k, rest = match.groups()
        return f"middle_block.{_PART[part] + 2 * int(k)}.{_inner(rest, part)}"
    if match := re.fullmatch(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{3 * int(match[1]) + 3}.0.op.{match[2]}"
    if match := re.fullmatch(r"up_blocks\.(\d)\.upsamplers\.0\.conv\.(.*)", name):
        level = int(match[1])
        after = 2 if level else 1  # the lowest level has no attention before it
        return f"output_blocks.{3 * level + 2}.{after}.conv.{match[2]}"
    if place == "time_embedding":
        return _time(rest)
    return {
        "conv_in": "input_blocks.0.0.",
        "conv_norm_out": "out.0.",
        "conv_out": "out.2.",
    }.get(place, f"{place}.") + rest


def vae_checkpoint_name(name: str) -> str:
    """Return CompVis' name of a parameter of diffusers' AutoencoderKL with four levels."""
    substitutions: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (r"^encoder\.down_blocks\.(\d)\.", r"encoder.down.\1."),
        (r"^decoder\.up_blocks\.(\d)\.", lambda m: f"decoder.up.{3 - int(m[1])}."),
        (r"\.(down|up)samplers\.0\.", r".\1sample."),
        (r"\.mid_block\.resnets\.(\d)\.", lambda m: f".mid.block_{int(m[1]) + 1}."),
        (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
        (r"\.attn_1\.group_norm\.", ".attn_1.norm."),
        (r"\.attn_1\.to_([qkv])\.", r".attn_1.\1."),
        (r"\.attn_1\.to_out\.0\.", ".attn_1.proj_out."),
        (r"\.resnets\.(\d)\.", r".block.\1."),
        (r"\.conv_shortcut\.", ".nin_shortcut."),
        (r"\.conv_norm_out\.", ".norm_out."),
    ]
    for pattern, replacement in substitutions:
        name = re.sub(pattern, replacement, name)
    return name


def control_checkpoint_name(name: str) -> str:
    """Return the authors' name of a parameter of nn.control.Control with our narrow half."""
    if match := re.fullmatch(r"(enter|leave)\.(\d+)\.(.*)", name):
        side = {"enter": "enc", "leave": "dec"}[match[1]]
        return f"{side}_zero_convs_out.{match[2]}.0.{match[3]}"
    if name.startswith("centre."):
        return f"middle_block_out.0.{name.removeprefix('centre.')}"
    half = "control_model."
    if name.startswith("narrow.time."):
        return half + _time(name.removeprefix("narrow.time."))
    if match := re.fullmatch(r"narrow\.rows\.0\.resample\.(.*)", name):
        return f"{half}input_blocks.0.0.{match[1]}"
    if match := re.fullmatch(r"narrow\.rows\.(\d+)\.resample\.(.*)", name):
        return f"{half}input_blocks.{match[1]}.0.op.{match[2]}"
    if match := re.fullmatch(r"narrow\.rows\.(\d+)\.(resnet|attention)\.(.*)", name):
        row, part, rest = match.groups()
        return f"{half}input_blocks.{row}.{_PART[part + 's']}.{_inner(rest, part + 's')}"
    if match := re.fullmatch(r"narrow\.bottom\.(\d)\.(resnet|attention)\.(.*)", name):
        k, part, rest = match.groups()
        place = _PART[part + "s"] + 2 * int(k)
        return f"{half}middle_block.{place}.{_inner(rest, part + 's')}"
    return half + name  # which is none of theirs


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with prefix, under what is left of their names."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def unet_state(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of diffusers' U-Net from tensors under CompVis' names.

    Args:
        tensors: Those below UNET.
        expected: Our state dict, for names and shapes; it may be on the meta device.

    Raises:
        WeightsError: A parameter is missing, has another shape, or isn't known.
    """
    return _converted(tensors, expected, unet_checkpoint_name, "Stable Diffusion U-Net")


def vae_state(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of diffusers' autoencoder from tensors under CompVis' names; see unet_state.

    Raises:
        WeightsError: A parameter is missing, has another shape, or isn't known.
    """
    what = "Stable Diffusion autoencoder"
    return _converted(tensors, expected, vae_checkpoint_name, what)


def control_state(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the state of a Control with our narrow half from the authors' checkpoint.

    Their buffer `scale_list` must hold ones: it is never trained, and we have nothing like it.

    Args:
        tensors: Those below CONTROL.
        expected: Our state dict, for names and shapes; it may be on the meta device.

    Raises:
        WeightsError: A parameter is missing, has another shape, or isn't known.
    """
    scale = tensors.get("scale_list")
    if scale is not None and not bool((scale == 1).all()):
        raise WeightsError("the checkpoint scales its control network, which no published one does")
    rest = {name: t for name, t in tensors.items() if name != "scale_list"}
    return _converted(rest, expected, control_checkpoint_name, "control network")


def renewed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the autoencoder's attention the names that diffusers has used since its version 0.17."""
    new = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    old = re.compile(r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)")
    return {old.sub(lambda m: new[m[1]], name): tensor for name, tensor in tensors.items()}


def matched(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str
) -> dict[str, Tensor]:
    """Return tensors in float32, if their names and shapes are exactly those of `expected`.

    Raises:
        WeightsError: They aren't; the message says what the tensors should be.
    """
    return _converted(tensors, expected, lambda name: name, what)


def _converted(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    checkpoint_name: Callable[[str], str],
    what: str,
) -> dict[str, Tensor]:
    left = dict(tensors)
    state, missing, misshapen = {}, [], []
    for name, parameter in expected.items():
        theirs = checkpoint_name(name)
        if theirs not in left:
            missing.append(theirs)
            continue
        tensor = left.pop(theirs)
        if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and parameter.ndim == 2:
            tensor = tensor[:, :, 0, 0]  # a 1x1 convolution there, a linear layer here
        if tensor.shape != parameter.shape:
            misshapen.append(f"{theirs} {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
        state[name] = tensor.to(torch.float32).contiguous()
    problems = [
        f"{problem}: {_listed(names)}"
        for problem, names in [
            ("missing", missing),
            ("unexpected", sorted(left)),
            ("wrong shape", misshapen),
        ]
        if names
    ]
    if problems:
        raise WeightsError(f"not the tensors of this {what}; {'; '.join(problems)}")
    return state


def _inner(name: str, part: str) -> str:
    """Return the name inside a residual block or a transformer, which has the same in both."""
    if part == "attentions":
        return name
    layer, _, leaf = name.partition(".")
    return f"{_RESNET.get(layer, layer)}.{leaf}"


def _time(name: str) -> str:
    return name.replace("linear_1", "time_embed.0").replace("linear_2", "time_embed.2")


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
