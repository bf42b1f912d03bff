"""Sizes of the small presets of both latent diffusion families, and what files say of sizes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cdcodec.errors import WeightsError
from cdcodec.nn.context import ContextConfig
from cdcodec.nn.latent_diffusion import PRESETS as PRIORS
from cdcodec.nn.latent_diffusion import PriorConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config")

PAPER = "paper"
"""The preset that metadata names; the small ones are told by their sizes alone."""


@dataclass(frozen=True)
class LatentConfig:
    """Sizes of a small compression module and its control network.

    Attributes:
        prior: Preset of the small prior that it was trained with, see nn.latent_diffusion.
        widths: Channels of the transforms at 1/8 and 1/16 of the image.
        slices: Channels of the slices of y, which are coded one after another.
        hyper_width: Channels inside h_a and h_s.
        hyper: Planes that h_s gives the context model.
        context_width: Channels inside the context model.
        control_widths: Channels of the control network at 1/8, 1/16 and 1/32.
        control_depths: Residual blocks there.
        condition: Length of the vectors that tell networks rate point and noise level.
        anchors: Number of trained gain vectors; points between them are interpolated.
        points: Rate points a file can name.
        lambda_range: Lagrange multipliers (bits per pixel against the error of z_c) of the first
            and the last point; between them they grow geometrically.
    """

    prior: str = "nano"
    widths: tuple[int, int] = (80, 112)
    slices: tuple[int, ...] = (4, 4, 8, 16, 16)
    hyper_width: int = 48
    hyper: int = 48
    context_width: int = 48
    control_widths: tuple[int, int, int] = (48, 64, 96)
    control_depths: tuple[int, int, int] = (1, 1, 1)
    condition: int = 64
    anchors: int = 8
    points: int = 256
    lambda_range: tuple[float, float] = (0.0015, 5.0)

    @property
    def sizes_of_prior(self) -> PriorConfig:
        """Sizes of that prior."""
        return PRIORS[self.prior]

    @property
    def y_channels(self) -> int:
        """Channels of y."""
        return sum(self.slices)

    def context(self, planes: int) -> ContextConfig:
        """Return the sizes of the context model, given those of the hyper latent."""
        return ContextConfig(
            slices=self.slices,
            hyper=self.hyper,
            hyper_inputs=planes,
            hyper_width=self.hyper_width,
            channel_widths=(self.context_width,),
            mlp_widths=(self.context_width,),
        )


def describe(family: str, config: LatentConfig) -> str:
    """Return a weight file's metadata."""
    table = {"family": family, "config": dataclasses.asdict(config)}
    return json.dumps(table, sort_keys=True)


def describe_paper(
    family: str, parts: Mapping[str, DataclassInstance], steps: int | None = None
) -> str:
    """Return a weight file's metadata at the paper's scale.

    Args:
        family: Its family.
        parts: Sizes by name.
        steps: Steps that the networks were trained for, if for a certain number.
    """
    table = {name: dataclasses.asdict(part) for name, part in parts.items()}
    made_for = {} if steps is None else {"steps": steps}
    return json.dumps({"family": family, "preset": PAPER, **made_for, **table}, sort_keys=True)


def preset_of(metadata: str, family: str) -> str | None:
    """Return PAPER if that is what a weight file's metadata names, and None for a small preset.

    Raises:
        WeightsError: If the metadata isn't of this family, or names a preset that isn't known.
    """
    try:
        table = json.loads(metadata)
        found, preset = table.get("family"), table.get("preset")
    except (ValueError, AttributeError) as error:
        raise WeightsError("weight file does not say what it holds") from error
    if found != family:
        raise WeightsError(f"weight file is of family {found}, not {family}")
    if preset not in (None, PAPER):
        raise WeightsError(f"unknown preset {preset} of {family}", hint="it needs a newer cdcodec")
    return PAPER if preset == PAPER else None


def parse(metadata: str, family: str, kind: type[Config], part: str = "config") -> Config:
    """Return the sizes in a weight file's metadata; at the paper's scale it has several parts.

    Raises:
        WeightsError: If it isn't of this family or kind.
    """
    preset_of(metadata, family)
    try:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in json.loads(metadata)[part].items()
        }
        return kind(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"weight file does not hold a {kind.__name__}") from error
