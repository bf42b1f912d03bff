"""Where networks run, and in which precision."""

from __future__ import annotations

import torch

from cdcodec.errors import InputError


def pick(name: str) -> torch.device:
    """Return the device that a user named; "auto" is CUDA, MPS or the CPU, the first that is there.

    Raises:
        InputError: If there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name}", hint="auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name} is not there", hint="--device cpu works everywhere")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps is not there", hint="--device cpu works everywhere")
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 is faster than float32 there."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capability = torch.cpu.get_capabilities()
        return bool(capability.get("avx512_bf16") or capability.get("amx_bf16"))
    return False


def autocast(device: torch.device) -> torch.autocast:
    """Return a context in which convolutions run in bfloat16 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))
