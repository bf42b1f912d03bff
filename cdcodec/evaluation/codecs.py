"""Every codec that can be measured, by the words that specify it."""

from __future__ import annotations

import difflib

from cdcodec import families, models, weights
from cdcodec.errors import InputError
from cdcodec.evaluation import anchors, commands
from cdcodec.evaluation.contender import Contender
from cdcodec.evaluation.own import Model


def create(specification: str, device: str = "auto") -> Contender:
    """Return the codec that NAME or NAME:OPTION=VALUE,OPTION=VALUE specifies, or two commands.

    Raises:
        InputError: If there is no such codec or option; Unavailable, a kind of it, if it can't run
            here.
        WeightsError: If its weights can't be had.
    """
    if commands.is_specified(specification):
        own = commands.Commands(specification)
        if own.label in (*anchors.NAMES, *weights.load_registry()):
            raise InputError(f"{own.label} is the name of another codec", hint="choose another")
        return own
    name, _, text = specification.partition(":")
    options: dict[str, str] = {}
    for part in text.split(",") if text else ():
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise InputError(f"options of {name} are NAME=VALUE, not {part or 'nothing'}")
        options[key] = value
    if name in anchors.NAMES:
        return anchors.create(name, options)
    sets = [s.name for s in weights.load_registry().values() if s.family in families.FAMILIES]
    if name not in sets and not models.is_path(name):
        known = [*sets, *anchors.NAMES]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        hint += f"; any other codec is {commands.HOW}"
        raise InputError(f"no codec is called {name}", hint=hint)
    return Model(name, options, device)
