"""Recipes: what to train, on what, for how long. TOML in, frozen dataclasses out."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cdcodec.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Config = TypeVar("Config")


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        model: Weight set that it makes, a name of the registry.
        preset: Sizes of the networks, where training starts from nothing.
        objective: Name of the family's objective.
        init: "random", "bundled" (go on from the package's weights) or a weight file's path.
        data: Folder or glob of photographs, relative to the recipe.
        crop: Side of the crops in pixels.
        batch: Crops an update.
        steps: Updates, unless a time limit ends training first.
        learning_rate: Adam's, at its highest.
        warmup_steps: Updates over which it rises from zero.
        final_fraction: What a cosine brings it down to at the end, relative to the highest.
        ema: Decay of the weights' moving average, which is what is exported.
        clip: Largest norm of the gradient.
        seed: Of crops, noise and rate positions.
        objective_options: Fields of the objective's own configuration.
    """

    model: str
    objective: str
    data: str
    preset: str = "nano"
    init: str = "bundled"
    crop: int = 192
    batch: int = 8
    steps: int = 10_000
    learning_rate: float = 4e-4
    warmup_steps: int = 200
    final_fraction: float = 0.03
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    objective_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


RECIPES = Path(__file__).parent / "recipes"
"""The recipes of the bundled weights."""


def find(name: str) -> Path:
    """Return the file of a recipe: one at this path, or the bundled one of this name.

    Raises:
        InputError: There is neither; the hint has the nearest name, and all.
    """
    if Path(name).is_file():
        return Path(name)
    bundled = {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}
    wanted = Path(name).name.removesuffix(".toml")
    if name in (wanted, f"{wanted}.toml") and wanted in bundled:
        return bundled[wanted]
    near = difflib.get_close_matches(wanted, bundled, 1, cutoff=0.5)
    meant = f"did you mean {near[0]}? " if near else ""
    raise InputError(
        f"no recipe has the name {name}, neither a file nor a bundled one",
        hint=f"{meant}the recipes that come with cdcodec are {', '.join(bundled)}",
    )


def is_bundled(path: Path) -> bool:
    """Tell whether a recipe came with the package, without the files that its paths name."""
    return path.resolve().parent == RECIPES.resolve()


def load(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        InputError: If the file can't be read, or has keys that mean nothing.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read recipe {path}: {error}") from error
    return fill(Recipe, table, f"recipe {path.name}")


def fill(kind: type[Config], table: Mapping[str, Any], what: str) -> Config:
    """Make a dataclass of a TOML table.

    Raises:
        InputError: If a key is unknown or missing, or a value has the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            raise InputError(
                f"{what} has an unknown key {key}",
                hint=f"did you mean {near[0]}?" if near else None,
            )
    missing = [
        f.name
        for f in fields.values()
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in table
    ]
    if missing:
        raise InputError(f"{what} lacks {', '.join(missing)}")
    values = {}
    for key, value in table.items():
        default = fields[key].default
        if isinstance(default, float) and isinstance(value, int):
            value = float(value)
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        if default is not dataclasses.MISSING and type(value) is not type(default):
            raise InputError(f"{what}: {key} is not a {type(default).__name__}")
        values[key] = value
    return kind(**values)
