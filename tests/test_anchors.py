"""Anchors meet their target with real files of their format, and give back the picture."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st

from cdcodec.codec import Pixels
from cdcodec.errors import InputError
from cdcodec.evaluation import anchors
from cdcodec.evaluation.anchors import processes, ycbcr
from cdcodec.evaluation.anchors.coder import Coder
from cdcodec.evaluation.anchors.programs import Hevc
from cdcodec.evaluation.contender import Compressed, OutOfReach, Restored, Unavailable

PROGRAMS = {"jxl": ("cjxl", "djxl"), "hevc": ("ffmpeg",), "vvc": ("vvencapp", "vvdecapp")}
QUICK = {"jxl": {"effort": "3"}, "hevc": {"preset": "ultrafast"}, "vvc": {"preset": "faster"}}
CONTINUOUS = ("jpeg2000", "jxl", "hevc")
MAGIC = {
    "jpeg": b"\xff\xd8\xff",
    "webp": b"RIFF",
    "jpeg2000": b"\xff\x4f\xff\x51",
    "jxl": b"\xff\x0a",
    "hevc": b"\0\0\0\1\x40",
}


def here(name: str) -> anchors.Anchor:
    """Return a codec, or skip where its program isn't installed."""
    for program in PROGRAMS.get(name, ()):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on PATH")
    return created(name)


@cache
def created(name: str) -> anchors.Anchor:
    return anchors.create(name, QUICK.get(name, {}))


def picture(width: int = 160, height: int = 128) -> Pixels:
    """Return a piece of a photograph with a face in it."""
    return np.ascontiguousarray(skimage.data.astronaut()[20 : 20 + height, 150 : 150 + width])


