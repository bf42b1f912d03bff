"""This package's models as contenders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from PIL import Image

from cdcodec import __version__, api, families, weights
from cdcodec.codec import Decoding, Pixels
from cdcodec.errors import InputError
from cdcodec.evaluation.contender import Compressed, Restored

_KINDS = {"decoder": str, "seed": int, "stochasticity": float, "guidance": float}
"""Options: those of `cdcodec decode` that change the picture, except the steps."""


class Model:
    """A weight set, with its reader's choices; see Contender."""

    suffix = ".cdc"
    takes_steps = True

    def __init__(self, name: str, options: Mapping[str, str], device: str) -> None:
        """Prepare to use a weight set; its networks are loaded when they are needed.

        Args:
            name: A weight set of the registry.
            options: By their names on the command line, without dashes.
            device: Where the networks run.

        Raises:
            InputError: If an option is unknown, or no number where one belongs.
            WeightsError: If the weights can't be had.
        """
        self.name = name
        self.label = name
        if options:
            self.label += ":" + ",".join(f"{key}={value}" for key, value in options.items())
        self.decoding = replace(_decoding(name, options), device=device)
        model_id = families.load_walk(name).model_id.hex()
        files = "-".join(file.sha256[:8] for file in weights.find(name).files)
        self.version = f"cdcodec {__version__}, model id {model_id}, weights {files}"

    def encode(self, pixels: Pixels, bpp: float) -> Compressed:
        """Compress a picture; see Contender."""
        families.load_codec(self.name, self.decoding.device)  # once a process, so no row's cost
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
        families.load_codec(self.name, self.decoding.device)
        decoded = api.decode(data, replace(self.decoding, steps=steps))
        return Restored(decoded.picture.pixels, decoded.seconds)


def _decoding(name: str, options: Mapping[str, str]) -> Decoding:
    values = {}
    for key, text in options.items():
        if key not in _KINDS:
            raise InputError(
                f"{name} has no option {key}", hint="it takes " + ", ".join(sorted(_KINDS))
            )
        try:
            values[key] = _KINDS[key](text)
        except ValueError as error:
            raise InputError(f"{key} of {name} must be a number, not {text}") from error
    return Decoding(**values)
