"""`cdcodec weights`: the registry of trained weights, and the files behind it."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdcodec.cli import console, files
from cdcodec.cli.console import PATH, Talk
from cdcodec.errors import InputError, WeightsError

if TYPE_CHECKING:
    from cdcodec.weights import WeightFile, WeightSet


def _complete_names(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from cdcodec import weights

    return [name for name in weights.load_registry() if name.startswith(incomplete)]


_names = click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=_complete_names
)


@click.group(
    cls=console.Group,
    short_help="List, fetch, add, verify and convert trained weights.",
    no_args_is_help=False,
)
def command() -> None:
    """Look after trained weights.

    What ships with cdcodec works at once. Sets with an https address, of which there are none so
    far, are fetched into a cache when they are first used, or by `fetch`; `add` takes those that
    only you can get. Each file is trusted for its sha256 only. CDCODEC_CACHE names the folder of
    the cache, and CDCODEC_OFFLINE=1 forbids fetching.
    """


@command.command("list", short_help="List the known weights.")
@console.json_option
def list_sets(as_json: bool) -> None:
    """List the known weights, and whether they are on this machine.

    "from" is where the others come from: `fetch` gets them from an https address, and what `show`
    says is to be done for the rest.
    """
    from cdcodec import weights

    sets = weights.load_registry().values()
    if as_json:
        Talk(json=True).report({"weights": [_report(each) for each in sets]})
        return
    rows = [("name", "family", "preset", "size", "here", "licence", "from")]
    rows += [
        (
            each.name,
            each.family,
            each.preset,
            _size(each),
            "yes" if _is_here(each) else "no",
            each.licence,
            _origin(each),
        )
        for each in sets
    ]
    click.echo("\n".join(console.table(rows, right=(3,))))


@command.command(short_help="Say all about one set of weights.")
@click.argument("name", metavar="NAME", shell_complete=_complete_names)
@console.json_option
def show(name: str, as_json: bool) -> None:
    """Say all that the registry knows about the weights NAME."""
    from cdcodec import families, weights

    chosen = weights.find(name)
    decoders = families.decoders(chosen)
    if as_json:
        listed = {key: asdict(each) for key, each in decoders.items()}
        Talk(json=True).report({**_report(chosen), "decoders": listed})
        return
    fields = [
        ("name", chosen.name),
        ("family", f"{chosen.family}, preset {chosen.preset}"),
        ("model id", chosen.model_id or "none"),
        ("licence", chosen.licence),
        ("source", chosen.source),
        ("here", "yes" if _is_here(chosen) else "no"),
    ]
    if chosen.base:
        fields.insert(2, ("base", chosen.base))
    for file in chosen.files:
        fields += [
            ("file", f"{file.name}, {_length(file)}, {file.location}"),
            ("", f"sha256 {file.sha256 or 'unknown'}"),
        ]
    if hint := _way_to(chosen):
        fields.append(("to get it", hint))
    fields += console.decoder_fields(decoders)
    fields += [(key, f"{value:g}") for key, value in chosen.measured.items()]
    click.echo("\n".join(console.table(fields)))


@command.command(short_help="Download weights into the cache.")
@_names
@console.talk_options
def fetch(names: tuple[str, ...], verbose: bool, quiet: bool, as_json: bool) -> None:
    """Download the weights NAME into the cache, and print the paths of their files.

    Only sets with an https address are downloaded; `list` shows who has one.
    """
    from cdcodec import weights

    talk = Talk(quiet, verbose, as_json)
    for name in names:
        found = weights.find(name)  # a misspelt name shows before the first download
        if found.files[0].location == weights.BUNDLED:
            talk.note(f"{name} ships with cdcodec: there is nothing to fetch")
    paths = {}
    for name in names:
        with talk.bar(f"fetching {name}", unit="bytes") as bar:
            paths[name] = weights.fetch(name, bar)
        talk.detail(f"{name}: {len(paths[name])} files, verified")
    _print_paths(talk, paths)


@command.command(short_help="Check the files of weights.")
@_names
@console.talk_options
def verify(names: tuple[str, ...], verbose: bool, quiet: bool, as_json: bool) -> None:
    """Hash every file of the weights NAME, and print the paths of those files.

    Exits with 6 if one is missing or isn't what the registry says.
    """
    from cdcodec import weights

    talk = Talk(quiet, verbose, as_json)
    paths = {}
    for name in names:
        with talk.bar(f"verifying {name}"):
            paths[name] = weights.verify(name)
        talk.detail(f"{name}: {len(paths[name])} files, verified")
    _print_paths(talk, paths)


@command.command(short_help="Keep a file of your own for weights that can't be fetched.")
@click.argument("name", metavar="NAME", shell_complete=_complete_names)
@click.argument("source", metavar="FILE", type=PATH)
@console.talk_options
def add(name: str, source: str, verbose: bool, quiet: bool, as_json: bool) -> None:
    """Copy FILE into the cache as the weights NAME, and print the path of the copy.

    For weights of location "local". FILE must be what the registry says, to the byte; where it says
    nothing, FILE is taken as it is, and no other file later. If FILE is a folder, a copy of the
    repository that the weights come from, all of their files that it has are added.
    """
    from cdcodec import weights

    talk = Talk(quiet, verbose, as_json)
    if source == files.STANDARD:
        raise InputError("weights must be a file")
    folder = Path(source)
    if not folder.is_dir():
        files.source(source)
    with talk.bar(f"adding {name}"):
        if folder.is_dir():
            kept = [*weights.add_folder(name, folder), *_prompt(name, folder)]
        else:
            kept = [weights.add(name, folder)]
    talk.detail(f"{name}: {len(kept)} files, verified")
    _print_paths(talk, {name: kept})


def _prompt(name: str, folder: Path) -> list[Path]:
    """Add the empty prompt's embedding, made from the text encoder of Stable Diffusion."""
    from cdcodec import weights

    prompt = next(
        (file for file in weights.find(name).files if file.path == "empty_prompt.safetensors"), None
    )
    if prompt is None or (folder / prompt.path).is_file() or not (folder / "text_encoder").is_dir():
        return []
    # Made anew it may differ in a last bit, and then it would be another file.
    with contextlib.suppress(WeightsError):
        weights.verify_file(weights.cache_dir() / "sha256" / prompt.sha256, prompt)
        return []
    from cdcodec.nn.stable_diffusion_prompt import prompt_file

    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / prompt.name
        path.write_bytes(prompt_file(folder))
        return [weights.add(name, path)]