def psnr(original: Pixels, decoded: Pixels) -> float:
    error = np.mean((original.astype(float) - decoded) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else 99.0


@pytest.mark.parametrize("name", anchors.NAMES)
def test_a_file_keeps_its_target_and_decodes_to_the_picture(name: str) -> None:
    codec, original = here(name), picture()
    made = codec.encode(original, 1.2)
    bpp = 8 * len(made.data) / (160 * 128)
    assert 0.8 * 1.2 <= bpp <= 1.2
    assert made.data.startswith(MAGIC.get(name, b""))
    assert made.setting
    assert made.seconds["encode"] > 0
    restored = codec.decode(made.data, None)
    assert restored.seconds["decode"] > 0
    assert restored.pixels.dtype == np.uint8
    assert psnr(original, restored.pixels) > 27
    # No colour was shifted on the way: ranges and matrices agree.
    shift = (restored.pixels.astype(float) - original).mean((0, 1))
    assert np.abs(shift).max() < 1.5


@pytest.mark.parametrize("name", anchors.NAMES)
@pytest.mark.parametrize(("width", "height"), [(97, 61), (96, 61)])
def test_odd_sizes_are_kept(name: str, width: int, height: int) -> None:
    codec, original = here(name), picture(width, height)
    restored = codec.decode(codec.encode(original, 3.0).data, None).pixels
    assert restored.shape == original.shape
    assert psnr(original, restored) > 28
    assert psnr(original[-2:, -2:], restored[-2:, -2:]) > 18  # the right ones were cropped


@pytest.mark.parametrize("name", anchors.NAMES)
def test_grey_pictures_stay_grey_and_in_three_channels(name: str) -> None:
    codec = here(name)
    grey = np.repeat(skimage.data.camera()[100:228, 180:308, None], 3, -1)
    restored = codec.decode(codec.encode(grey, 1.5).data, None).pixels
    assert restored.shape == grey.shape
    assert psnr(grey, restored) > 25
    assert np.ptp(restored.astype(int), axis=-1).mean() < 2


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_scales_come_near_the_target(name: str) -> None:
    codec, original = here(name), picture()
    made = codec.encode(original, 0.9)
    assert 0.95 * 0.9 <= 8 * len(made.data) / (160 * 128) <= 0.9


@pytest.mark.parametrize("name", anchors.NAMES)
def test_a_target_below_the_smallest_file_is_out_of_reach(name: str) -> None:
    codec = here(name)
    with pytest.raises(
        OutOfReach,
        match=rf"^{name}.*'s smallest file for this picture has [\d,]+ bytes, 0\.\d+ bpp$",
    ):
        codec.encode(picture(), 0.005)
    with pytest.raises(OutOfReach):
        codec.encode(picture(), 0.0)


@pytest.mark.parametrize("name", ["jpeg", "webp", "jpeg2000"])
def test_a_target_above_the_largest_file_gives_that(name: str) -> None:
    codec, original = here(name), picture(64, 64)
    made = codec.encode(original, 100.0)
    assert len(made.data) < 100 * 64 * 64 / 8
    assert psnr(original, codec.decode(made.data, None).pixels) > 35


@pytest.mark.parametrize("name", anchors.NAMES)
def test_the_same_picture_gives_the_same_file(name: str) -> None:
    codec, original = here(name), picture()
    setting = codec.coder.scale[len(codec.coder.scale) // 2]
    first = codec.coder.encode(original, setting)
    assert codec.coder.encode(original, setting).data == first.data
    assert codec.coder.version() == codec.version


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_tell_their_memory_and_not_that_of_this_process(name: str) -> None:
    codec = here(name)
    ballast = np.ones(300 << 20, np.uint8)
    made = codec.coder.encode(picture(), codec.coder.scale[0])
    assert ballast[-1]
    if os.name == "posix":
        assert made.peak_bytes
        assert 1 << 20 < made.peak_bytes < 250 << 20


def test_files_name_no_software() -> None:
    for name, signature in (("jpeg2000", b"OpenJPEG"), ("hevc", b"x265")):
        coder = here(name).coder
        assert signature not in coder.encode(picture(), coder.scale[0]).data


def test_a_label_names_the_options_that_were_given() -> None:
    assert anchors.create("webp", {}).label == "webp"
    assert anchors.create("webp", {"method": "4"}).label == "webp:method=4"
    assert (
        anchors.create("avif", {"speed": "8", "subsampling": "444"}).label
        == "avif:speed=8,subsampling=444"
    )


def test_options_change_the_file() -> None:
    plain = anchors.create("avif", {"speed": "10"}).encode(picture(), 1.0)
    full = anchors.create("avif", {"speed": "10", "subsampling": "444"}).encode(picture(), 1.0)
    assert plain.data != full.data


def test_codecs_can_be_sent_to_a_worker() -> None:
    codec = pickle.loads(pickle.dumps(anchors.create("webp", {"method": "0"})))
    assert codec.label == "webp:method=0"
    assert codec.encode(picture(), 1.0).data


@pytest.mark.parametrize(
    ("name", "options", "message", "hint"),
    [
        ("wepb", {}, "no codec is called wepb", "did you mean webp?"),
        ("webp", {"metod": "4"}, "webp has no option metod", "did you mean method?"),
        ("avif", {"q": "4"}, "avif has no option q", "known are speed, subsampling"),
        ("jpeg2000", {"q": "4"}, "jpeg2000 has no option q", "it has none"),
        ("jxl", {"effort": "12"}, "effort of jxl can't be 12", "it is one of 1, 2, 3"),
    ],
)
def test_what_is_unknown_is_an_error_that_helps(
    name: str, options: dict[str, str], message: str, hint: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        anchors.create(name, options)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)
    assert not isinstance(caught.value, Unavailable)


@pytest.mark.parametrize("name", PROGRAMS)
def test_without_its_program_a_codec_is_unavailable(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="is not on PATH"):
        anchors.create(name, {})


def test_a_pillow_without_a_library_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import features

    monkeypatch.setattr(features, "get_supported", lambda: ["jpg", "webp"])
    with pytest.raises(Unavailable, match="is built without libavif"):
        anchors.create("avif", {})


class Curve(Coder):
    """A format whose file sizes are given."""

    options = {}
    suffix = ".x"

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.seen = sizes, list[float]()
        self.scale = range(len(sizes))  # type: ignore[misc]

    def version(self) -> str:
        return "1"

    def encode(self, pixels: Pixels, setting: float) -> Compressed:
        self.seen.append(setting)
        return Compressed(bytes(self.sizes[int(setting)]), f"at={setting}")

    def decode(self, data: bytes) -> Restored:
        raise NotImplementedError


PLAIN = np.zeros((100, 80, 3), np.uint8)
"""A picture of which 1 bpp are 1000 bytes."""


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=100))
def test_no_setting_is_tried_twice_and_no_target_exceeded(sizes: list[int]) -> None:
    coder = Curve(sizes)
    try:
        made = anchors.Anchor("curve", {}, coder).encode(PLAIN, 1.0)
    except OutOfReach:
        assert min(sizes[int(setting)] for setting in coder.seen) > 1000
    else:
        assert len(made.data) <= 1000
    assert len(set(coder.seen)) == len(coder.seen)


def test_a_dip_beside_the_find_is_used() -> None:
    coder = Curve([100, 200, 400, 800, 1050, 980, 3200, 6400])
    assert len(anchors.Anchor("curve", {}, coder).encode(PLAIN, 1.0).data) == 980


@given(st.integers(2, 20), st.integers(2, 20), st.booleans(), st.sampled_from([8, 10]))
def test_planes_of_one_colour_come_back(width: int, height: int, halved: bool, bits: int) -> None:
    colour = np.array([200, 30, 90], np.uint8)
    padded, padding = ycbcr.pad(np.broadcast_to(colour, (height, width, 3)))
    raw = ycbcr.to_raw(padded, halved=halved, bits=bits)
    kind = ("420" if halved else "444") + ("p10" if bits == 10 else "")
    header = f"YUV4MPEG2 W{padded.shape[1]} H{padded.shape[0]} F30:1 C{kind}\nFRAME\n"
    decoded = ycbcr.crop(ycbcr.from_y4m(header.encode() + raw), padding)
    assert decoded.shape == (height, width, 3)
    assert np.abs(decoded.astype(int) - colour).max() <= 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "isn't YUV4MPEG2"),
        (b"YUV4MPEG2 W4 H4 C422\nFRAME\n" + bytes(99), "unknown kind 422"),
        (b"YUV4MPEG2 W4 H4 C444\nFRAME\n" + bytes(47), "cut short"),
    ],
)
def test_frames_that_are_not_understood_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ycbcr.from_y4m(data)


