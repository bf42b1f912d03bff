"""The command line: data on stdout, talk on stderr, whole files or none, an exit code a fault.

Most tests run `main` in this process on a codec that is faked; those at the end use the real one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image
from skimage import data

import cdcodec
from cdcodec import __version__, api, image, weights
from cdcodec.bitstream import Chunk, ChunkType, Container, Header, write
from cdcodec.cli import console
from cdcodec.cli.__main__ import COMMANDS, cli, main
from cdcodec.codec import Decoding
from cdcodec.errors import (
    BitstreamError,
    CdcError,
    DesyncError,
    InputError,
    UnsupportedError,
    WeightsError,
)

COMPRESSED = b"\xcd not really compressed"
SOUND = write(Container(Header(1, bytes(4), 40, 30, 7, 5), (Chunk(ChunkType.LATENTS, bytes(9)),)))


@dataclass
class FakeCodec:
    """What api.encode and api.decode were asked, and what they do about it."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    failure: BaseException | None = None
    meanwhile: Callable[[], object] = lambda: None

    def encode(self, source: Any, **options: Any) -> api.Encoded:
        self._record(source, options)
        return api.Encoded(
            data=COMPRESSED,
            width=40,
            height=30,
            model=options.get("model", "cdc-nano"),
            family="cdc",
            point=7,
            target_bpp=options["bpp"],
            bits={"z": 25.0, "y": 75.0},
            seconds={"read": 0.25, "code": 0.5},
            notes=self.notes,
        )

    def decode(
        self, source: Any, decoding: Decoding, *, progress: Any, **options: Any
    ) -> api.Decoded:
        self._record(source, {"decoding": decoding, **options})
        progress(1, 2)
        progress(2, 2)
        return api.Decoded(
            picture=image.Picture(np.full((30, 40, 3), 90, np.uint8)),
            model="cdc-nano",
            family="cdc",
            decoder="ddim",
            steps=decoding.steps or 5,
            seed=decoding.seed,
            device="cpu",
            seconds={"entropy": 0.25, "synthesise": 0.5},
        )

    def _record(self, source: Any, options: dict[str, Any]) -> None:
        content = source.read() if hasattr(source, "read") else Path(source).read_bytes()
        self.calls.append({"source": content, **options})
        self.meanwhile()
        if self.failure:
            raise self.failure


