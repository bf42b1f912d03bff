"""`--model` takes a weight file as well as a name, in every command that reads or writes files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from skimage import data

import cdcodec
from cdcodec import api, families, weights
from cdcodec.cli.__main__ import main
from cdcodec.codec import Decoding
from cdcodec.errors import WeightsError
from cdcodec.evaluation import codecs
from cdcodec.weight_file import EXACT_PREFIX, METADATA_KEY
from tests.make_vectors import FOLDER


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(data.astronaut()[30:120, 170:300])


def bundled(name: str) -> Path:
    return weights.resolve(name, offline=True)[0]


def retrained(name: str, path: Path) -> str:
    """Write a file like that of a set, with other numbers in its networks, and return its path."""
    with safe_open(bundled(name), "numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    for key, array in arrays.items():
        if not key.startswith(EXACT_PREFIX):
            arrays[key] = array * array.dtype.type(0.75)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path, metadata)
    return str(path)


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
def test_a_copy_of_a_bundled_file_codes_as_its_set_does(family: str, picture: Image.Image) -> None:
    name, copy = f"{family}-tiny", "my own weights.safetensors"
    shutil.copy(bundled(name), copy)
    made = api.encode(picture, model=copy, quality=40, device="cpu")
    assert made.data == api.encode(picture, model=name, quality=40, device="cpu").data
    assert (made.model, made.family) == (copy, family)
    decoding = Decoding(steps=2, device="cpu")
    by_file = api.decode(made.data, decoding, model=copy)
    assert by_file.model == copy
    by_name = api.decode(made.data, decoding)
    assert by_name.model == name
    np.testing.assert_array_equal(by_file.picture.pixels, by_name.picture.pixels)
    verified = api.info(made.data, verify=True)
    assert cdcodec.decode(made.data, steps=2, device="cpu", model=copy).size == picture.size
    assert cdcodec.info(made.data, verify=True, model=copy) == replace(verified, model=copy)


def test_the_networks_of_the_file_are_used_and_not_those_of_the_set(picture: Image.Image) -> None:
    own = retrained("rdeic-tiny", Path("runs/mine/rdeic-tiny.safetensors"))
    file = api.encode(picture, model="rdeic-tiny", quality=40, device="cpu").data
    decoding = Decoding(steps=2, device="cpu")
    ours = api.decode(file, decoding, model="rdeic-tiny").picture.pixels
    theirs = api.decode(file, decoding, model=own).picture.pixels  # bits, and so the id, are equal
    assert (ours != theirs).any()


def test_a_file_that_has_changed_is_read_again(picture: Image.Image) -> None:
    file = api.encode(picture, model="cdc-tiny", quality=40, device="cpu").data
    path, decoding = Path("mine.safetensors"), Decoding(steps=1, device="cpu")
    shutil.copy(bundled("cdc-tiny"), path)
    before = api.decode(file, decoding, model=str(path)).picture.pixels
    retrained("cdc-tiny", path)
    assert (api.decode(file, decoding, model=str(path)).picture.pixels != before).any()


def test_every_command_takes_a_weight_file(picture: Image.Image) -> None:
    picture.save("photo.png")
    Path("runs").mkdir()
    own = str(shutil.copy(bundled("palette-tiny"), Path("runs", "palette-tiny.safetensors")))
    assert main(["encode", "photo.png", "-o", "photo.cdc", "-q", "80", "--model", own]) == 0
    assert main(["transcode", "photo.cdc", "-o", "less.cdc", "-q", "20", "--model", own]) == 0
    assert main(["info", "less.cdc", "--verify", "--model", own]) == 0
    assert main(["decode", "less.cdc", "-o", "less.png", "--model", own]) == 0
    with Image.open("less.png") as decoded:
        assert decoded.size == picture.size
    base = str(shutil.copy(bundled("cgdm-tiny"), "cgdm.safetensors"))
    assert main(["enhance", "photo.png", "-o", "better.png", "--model", base]) == 0


def test_a_weight_file_is_a_contender_by_its_own_networks(picture: Image.Image) -> None:
    pixels = np.array(picture)
    files = [retrained("rdeic-tiny", Path("a/rdeic.safetensors")), str(bundled("rdeic-tiny"))]
    theirs, ours = (codecs.create(f"{path}:seed=3", "cpu") for path in files)
    assert theirs.label == f"{files[0]}:seed=3"
    assert theirs.version != ours.version
    made = ours.encode(pixels, 8.0)
    assert (theirs.decode(made.data, 2).pixels != ours.decode(made.data, 2).pixels).any()


def wrong_file(kind: str) -> str:
    path = Path(f"{kind}.safetensors")
    if kind == "text":
        path.write_text("no weights\n", encoding="utf-8")
    elif kind == "folder":
        path.mkdir()
    elif kind == "someone else's":
        save_file({"a": np.zeros(3, np.float32)}, path)
    elif kind == "cut short":
        path.write_bytes(bundled("cdc-tiny").read_bytes()[:-1000])
    elif kind == "hollow":
        description = json.dumps({"family": "cdc", "config": {}})
        save_file({"a": np.zeros(3, np.float32)}, path, {METADATA_KEY: description})
    elif kind == "of other sizes":
        description = json.dumps({"family": "rdeic", "config": {"codes": 17}})
        save_file({"a": np.zeros(3, np.float32)}, path, {METADATA_KEY: description})
    elif kind == "a prior":
        shutil.copy(bundled("latent-tiny"), path)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "cannot read the weight file missing.safetensors: No such file"),
        ("folder", "cannot read the weight file folder.safetensors: Is a directory"),
        ("a picture", "photo.png is not a weight file of cdcodec"),
        ("text", "text.safetensors is not a weight file of cdcodec"),
        ("someone else's", "someone else's.safetensors is not a weight file of cdcodec"),
        ("cut short", "cut short.safetensors is not a weight file of cdcodec"),
        ("hollow", "hollow.safetensors has no entropy tables"),
        ("of other sizes", "of other sizes.safetensors has networks of other sizes than rdeic-"),
        ("a prior", "a prior.safetensors is a part of other weights and cannot code by itself"),
    ],
)
def test_a_wrong_file_is_a_weights_error(
    kind: str, said: str, picture: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    picture.save("photo.png")
    model = "photo.png" if kind == "a picture" else wrong_file(kind)
    assert main(["encode", "photo.png", "--model", model]) == WeightsError.exit_code
    assert said in capsys.readouterr().err
    assert not Path("photo.cdc").exists()


def test_a_file_is_not_read_with_weights_of_another_id(
    picture: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photo.cdc").write_bytes(
        api.encode(picture, model="cdc-tiny", quality=40, device="cpu").data
    )
    for model in ("cdc-nano", "palette-tiny", str(bundled("rdeic-tiny"))):
        assert main(["decode", "photo.cdc", "--model", model]) == WeightsError.exit_code
        error, hint = capsys.readouterr().err.splitlines()
        assert f"the file was not made with {model}, but with weights of the id" in error
        assert hint == "hint: cdc-tiny has that id, and is found without --model"
    assert not Path("photo.png").exists()


def test_an_unknown_id_is_answered_by_how_to_name_a_file() -> None:
    file = (FOLDER / "unknown-model-id.cdc").read_bytes()
    with pytest.raises(WeightsError, match="no known weights have the model id") as caught:
        api.decode(file)
    assert str(caught.value.hint).startswith("--model FILE.safetensors names weights of your own")
