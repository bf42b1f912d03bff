"""The embedding of the empty prompt, made once of Stable Diffusion's text encoder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from cdcodec.errors import WeightsError, extra_hint
from cdcodec.nn.stable_diffusion import PROMPT_TENSOR

# Begin, end and padding, which is "!" in the tokenizer of Stable Diffusion 2 and not the end again.
TOKENS = (49406, 49407, *[0] * 75)


def empty_prompt(folder: Path) -> Tensor:
    """Embed the empty prompt with text_encoder/ and tokenizer/ of a folder: [1, 77, D].

    Raises:
        WeightsError: One is missing, damaged or of another model; transformers isn't installed.
    """
    transformers = _transformers()
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(
            folder / "tokenizer", local_files_only=True
        )
        encoder = transformers.CLIPTextModel.from_pretrained(
            folder / "text_encoder", local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # it raises anything on files that are none of its own
        reason = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"cannot read the text encoder of {folder}: {reason}",
            hint="it needs text_encoder/ and tokenizer/ of stable-diffusion-2-1-base",
        ) from error
    tokens = tokenizer("", padding="max_length", max_length=len(TOKENS)).input_ids
    if tuple(tokens) != TOKENS:
        raise WeightsError(f"{folder / 'tokenizer'} isn't the tokenizer of Stable Diffusion 2")
    with torch.inference_mode():
        embedding: Tensor = encoder.float().eval()(torch.tensor([tokens])).last_hidden_state
    return embedding.clone()


def prompt_file(folder: Path) -> bytes:
    """Return what belongs into empty_prompt.safetensors; see empty_prompt.

    Raises:
        WeightsError: See empty_prompt.
    """
    return save({PROMPT_TENSOR: empty_prompt(folder).contiguous()})


def _transformers() -> Any:
    try:
        return import_module("transformers")
    except ImportError as error:
        raise WeightsError(
            f"the empty prompt needs transformers, which can't be imported: {error}",
            hint=extra_hint("sd"),
        ) from error
