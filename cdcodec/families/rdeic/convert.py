"""The authors' RDEIC checkpoints, read into our networks at the paper's scale.

Every parameter of ours has exactly one name there, so the mapping is a list of substitutions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from cdcodec.families.rdeic.config import FAMILY
from cdcodec.families.rdeic.paper import PAPER, PaperCompression, PaperConfig
from cdcodec.families.rdeic.paper_network import SIZES, PaperNetwork
from cdcodec.latent import convert, paper_file
from cdcodec.latent.convert import read_checkpoint
from cdcodec.latent.paper_network import PaperSizes

__all__ = ["checkpoint_name", "read_checkpoint", "split_checkpoint", "steps_of", "weight_file"]

_NAMES = [  # our name → the authors': substitutions made one after the other
    (r"^context\.slices\.(\d)\.channel\.", r"channel_context.\1.fushion."),
    (r"^context\.slices\.(\d)\.local\.", r"local_context.\1."),
    (r"^context\.slices\.(\d)\.(anchor|nonanchor)\.", r"entropy_parameters_\2.\1.fusion."),
    (r"^codebook\.vectors$", r"quantize.embedding.weight"),
    (r"^g_a\.(4)\.skip\.", r"g_a.\1.downsample."),
    (r"^h_a\.([23])\.skip\.", r"h_a.\1.downsample."),
    (r"^(h_s\.[01]|g_s\.4)\.skip\.", r"\1.upsample.0."),
    (r"\.subpixel\.", r".subpel_conv.0."),
    (r"\.skip\.", r".adaptor."),
    (r"^g_a\.", r"encoder.g_a."),
    (r"^g_s\.", r"decoder.g_s."),
    (r"^h_a\.", r"hyper_enc.hyper_enc."),
    (r"^h_s\.", r"hyper_dec.hyper_dec."),
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
        tensors,
        expected,
        checkpoint_name,
        lambda name, tensor: tensor,
        model="RDEIC",
        hint="only the models that https://github.com/huai-chang/RDEIC links to fit",
    )


def steps_of(name: str) -> int | None:
    """Return the steps that a checkpoint is made for, as its name says: rdeic_2_step2.ckpt."""
    found = re.search(r"step[_-]?([1-9]\d{0,2})(?!\d)", name, re.IGNORECASE)
    return int(found[1]) if found else None


def weight_file(
    tensors: Mapping[str, Tensor],
    sizes: PaperSizes[PaperConfig] = SIZES,
    steps: int | None = None,
) -> bytes:
    """Turn the authors' tensors into a weight file that encodes and decodes.

    Args:
        tensors: What read_checkpoint returned.
        sizes: Of the networks.
        steps: That the checkpoint is made for, if that is known.

    Raises:
        WeightsError: As split_checkpoint does, for the control network too; diffusers isn't
            installed; or the entropy model's weights are too large to be exact.
    """
    compression, control = split_checkpoint(tensors, sizes.compression)
    with torch.device("meta"):
        network = PaperNetwork(sizes)
    return paper_file.pack(paper_file.assemble(network, compression, control), FAMILY, steps)
