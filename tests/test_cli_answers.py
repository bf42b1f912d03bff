"""What the commands answer to what can't be meant: other codecs' habits, files of another kind."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from cdcodec import api, families, weights
from cdcodec.cli.__main__ import ELSEWHERE, cli, main
from cdcodec.codec import Decoding
from cdcodec.errors import OptionError
from tests.test_docs import commands

TINY = ("cdc-tiny", "rdeic-tiny", "diffeic-tiny", "cgdm-tiny", "palette-tiny")


@pytest.fixture(scope="module")
def compressed() -> dict[str, bytes]:
    """A small file of each family, by its model."""
    picture = Image.fromarray(data.coffee()).resize((96, 64))
    return {model: api.encode(picture, model=model, quality=50).data for model in TINY}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.coffee()).resize((96, 64)).save("photo.jpg")
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines of stderr, and insist that nothing went to stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


# ---- habits


def test_a_capital_v_is_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    version = capsys.readouterr().out
    assert version.startswith("cdcodec ")
    assert main(["-V"]) == 0
    assert capsys.readouterr().out == version


@pytest.mark.parametrize(
    ("asked", "same"),
    [
        ("help", "--help"),
        ("help decode", "decode --help"),
        ("help weights", "weights --help"),
        ("help weights fetch", "weights fetch --help"),
        ("weights help", "weights --help"),
        ("weights help fetch", "weights fetch --help"),
    ],
)
def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str], asked: str, same: str) -> None:
    assert main(asked.split()) == 0
    answer = capsys.readouterr()
    assert main(same.split()) == 0
    assert capsys.readouterr() == answer
    assert answer.out.startswith("Usage: cdcodec ")


def test_help_on_what_is_no_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "decod"]) == 2
    assert refusal(capsys) == [
        "cdcodec: error: no such command 'decod'",
        "hint: did you mean decode?",
    ]


@pytest.mark.parametrize(
    ("args", "option", "hint"),
    [
        (
            "encode photo.jpg --speed 3",
            "--speed",
            "there is one speed; cdcodec decode --steps N is quicker with fewer steps",
        ),
        (
            "encode photo.jpg -e 9",
            "-e",
            "there is one speed; cdcodec decode --steps N is quicker with fewer steps",
        ),
        (
            "decode photo.cdc --jobs 4",
            "--jobs",
            "--threads N bounds the threads; without it all are used",
        ),
        (
            "enhance photo.jpg -j 4",
            "-j",
            "--threads N bounds the threads; without it all are used",
        ),
        ("transcode photo.cdc --jobs 4", "--jobs", "did you mean --json?"),  # it has no --threads
        (
            "encode photo.jpg --lossless",
            "--lossless",
            "cdcodec is always lossy; for lossless files take PNG, WebP or JPEG XL",
        ),
        (
            "encode photo.jpg -lossless",
            "-l",
            "cdcodec is always lossy; for lossless files take PNG, WebP or JPEG XL",
        ),
        (
            "encode photo.jpg --distance 1",
            "--distance",
            "--bpp, --size or --quality says how far to compress",
        ),
        ("decode photo.cdc -f", "-f", "did you mean --overwrite?"),
    ],
)
def test_options_of_other_codecs_are_answered(
    capsys: pytest.CaptureFixture[str], args: str, option: str, hint: str
) -> None:
    assert main(args.split()) == 2
    assert refusal(capsys) == [f"cdcodec: error: no such option '{option}'", f"hint: {hint}"]


def test_what_is_answered_so_is_no_option_of_ours() -> None:
    theirs = {option for options, _needed, _hint in ELSEWHERE for option in options}
    for name, command in commands(cli):
        ours = {flag for parameter in command.params for flag in parameter.opts}
        if name.split()[1] in ("encode", "decode", "enhance", "transcode"):
            assert not ours & theirs, name


def test_help_shows_no_range_without_ends(capsys: pytest.CaptureFixture[str]) -> None:
    for name, _command in commands(cli):
        assert main([*name.split()[1:], "--help"]) == 0
        assert "None" not in capsys.readouterr().out, name


def test_quality_is_told_from_that_of_cwebp(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "75 is another scale than cwebp's: its file is far smaller." in words
    picture = Image.fromarray(data.astronaut()).crop((128, 0, 384, 192))
    theirs = io.BytesIO()
    picture.save(theirs, "WEBP", quality=75)
    assert len(api.encode(picture, quality=75).data) < len(theirs.getvalue()) / 3


# ---- files of another kind


@pytest.mark.parametrize(
    ("suffix", "format"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WebP"), ("tiff", "TIFF")]
)
@pytest.mark.parametrize("command", ["info", "decode", "transcode -q 50"])
def test_a_picture_in_place_of_a_compressed_file_is_named(
    capsys: pytest.CaptureFixture[str], command: str, suffix: str, format: str
) -> None:
    with Image.open("photo.jpg") as img:
        img.save(f"a.{suffix}")
    before = sorted(Path().iterdir())
    assert main([*command.split(), f"a.{suffix}"]) == 4
    assert refusal(capsys) == [
        f"cdcodec: error: a.{suffix} is a picture ({format}), not a compressed file",
        "hint: cdcodec encode compresses it",
    ]
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("content", [b"", b"neither", b"\xff\xd8\xff", b"P6\n"])
def test_what_is_no_picture_either_is_not_called_one(
    capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    Path("bad.cdc").write_bytes(content)
    assert main(["info", "bad.cdc"]) == 4
    assert refusal(capsys)[0].startswith("cdcodec: error: not a cdcodec file")


@pytest.mark.parametrize(
    "command",
    [
        "encode a.cdc",
        "encode a.cdc b.cdc",
        "enhance a.cdc",
        "enhance photo.jpg --reference a.cdc --syntax s",
    ],
)
def test_a_compressed_file_in_place_of_a_picture_is_named(
    compressed: dict[str, bytes], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    Path("a.cdc").write_bytes(compressed["cdc-tiny"])
    before = sorted(Path().iterdir())
    assert main(command.split()) == 3
    assert refusal(capsys) == [
        "cdcodec: error: cannot read a.cdc: it is a compressed file already; cdcodec decode makes "
        "a picture of it"
    ]
    assert sorted(Path().iterdir()) == before


# ---- decoders and what they take


@pytest.mark.parametrize(
    ("model", "options", "message", "hint"),
    [
        ("cdc-tiny", "--guidance 2", "decoder ddim takes no guidance", None),
        ("cdc-tiny", "--decoder ddpm --guidance 1", "decoder ddpm takes no guidance", None),
        ("cgdm-tiny", "--guidance 2", "decoder ddim takes no guidance", None),
        ("palette-tiny", "--guidance 2", "decoder cold takes no guidance", None),
        ("palette-tiny", "--stochasticity 0", "decoder cold takes no stochasticity", None),
        (
            "cgdm-tiny",
            "--decoder base --stochasticity 1",
            "decoder base takes no stochasticity",
            "ddim can have it",
        ),
        (
            "diffeic-tiny",
            "--decoder direct --guidance 1",
            "decoder direct takes no guidance",
            "ddpm and ddim can have it",
        ),
        ("cdc-tiny", "--steps 0", "decoder ddim takes 1 to 1000 steps, not 0", ""),
        ("rdeic-tiny", "--steps 301", "decoder relay takes 0 to 300 steps, not 301", ""),
        ("palette-tiny", "--decoder oneshot --steps 2", "decoder oneshot takes 1 step, not 2", ""),
        ("cdc-tiny", "--decoder cold", "unknown decoder cold", "there are ddim, ddpm"),
    ],
)
def test_an_option_that_a_decoder_does_not_take_is_refused_by_name(
    compressed: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    model: str,
    options: str,
    message: str,
    hint: str | None,
) -> None:
    Path("a.cdc").write_bytes(compressed[model])
    before = sorted(Path().iterdir())
    assert main(["decode", "a.cdc", *options.split()]) == 2
    first, *hints = refusal(capsys)
    assert first == f"cdcodec: error: {message}"
    hint = "cdcodec info lists what it takes" if hint is None else hint
    assert hints == ([f"hint: {hint}"] if hint else [])
    assert sorted(Path().iterdir()) == before


def test_what_a_decoder_takes_reaches_it(compressed: dict[str, bytes]) -> None:
    def decoded(**choices: float) -> bytes:
        decoding = Decoding(device="cpu", steps=2, **choices)  # type: ignore[arg-type]
        return api.decode(compressed["rdeic-tiny"], decoding).picture.pixels.tobytes()

    plain = decoded()
    assert decoded(guidance=1.0, stochasticity=1.0) == plain
    assert decoded(guidance=3.0) != plain
    assert decoded(stochasticity=0.0) != plain


@pytest.mark.parametrize("model", ["cdc-tiny", "palette-tiny"])
def test_tuning_and_steps_of_an_encoder_are_refused_in_the_same_way(
    capsys: pytest.CaptureFixture[str], model: str
) -> None:
    args = ["encode", "photo.jpg", "--model", model]
    assert main([*args, "--tune", "3"]) == 2
    assert refusal(capsys) == [f"cdcodec: error: {model} has nothing to tune"]
    if model == "cdc-tiny":
        assert main([*args, "--steps", "0"]) == 2
        assert refusal(capsys) == ["cdcodec: error: decoder ddim takes 1 to 1000 steps, not 0"]
    assert not Path("photo.cdc").exists()


def test_options_of_a_decoder_are_refused_in_eval_before_anything_is_measured() -> None:
    from cdcodec.evaluation.own import Model

    with pytest.raises(OptionError, match="decoder ddim takes no guidance"):
        Model("cdc-tiny", {"guidance": "2"}, "cpu")
    with pytest.raises(OptionError, match="decoder direct takes no stochasticity"):
        Model("rdeic-tiny", {"decoder": "direct", "stochasticity": "1"}, "cpu")


@pytest.mark.parametrize("model", TINY)
def test_decoders_are_listed_as_the_codec_has_them(model: str) -> None:
    assert families.decoders(weights.find(model)) == dict(
        families.load_codec(model, "cpu").decoders
    )


def test_decoders_of_the_papers_networks_are_theirs() -> None:
    from cdcodec.families.cdc.paper_codec import PaperCodec
    from cdcodec.families.cgdm.msillm_codec import MsIllmCodec
    from cdcodec.families.diffeic.paper_codec import PaperDiffeicCodec
    from cdcodec.families.rdeic.paper_codec import PaperRdeicCodec

    assert families.decoders(weights.find("rdeic-sd21")) == dict(PaperRdeicCodec.decoders)
    assert families.decoders(weights.find("diffeic-sd21")) == dict(PaperDiffeicCodec.decoders)
    assert families.decoders(weights.find("msillm-q1")) == dict(MsIllmCodec.decoders)
    from cdcodec.families import cdc

    assert cdc.list_decoders("paper") == PaperCodec.decoders


def test_info_lists_the_decoders_of_a_file(
    compressed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.cdc").write_bytes(compressed["rdeic-tiny"])
    assert main(["info", "a.cdc"]) == 0
    lines = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]
    at = lines.index(["decoder", "relay, from content variables with a little noise"])
    told = [" ".join(words) for words in lines[at : at + 4]]
    assert told == [
        "decoder relay, from content variables with a little noise",
        "0 to 300 steps, default 2; --stochasticity, default 1; --guidance, default 1",
        "decoder direct, content variables, without diffusion",
        "0 steps",
    ]
    assert main(["info", "a.cdc", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["decoders"]
    assert list(listed) == ["relay", "direct"]
    assert listed["relay"] == asdict(families.decoders(weights.find("rdeic-tiny"))["relay"])


def test_weights_show_lists_decoders_even_of_what_is_not_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["weights", "show", "diffeic-sd21"]) == 0
    out = capsys.readouterr().out
    assert "ddpm, fresh noise in every step" in out
    assert "0 to 1000 steps, default 50; --stochasticity, default 1; --guidance, default 1" in out
    assert main(["weights", "show", "palette-nano", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["decoders"]
    assert listed["oneshot"]["max_steps"] == 1
    assert listed["cold"]["guidance"] is None


def test_weights_that_decode_nothing_list_no_decoders() -> None:
    for each in weights.load_registry().values():
        assert bool(families.decoders(each)) == (each.family in families.FAMILIES), each.name


def test_listing_decoders_imports_no_torch(compressed: dict[str, bytes], folder: Path) -> None:
    for model in TINY:
        (folder / f"{model}.cdc").write_bytes(compressed[model])
    root = Path(api.__file__).parents[1]
    script = (
        "import sys; from cdcodec.cli.__main__ import main\n"
        f"for model in {TINY}: assert main(['info', f'{{model}}.cdc']) == 0\n"
        "for name in ('cdc-nano', 'rdeic-sd21'): assert main(['weights', 'show', name]) == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(root), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (0, b"")
