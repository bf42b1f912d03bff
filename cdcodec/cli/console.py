"""What the commands say, and the options that all of them share.

stdout is data, stderr is talk: results and reports that were asked for go to stdout, and all else
to stderr. A report (`--json`) makes way to stderr when stdout carries a file.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdcodec.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task, TaskID
    from rich.text import Text

    from cdcodec.codec import DecoderInfo

PATH = click.Path()
"""A file name for the shell to complete; what is there is checked by `files`."""

BAR_DELAY_SECONDS = 1.0
LONG_SECONDS = 60.0
PACE_SECONDS = 2.0
"""A bar watches the work for so long before it estimates how long all of the work takes."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Finite(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions
    """A finite number."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the number; `nan` would slip through every comparison of a range."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class Number(_Finite, click.FloatRange):
    """A finite number of a range."""


class AnyNumber(_Finite, click.types.FloatParamType):
    """A finite number; the help of a range without ends would show its missing ends."""


_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*(?:([km])(i?))?b?", re.IGNORECASE)
_POWERS = {None: 0, "k": 1, "m": 2}
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?|mps")


def byte_count(text: str) -> int:
    """Read a number of bytes, with a decimal (k, M) or binary (KiB, MiB) unit if need be.

    Raises:
        click.BadParameter: It is no such number, or less than one.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise click.BadParameter(f"{text!r} is not a size such as 900, 10k, 1.5k or 2KiB")
    unit = match[2].lower() if match[2] else None
    size = int(Decimal(match[1]) * (1024 if match[3] else 1000) ** _POWERS[unit])
    if not 1 <= size < 1 << 53:
        raise click.BadParameter(f"{text!r} is too {'large' if size else 'small'}")
    return size


def device_name(text: str) -> str:
    """Check the spelling of a device; whether it is there, the library knows.

    Raises:
        click.BadParameter: No device is called so.
    """
    if not _DEVICE.fullmatch(text):
        raise click.BadParameter(f"{text!r} is none of auto, cpu, cuda, cuda:N and mps")
    return text


class HintedError(click.UsageError):
    """Wrong usage with a hint at the right one."""

    def __init__(self, message: str, hint: str | None, ctx: click.Context | None) -> None:
        super().__init__(message, ctx)
        self.hint = hint


