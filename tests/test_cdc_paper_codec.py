"""Converted checkpoints of the CDC authors encode and decode like any other weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch.nn import functional as F

from cdcodec import api, families, weights
from cdcodec.cli.__main__ import main
from cdcodec.codec import Decoding
from cdcodec.diffusion import samplers
from cdcodec.entropy.coder import Meter, Reader, Writer
from cdcodec.entropy.tables import TOTAL, concatenate, gaussian_sigma, gaussian_tables
from cdcodec.errors import CdcError, InputError, WeightsError
from cdcodec.families.cdc import config, convert, export, paper_export
from cdcodec.families.cdc.codec import CdcCodec
from cdcodec.families.cdc.paper import PAPER_TINY, SCALE_MIN, PaperCdc
from cdcodec.families.cdc.paper_codec import PaperCodec
from cdcodec.families.cdc.walk import CdcWalk, z_shape
from cdcodec.nn.prior import bits, gaussian_likelihood
from cdcodec.weight_file import read_metadata
from tests.test_cdc_paper import authors_shape, fill

NAME = "cdc-tiny-paper"
SIZES = [(1, 1), (64, 128), (70, 17), (129, 80)]


@dataclass(frozen=True)
class Converted:
    """A small checkpoint of the authors' kind, made usable by the command."""

    checkpoint: Path
    file: Path
    report: dict[str, object]

    @property
    def codec(self) -> PaperCodec:
        codec = families.load_codec(NAME, "cpu", True)
        assert isinstance(codec, PaperCodec)
        return codec

    @property
    def network(self) -> PaperCdc:
        return self.codec.network

    @property
    def walk(self) -> CdcWalk:
        return self.codec.walk