class Pipe:
    """A stream with bytes beneath, as sys.stdin and sys.stdout are."""

    def __init__(self, content: bytes = b"", *, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(content)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        return self.buffer.write(text.encode())

    def flush(self) -> None:
        pass


class ClosedPipe(Pipe):
    """stdout of a process whose reader has gone."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = self  # type: ignore[assignment]

    def write(self, text: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def fileno(self) -> int:
        raise io.UnsupportedOperation


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCodec:
    codec = FakeCodec()
    monkeypatch.setattr(api, "encode", codec.encode)
    monkeypatch.setattr(api, "decode", codec.decode)
    return codec


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a picture and a compressed file."""
    monkeypatch.chdir(tmp_path)
    # Child processes start here, from where an uninstalled checkout isn't found.
    monkeypatch.setenv("PYTHONPATH", str(Path(cdcodec.__file__).parents[1]))
    Image.new("RGB", (40, 30), "teal").save("photo.png")
    Path("small.cdc").write_bytes(COMPRESSED)
    return tmp_path


def listing(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what went to stderr, and insist that nothing went to stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


# ---- names and files


def test_encode_writes_beside_its_input(fake: FakeCodec) -> None:
    original = Path("photo.png").read_bytes()
    assert main(["encode", "photo.png"]) == 0
    assert Path("photo.cdc").read_bytes() == COMPRESSED
    assert fake.calls[0]["source"] == original


def test_decode_writes_png_beside_its_input(fake: FakeCodec) -> None:
    assert main(["decode", "small.cdc"]) == 0
    with Image.open("small.png") as img:
        assert (img.format, img.size) == ("PNG", (40, 30))


def test_a_directory_as_output_takes_a_file_of_the_same_name(fake: FakeCodec, folder: Path) -> None:
    (folder / "there").mkdir()
    assert main(["encode", "photo.png", "-o", "there"]) == 0
    assert main(["decode", "small.cdc", "-o", "there/", "--format", "webp"]) == 0
    assert sorted(p.name for p in (folder / "there").iterdir()) == ["photo.cdc", "small.webp"]


@pytest.mark.parametrize(
    ("options", "written", "format"),
    [
        (["-o", "x.webp"], "x.webp", "WEBP"),
        (["-o", "x.JPG"], "x.JPG", "JPEG"),
        (["-o", "x"], "x", "PNG"),
        (["--format", "jpg"], "small.jpg", "JPEG"),
        (["--format", "ppm", "-o", "x.png"], "x.png", "PPM"),
    ],
)
def test_the_format_is_the_named_one_or_that_of_the_suffix_or_png(
    fake: FakeCodec, options: list[str], written: str, format: str
) -> None:
    assert main(["decode", "small.cdc", *options]) == 0
    with Image.open(written) as img:
        assert img.format == format


def test_a_suffix_of_no_writable_format_is_refused_before_any_work(
    fake: FakeCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decode", "small.cdc", "-o", "x.gif"]) == 3
    assert "hint: give it with --format: png, webp" in said(capsys)
    assert fake.calls == []


def test_existing_files_are_kept_unless_overwrite(
    fake: FakeCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photo.cdc").write_bytes(b"precious")
    assert main(["encode", "photo.png"]) == 3
    assert said(capsys).startswith("cdcodec: error: photo.cdc exists already\nhint: --overwrite")
    assert Path("photo.cdc").read_bytes() == b"precious"
    assert fake.calls == []
    assert main(["encode", "photo.png", "--overwrite"]) == 0
    assert Path("photo.cdc").read_bytes() == COMPRESSED


def test_a_file_that_appears_during_the_work_is_kept_too(fake: FakeCodec, folder: Path) -> None:
    fake.meanwhile = lambda: Path("photo.cdc").write_bytes(b"precious")
    assert main(["encode", "photo.png"]) == 3
    assert listing(folder)["photo.cdc"] == b"precious"
    assert len(listing(folder)) == 3


@pytest.mark.parametrize("alias", ["photo", "./photo", "linked"])
def test_input_and_output_cannot_be_the_same_file(
    fake: FakeCodec, capsys: pytest.CaptureFixture[str], folder: Path, alias: str
) -> None:
    (folder / "photo.png").rename(folder / "photo")
    (folder / "linked").symlink_to("photo")
    before = listing(folder)
    assert main(["encode", "photo", "-o", alias, "--overwrite"]) == 3
    assert "photo is both input and output" in said(capsys)
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["encode", "no.png"], "cannot read no.png: no such file"),
        (["encode", ""], "cannot read '': no such file"),
        (["encode", "."], "cannot read .: it is a directory"),
        (["decode", "."], "cannot read .: it is a directory"),
        (["info", "no.cdc"], "cannot read no.cdc: no such file"),
        (["encode", "photo.png", "-o", "no/x.cdc"], "cannot write no/x.cdc: there is no folder no"),
        (["encode", "photo.png", "-o", "no/"], "there is no folder no/"),
        (["encode", "photo.png", "-o", ""], "the name of the output is empty"),
        (["train", "no.toml"], "no recipe has the name no.toml, neither a file nor a bundled one"),
    ],
)
def test_files_that_cannot_be_used_are_one_line_and_exit_3(
    fake: FakeCodec, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    assert main(args) == 3
    lines = said(capsys).splitlines()
    assert lines[0] == f"cdcodec: error: {message}"
    assert [line[:6] for line in lines[1:]] in ([], ["hint: "])
    assert fake.calls == []


def test_an_output_that_cannot_be_written_is_an_input_error(
    fake: FakeCodec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert main(["encode", "photo.png"]) == 3
    assert "cannot write photo.cdc: No space left on device" in said(capsys)


@pytest.mark.parametrize(
    ("failure", "code"), [(KeyboardInterrupt(), 130), (InputError("disk on fire"), 3)]
)
def test_a_failure_while_writing_leaves_everything_as_it_was(
    fake: FakeCodec,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    code: int,
) -> None:
    def fail(_part: object, _path: object) -> None:
        assert any(name.endswith(".part") for name in listing(folder))
        raise failure

    (folder / "photo.cdc").write_bytes(b"precious")
    before = listing(folder)
    monkeypatch.setattr(os, "replace", fail)
    assert main(["encode", "photo.png", "--overwrite"]) == code
    assert listing(folder) == before


def test_an_interruption_during_the_work_exits_130_and_leaves_nothing(
    fake: FakeCodec, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = listing(folder)
    fake.failure = KeyboardInterrupt()
    assert main(["decode", "small.cdc"]) == 130
    assert said(capsys) == "cdcodec: error: interrupted\n"
    assert listing(folder) == before


@pytest.mark.skipif(os.name == "nt", reason="links and modes of POSIX")
def test_overwriting_keeps_links_and_modes(fake: FakeCodec, folder: Path) -> None:
    (folder / "real.cdc").write_bytes(b"old")
    (folder / "real.cdc").chmod(0o640)
    (folder / "link.cdc").symlink_to("real.cdc")
    assert main(["encode", "photo.png", "-o", "link.cdc", "--overwrite"]) == 0
    assert (folder / "link.cdc").is_symlink()
    assert (folder / "real.cdc").read_bytes() == COMPRESSED
    assert stat.S_IMODE((folder / "real.cdc").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_a_new_file_has_the_mode_that_the_umask_asks_for(fake: FakeCodec, folder: Path) -> None:
    before = os.umask(0o027)
    try:
        assert main(["encode", "photo.png"]) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "photo.cdc").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name == "nt", reason="/dev/null")
def test_a_device_is_written_to_and_not_replaced(fake: FakeCodec) -> None:
    assert main(["encode", "photo.png", "-o", "/dev/null"]) == 0
    assert not stat.S_ISREG(os.stat("/dev/null").st_mode)


# ---- pipelines


def test_stdin_goes_to_stdout(fake: FakeCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Pipe()
    monkeypatch.setattr(sys, "stdin", Pipe(b"picture"))
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["encode", "-", "-v"]) == 0
    assert fake.calls[0]["source"] == b"picture"
    assert out.buffer.getvalue() == COMPRESSED


def test_json_makes_way_to_stderr_when_stdout_carries_data(
    fake: FakeCodec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Pipe()
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["decode", "small.cdc", "-o", "-", "--json", "-v"]) == 0
    with Image.open(io.BytesIO(out.buffer.getvalue())) as img:
        assert img.format == "PNG"
    assert json.loads(capsys.readouterr().err)["output"] == "-"


@pytest.mark.parametrize("args", [["encode", "photo.png", "-o", "-"], ["decode", "-"]])
def test_binary_is_not_written_to_a_terminal(
    fake: FakeCodec,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
) -> None:
    out = Pipe(terminal=True)
    monkeypatch.setattr(sys, "stdin", Pipe(COMPRESSED))
    monkeypatch.setattr(sys, "stdout", out)
    assert main(args) == 3
    assert "not writing binary data to the terminal" in capsys.readouterr().err
    assert out.buffer.getvalue() == b""
    assert fake.calls == []


def test_a_picture_is_not_awaited_from_a_terminal(
    fake: FakeCodec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(terminal=True))
    assert main(["encode", "-", "-o", "x.cdc"]) == 3
    assert "stdin is the terminal" in said(capsys)


def test_a_directory_gives_stdin_no_name(
    fake: FakeCodec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(b"picture"))
    assert main(["encode", "-", "-o", "."]) == 3
    assert "hint: name a file in it" in said(capsys)


@pytest.mark.parametrize("args", [["encode", "photo.png", "-o", "-"], ["weights", "list"]])
def test_a_reader_that_leaves_early_is_no_error(
    fake: FakeCodec,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
) -> None:
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    assert main(args) == 141
    assert capsys.readouterr().err == ""


# ---- what is said


def test_encode_sums_up_on_stderr(fake: FakeCodec, capsys: pytest.CaptureFixture[str]) -> None:
    fake.notes = ("16 bits a sample reduced to 8",)
    assert main(["encode", "photo.png", "--bpp", "0.2"]) == 0
    assert said(capsys).splitlines() == [
        "cdcodec: note: 16 bits a sample reduced to 8",
        "photo.cdc: 40x30, 23 bytes, 0.1533 of 0.2 bpp, cdc-nano at point 7",
    ]


def test_verbose_says_where_bits_and_time_went(
    fake: FakeCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", "photo.png", "-v"]) == 0
    detail = said(capsys)
    assert "  z  25 bits  25.0%\n  y  75 bits  75.0%\n" in detail
    assert "read 0.25 s, code 0.50 s, write" in detail


@pytest.mark.parametrize("args", [["encode", "photo.png"], ["decode", "small.cdc"]])
def test_quiet_says_nothing(
    fake: FakeCodec, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    fake.notes = ("something",)
    assert main([*args, "--quiet", "-v"]) == 0
    assert said(capsys) == ""


def test_encode_json_is_one_object_with_everything(
    fake: FakeCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.notes = ("something",)
    assert main(["encode", "photo.png", "--bpp", "0.2", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    assert report["seconds"].keys() == {"read", "code", "write"}
    del report["seconds"]
    assert report == {
        "input": "photo.png",
        "output": "photo.cdc",
        "width": 40,
        "height": 30,
        "bytes": 23,
        "bpp": 8 * 23 / 1200,
        "target_bpp": 0.2,
        "model": "cdc-nano",
        "family": "cdc",
        "point": 7,
        "bits": {"z": 25.0, "y": 75.0},
        "notes": ["something"],
    }


def test_decode_json_names_the_choices(fake: FakeCodec, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "small.cdc", "--json", "--seed", "9", "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["seconds"].keys() == {"entropy", "synthesise", "write"}
    expected = {"decoder": "ddim", "steps": 5, "seed": 9, "device": "cpu", "output": "small.png"}
    assert {key: report[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (InputError("no"), 3),
        (BitstreamError("no"), 4),
        (UnsupportedError("no"), 5),
        (WeightsError("no"), 6),
        (DesyncError("no"), 7),
    ],
)
def test_every_kind_of_error_has_its_exit_code(
    fake: FakeCodec, capsys: pytest.CaptureFixture[str], failure: CdcError, code: int
) -> None:
    fake.failure = failure
    failure.hint = "do this"
    assert main(["decode", "small.cdc"]) == code
    assert said(capsys) == "cdcodec: error: no\nhint: do this\n"
    assert not Path("small.png").exists()


def test_an_error_is_one_line_whatever_it_quotes(
    fake: FakeCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", "no\nsuch\nthing"]) == 3
    assert said(capsys) == "cdcodec: error: cannot read no such thing: no such file\n"


def test_a_bug_of_ours_keeps_its_traceback(fake: FakeCodec) -> None:
    fake.failure = ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(["decode", "small.cdc"])


def test_a_bar_is_drawn_on_a_terminal_when_work_takes_long(
    fake: FakeCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(console, "BAR_DELAY_SECONDS", 0.0)

    def wait() -> None:
        deadline = time.monotonic() + 10
        while "decoding" not in terminal.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)

    fake.meanwhile = wait
    assert main(["decode", "small.cdc"]) == 0
    assert "decoding" in terminal.getvalue()
    assert not any(f"\x1b[{colour}" in terminal.getvalue() for colour in ("3", "9", "1;3", "38"))
    before = len(terminal.getvalue())
    assert main(["decode", "small.cdc", "--quiet", "--overwrite"]) == 0
    assert len(terminal.getvalue()) == before


def test_no_bar_is_drawn_into_a_file(fake: FakeCodec, capsys: pytest.CaptureFixture[str]) -> None:
    with console.Talk().bar("decoding") as bar:
        bar(1, 2)
        assert bar._timer is None
    assert said(capsys) == ""


# ---- options


def test_options_arrive_at_the_encoder(fake: FakeCodec) -> None:
    options = ["--size", "10K", "--model", "m", "--steps", "0", "--metadata", "all", "--tune", "7"]
    assert main(["encode", "photo.png", *options, "--device", "cuda:1"]) == 0
    del fake.calls[0]["source"], fake.calls[0]["progress"]
    assert fake.calls == [
        {
            "bpp": None,
            "size": 10_000,
            "quality": None,
            "model": "m",
            "steps": 0,
            "metadata": "all",
            "tune": 7,
            "device": "cuda:1",
        }
    ]


def test_options_arrive_at_the_decoder(fake: FakeCodec) -> None:
    options = ["--steps", "0", "--decoder", "ddpm", "--seed", "18446744073709551615"]
    options += ["--stochasticity", "0", "--guidance", "-1.5", "--max-pixels", "99"]
    assert main(["decode", "small.cdc", *options, "--device", "cpu"]) == 0
    chosen = Decoding(
        steps=0,
        decoder="ddpm",
        seed=2**64 - 1,
        stochasticity=0.0,
        guidance=-1.5,
        device="cpu",
    )
    assert fake.calls == [{"source": COMPRESSED, "decoding": chosen, "max_pixels": 99}]


def test_what_is_not_given_is_left_to_the_library(fake: FakeCodec) -> None:
    assert main(["encode", "photo.png"]) == 0
    assert main(["decode", "small.cdc"]) == 0
    encoding, decoding = fake.calls
    assert "model" not in encoding
    assert encoding["bpp"] is encoding["size"] is encoding["quality"] is None
    assert decoding == {"source": COMPRESSED, "decoding": Decoding()}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("900", 900),
        ("2k", 2000),
        ("10K", 10_000),
        ("1M", 1_000_000),
        ("1.5kB", 1500),
        ("2KiB", 2048),
        ("1Mi", 2**20),
        (".5 MiB", 2**19),
        ("7B", 7),
    ],
)
def test_sizes_take_units(text: str, size: int) -> None:
    assert console.byte_count(text) == size


@pytest.mark.parametrize("text", ["", "k", "-1", "1G", "1ib", "1e3", "0", "0.5", "9" * 40, "nan"])
def test_other_sizes_are_wrong_usage(text: str) -> None:
    with pytest.raises(click.BadParameter):
        console.byte_count(text)


@pytest.mark.parametrize(
    "options",
    [
        ["--bpp", "0"],
        ["--bpp", "-1"],
        ["--bpp", "nan"],
        ["--bpp", "inf"],
        ["--bpp", "a lot"],
        ["--quality", "101"],
        ["--quality", "nan"],
        ["--steps", "251"],
        ["--threads", "0"],
        ["--device", "gpu"],
        ["--metadata", "some"],
        ["--bpp", "0.1", "--size", "900"],
        ["--bpp", "0.1", "-q", "50"],
        ["--size", "900", "-q", "50"],
        ["--bpp"],
        ["twice"],
    ],
)
def test_wrong_usage_exits_2_in_one_line(
    fake: FakeCodec, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["encode", "photo.png", *options]) == 2
    first, *hints = said(capsys).splitlines()
    assert first.startswith("cdcodec: error: ")
    assert first[16].islower() or first[16] == "-"
    assert not first.endswith(".")
    assert len(hints) <= 1
    assert fake.calls == []


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["encod"], "did you mean encode?"),
        (["weights", "ftch"], "did you mean fetch?"),
        (["encode", "--stps", "3", "photo.png"], "did you mean --steps?"),
        (["decode", "small.cdc", "--format", "pgn"], "see cdcodec decode --help"),
        (["photo.png"], "did you mean cdcodec encode photo.png?"),
        (["small.cdc"], "did you mean cdcodec decode small.cdc?"),
        (["xyzzy"], "see cdcodec --help"),
        (["encode"], "see cdcodec encode --help"),
        (["weights"], "see cdcodec weights --help"),
    ],
)
def test_wrong_usage_hints_at_what_was_meant(
    capsys: pytest.CaptureFixture[str], args: list[str], hint: str
) -> None:
    assert main(args) == 2
    assert said(capsys).splitlines()[1:] == [f"hint: {hint}"]


def test_an_unknown_format_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "small.cdc", "--format", "pgn"]) == 2
    assert "did you mean png?" in said(capsys)


def test_threads_bound_the_libraries_before_they_load(
    fake: FakeCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("MKL_NUM_THREADS", "8")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")

    class Torch:
        set_num_threads = staticmethod(asked.append)

    monkeypatch.setitem(sys.modules, "torch", Torch)
    assert main(["encode", "photo.png", "--threads", "3"]) == 0
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert asked == [3]


# ---- help


def every_command() -> Iterator[tuple[list[str], click.Command]]:
    with click.Context(cli) as ctx:
        for name in cli.list_commands(ctx):
            found = cli.get_command(ctx, name)
            assert found is not None
            yield [name], found
            if isinstance(found, click.Group):
                yield from (([name, sub], each) for sub, each in found.commands.items())


def test_every_command_and_option_has_help() -> None:
    for path, found in every_command():
        assert found.help, path
        assert found.short_help, path
        for parameter in found.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (path, parameter.name)


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    summaries = {path[0]: found.short_help for path, found in every_command() if len(path) == 1}
    assert summaries == COMMANDS


def test_help_names_the_real_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    options = {
        (*path, parameter.name): parameter
        for path, found in every_command()
        for parameter in found.params
    }

    def of(*name: str) -> Any:
        return options[name]

    assert f"default {api.DEFAULT_MODEL}" in of("encode", "model").help
    assert f"default {api.DEFAULT_BPP}" in of("encode", "bpp").help
    assert f"{image.MAX_PIXELS:,}" in of("decode", "max_pixels").help
    assert tuple(of("encode", "metadata").type.choices) == api.METADATA
    assert tuple(of("decode", "format_name").metavar.split("|")) == image.WRITABLE


def test_help_goes_to_stdout_and_without_a_command_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    asked = capsys.readouterr()
    assert "_CDCODEC_COMPLETE=bash_source" in asked.out
    assert asked.err == ""
    assert main([]) == 2
    assert said(capsys) == asked.out
    for path, _found in every_command():
        assert main([*path, "-h"]) == 0


def test_version_names_package_format_and_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"cdcodec {__version__}, format 1, torch 2.")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("cdcodec enc", "encode"),
        ("cdcodec encode --st", "--steps"),
        ("cdcodec encode --model cdc-n", "cdc-nano"),
        ("cdcodec weights show lp", "lpips-squeeze"),
    ],
)
def test_the_shell_can_complete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, found: str
) -> None:
    monkeypatch.setenv("_CDCODEC_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert main([]) == 0
    assert f"plain,{found}" in capsys.readouterr().out.splitlines()


# ---- info


def test_info_says_where_the_bytes_went(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sound.cdc").write_bytes(SOUND)
    assert main(["info", "sound.cdc"]) == 0
    out = capsys.readouterr().out
    assert "40x30" in out
    assert "unknown weights (id 00000000)" in out
    assert f"9 bytes  {9 / len(SOUND):.1%}" in out


def test_info_json_is_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(SOUND))
    assert main(["info", "-", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["chunks"] == [{"name": "latents", "bytes": 9}]
    assert (report["width"], report["height"], report["steps"]) == (40, 30, 5)
    assert report["overhead_bytes"] + 9 == report["file_bytes"] == len(SOUND)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", 4),
        (b"no file of ours", 4),
        (SOUND[:-1], 4),
        (SOUND[:20] + bytes([SOUND[20] ^ 1]) + SOUND[21:], 4),
        (SOUND[:3] + b"\x63" + SOUND[4:], 5),
        (write(Container(Header(200, bytes(4), 4, 3, 7, 5), (Chunk(1, b""),))), 5),
    ],
)
@pytest.mark.parametrize("command", ["info", "decode"])
def test_damaged_and_foreign_files_have_their_exit_codes(
    capsys: pytest.CaptureFixture[str], folder: Path, command: str, content: bytes, code: int
) -> None:
    (folder / "bad.cdc").write_bytes(content)
    before = listing(folder)
    assert main([command, "bad.cdc"]) == code
    assert said(capsys).startswith("cdcodec: error: ")
    assert listing(folder) == before


def test_a_file_of_unknown_weights_cannot_be_decoded(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sound.cdc").write_bytes(SOUND)
    assert main(["decode", "sound.cdc"]) == 6
    assert "00000000" in said(capsys)


def test_max_pixels_is_kept_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("sound.cdc").write_bytes(SOUND)
    assert main(["decode", "sound.cdc", "--max-pixels", "1199"]) == 5
    assert "hint: --max-pixels raises the limit" in said(capsys)


def test_a_file_that_is_no_image_cannot_be_encoded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "small.cdc", "-o", "x.cdc"]) == 3
    assert said(capsys).startswith("cdcodec: error: cannot read small.cdc: not an image")