class Group(click.Group):
    """Commands. A misspelt one is answered with the nearest one, and `help` means --help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `help COMMAND` as `COMMAND --help`."""
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names."""
        known = self.list_commands(ctx)
        if args[0] not in known and not ctx.resilient_parsing:
            raise HintedError(f"no such command {args[0]!r}", self.meant(args[0], known), ctx)
        return super().resolve_command(ctx, args)

    def meant(self, name: str, known: Sequence[str]) -> str | None:
        """Return a hint at what was meant by an unknown command."""
        near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
        return f"did you mean {near[0]}?" if near else None


@dataclass(frozen=True)
class Talk:
    """What a command tells its user.

    Attributes:
        quiet: Say nothing but errors.
        verbose: Say where the bits and the time went.
        json: Report for machines, and say nothing besides.
    """

    quiet: bool = False
    verbose: bool = False
    json: bool = False

    def say(self, line: str) -> None:
        """Write a line to stderr for people."""
        if not self.quiet and not self.json:
            click.echo(line, err=True)

    def note(self, text: str) -> None:
        """Write what the user should know, though all went well."""
        self.say(f"cdcodec: note: {text}")

    def detail(self, line: str) -> None:
        """Write a line to stderr for people who want to know more."""
        if self.verbose:
            self.say(f"  {line}")

    def bits(self, bits: Mapping[str, float]) -> None:
        """Detail the information content of each latent."""
        for line in bits_lines(bits):
            self.detail(line)

    def seconds(self, seconds: Mapping[str, float]) -> None:
        """Detail the time of each stage."""
        self.detail(", ".join(f"{stage} {value:.2f} s" for stage, value in seconds.items()))

    def report(self, values: Mapping[str, object], *, stdout_taken: bool = False) -> None:
        """Write one JSON object, if it was asked for."""
        if self.json:
            click.echo(json.dumps(values, indent=2), err=stdout_taken)

    def bar(self, label: str, *, unit: str | None = None, advice: str | None = None) -> Bar:
        """Return a progress bar, which stays away where nobody would see it.

        Args:
            label: What is being done.
            unit: What it counts, as "steps" or "bytes"; None if it is never called.
            advice: How to make the work quicker, may be empty. It ends the note that is written
                once the work is known to take over a minute; None writes no such note.
        """

        def warn(seconds: float) -> None:
            takes = f"{label} takes about {math.ceil(seconds / 60)} minutes"
            self.note(f"{takes}; {advice}" if advice else takes)

        seen = not self.quiet and not self.json and sys.stderr.isatty()
        return Bar(label, unit=unit, seen=seen, warn=warn if advice is not None else None)


class Bar:
    """A progress bar on stderr, drawn once the work has taken a second.

    Used as a context and called with (done, total). Before the first call it shows that something
    is happening. rich is imported when there is something to draw: short runs never wait for it.
    """

    def __init__(
        self,
        label: str,
        *,
        unit: str | None,
        seen: bool,
        warn: Callable[[float], None] | None = None,
    ) -> None:
        """Make a bar.

        Args:
            label: See Talk.bar; unit likewise.
            unit: What it counts.
            seen: Whether to draw anything.
            warn: Called with the seconds that all the work takes, once they are known, if they are
                more than LONG_SECONDS.
        """
        self._label = label
        self._unit = unit
        self._warn = warn
        self._start = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._drawn: tuple[Progress, TaskID] | None = None
        self._state: tuple[int, int] | None = None
        self._timer = threading.Timer(BAR_DELAY_SECONDS, self._draw) if seen else None

    def __enter__(self) -> Bar:
        """Start counting the time."""
        self._start = time.monotonic()
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._timer:
            self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._drawn:
                self._drawn[0].stop()

    def __call__(self, done: int, total: int) -> None:
        """Move the bar."""
        with self._lock:
            self._state = done, total
            if self._drawn:
                bar, task = self._drawn
                bar.update(task, completed=done, total=total)
        if self._warn:
            self._watch(self._warn, done, total)

    def _watch(self, warn: Callable[[float], None], done: int, total: int) -> None:
        """Warn if the pace since the first call makes the work long.

        What came before that call, loading for the most part, happens once and is no measure.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = done, now
            return
        first_done, first = self._first
        if now - first < PACE_SECONDS or done == first_done:
            return
        left = (now - first) / (done - first_done) * (total - done)
        if now - self._start + left > LONG_SECONDS and done < total:
            warn(now - self._start + left)
        self._warn = None

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        class TimeLeft(TimeRemainingColumn):
            def render(self, task: Task) -> Text:
                """Write the time, once it is known."""
                left = super().render(task)
                return left.append(" left") if any(map(str.isdigit, left.plain)) else left

        columns: list[ProgressColumn] = [TimeElapsedColumn()]
        if self._unit is not None:
            count = DownloadColumn() if self._unit == "bytes" else MofNCompleteColumn()
            columns = [count, TimeLeft(compact=True)]
        with self._lock:
            if self._closed:
                return
            bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                *columns,
                console=Console(stderr=True),
                transient=True,
                speed_estimate_period=3600,  # seconds; a step may take a minute
            )
            done, total = self._state or (0, None)
            self._drawn = bar, bar.add_task(self._label, completed=done, total=total)
            bar.start()