needs_scripts = pytest.mark.skipif(os.name != "posix", reason="scripts need a shebang line")


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """Make Python scripts programs, the only ones on PATH."""
    for name, script in programs.items():
        (folder / name).write_text(f"#!{sys.executable} -IS\n{script}", encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


VVENC = """
import json, sys, zlib
words = sys.argv[1:]
if words == ["--version"]:
    print("\\nvvencapp version 1.12.0 [Linux][clang 14.0.0][64 bit][SIMD=AVX2]")
    sys.exit()
given = dict(zip(words[::2], words[1::2]))
raw = open(given["-i"], "rb").read()
step = 1 << int(given["--qp"]) // 8
coarse = bytes(byte // step * step if at % 2 == 0 else byte for at, byte in enumerate(raw))
head = json.dumps(given).encode() + b"\\n"
body = zlib.compress(coarse, 9)
open(given["-o"], "wb").write(b"\\0\\0\\0\\1" + head + body + b"\\x80")
"""

VVDEC = """
import json, sys, zlib
words = sys.argv[1:]
if words == ["--version"]:
    print("vvdecapp version 2.3.0")
    sys.exit()
given = dict(zip(words[::2], words[1::2]))
data = open(given["-b"], "rb").read().rstrip(b"\\0")[4:-1]
head, _, body = data.partition(b"\\n")
width, height = json.loads(head)["-s"].split("x")
header = f"YUV4MPEG2 W{width} H{height} F30:1 Ip C420p10\\nFRAME\\n".encode()
assert given["-o"].endswith(".y4m")
open(given["-o"], "wb").write(header + zlib.decompress(body))
"""


@needs_scripts
@pytest.mark.parametrize(("width", "height"), [(64, 48), (97, 61), (33, 48)])
def test_vvc_goes_through_its_two_programs(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_on_path(tmp_path, monkeypatch, vvencapp=VVENC, vvdecapp=VVDEC)
    codec = anchors.create("vvc", {"preset": "medium"})
    assert codec.version == "vvencapp version 1.12.0, vvdecapp version 2.3.0"
    assert codec.label == "vvc:preset=medium"
    original = picture(width, height)
    made = codec.encode(original, 12.0)
    given = json.loads(made.data[4:].partition(b"\n")[0])
    assert given["-s"] == f"{width + width % 2}x{height + height % 2}"
    assert given["-c"] == "yuv420_10"
    assert given["--preset"] == "medium"
    assert given["--frames"] == "1"
    assert made.setting == f"qp={given['--qp']}"
    restored = codec.decode(made.data, None)
    assert restored.pixels.shape == original.shape
    assert psnr(original, restored.pixels) > 25
    assert restored.peak_bytes


@needs_scripts
def test_a_program_that_fails_is_an_error_with_its_last_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing = "import sys\nprint('loading')\nsys.exit('no such codec\\n\\n')"
    put_on_path(tmp_path, monkeypatch, broken=failing, silent="import sys\nsys.exit(3)")
    with pytest.raises(InputError, match="^broken failed: no such codec$"):
        processes.run(["broken"])
    with pytest.raises(InputError, match="^silent failed: exit status 3$"):
        processes.run(["silent"])


@needs_scripts
def test_a_program_that_takes_too_long_is_ended_with_its_launcher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = "import os, sys, time\nopen(sys.argv[1], 'w').write(str(os.getpid()))\ntime.sleep(60)"
    put_on_path(tmp_path, monkeypatch, slow=script)
    with pytest.raises(InputError, match="slow took more than 1 seconds"):
        processes.run(["slow", tmp_path / "pid"], timeout=1)
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{child}/stat").exists() and ") Z " in Path(f"/proc/{child}/stat").read_text(
            encoding="utf-8"
        ):
            break  # nobody has to wait for it
        time.sleep(0.02)
    else:
        pytest.fail("the program runs on")


@needs_scripts
def test_an_ffmpeg_without_x265_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_on_path(tmp_path, monkeypatch, ffmpeg="import sys\nsys.exit(\"unknown encoder 'libx265'\")")
    with pytest.raises(Unavailable, match="ffmpeg here has no libx265") as caught:
        anchors.create("hevc", {})
    assert caught.value.hint == "ffmpeg failed: unknown encoder 'libx265'"


@pytest.mark.parametrize("options", [{"chroma": "420"}, {"bits": "10"}])
def test_hevc_has_other_sampling_and_depth(options: dict[str, str]) -> None:
    here("hevc")
    coder = Hevc(preset="ultrafast", **options)
    original = picture(98, 62)
    restored = coder.decode(coder.encode(original, 30).data).pixels
    assert restored.shape == original.shape
    assert psnr(original, restored) > 27
    assert np.abs((restored.astype(float) - original).mean((0, 1))).max() < 1.5