def authors_tensors() -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint with the authors' names and shapes, but small."""
    with torch.device("meta"):
        state = PaperCdc(PAPER_TINY).state_dict()
    tensors = {}
    for ours, tensor in state.items():
        name = convert.checkpoint_name(ours)
        shape = authors_shape(name, tensor.shape)
        tensors[name] = torch.from_numpy(fill(name, shape))
    # Scales and means that spread over many tables, as those of trained networks do.
    tensors["context_fn.hyper_dec.2.0.weight"] *= 2
    return tensors


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converted]:
    folder = tmp_path_factory.mktemp("converted")
    checkpoint = folder / "model.pt"
    torch.save({"step": 7, "model": authors_tensors()}, checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDCODEC_CACHE", str(folder / "cache"))
        small = functools.partial(convert.weight_file, config=PAPER_TINY)
        patch.setattr(convert, "weight_file", small)
        forget()
        report = folder / "report.json"
        with pytest.MonkeyPatch.context() as streams, report.open("w") as stdout:
            streams.setattr("sys.stdout", stdout)
            assert main(["weights", "convert", str(checkpoint), "--name", NAME, "--json"]) == 0
        file = folder / "cache" / f"{NAME}.safetensors"
        yield Converted(checkpoint, file, json.loads(report.read_text()))
    forget()


def forget() -> None:
    families.load_walk.cache_clear()
    families.load_codec.cache_clear()


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return Image.fromarray(data.astronaut()).crop((150, 0, 150 + 160, 128))


def encode(source: Image.Image, **options: object) -> api.Encoded:
    return api.encode(source, model=NAME, device="cpu", offline=True, **options)  # type: ignore[arg-type]


def decode(file: bytes, **choices: object) -> np.ndarray:
    decoding = Decoding(**{"device": "cpu", "steps": 2, **choices})  # type: ignore[arg-type]
    return api.decode(file, decoding, offline=True).picture.pixels


# Conversion


def test_a_converted_checkpoint_is_registered(converted: Converted) -> None:
    entry = weights.find(NAME)
    assert (entry.family, entry.preset) == ("cdc", "paper")
    assert entry.model_id == converted.walk.model_id.hex()
    assert converted.report["model_id"] == entry.model_id
    assert converted.report["output"] == str(converted.file)
    assert weights.resolve(NAME, offline=True) == weights.verify(NAME) == [converted.file]
    assert list(weights.load_registry())[:-1] == list(weights.load_registry(REGISTRY))


REGISTRY = weights.registry_path()


def test_the_file_holds_the_checkpoint_to_the_bit(converted: Converted) -> None:
    stored = paper_export.read(converted.file).state_dict()
    assert stored.keys() == converted.network.state_dict().keys()
    theirs = authors_tensors()
    for ours, tensor in stored.items():
        expected = theirs[convert.checkpoint_name(ours)]
        assert torch.equal(tensor, expected.view(tensor.shape))


def test_converting_twice_gives_the_same_file(converted: Converted) -> None:
    tensors = convert.read_checkpoint(converted.checkpoint)
    assert convert.weight_file(tensors) == converted.file.read_bytes()


def test_the_metadata_says_which_codec_to_open(converted: Converted) -> None:
    metadata = read_metadata(converted.file)
    assert config.preset_of(metadata) == "paper"
    assert isinstance(families.load_codec("cdc-tiny", "cpu", True), CdcCodec)
    with pytest.raises(WeightsError, match="CdcConfig"):
        export.read(converted.file)
    for text, problem in (
        ("", "does not say"),
        ("[]", "does not say"),
        ('{"family": "cdd"}', "family cdd"),
        ('{"family": "cdc", "preset": "papr"}', "unknown preset papr"),
    ):
        with pytest.raises(WeightsError, match=problem):
            config.preset_of(text)
    with pytest.raises(WeightsError, match="CdcConfig"):
        config.parse('{"family": "cdc"}', config.CdcConfig)


def test_names_that_are_taken_or_impossible_are_refused(
    converted: Converted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["weights", "convert", str(converted.checkpoint), "-o", str(tmp_path), "--name"]
    for name, code, said in (
        ("cdc-nano", 3, "choose another --name"),
        (NAME, 3, "--overwrite"),
        ("../escaped", 6, "no plain name"),
    ):
        assert main([*command, name]) == code
        assert said in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "none"), "--name", "x"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_weights_can_be_converted_to_another_folder_and_again(
    converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDCODEC_CACHE", str(tmp_path / "cache"))
    command = ["weights", "convert", str(converted.checkpoint), "-o", str(tmp_path), "--name", "x"]
    assert main(command) == 0
    assert main(command) == 3
    assert main([*command, "--overwrite"]) == 0
    path = tmp_path / "x.safetensors"
    assert path.read_bytes() == converted.file.read_bytes()
    assert weights.resolve("x", offline=True) == [path]
    path.write_bytes(b"other")
    with pytest.raises(WeightsError, match="converted weights are damaged") as caught:
        weights.resolve("x")
    assert "convert CHECKPOINT --name x" in str(caught.value.hint)
    path.unlink()
    with pytest.raises(WeightsError, match="missing from"):
        weights.resolve("x")


def test_names_of_the_installation_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDCODEC_CACHE", str(tmp_path))
    ours = weights.find("cdc-nano")
    own = weights.own_registry_path()
    weights.register(own, replace(ours, licence="stolen"))
    weights.register(own, replace(ours, name="other", model_id="00000001"))
    assert weights.find("cdc-nano") == ours
    assert weights.find("other").model_id == "00000001"
    assert weights.by_model_id(bytes.fromhex(ours.model_id)) == ours
    own.write_text("[")
    with pytest.raises(WeightsError, match="cannot read the registry"):
        weights.load_registry()


def test_a_user_without_a_home_has_the_weights_of_the_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(weights.places, "cache_dir", homeless)
    assert weights.load_registry() == weights.load_registry(REGISTRY)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_arbitrary_bytes_are_no_checkpoint(converted: Converted, tmp_path: Path, name: str) -> None:
    random = np.random.default_rng(5)
    whole = converted.checkpoint.read_bytes()
    path = tmp_path / name
    contents = [b"\x80\x02" + random.bytes(n) for n in range(60)]
    contents += [whole[:n] for n in (1, 30, 1000, len(whole) - 1)]
    contents += [b"\x80\x02.", b"\x80\x02]q\x00.", b"\x80\x02\x85.", b"\x80\x02t.", b"("]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(WeightsError) as caught:
            convert.read_checkpoint(path)
        assert "\n" not in caught.value.message


def test_a_checkpoint_that_diverged_is_refused() -> None:
    tensors = authors_tensors()
    tensors["denoise_fn.final_conv.1.bias"][0] = np.nan
    with pytest.raises(WeightsError, match=r"not finite: denoise_fn\.final_conv\.1\.bias"):
        convert.convert(tensors, PAPER_TINY)


# The integer half


def test_a_convolution_and_a_shuffle_replace_a_transposed_convolution() -> None:
    random = np.random.default_rng(0)
    weight, x = random.normal(size=(3, 4, 5, 5)), random.normal(size=(1, 3, 4, 6))
    expected = F.conv_transpose2d(
        torch.from_numpy(x), torch.from_numpy(weight), stride=2, padding=2, output_padding=1
    )
    rewritten = torch.from_numpy(paper_export.split_phases(weight).copy())
    found = F.pixel_shuffle(F.conv2d(torch.from_numpy(x), rewritten, padding=1), 2)
    torch.testing.assert_close(found, expected)


def test_the_integer_hyper_decoder_computes_what_the_float_one_does(converted: Converted) -> None:
    compressor = converted.network.compressor
    z = np.random.default_rng(1).integers(-9, 10, (16, 4, 3)).astype(np.int32)
    with torch.no_grad():
        z_hat = torch.from_numpy(z)[None] + compressor.prior.medians
        mean, scale = (part[0].numpy() for part in compressor.parameters_of_y(z_hat))
    found = converted.walk.h_s(z)
    mean_found, scale_found = np.split(found, 2)
    assert np.abs(mean_found / 64 - mean).max() <= 1 / 64
    seen = scale_found > SCALE_MIN * paper_export.SCALE_ONE
    assert np.abs(scale_found / paper_export.SCALE_ONE - scale)[seen].max() <= 1 / 256
    between = [gaussian_sigma(i + 0.5) for i in range(63)]
    index = np.searchsorted(between, scale, side="right")
    thresholds = converted.walk.scale_thresholds
    assert thresholds is not None
    off = np.abs(np.searchsorted(thresholds, scale_found, side="right") - index)
    assert off.max() <= 1
    assert np.count_nonzero(off) < 0.02 * off.size
    assert len(np.unique(index)) > 20


def test_every_channel_of_z_has_the_table_of_its_prior(converted: Converted) -> None:
    walk, prior = converted.walk, converted.network.compressor.prior
    assert walk.z_index.tolist() == [list(range(64, 64 + 16))]
    assert len(walk.tables) == 64 + 16
    gaussians = gaussian_tables()
    np.testing.assert_array_equal(walk.tables.lows[:64], gaussians.lows)
    for channel, row in enumerate(prior.pmf(-255, 255)):
        start, stop = walk.tables.starts[64 + channel : 66 + channel]
        frequencies = walk.tables.frequencies[start : stop - 1]
        low = walk.tables.lows[64 + channel] + 255
        expected = row[low : low + len(frequencies)]
        np.testing.assert_allclose(frequencies / TOTAL, expected, atol=600 / TOTAL)
        assert expected.sum() > 1 - 600 / TOTAL


def test_sets_of_tables_are_numbered_on() -> None:
    tables = gaussian_tables(count=3)
    twice = concatenate(tables, tables)
    assert len(twice) == 6
    np.testing.assert_array_equal(np.split(twice.frequencies, 2), [tables.frequencies] * 2)
    np.testing.assert_array_equal(np.diff(twice.starts), np.tile(np.diff(tables.starts), 2))


def test_all_that_decides_integers_is_in_the_model_id(converted: Converted) -> None:
    walk = converted.walk
    thresholds = walk.scale_thresholds
    assert thresholds is not None
    changed = [
        CdcWalk.build(walk.tables, walk.z_index, walk.h_s, thresholds + np.int32(1)),
        CdcWalk.build(walk.tables, walk.z_index, walk.h_s),
        CdcWalk.build(walk.tables, walk.z_index[:, ::-1], walk.h_s, thresholds),
    ]
    assert len({walk.model_id, *(each.model_id for each in changed)}) == 4
    for wrong in (
        thresholds.astype(np.int64),
        thresholds[::-1],
        thresholds[None],
        np.arange(80, dtype=np.int32),
    ):
        with pytest.raises(WeightsError, match="scale_thresholds"):
            CdcWalk.build(walk.tables, walk.z_index, walk.h_s, wrong)
    for z_index in (walk.z_index.astype(np.int32), walk.z_index[0], walk.z_index + np.uint16(1)):
        with pytest.raises(WeightsError, match="z_index"):
            CdcWalk.build(walk.tables, z_index, walk.h_s, thresholds)


# Files


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_any_size_comes_back(
    converted: Converted, photograph: Image.Image, size: tuple[int, int]
) -> None:
    encoded = encode(photograph.resize(size))
    info = api.info(encoded.data, verify=True)
    assert (info.width, info.height, info.point, info.steps) == (*size, 0, 17)
    assert info.model == NAME
    assert dict(info.bits) == pytest.approx(dict(encoded.bits))
    decoded = api.decode(encoded.data, Decoding(device="cpu", steps=1))
    assert decoded.model == NAME
    assert decoded.image.size == size


def test_a_reader_gets_what_the_writer_wrote_and_the_meter_counted(
    converted: Converted, photograph: Image.Image
) -> None:
    codec = converted.codec
    pixels = np.array(photograph)
    at = *photograph.size, 0
    latents = codec.quantise(codec.analyse(pixels), 0)
    writer, meter = Writer(), Meter()
    written = codec.walk.code(writer, latents, *at)
    codec.walk.code(meter, latents, *at)
    payload = writer.finish()
    assert meter.total_bits == pytest.approx(8 * len(payload), rel=0.01)
    reader = Reader(payload)
    read = codec.walk.code(reader, None, *at)
    reader.finish()
    for name in written:
        np.testing.assert_array_equal(read[name], written[name])
    assert reader.digest() == writer.digest()
    assert api.info(encode(photograph).data, verify=True).symbols_sha256 == writer.digest()
    again = Writer()
    codec.walk.code(again, read, *at)
    assert again.finish() == payload


@torch.no_grad()
def test_files_are_as_long_as_the_paper_estimates(
    converted: Converted, photograph: Image.Image
) -> None:
    compressor = converted.network.compressor
    whole = photograph.resize((192, 128))  # the paper knows whole blocks of 64 pixels only
    x = torch.from_numpy(np.array(whole)).permute(2, 0, 1)[None] / 127.5 - 1
    y, z = compressor.analyse(x)
    z_hat = compressor.prior.quantise(z)
    mean, scale = compressor.parameters_of_y(z_hat)
    estimate_y = float(bits(gaussian_likelihood(torch.round(y - mean) + mean, mean, scale)))
    estimate_z = float(bits(compressor.prior.likelihood(z_hat)))
    found = encode(whole).bits
    # An escape costs less than the 30 bits that the paper's estimate stops at.
    assert found["y"] == pytest.approx(estimate_y, rel=0.03)
    assert found["z"] == pytest.approx(estimate_z, rel=0.01)


@torch.no_grad()
def test_pixels_are_those_of_the_paper(converted: Converted, photograph: Image.Image) -> None:
    codec = converted.codec
    whole = photograph.resize((128, 64))
    file = encode(whole).data
    latents = codec.walk.code(Meter(), codec.analyse(np.array(whole)), 128, 64, 0)
    y_hat = torch.from_numpy(latents["y"])[None] / 64
    for gamma in (0.0, 0.8):
        start = samplers.noise_tensor(3, 3, 64, 128, gamma=gamma)
        expected = codec.network.decode(y_hat, start, 3)[0].permute(1, 2, 0).numpy() * 255
        found = decode(file, steps=3, stochasticity=gamma, seed=3)
        assert np.abs(found - expected).max() < 0.51


def test_both_decoders_follow_seed_and_steps(converted: Converted, photograph: Image.Image) -> None:
    file = encode(photograph.resize((64, 64))).data
    pictures = [
        decode(file, decoder=name, seed=seed) for name in ("ddim", "ddpm") for seed in (0, 1)
    ]
    for k, one in enumerate(pictures):
        assert all((one != other).any() for other in pictures[:k])
    np.testing.assert_array_equal(decode(file, decoder="ddpm", seed=1), pictures[-1])
    calls: list[tuple[int, int]] = []
    api.decode(
        file,
        Decoding(device="cpu", steps=3),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_the_uncoded_margin_is_at_its_mean(converted: Converted, photograph: Image.Image) -> None:
    codec = converted.codec
    odd = photograph.crop((0, 0, 130, 70))
    writer = Writer()
    analysis = codec.analyse(np.array(odd))
    latents = codec.walk.code(writer, analysis, *odd.size, 0)
    padded = codec._padded(latents)
    rows, columns = z_shape(*odd.size)
    assert padded.shape == (16, 4 * rows, 4 * columns)
    np.testing.assert_array_equal(padded[:, :5, :9], latents["y"])
    mean = codec.walk.h_s(latents["z"])[:16]
    np.testing.assert_array_equal(padded[:, 5:], mean[:, 5:])
    np.testing.assert_array_equal(padded[:, :, 9:], mean[:, :, 9:])


def test_large_pictures_are_decoded_in_tiles(converted: Converted) -> None:
    large = Image.fromarray(data.astronaut()).crop((0, 0, 330, 100))
    file = encode(large).data
    calls: list[tuple[int, int]] = []
    tiled = api.decode(
        file,
        Decoding(device="cpu", steps=1, tile=256),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 2), (2, 2)]
    assert tiled.picture.pixels.shape == (100, 330, 3)


def test_there_is_one_rate_and_targets_are_kept_or_refused(
    converted: Converted, photograph: Image.Image
) -> None:
    free = encode(photograph)
    assert free.target_bpp is None
    assert free.notes == ()
    for quality in (0, 50, 100):
        assert encode(photograph, quality=quality).data == free.data
    roomy = encode(photograph, bpp=2 * free.bpp)
    assert roomy.data == free.data
    assert any("cannot use more" in note for note in roomy.notes)
    assert encode(photograph, size=len(free.data)).data == free.data
    for target in ({"bpp": free.bpp / 2}, {"size": len(free.data) - 1}):
        with pytest.raises(InputError, match="too few") as caught:
            encode(photograph, **target)
        assert f"{len(free.data)} bytes" in str(caught.value.hint)
    with pytest.raises(InputError, match="exclude"):
        encode(photograph, bpp=1.0, size=10)


def test_damage_is_noticed(converted: Converted, photograph: Image.Image) -> None:
    file = encode(photograph.resize((70, 50))).data
    for position in range(0, len(file), 7):
        broken = bytearray(file)
        broken[position] ^= 1 << position % 8
        with pytest.raises(CdcError):
            api.decode(bytes(broken), Decoding(device="cpu", steps=1))
        with pytest.raises(CdcError):
            api.info(file[:position], verify=True)


def test_without_the_conversion_a_file_names_what_it_needs(
    converted: Converted, photograph: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = encode(photograph.resize((64, 64)))
    monkeypatch.setenv("CDCODEC_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=str(converted.report["model_id"])):
        api.decode(encoded.data, Decoding(device="cpu"))
