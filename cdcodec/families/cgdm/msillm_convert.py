"""The authors' MS-ILLM checkpoints, read into our networks.

A checkpoint is the plain state dict of a HiFiCAutoencoder; those of the authors' models without an
adversarial loss ("noganms") have the same networks. Our parameters have its names, but for the
prior's, which CompressAI has renamed twice. Names are checked strictly: under other names a prior
would stay random.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from cdcodec.errors import WeightsError
from cdcodec.families.cgdm import msillm_export
from cdcodec.families.cgdm.msillm_network import PUBLISHED, MsIllmConfig, MsIllmNetwork
from cdcodec.latent.convert import read_checkpoint

__all__ = ["LICENCE", "convert", "our_name", "read_checkpoint", "weight_file"]

LICENCE = "CC-BY-NC-4.0"
"""Terms of the published checkpoints, which hold for what is converted from them."""

_HINT = "only the msillm checkpoints of facebookresearch/NeuralCompression fit"

_EARLIER_NAMES = [  # CompressAI's names before 1.2.7, in two styles → its names since
    (r"^hyper_bottleneck\.(?:_matrix|_matrices\.)(\d)$", r"hyper_bottleneck.matrices.\1"),
    (r"^hyper_bottleneck\.(?:_bias|_biases\.)(\d)$", r"hyper_bottleneck.biases.\1"),
    (r"^hyper_bottleneck\.(?:_factor|_factors\.)(\d)$", r"hyper_bottleneck.factors.\1"),
]

# Tables that CompressAI computes from the rest, and its constants.
_DERIVED = re.compile(
    r"^(hyper|latent)_bottleneck\.(_offset|_quantized_cdf|_cdf_length|likelihood_lower_bound\.bound)$|"
    r"^hyper_bottleneck\.target$|"
    r"^latent_bottleneck\.(scale_table|scale_bound|lower_bound_scale\.bound)$"
)

_MAX_NAMES = 5  # of missing or unexpected parameters in a message


def our_name(name: str) -> str:
    """Return the name that `MsIllmNetwork` has for a tensor of a checkpoint of any age."""
    for pattern, replacement in _EARLIER_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def convert(tensors: Mapping[str, Tensor], config: MsIllmConfig = PUBLISHED) -> dict[str, Tensor]:
    """Return the state dict of `MsIllmNetwork(config)` in float32.

    Raises:
        WeightsError: A parameter is missing, there twice, has another shape, isn't finite, or isn't
            known.
    """
    with torch.device("meta"):
        expected = MsIllmNetwork(config).state_dict()
    state: dict[str, Tensor] = {}
    unexpected, twice, misshapen, infinite = [], [], [], []
    for theirs, tensor in tensors.items():
        name = our_name(theirs)
        if name not in expected:
            if not _DERIVED.match(theirs):
                unexpected.append(theirs)
            continue
        if name in state:
            twice.append(theirs)
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            misshapen.append(f"{theirs} {shapes}")
        state[name] = tensor.to(torch.float32).contiguous()
        if not state[name].isfinite().all():
            infinite.append(theirs)
    problems = [
        f"{what}: {_listed(names)}"
        for what, names in [
            ("missing", expected.keys() - state.keys()),
            ("unexpected", unexpected),
            ("there twice", twice),
            ("wrong shape", misshapen),
            ("not finite", infinite),
        ]
        if names
    ]
    if problems:
        raise WeightsError(f"not a checkpoint of MS-ILLM; {'; '.join(problems)}", hint=_HINT)
    return {name: state[name] for name in expected}


def weight_file(
    tensors: Mapping[str, Tensor],
    config: MsIllmConfig = PUBLISHED,
    dtype: torch.dtype = torch.float32,
) -> bytes:
    """Turn the authors' tensors into a weight file that encodes and decodes.

    Args:
        tensors: What read_checkpoint returned.
        config: Sizes of the networks.
        dtype: See msillm_export.pack.

    Raises:
        WeightsError: As convert does, or weights are too large to be exact.
    """
    with torch.device("meta"):
        network = MsIllmNetwork(config)
    network.load_state_dict(convert(tensors, config), assign=True)
    return msillm_export.pack(network, LICENCE, dtype)


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _MAX_NAMES
    return ", ".join(ordered[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
