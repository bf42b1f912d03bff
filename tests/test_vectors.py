"""formats/vectors decode to what their TOML files say, here and in a second implementation."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdcodec import api, families, image
from cdcodec import errors as error_tree
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import ChunkType
from cdcodec.cli.__main__ import main
from cdcodec.codec import Decoding
from cdcodec.errors import CdcError
from cdcodec.families.cdc.walk import CdcWalk
from tests import make_vectors
from tests.make_vectors import FOLDER
from tests.reference_rans import ReferenceDecoder, Table
from tests.test_exact import plain_layer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
EXPECTED: dict[str, dict[str, Any]] = {
    name: tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8")) for name in NAMES
}
SOUND = [name for name in NAMES if "error" not in EXPECTED[name]]
BROKEN = [name for name in NAMES if "error" in EXPECTED[name]]
PICTURED = [name for name in SOUND if "pixels" in EXPECTED[name]]
STAGES = ("info", "verify", "decode")
SMALL = ("one-pixel", "grey-17x13", "escapes-80x48", "empty-stream")


def read(name: str) -> bytes:
    return (FOLDER / f"{name}.cdc").read_bytes()


def run(stage: str, data: bytes) -> None:
    if stage == "decode":
        api.decode(data, Decoding(steps=1, device="cpu"))
    else:
        api.info(data, verify=stage == "verify")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.square(a.astype(np.float64) - b).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def test_every_file_has_its_expectation() -> None:
    assert {path.stem for path in FOLDER.glob("*.cdc")} == set(NAMES)
    assert len(SOUND) >= 10
    assert len(BROKEN) >= 20
    assert {path.suffix for path in FOLDER.iterdir()} == {".cdc", ".toml", ".png"}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_file_says_and_holds_what_is_written_down(name: str) -> None:
    expected = EXPECTED[name]
    info = api.info(read(name), verify=True)
    found = {
        "family": info.family,
        "model_id": info.model_id,
        "file_bytes": info.file_bytes,
        "width": info.width,
        "height": info.height,
        "point": info.point,
        "steps": info.steps,
        "grey": info.grey,
        "chunks": [f"{kind} {size}" for kind, size in info.chunks],
        "symbols_sha256": info.symbols_sha256,
    }
    assert found == {key: expected[key] for key in found}
    assert dict(info.bits) == pytest.approx(expected["bits"], abs=0.01)


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_file_decodes_with_all_that_travels_along(name: str) -> None:
    expected = EXPECTED[name]
    picture = api.decode(read(name), Decoding(device="cpu")).picture
    assert picture.pixels.shape == (expected["height"], expected["width"], 3)
    assert picture.grey == expected["grey"]
    for kind, raw in (("alpha", picture.alpha), ("icc", picture.icc)):
        digest = None if raw is None else hashlib.sha256(raw).hexdigest()
        assert digest == expected.get(f"{kind}_sha256")


@pytest.mark.parametrize("name", PICTURED)
def test_pixels_come_out_as_stored(name: str) -> None:
    expected = EXPECTED[name]["pixels"]
    decoding = Decoding(
        steps=expected["steps"], decoder=expected["decoder"], seed=expected["seed"], device="cpu"
    )
    pixels = np.array(api.decode(read(name), decoding).image)
    stored = np.array(Image.open(FOLDER / f"{name}.png"))
    assert psnr(pixels, stored) >= expected["psnr_db"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_as_early_as_it_can_be(name: str) -> None:
    expected = EXPECTED[name]
    first = STAGES.index(expected["refused_by"])
    for stage in STAGES[:first]:
        run(stage, read(name))
    for stage in STAGES[first:]:
        with pytest.raises(CdcError) as caught:
            run(stage, read(name))
        assert type(caught.value) is getattr(error_tree, expected["error"])
        assert caught.value.exit_code == expected["exit_code"]


@pytest.mark.parametrize("name", BROKEN)
def test_the_command_line_refuses_a_broken_file_with_its_exit_code(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.png"
    code = main(["decode", str(FOLDER / f"{name}.cdc"), "-o", str(output), "--device", "cpu"])
    assert code == EXPECTED[name]["exit_code"]
    assert "error:" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SMALL)
def test_a_reader_written_from_the_formats_pages_finds_the_same_symbols(name: str) -> None:
    """formats/families.md once more, in plain Python; only container and arrays are shared."""
    file = box.read(read(name))
    header = file.header
    walk = families.load_walk("cdc-tiny", True)
    assert isinstance(walk, CdcWalk)
    starts, frequencies = walk.tables.starts.tolist(), walk.tables.frequencies.tolist()
    lows = walk.tables.lows.tolist()
    tables: list[Table] = [
        (low, frequencies[starts[t] : starts[t + 1]]) for t, low in enumerate(lows)
    ]
    payload = file.chunk(ChunkType.LATENTS)
    assert payload is not None
    coder = ReferenceDecoder(payload)

    z_index = walk.z_index[header.point].tolist()
    rows, columns = -(-header.height // 64), -(-header.width // 64)
    z = coder.symbols([t for t in z_index for _ in range(rows * columns)], tables)
    limit = walk.h_s.input_limit
    planes = [
        [
            [min(max(v, -limit), limit) for v in z[start : start + columns]]
            for start in range(c * rows * columns, (c + 1) * rows * columns, columns)
        ]
        for c in range(len(z_index))
    ]
    for layer in walk.h_s.layers:
        planes = plain_layer(layer, planes)
    rows, columns = -(-header.height // 16), -(-header.width // 16)
    index = [
        v for plane in planes[len(planes) // 2 :] for row in plane[:rows] for v in row[:columns]
    ]
    y = coder.symbols(index, tables)
    assert coder.is_empty

    digest = hashlib.sha256()
    for latent, values in (("z", z), ("y", y)):
        digest.update(latent.encode() + b"\0" + struct.pack(f"<{len(values)}i", *values))
    assert digest.hexdigest() == EXPECTED[name]["symbols_sha256"]


def test_the_model_id_is_made_as_the_formats_page_says() -> None:
    walk = families.load_walk("cdc-tiny", True)
    assert isinstance(walk, CdcWalk)
    digest = hashlib.sha256(walk.tables.digest())
    digest.update(struct.pack("<2I", *walk.z_index.shape))
    digest.update(bytes(v for row in walk.z_index.tolist() for v in row))
    digest.update(walk.h_s.digest())
    assert digest.hexdigest()[:8] == EXPECTED["one-pixel"]["model_id"]


def test_the_frozen_family_ids_are_those_of_the_formats_page() -> None:
    page = (FOLDER.parent / "families.md").read_text(encoding="utf-8")
    known = {family.number: name for name, family in families.FAMILIES.items()}
    assert known == {1: "cdc", 2: "rdeic", 3: "diffeic", 4: "cgdm", 5: "palette"}
    for number, name in known.items():
        assert f"| {number} | {name} |" in page


def test_the_maker_never_replaces_a_vector_unless_it_is_told(tmp_path: Path) -> None:
    for path in FOLDER.iterdir():
        shutil.copy(path, tmp_path)
    changed = tmp_path / "truncated.cdc"
    changed.write_bytes(b"other bytes")
    vectors = {v.name: v for v in make_vectors.broken_bytes(tmp_path)}
    for name, vector in vectors.items():
        assert make_vectors.store(vector, tmp_path, may_replace=False) == (name != "truncated")
    assert changed.read_bytes() == b"other bytes"
    assert make_vectors.store(vectors["truncated"], tmp_path, may_replace=True)
    assert changed.read_bytes() == read("truncated")


def test_broken_streams_are_still_what_the_maker_makes() -> None:
    for vector in make_vectors.broken_streams(FOLDER):
        assert vector.data == read(vector.name)


def test_the_profile_of_the_vectors_is_a_profile() -> None:
    from PIL import ImageCms

    opened = ImageCms.ImageCmsProfile(io.BytesIO(make_vectors.profile()))
    assert opened.profile.xcolor_space == "RGB "
    assert image.load(make_vectors.translucent()).icc == make_vectors.profile()
