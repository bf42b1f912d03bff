"""The entry point: finds the command, and turns whatever goes wrong into a line and an exit code.

A command's module is imported only when it runs, and imports the codec only inside its function, so
that `--help`, usage errors and shell completion wait for nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from cdcodec.cli import console
from cdcodec.errors import CdcError

PROGRAM = "cdcodec"
COMPLETION_VARIABLE = "_CDCODEC_COMPLETE"

USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141

COMMANDS = {
    "encode": "Compress an image.",
    "decode": "Turn a compressed file back into an image.",
    "enhance": "Make another codec's picture look more natural.",
    "transcode": "Make a smaller file of a compressed one, without the original.",
    "info": "Say what a compressed file holds.",
    "weights": "List, fetch, add, verify and convert trained weights.",
    "eval": "Compare codecs on real files.",
    "train": "Train a model by a recipe.",
}
"""Name and summary of every command; `cli/NAME.py` has the command as `command`."""


ELSEWHERE: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    (
        frozenset({"--speed", "--effort", "-s", "-e"}),
        frozenset({"--overwrite"}),
        "there is one speed; cdcodec decode --steps N is quicker with fewer steps",
    ),
    (
        frozenset({"--jobs", "-j"}),
        frozenset({"--threads"}),
        "--threads N bounds the threads; without it all are used",
    ),
    (
        frozenset({"--lossless", "-l"}),
        frozenset({"--overwrite"}),
        "cdcodec is always lossy; for lossless files take PNG, WebP or JPEG XL",
    ),
    (
        frozenset({"--distance", "-d"}),
        frozenset({"--bpp"}),
        "--bpp, --size or --quality says how far to compress",
    ),
    (frozenset({"--force", "-f"}), frozenset({"--overwrite"}), "did you mean --overwrite?"),
)
"""Options of other image codecs; options that a command must have for the hint to fit; the hint."""


class LazyGroup(console.Group):
    """Commands that are listed without being imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"cdcodec.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def meant(self, name: str, known: Sequence[str]) -> str | None:
        """Return a hint at what was meant, be it a file without a command."""
        if hint := super().meant(name, known):
            return hint
        if os.path.isfile(name):
            verb = "decode" if name.endswith(".cdc") else "encode"
            return f"did you mean {PROGRAM} {verb} {name}?"
        return None


def _show_versions(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib import metadata

    from cdcodec import __version__
    from cdcodec.bitstream.container import FORMAT_VERSION

    try:
        torch = metadata.version("torch")  # asking torch itself would cost a second
    except metadata.PackageNotFoundError:
        torch = "missing"
    click.echo(f"{PROGRAM} {__version__}, format {FORMAT_VERSION}, torch {torch}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""
    \b
    cdcodec help COMMAND tells the options of a command. Examples:
      cdcodec encode photo.jpg --bpp 0.05      writes photo.cdc
      cdcodec decode photo.cdc -o again.png
      cdcodec encode - < photo.jpg | cdcodec decode - > again.png

    \b
    stdout carries data and stderr everything else. Exit codes:
      0 done             4 not a compressed file, or damaged    7 decoder out of step
      1 a bug of ours    5 needs a newer cdcodec              130 interrupted
      2 wrong usage      6 weights missing or wrong           141 stdout was closed
      3 unusable input

    \b
    Environment: CDCODEC_CACHE (folder of fetched weights), CDCODEC_OFFLINE=1 (never
    fetch), NO_COLOR. Shell completion, in the shell's start-up file:
      bash   eval "$(_CDCODEC_COMPLETE=bash_source cdcodec)"
      zsh    eval "$(_CDCODEC_COMPLETE=zsh_source cdcodec)"
      fish   _CDCODEC_COMPLETE=fish_source cdcodec | source
    """,
)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_versions,
    help="Show the versions of the package, the format and torch.",
)
def cli() -> None:
    """Compress photographs to very few bits, and decode them with diffusion."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; a bug of ours leaves as an exception."""
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, PROGRAM, COMPLETION_VARIABLE, instruction)
    args = sys.argv[1:] if args is None else args
    if sys.stderr is None:  # it was closed: messages are lost, and nothing else
        with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
            return main(args)
    try:
        with console.terminations():
            return _run(list(args))
    except CdcError as error:
        console.error(error.message, error.hint)
        return error.exit_code
    except click.UsageError as error:
        console.error(_lower(error), _usage_hint(error))
        return USAGE
    except KeyboardInterrupt:
        console.error("interrupted", None)
        return INTERRUPTED
    except BrokenPipeError:
        console.abandon_stdout()
        return BROKEN_PIPE


def _run(args: list[str]) -> int:
    try:
        # Not cli.main, which has its own ideas of broken pipes and interruptions.
        with cli.make_context(PROGRAM, args) as ctx:
            if not args:
                click.echo(ctx.get_help(), err=True)
                return USAGE
            cli.invoke(ctx)
    except click.exceptions.Exit as exit:
        return exit.exit_code
    finally:
        # Else a closed pipe shows only after main, as a traceback of the interpreter.
        if sys.stdout is not None:
            sys.stdout.flush()
    return 0


def _lower(error: click.UsageError) -> str:
    """Return click's message in our style: lower case, no full stop, one line."""
    message = error.message if isinstance(error, click.NoSuchOption) else error.format_message()
    message = " ".join(message.split()).rstrip(".")
    return message[:1].lower() + message[1:]


def _usage_hint(error: click.UsageError) -> str | None:
    if isinstance(error, console.HintedError) and error.hint:
        return error.hint
    if isinstance(error, click.NoSuchOption) and error.ctx:
        known = {option for each in error.ctx.command.params for option in each.opts}
        for options, needed, hint in ELSEWHERE:
            if error.option_name in options and needed <= known:
                return hint
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        return f"did you mean {' or '.join(sorted(error.possibilities))}?"
    return f"see {error.ctx.command_path} --help" if error.ctx else None


if __name__ == "__main__":
    sys.exit(main())
