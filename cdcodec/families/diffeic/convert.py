"""The authors' DiffEIC checkpoints, read into our networks at the paper's scale.

Every parameter of ours has exactly one name there, so the mapping is a list of substitutions, but
for the prior of z: CompressAI 1.2.4, which the authors ask for, and 1.2.8 name it differently, and
its matrices are applied from the left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from cdcodec.families.diffeic.config import FAMILY
from cdcodec.families.diffeic.paper import PAPER, PaperCompression, PaperConfig
from cdcodec.families.diffeic.paper_network import SIZES, PaperNetwork
from cdcodec.latent import convert, paper_file
from cdcodec.latent.convert import read_checkpoint
from cdcodec.latent.paper_network import PaperSizes

__all__ = ["checkpoint_name", "read_checkpoint", "split_checkpoint", "weight_file"]

_NAMES = [  # our name → the authors': substitutions made one after the other
    (r"^prior\.matrices\.(\d)$", r"entropy_bottleneck._matrix\1"),
    (r"^prior\.biases\.(\d)$", r"entropy_bottleneck._bias\1"),
    (r"^prior\.gates\.(\d)$", r"entropy_bottleneck._factor\1"),
    (r"^prior\.medians$", r"entropy_bottleneck.quantiles"),
    (r"^context\.slices\.(\d)\.channel\.", r"channel_context.\1.fushion."),
    (r"^context\.slices\.(\d)\.local\.", r"local_context.\1."),
    (r"^context\.slices\.(\d)\.(anchor|nonanchor)\.", r"entropy_parameters_\2.\1.fusion."),
    (r"\.transform1\.", r".norm_0."),
    (r"\.transform2\.", r".norm_1."),
    (r"\.shared\.", r".mlp_shared.0."),
    (r"\.(gamma|beta)\.", r".mlp_\1."),
    (r"^(.*\.block[12]\.conv)1\.", r"\1_0."),
    (r"^(.*\.block[12]\.conv)2\.", r"\1_1."),
    (r"^g_a\.side_(8|16|16_2)\.layers\.", r"encoder.sft_1_\1."),
    (r"^g_a\.to_8\.(\d+)\.", r"encoder.g_a1.\1."),
    (r"^g_a\.transform_8\.", r"encoder.g_a1_ref."),
    (r"^g_a\.to_16\.(\d)\.", r"encoder.g_a2.\1."),
    (r"^g_a\.transform_16\.", r"encoder.g_a2_ref."),
    (r"^g_a\.conv\.", r"encoder.g_a3."),
    (r"^g_a\.block1\.", r"encoder.g_a4."),
    (r"^g_a\.block2\.", r"encoder.g_a5."),
    (r"^g_a\.out\.", r"encoder.g_a6."),
    (r"^h_a\.side\.layers\.", r"hyper_enc.sft_feature."),
    (r"^h_a\.side_16\.layers\.", r"hyper_enc.sft_feature_h1."),
    (r"^h_a\.side_32\.layers\.", r"hyper_enc.sft_feature_h2."),
    (r"^h_a\.side_64\.layers\.", r"hyper_enc.sft_feature_h3."),
    (r"^h_a\.conv_16\.", r"hyper_enc.h_a0."),
    (r"^h_a\.transform_16\.", r"hyper_enc.h_a1."),
    (r"^h_a\.conv_32\.", r"hyper_enc.h_a3."),
    (r"^h_a\.transform_32\.", r"hyper_enc.h_a4."),
    (r"^h_a\.conv_64\.", r"hyper_enc.h_a6."),
    (r"^h_a\.block1\.", r"hyper_enc.h_a7."),
    (r"^h_a\.block2\.", r"hyper_enc.h_a8."),
    (r"^h_a\.out\.", r"hyper_enc.h_a9."),
    (r"^h_s\.", r"hyper_dec.hyper_dec."),
    (r"^g_s\.side_16\.layers\.", r"decoder.sft_feature_gs1."),
    (r"^g_s\.side_16_2\.layers\.", r"decoder.sft_feature_gs2."),
    (r"^g_s\.side_8\.layers\.", r"decoder.sft_feature_gs3."),
    (r"^g_s\.block1\.", r"decoder.g_s0."),
    (r"^g_s\.block2\.", r"decoder.g_s1."),
    (r"^g_s\.at_16\.", r"decoder.g_s2."),
    (r"^g_s\.transform_16\.", r"decoder.g_s2_ref."),
    (r"^g_s\.to_8\.", r"decoder.g_s3."),
    (r"^g_s\.transform_8\.", r"decoder.g_s3_ref."),
    (r"^g_s\.out\.", r"decoder.g_s4."),
    (r"\.layers\.(\d)\.", r".branch.\1."),
    (r"\.subpixel\.", r".subpel_conv.0."),
    (r"^(decoder\.g_s3\.0)\.skip\.", r"\1.upsample.0."),
    (r"\.skip\.", r".downsample."),
]

_PRIOR = convert.COMPRESSION + "entropy_bottleneck."
_LATER_NAMES = [  # CompressAI 1.2.8's name → that of 1.2.4
    (r"\.matrices\.(\d)$", r"._matrix\1"),
    (r"\.biases\.(\d)$", r"._bias\1"),
    (r"\.factors\.(\d)$", r"._factor\1"),
]


def checkpoint_name(name: str) -> str:
    """Return the authors' name of a parameter of `PaperCompression`."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return convert.COMPRESSION + name


def split_checkpoint(
    tensors: Mapping[str, Tensor], config: PaperConfig = PAPER
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the state dict of `PaperCompression(config)`, and the control network's tensors.

    The latter keep the authors' names, without `control_model.`; all that a checkpoint holds
    besides is left out.

    Raises:
        WeightsError: A parameter is missing, has another shape, isn't finite, or isn't known.
    """
    with torch.device("meta"):
        expected = PaperCompression(config).state_dict()
    return convert.split(
        {_name_of_1_2_4(name): tensor for name, tensor in tensors.items()},
        expected,
        checkpoint_name,
        _adapt,
        model="DiffEIC",
        hint="only the models that https://github.com/huai-chang/DiffEIC links to fit",
    )


def weight_file(tensors: Mapping[str, Tensor], sizes: PaperSizes[PaperConfig] = SIZES) -> bytes:
    """Turn the authors' tensors into a weight file that encodes and decodes.

    Raises:
        WeightsError: As split_checkpoint does, for the control network too; diffusers isn't
            installed; or the entropy model's weights are too large to be exact.
    """
    compression, control = split_checkpoint(tensors, sizes.compression)
    with torch.device("meta"):
        network = PaperNetwork(sizes)
    return paper_file.pack(paper_file.assemble(network, compression, control), FAMILY)


def _name_of_1_2_4(name: str) -> str:
    if name.startswith(_PRIOR):
        for pattern, replacement in _LATER_NAMES:
            name = re.sub(pattern, replacement, name)
    return name


def _adapt(name: str, tensor: Tensor) -> Tensor:
    """Bring the prior into our layout: matrices applied from the right, medians as an image."""
    if not name.startswith(_PRIOR) or tensor.ndim != 3:
        return tensor
    if name.endswith(".quantiles"):  # [C, 1, 3]: a lower one, the median, an upper one
        return tensor[None, :, :, 1:2]
    return tensor.transpose(1, 2)
