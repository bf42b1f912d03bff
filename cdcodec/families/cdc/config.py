"""Sizes of the CDC networks in the small presets (the paper's own: paper.py), and in files."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cdcodec.errors import WeightsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config")


@dataclass(frozen=True)
class CdcConfig:
    """Sizes of g_a, h_a, h_s, the context decoder and the denoiser.

    Attributes:
        widths: Channels at 1/4, 1/8 and 1/16 of the image, in g_a and in the context decoder.
        depths: Residual blocks at those three scales.
        y_channels: Channels of the latent y, at 1/16.
        z_channels: Channels of the hyper-latent z, at 1/64.
        hyper_width: Channels inside h_a and h_s.
        unet_widths: Channels of the denoiser at 1/4, 1/8 and 1/16.
        unet_depths: Residual blocks on the way down and up (counted together) at those scales.
        condition: Length of the vector that tells the networks rate point and noise level.
        anchors: Number of trained gain vectors; points between them are interpolated.
        points: Rate points a file can name.
        lambda_range: Lagrange multipliers (bits per pixel against squared error on 0..255) of the
            first and the last point; between them they grow geometrically.
        train_steps: Length of the diffusion process, N_train in the paper.
    """

    widths: tuple[int, int, int] = (64, 128, 160)
    depths: tuple[int, int, int] = (2, 2, 1)
    y_channels: int = 128
    z_channels: int = 64
    hyper_width: int = 64
    unet_widths: tuple[int, int, int] = (64, 96, 128)
    unet_depths: tuple[int, int, int] = (4, 2, 2)
    condition: int = 64
    anchors: int = 8
    points: int = 256
    lambda_range: tuple[float, float] = (1.6e-5, 6e-3)
    train_steps: int = 8193


NANO = CdcConfig()
TINY = CdcConfig(
    widths=(8, 12, 16),
    depths=(1, 1, 1),
    y_channels=8,
    z_channels=4,
    hyper_width=8,
    unet_widths=(8, 12, 16),
    unet_depths=(2, 2, 1),
    condition=8,
    anchors=3,
    points=16,
    lambda_range=(7e-5, 1.2e-2),
)
PRESETS = {"nano": NANO, "tiny": TINY}


PAPER = "paper"
"""The preset that metadata names; the small ones are told by their sizes alone."""


def describe(config: DataclassInstance, preset: str | None = None) -> str:
    """Return a weight file's metadata."""
    table: dict[str, Any] = {"family": "cdc", "config": dataclasses.asdict(config)}
    return json.dumps(table if preset is None else {**table, "preset": preset}, sort_keys=True)


def preset_of(metadata: str) -> str | None:
    """Return the preset that metadata names.

    Raises:
        WeightsError: If the metadata isn't of this family, or names a preset that isn't known.
    """
    try:
        table = json.loads(metadata)
        family, preset = table.get("family"), table.get("preset")
    except (ValueError, AttributeError) as error:
        raise WeightsError("weight file does not say what it holds") from error
    if family != "cdc":
        raise WeightsError(f"weight file is of family {family}, not cdc")
    if preset not in (None, PAPER):
        raise WeightsError(f"unknown preset {preset} of cdc", hint="it needs a newer cdcodec")
    return PAPER if preset == PAPER else None


def parse(metadata: str, kind: type[Config]) -> Config:
    """Return the configuration in a weight file's metadata.

    Raises:
        WeightsError: If it isn't of this kind.
    """
    preset_of(metadata)
    try:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in json.loads(metadata)["config"].items()
        }
        return kind(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"weight file does not hold a {kind.__name__}") from error