@command.command(short_help="Make weights of an author's checkpoint.")
@click.argument("source", metavar="CHECKPOINT", type=PATH)
@click.option("--name", metavar="NAME", required=True, help="What to call the weights.")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=PATH,
    help="Folder that NAME.safetensors is written to and stays in; default the cache.",
)
@click.option(
    "--family",
    metavar="FAMILY",
    help="Family of the checkpoint; default that of the weights NAME if there are any, else cdc.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 250),
    metavar="N",
    help="Steps that an RDEIC checkpoint is made for; default what its name says (…step2), else 5.",
)
@click.option("--overwrite", is_flag=True, help="Replace weights that were converted as NAME.")
@console.talk_options
def convert(
    source: str,
    name: str,
    output: str | None,
    family: str | None,
    steps: int | None,
    overwrite: bool,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make weights of a CHECKPOINT that the authors of a method published.

    `encode --model NAME` uses them from then on, and `decode` finds them for files that name them.
    Who is to decode those must convert the same checkpoint.

    Nothing in the checkpoint is executed: only tensors are read.
    """
    from cdcodec import families, weights

    talk = Talk(quiet, verbose, as_json)
    if source == files.STANDARD:
        raise InputError("a checkpoint must be a file")
    files.source(source)
    family = family or _family_of(name)
    converter = _converter(family)
    made_for: dict[str, int | None] = {}
    if hasattr(converter, "steps_of"):
        made_for["steps"] = steps or converter.steps_of(Path(source).name)
    elif steps is not None:
        raise InputError(f"checkpoints of {family} are for any number of steps: leave --steps out")
    target = files.target(source, _own_file(name, output, overwrite), "", overwrite=overwrite)
    with talk.bar("converting"):
        data = converter.weight_file(converter.read_checkpoint(Path(source)), **made_for)
    with target.open() as fp:
        fp.write(data)
    path = Path(os.path.abspath(target.name))
    made = weights.WeightSet(
        name=name,
        family=family,
        preset="paper",
        licence=getattr(converter, "LICENCE", "that of the checkpoint"),
        source=f"converted from {click.format_filename(Path(source).name)}",
        model_id=families.open_walk(family, path).model_id.hex(),
        files=(weights.WeightFile(path.name, weights.sha256_of(path), len(data), os.fspath(path)),),
    )
    weights.register(weights.own_registry_path(), made)
    talk.say(
        f"{name}: {target.name}, {_megabytes(len(data))}, model id {made.model_id}, "
        f"licence: {made.licence}"
    )
    talk.report({"input": source, "output": target.name, **_report(made)})


def _own_file(name: str, folder: str | None, overwrite: bool) -> str:
    """Return where converted weights go.

    Raises:
        InputError: The name is taken.
        WeightsError: The name isn't plain.
    """
    from cdcodec import weights

    weights.check_name(name)
    installed, known = weights.load_registry(weights.registry_path()), weights.load_registry()
    if name in installed and all(file.sha256 for file in installed[name].files):
        raise InputError(f"{name} is the name of weights of ours", hint="choose another --name")
    if name in known and known[name] != installed.get(name) and not overwrite:
        raise InputError(f"weights {name} exist already", hint="--overwrite replaces them")
    if folder is None:
        folder = os.fspath(weights.cache_dir())
        with contextlib.suppress(OSError):  # files.target says what is wrong
            os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, f"{name}.safetensors")


def _family_of(name: str) -> str:
    """Return which family known weights of that name are of, or the first one."""
    from cdcodec import weights

    known = weights.load_registry().get(name)
    return known.family if known else "cdc"


def _converter(family: str) -> Any:
    """Import the module `convert` of a family: read_checkpoint(path), weight_file(tensors).

    If all checkpoints have the same licence, it says so as LICENCE. If each is made for a number of
    steps, it has steps_of(name of the checkpoint), and weight_file takes `steps`.
    """
    from cdcodec.families import FAMILIES

    if family not in FAMILIES:
        raise click.BadParameter(
            f"{family!r} is none of {', '.join(FAMILIES)}",
            click.get_current_context(),
            param_hint="--family",
        )
    module = f"{FAMILIES[family].module}.convert"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise WeightsError(f"no checkpoints of family {family} can be converted") from error


def _report(weight_set: WeightSet) -> dict[str, Any]:
    return {**asdict(weight_set), "bytes": weight_set.bytes, "here": _is_here(weight_set)}


def _is_here(weight_set: WeightSet) -> bool:
    from cdcodec import weights

    try:
        weights.resolve(weight_set.name, offline=True)
    except WeightsError:
        return False
    return True


def _print_paths(talk: Talk, paths: dict[str, list[Path]]) -> None:
    if talk.json:
        talk.report({name: [str(path) for path in found] for name, found in paths.items()})
        return
    for path in (path for found in paths.values() for path in found):
        click.echo(click.format_filename(path))


def _origin(weight_set: WeightSet) -> str:
    """Return in few words where weights come from."""
    from cdcodec import weights

    location = weight_set.files[0].location
    if location == weights.LOCAL:
        # A source names the people and the place: an address has a dot before a slash.
        address = re.search(r"[\w-]+(?:\.[\w-]+)+/[^\s,;]+", weight_set.source)
        return address.group() if address else "see weights show"
    if location.startswith("https://"):
        return location.removeprefix("https://").partition("/")[0]
    return "this package" if location == weights.BUNDLED else "this machine"


def _way_to(weight_set: WeightSet) -> str:
    """Return what to run for weights that aren't here, or nothing."""
    from cdcodec import weights

    if _is_here(weight_set):
        return ""
    location = weight_set.files[0].location
    if location.startswith("https://"):
        return f"cdcodec weights fetch {weight_set.name}"
    if location != weights.LOCAL:
        return ""
    if weight_set.preset == "paper":
        name, family = weight_set.name, weight_set.family
        return f"cdcodec weights convert CHECKPOINT --family {family} --name {name}"
    several = len(weight_set.files) > 1
    return f"cdcodec weights add {weight_set.name} {'FOLDER' if several else 'FILE'}"


def _length(file: WeightFile) -> str:
    return f"{file.bytes:,} bytes" if file.bytes else "length unknown"


def _size(weight_set: WeightSet) -> str:
    """Return the length of all files together, as far as it is known."""
    known = [file.bytes for file in weight_set.files if file.bytes]
    more = "+" if known and len(known) < len(weight_set.files) else ""
    return _megabytes(sum(known)) + more if known else "?"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
