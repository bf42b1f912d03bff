"""This package's models as contenders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

from PIL import Image

from cdcodec import __version__, api, families, models, weights
from cdcodec.codec import Decoding, Pixels
from cdcodec.errors import InputError
from cdcodec.evaluation.contender import Compressed, Restored, label

_KINDS = {"decoder": str, "seed": int, "stochasticity": float, "guidance": float}
"""Options: those of `cdcodec decode` that change the picture; steps are a list, see below."""

STEPS_BETWEEN = "/"
"""Numbers of steps are separated by this, as commas separate options: steps=0/2/5."""


class Model:
    """A weight set, with its reader's choices; see Contender."""

    suffix = ".cdc"
    takes_steps = True
    steps: tuple[int, ...] = ()

    def __init__(self, name: str, options: Mapping[str, str], device: str) -> None:
        """Prepare to use a weight set; its networks are loaded when they are needed.

        Args:
            name: A weight set of the registry, or the path of a weight file.
            options: By their names on the command line, without dashes.
            device: Where the networks run.

        Raises:
            InputError: If an option is unknown, or its value can't be.
            WeightsError: If the weights can't be had.
        """
        self.name = name
        self.weights = models.choose(name)
        options = dict(options)
        if "steps" in options:
            self.steps = _steps(name, options.pop("steps"))
        self.options = options
        self.label = label(name, options)
        self.decoding = replace(_decoding(name, options), device=device)
        decoders = families.decoders(self.weights)
        chosen = self.decoding.decoder or next(iter(decoders))
        if chosen not in decoders:
            raise InputError(
                f"{name} has no decoder {chosen}", hint=f"it has {', '.join(decoders)}"
            )
        api.resolve(self.decoding, decoders, decoders[chosen].steps)
        model_id = families.load_walk(self.weights).model_id.hex()
        base = weights.find(self.weights.base).files if self.weights.base else ()
        files = "-".join(file.sha256[:8] for file in (*self.weights.files, *base))
        runs_on = f"torch {metadata.version('torch')}, {device}"
        self.version = f"cdcodec {__version__}, model id {model_id}, weights {files}, {runs_on}"

    def check_steps(self, steps: Sequence[int]) -> None:
        """Compare with what the decoder takes, for which the networks are loaded; see Contender."""
        decoders = families.load_codec(self.weights, self.decoding.device).decoders
        name = self.decoding.decoder or next(iter(decoders))
        fewest, most = decoders[name].min_steps, decoders[name].max_steps
        fitting = [number for number in steps if fewest <= number <= most]
        wrong = [str(number) for number in steps if number not in fitting]
        if not wrong:
            return
        takes = f"{fewest} to {most}" if fewest < most else f"only {fewest}"
        instead = STEPS_BETWEEN.join(map(str, fitting or [decoders[name].steps]))
        raise InputError(
            f"decoder {name} of {self.name} takes {takes} steps, not {', '.join(wrong)}",
            hint=f"try --codec {label(self.name, {**self.options, 'steps': instead})}",
        )

    def encode(self, pixels: Pixels, bpp: float) -> Compressed:
        """Compress a picture; see Contender."""
        families.load_codec(self.weights, self.decoding.device)  # once a process, no row's cost
        encoded = api.encode(
            Image.fromarray(pixels),
            bpp=bpp,
            model=self.name,
            metadata="none",
            device=self.decoding.device,
        )
        return Compressed(encoded.data, f"point={encoded.point}", encoded.seconds)

    def decode(self, data: bytes, steps: int | None) -> Restored:
        """Decode a file; see Contender."""
        families.load_codec(self.weights, self.decoding.device)
        decoded = api.decode(data, replace(self.decoding, steps=steps), model=self.name)
        return Restored(decoded.picture.pixels, decoded.seconds)


def _steps(name: str, text: str) -> tuple[int, ...]:
    try:
        steps = tuple(map(int, text.split(STEPS_BETWEEN)))
    except ValueError:
        steps = (-1,)
    if min(steps) < 0 or len(set(steps)) < len(steps):
        raise InputError(f"steps of {name} must be numbers as in 0/2/5, not {text}")
    return tuple(sorted(steps))


def _decoding(name: str, options: Mapping[str, str]) -> Decoding:
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in _KINDS:
            raise InputError(
                f"{name} has no option {key}",
                hint="it takes " + ", ".join(sorted([*_KINDS, "steps"])),
            )
        try:
            values[key] = _KINDS[key](text)
        except ValueError as error:
            raise InputError(f"{key} of {name} must be a number, not {text}") from error
    decoding = Decoding(**values)
    gamma = decoding.stochasticity
    if not 0 <= decoding.seed < 1 << 64 or not (gamma is None or 0 <= gamma < math.inf):
        raise InputError(f"no such options of {name}: {', '.join(map('='.join, options.items()))}")
    return decoding