# ---- weights


def test_weights_are_listed_with_whether_they_are_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["weights", "list"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "family", "preset", "size", "here", "licence", "from"]
    assert [line.split()[0] for line in lines] == list(weights.load_registry())
    assert main(["weights", "list", "--json"]) == 0
    sets = {each["name"]: each for each in json.loads(capsys.readouterr().out)["weights"]}
    assert sets["lpips-squeeze"]["here"] is False


def test_weights_show_says_all_about_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "show", "lpips-squeeze"]) == 0
    out = capsys.readouterr().out
    (file,) = weights.find("lpips-squeeze").files
    assert file.sha256 in out
    assert f"{file.bytes:,} bytes" in out
    assert main(["weights", "show", "lpips-squeeze", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["sha256"] == file.sha256


@pytest.mark.parametrize("verb", ["show", "fetch", "verify"])
def test_unknown_weights_are_named_with_the_nearest(
    capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert main(["weights", verb, "cdc-nanoo"]) == 6
    assert "hint: did you mean cdc-nano?" in said(capsys)


def test_weights_that_are_not_here_do_not_verify(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "verify", "lpips-squeeze"]) == 6
    assert said(capsys).startswith("cdcodec: error: ")


def test_fetching_what_ships_says_that_there_is_nothing_to_fetch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["weights", "fetch", "cdc-tiny"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip().endswith("cdc-tiny.safetensors")
    assert captured.err == "cdcodec: note: cdc-tiny ships with cdcodec: there is nothing to fetch\n"


@pytest.mark.parametrize("verb", ["fetch", "verify"])
def test_weights_print_the_paths_of_good_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    found = [Path("one.safetensors"), Path("two.safetensors")]
    monkeypatch.setattr(weights, verb, lambda name, *_progress: found)
    assert main(["weights", verb, "cdc-nano", "lpips-squeeze"]) == 0
    assert capsys.readouterr().out.split() == [str(path) for path in 2 * found]
    assert main(["weights", verb, "cdc-nano", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"cdc-nano": [str(path) for path in found]}


def test_a_misspelt_name_stops_a_fetch_before_the_first_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(weights, "fetch", lambda name, progress: fetched.append(name))
    assert main(["weights", "fetch", "cdc-nano", "cdc-nanoo"]) == 6
    assert fetched == []


def test_a_file_of_the_user_is_added_and_then_listed_as_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sets = weights.load_registry()
    (file,) = sets["lpips-squeeze"].files
    data = Path("small.cdc").read_bytes()
    file = replace(file, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    sets["lpips-squeeze"] = replace(sets["lpips-squeeze"], files=(file,))
    for module in (weights, weights.registry):
        monkeypatch.setattr(module, "load_registry", lambda *_path: sets)
    monkeypatch.setenv("CDCODEC_CACHE", str(tmp_path / "cache"))
    assert main(["weights", "add", "lpips-squeeze", "small.cdc"]) == 0
    kept = Path(capsys.readouterr().out.strip())
    assert kept.read_bytes() == data
    assert main(["weights", "list", "--json"]) == 0
    here = {each["name"]: each["here"] for each in json.loads(capsys.readouterr().out)["weights"]}
    assert here["lpips-squeeze"] is True
    assert main(["weights", "add", "lpips-squeeze", "small.cdc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"lpips-squeeze": [str(kept)]}


def test_only_the_right_file_of_the_right_set_is_added(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "add", "lpips-squeeze", "small.cdc"]) == 6
    assert "small.cdc is not lpips_squeeze.safetensors" in said(capsys)
    assert main(["weights", "add", "cdc-nano", "small.cdc"]) == 6
    assert "no file of cdc-nano is yours to provide" in said(capsys)
    assert main(["weights", "add", "lpips-sqeeze", "small.cdc"]) == 6
    assert "did you mean lpips-squeeze?" in said(capsys)
    assert main(["weights", "add", "lpips-squeeze", "none.safetensors"]) == 3
    assert main(["weights", "add", "lpips-squeeze", "-"]) == 3


def test_convert_refuses_an_unknown_family(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["weights", "convert", "small.cdc", "--name", "x", "--family", "cdd"]
    assert main(args) == 2
    assert "'cdd' is none of cdc" in said(capsys)


def test_convert_needs_a_name_and_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "convert", "small.cdc"]) == 2
    assert "--name" in said(capsys)
    assert main(["weights", "convert", "-", "--name", "x"]) == 3
    assert main(["weights", "convert", "none.pt", "--name", "x"]) == 3


def test_convert_of_what_is_no_checkpoint_is_a_weights_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch")
    args = ["weights", "convert", "small.cdc", "--name", "x", "-o", "."]
    assert main(args) == 6
    assert "cannot read small.cdc as a checkpoint" in said(capsys)
    assert not Path("x.safetensors").exists()
    assert "x" not in weights.load_registry()


# ---- train


def test_train_passes_its_choices_on_and_prints_the_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from cdcodec.training import loop

    calls = []
    figures = {"step": 50, "steps": 50, "loss": 0.125, "psnr": 21.5, "left": 0}

    def train(recipe: Path, run_dir: Path, *, report: Any, **options: Any) -> loop.Trained:
        calls.append((recipe, run_dir, options))
        report(figures)
        path = run_dir / "model.safetensors"
        return loop.Trained(path, False, step=50, steps=50, seconds_to_go=0.0, from_nothing=True)

    monkeypatch.setattr(loop, "train", train)
    Path("nano.toml").write_text("", encoding="utf-8")
    options = ["--resume", "--minutes", "2.5", "--device", "cpu", "--data", "photos"]
    assert main(["train", "nano.toml", *options]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(Path("runs", "nano", "model.safetensors"))
    assert captured.err == "step 50 of 50, loss 0.125, 0 s left (psnr 21.5)\n"
    assert calls == [
        (
            Path("nano.toml"),
            Path("runs", "nano"),
            {"resume": True, "minutes": 2.5, "device": "cpu", "photographs": "photos"},
        )
    ]
    assert main(["train", "nano.toml", "-o", "there", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == figures


# ---- processes


def command_line(*args: str) -> list[str]:
    return [sys.executable, "-m", "cdcodec", *args]


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["info", "sound.cdc"]])
def test_answers_that_need_no_model_import_no_torch(args: Sequence[str]) -> None:
    Path("sound.cdc").write_bytes(SOUND)
    script = (
        "import sys; from cdcodec.cli.__main__ import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'rich', 'cdcodec.cli.encode', 'cdcodec.cli.weights'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_process_with_nothing_left_behind(
    folder: Path, number: signal.Signals, code: int
) -> None:
    before = listing(folder)
    # The process waits for its stdin within the temporary file of its output.
    script = (
        "import sys; from pathlib import Path; from cdcodec.cli import files, __main__ as m\n"
        "def wait(ctx):\n"
        "    with files.target('-', 'x.cdc', '.cdc', overwrite=False).open() as fp:\n"
        "        fp.write(b'half'); fp.flush(); sys.stderr.write('!'); sys.stderr.flush()\n"
        "        sys.stdin.buffer.read()\n"
        "m.cli.invoke = wait; sys.exit(m.main(['info', 'x']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A test run in the background of a shell ignores Ctrl-C, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stderr is not None
        assert process.stderr.read(1) == b"!"
        assert any(name.endswith(".part") for name in listing(folder))
        process.send_signal(number)
        _out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    assert b"Traceback" not in err
    assert listing(folder) == before


# ---- the real codec


@pytest.fixture(scope="module")
def astronaut() -> bytes:
    """A photograph of 128x96 pixels as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(data.astronaut()).resize((128, 96)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_photograph_survives_encode_info_and_decode(
    astronaut: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("face.png").write_bytes(astronaut)
    assert main(["encode", "face.png", "--bpp", "0.4", "--json"]) == 0
    encoded = json.loads(capsys.readouterr().out)
    size = Path("face.cdc").stat().st_size
    assert encoded["bytes"] == size <= 0.4 * 128 * 96 / 8
    assert encoded["model"] == api.DEFAULT_MODEL

    assert main(["info", "face.cdc", "--verify", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["bits"].keys() == encoded["bits"].keys()
    assert len(bytes.fromhex(info["symbols_sha256"])) == hashlib.sha256().digest_size

    assert main(["decode", "face.cdc", "-o", "again.png", "--steps", "1", "--device", "cpu"]) == 0
    with Image.open("again.png") as img:
        error = np.asarray(img, np.float64) - np.asarray(Image.open(io.BytesIO(astronaut)))
    assert 10 * np.log10(255**2 / (error**2).mean()) > 18


def test_a_target_that_cannot_be_met_exits_3_and_names_the_smallest(
    astronaut: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("face.png").write_bytes(astronaut)
    assert main(["encode", "face.png", "--size", "30"]) == 3
    assert "hint: the smallest possible file has" in said(capsys)
    assert not Path("face.cdc").exists()


def test_a_target_beyond_the_model_is_a_note(
    astronaut: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("face.png").write_bytes(astronaut)
    assert main(["encode", "face.png", "--bpp", "20"]) == 0
    assert said(capsys).startswith("cdcodec: note: ")


def test_encode_and_decode_make_a_pipeline(astronaut: bytes) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    encoder = subprocess.run(
        command_line("encode", "-", "-q", "50", "--threads", "1", "-v"),
        input=astronaut,
        capture_output=True,
        check=True,
        env=environment,
    )
    decoder = subprocess.run(
        command_line("decode", "-", "--steps", "1", "--format", "ppm", "--threads", "1"),
        input=encoder.stdout,
        capture_output=True,
        check=True,
        env=environment,
    )
    with Image.open(io.BytesIO(decoder.stdout)) as img:
        assert (img.format, img.size) == ("PPM", (128, 96))
    assert encoder.stderr.startswith(b"stdout: 128x96, ")
    assert api.info(encoder.stdout).file_bytes == len(encoder.stdout)