def talk_options(command: _Command) -> _Command:
    """Add -v, --quiet and --json, which arrive as verbose, quiet and as_json."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Say where bits and time went."),
        click.option("--quiet", is_flag=True, help="Say nothing but errors."),
        json_option,
    ):
        command = option(command)
    return command


json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Report as one JSON object on stdout (stderr if stdout takes the data).",
)


in_and_out = click.argument("names", metavar="IN [OUT]", nargs=-1, required=True, type=PATH)
"""IN, and OUT if the second name can only be OUT; see `split_names`."""

output_option = click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=PATH,
    help="File or directory to write; - is stdout.",
)
model_option = click.option(
    "--model",
    metavar="NAME|FILE",
    help="Weights to decode with, a name or a .safetensors file; default those of the file.",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    metavar="N",
    help="Seed of the noise; default 0. The same seed gives the same image.",
)
format_option = click.option(
    "--format",
    "format_name",
    metavar="png|webp|ppm|jpeg|tiff|bmp",
    help="Format of the image; default by the suffix of OUT, else png.",
)
max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    metavar="N",
    help="Refuse larger images; default 178,956,970.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")


def target_options(default: str = "") -> Callable[[_Command], _Command]:
    """Add --bpp, --size and --quality, which arrive under these names; see `check_targets`.

    Args:
        default: What is added to the help of --bpp.
    """

    def add(command: _Command) -> _Command:
        for option in (
            click.option(
                "-q",
                "--quality",
                type=Number(0, 100),
                metavar="F",
                help="Quality from 0, the model's smallest file, to 100, its largest. 75 is "
                "another scale than cwebp's: its file is far smaller.",
            ),
            click.option(
                "--size",
                type=byte_count,
                metavar="BYTES",
                help="Bytes that the file may take: 900, 10k, 2KiB.",
            ),
            click.option(
                "--bpp",
                type=Number(min=0, min_open=True),
                metavar="F",
                help=f"Bits per pixel that the file may take{default}.",
            ),
        ):
            command = option(command)
        return command

    return add


def split_names(
    names: Sequence[str], output: str | None, is_output: Callable[[Path], bool], several: str
) -> tuple[str, str | None]:
    """Return IN and OUT, which may stand just after IN or after -o.

    Args:
        names: The arguments that aren't options.
        output: The value of -o.
        is_output: Tells whether the second of two names can only be OUT.
        several: A hint at how to process several inputs.

    Raises:
        click.UsageError: There are several inputs, or two outputs.
        InputError: Both names are the same.
    """
    ctx = click.get_current_context()
    source, *others = names
    if not others:
        return source, output
    if [source] == others and source != "-":
        raise InputError(f"{source} is both input and output", hint="name another with -o")
    if len(others) > 1 or not (others[0] in ("", "-") or is_output(Path(others[0]))):
        which = " and ".join(names) if len(names) == 2 else str(len(names))
        message = f"{ctx.info_name} takes one file at a time, not {which}"
        raise HintedError(message, f"{several}; -o names the output", ctx)
    if output is not None:
        raise HintedError(f"the output is named twice, {others[0]} and -o {output}", None, ctx)
    return source, others[0]


def each_in_shell(suffix: str, command: str) -> str:
    """Return a hint at how a command that takes one file goes through a folder."""
    return f'in a shell: for file in FOLDER/*{suffix}; do cdcodec {command} "$file"; done'


def check_targets(*targets: float | None) -> None:
    """Check that --bpp, --size and --quality don't contradict each other.

    Raises:
        click.UsageError: More than one was given.
    """
    if sum(value is not None for value in targets) > 1:
        raise click.UsageError(
            "--bpp, --size and --quality exclude one another", click.get_current_context()
        )


def machine_options(command: _Command) -> _Command:
    """Add --device, which arrives as device, and --threads, which takes effect by itself."""
    command = click.option(
        "--threads",
        type=click.IntRange(1, 4096),
        metavar="N",
        is_eager=True,
        expose_value=False,
        callback=_set_threads,
        help="Threads of the CPU to use; all by default.",
    )(command)
    return click.option(
        "--device",
        type=device_name,
        default="auto",
        metavar="auto|cpu|cuda[:N]|mps",
        help="Where the networks run; auto takes the fastest there is.",
    )(command)


def _set_threads(_ctx: click.Context, _param: click.Parameter, threads: int | None) -> None:
    if threads is None:
        return
    # The libraries read these once, when they are loaded, which has not happened yet but in tests.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def error(message: str, hint: str | None) -> None:
    """Write an error to stderr, one line, and a line for what to do about it."""
    click.echo(f"cdcodec: error: {' '.join(message.splitlines())}", err=True)
    if hint:
        click.echo(f"hint: {' '.join(hint.splitlines())}", err=True)


def rounded(values: Mapping[str, float], digits: int) -> dict[str, float]:
    """Round the values of a report."""
    return {name: round(value, digits) for name, value in values.items()}


def decoder_fields(decoders: Mapping[str, DecoderInfo]) -> list[tuple[str, str]]:
    """Return rows of a table, two for each decoder: what it is, and what it takes."""
    fields = []
    for name, each in decoders.items():
        takes = each.range
        if each.min_steps < each.max_steps:
            takes += f", default {each.steps}"
        for option, value in (("stochasticity", each.stochasticity), ("guidance", each.guidance)):
            if value is not None:
                takes += f"; --{option}, default {value:g}"
        fields += [("decoder", f"{name}, {each.summary}"), ("", takes)]
    return fields


def bits_lines(bits: Mapping[str, float]) -> list[str]:
    """Return a line for each latent: name, bits, share of all."""
    total = sum(bits.values()) or 1.0
    rows = [(name, f"{value:,.0f} bits", f"{value / total:.1%}") for name, value in bits.items()]
    return table(rows, right=(1, 2))


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Align cells in columns, those in `right` to the right."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


@contextlib.contextmanager
def terminations() -> Iterator[None]:
    """Let the signals that end a process unwind it first, so that nothing is left half-written.

    A signal that was ignored (nohup) stays so.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def abandon_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush finds no closed pipe."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, sys.stdout.fileno())
        finally:
            os.close(nothing)
