"""What every family promises, checked on its tiny model: one suite for all of them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from cdcodec import api, families, weights
from cdcodec.codec import Codec, Decoding, Describing, Latents, Pixels, SideWalk, Walk
from cdcodec.entropy.coder import Meter, Reader, Writer
from cdcodec.errors import InputError, OutOfReach, WeightsError

# The largest tile that an axis of 320 pixels is cut into, and the smallest that overlaps allow.
SMALL_TILE = 256
TILED_PSNR_DB = 50.0
"""Measured with cdc-tiny: 61 dB, hardly more than two roundings to bfloat16 differ by."""

SIZES = [(1, 1), (1, 70), (70, 1), (16, 16), (63, 65), (64, 64), (130, 17)]


@dataclass(frozen=True)
class Subject:
    """A family under test."""

    family: str
    model: str
    codec: Codec

    @property
    def walk(self) -> Walk:
        return self.codec.walk

    @property
    def points(self) -> list[int]:
        """The first, a middle and the last rate point."""
        last = self.walk.rate_points - 1
        return sorted({0, last // 2, last})

    def encode(self, source: Image.Image | bytes, **options: Any) -> api.Encoded:
        return api.encode(source, model=self.model, device="cpu", offline=True, **options)

    def latents(self, pixels: Pixels, point: int) -> Latents:
        return self.codec.quantise(self.codec.analyse(pixels), point)

    def told(self, pixels: Pixels, latents: Latents, point: int) -> Latents | None:
        """Return what a reader knows of these latents before the walk."""
        if not isinstance(self.walk, SideWalk):
            return None
        if isinstance(self.codec, Describing):
            latents = {**latents, **self.codec.describe(pixels, latents, point, 0)}
        return self.walk.unpack(self.walk.pack(latents))


@pytest.fixture(scope="module", params=sorted(families.FAMILIES))
def subject(request: pytest.FixtureRequest) -> Subject:
    model = f"{request.param}-tiny"
    return Subject(request.param, model, families.load_codec(model, "cpu", True))


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="module")
def crop(photograph: Image.Image) -> Image.Image:
    return photograph.crop((170, 30, 170 + 130, 30 + 90))


def decoded(file: bytes, **choices: Any) -> Pixels:
    return api.decode(file, Decoding(device="cpu", **choices), offline=True).picture.pixels


def psnr(a: Pixels, b: Pixels) -> float:
    error = np.square(a.astype(np.float64) - b).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def test_every_bundled_set_has_the_id_that_files_will_carry(subject: Subject) -> None:
    for entry in weights.load_registry().values():
        if entry.family == subject.family and entry.files[0].location == weights.BUNDLED:
            (path, *_) = weights.resolve(entry.name, offline=True)
            walk = families.open_walk(entry.family, path, entry.base)
            assert walk.model_id.hex() == entry.model_id
    assert len(subject.walk.model_id) == 4
    assert 1 <= subject.walk.rate_points <= 256


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_a_reader_gets_the_latents_that_were_written(
    subject: Subject, crop: Image.Image, size: tuple[int, int]
) -> None:
    pixels = np.array(crop.resize(size))
    for point in subject.points:
        writer = Writer()
        written = subject.walk.code(writer, subject.latents(pixels, point), *size, point)
        reader = Reader(writer.finish())
        told = subject.told(pixels, written, point)
        read = subject.walk.code(reader, told, *size, point)
        reader.finish()
        assert list(read) == list(written)
        for name in read:
            assert read[name].dtype == np.int32
            np.testing.assert_array_equal(read[name], written[name])
        assert reader.digest() == writer.digest()
        assert reader.bits == pytest.approx(writer.bits)


def test_what_was_read_can_be_written_again(subject: Subject, crop: Image.Image) -> None:
    at = *crop.size, subject.points[-1]
    writer, again = Writer(), Writer()
    latents = subject.walk.code(writer, subject.latents(np.array(crop), at[2]), *at)
    subject.walk.code(again, latents, *at)
    assert again.finish() == writer.finish()


def test_the_meter_counts_what_the_writer_writes(subject: Subject, photograph: Image.Image) -> None:
    for point in subject.points:
        latents = subject.latents(np.array(photograph), point)
        writer, meter = Writer(), Meter()
        subject.walk.code(writer, latents, *photograph.size, point)
        subject.walk.code(meter, latents, *photograph.size, point)
        assert meter.total_bits == pytest.approx(8 * len(writer.finish()), rel=0.01)


def test_encoding_twice_gives_the_same_file(subject: Subject, crop: Image.Image) -> None:
    first, second = subject.encode(crop, quality=50), subject.encode(crop, quality=50)
    assert first.data == second.data
    assert first.data == subject.encode(as_png(crop), quality=50).data


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_any_size_comes_back(subject: Subject, crop: Image.Image, size: tuple[int, int]) -> None:
    encoded = subject.encode(crop.resize(size), quality=50, steps=1)
    info = api.info(encoded.data, verify=True)
    assert (encoded.width, encoded.height) == (info.width, info.height) == size
    assert info.steps == 1
    assert sum(info.bits.values()) == pytest.approx(sum(encoded.bits.values()))
    assert api.decode(encoded.data, Decoding(device="cpu")).image.size == size


def test_all_decoders_that_are_listed_work(subject: Subject, crop: Image.Image) -> None:
    file = subject.encode(crop, quality=50).data
    assert subject.codec.decoders
    for name, info in subject.codec.decoders.items():
        assert info.summary
        assert info.min_steps <= info.steps <= info.max_steps
        for steps in {max(info.min_steps, min(k, info.max_steps)) for k in (1, 2, 3)}:
            calls: list[tuple[int, int]] = []
            result = api.decode(
                file,
                Decoding(decoder=name, steps=steps, device="cpu"),
                progress=lambda done, total, calls=calls: calls.append((done, total)),
            )
            assert (result.decoder, result.steps, result.family) == (name, steps, subject.family)
            assert result.picture.pixels.shape == (crop.height, crop.width, 3)
            assert result.picture.pixels.dtype == np.uint8
            assert calls == [(k + 1, len(calls)) for k in range(len(calls))]
            assert len(calls) >= steps


def test_the_file_says_how_many_steps_unless_the_reader_does(
    subject: Subject, crop: Image.Image
) -> None:
    default = next(iter(subject.codec.decoders.values()))
    assert api.info(subject.encode(crop, quality=20).data).steps == default.steps
    file = subject.encode(crop, quality=20, steps=default.min_steps + 1).data
    decode = api.decode(file, Decoding(device="cpu"))
    assert decode.steps == default.min_steps + 1
    np.testing.assert_array_equal(decode.picture.pixels, decoded(file, steps=decode.steps))
    with pytest.raises(InputError, match="steps"):
        decoded(file, steps=default.max_steps + 1)
    if default.min_steps > 0:
        with pytest.raises(InputError, match="steps"):
            subject.encode(crop, steps=default.min_steps - 1)


def test_the_same_seed_gives_the_same_image(subject: Subject, crop: Image.Image) -> None:
    file = subject.encode(crop, quality=50).data
    for name in subject.codec.decoders:
        np.testing.assert_array_equal(
            decoded(file, decoder=name, seed=7), decoded(file, decoder=name, seed=7)
        )


def test_another_seed_gives_another_image_where_there_is_noise(
    subject: Subject, crop: Image.Image
) -> None:
    file = subject.encode(crop, quality=50).data
    for name, info in subject.codec.decoders.items():
        if info.stochasticity:
            one, other = (
                decoded(file, decoder=name, steps=4, seed=seed) for seed in (1, 2**64 - 1)
            )
            assert (one != other).any()
            one, other = (
                decoded(file, decoder=name, steps=4, seed=seed, stochasticity=0.0)
                for seed in (1, 2)
            )
            np.testing.assert_array_equal(one, other)


def test_tiles_hardly_show(subject: Subject, photograph: Image.Image) -> None:
    large = photograph.crop((0, 0, 330, 300))
    file = subject.encode(large, quality=50, steps=3).data
    tiled, whole = decoded(file, tile=SMALL_TILE), decoded(file)
    assert psnr(tiled, whole) >= TILED_PSNR_DB


@pytest.mark.parametrize("side", [0, 64, 301])
def test_an_impossible_tile_is_refused(
    subject: Subject, photograph: Image.Image, side: int
) -> None:
    file = subject.encode(photograph, quality=0).data
    with pytest.raises(InputError, match=f"^{side} pixels are no side of a tile"):
        decoded(file, tile=side)


@pytest.fixture(scope="module")
def patch(photograph: Image.Image) -> Image.Image:
    """A picture that is small enough to be encoded at all rate points."""
    return photograph.crop((200, 90, 200 + 48, 90 + 40))


@pytest.fixture(scope="module")
def sizes(subject: Subject, patch: Image.Image) -> list[int]:
    """The bytes of a small picture's file at each rate point."""
    last = subject.walk.rate_points - 1
    return [len(subject.encode(patch, quality=100 * p / last).data) for p in range(last + 1)]


def test_the_largest_file_that_fits_is_written(
    subject: Subject, patch: Image.Image, sizes: list[int]
) -> None:
    pixels = patch.width * patch.height
    chosen = sorted(set(sizes))[:: max(1, len(set(sizes)) // 4)]
    for budget in [*chosen, *(size - 1 for size in chosen[1:]), max(sizes)]:
        encoded = subject.encode(patch, size=budget)
        largest = max(size for size in sizes if size <= budget)
        assert len(encoded.data) == largest == sizes[encoded.point]
        assert encoded.target_bpp == 8 * budget / pixels
        assert encoded.bpp == 8 * largest / pixels
        larger = [size for size in sizes if size > budget]
        note = f"the next larger file has {min(larger, default=0)} bytes, "
        assert [each.startswith(note) for each in encoded.notes] == [True] * (
            largest < 0.96 * budget
        )
    assert subject.encode(patch, bpp=8 * (budget + 0.5) / pixels).data == encoded.data


def test_targets_out_of_range_say_so(
    subject: Subject, patch: Image.Image, sizes: list[int]
) -> None:
    for target in ({"bpp": 0.0001}, {"size": min(sizes) - 1}):
        with pytest.raises(OutOfReach, match="bytes are too few") as caught:
            subject.encode(patch, **target)
        assert f"the smallest possible file has {min(sizes)} bytes, " in str(caught.value.hint)
    encoded = subject.encode(patch, bpp=100)
    assert len(encoded.data) == max(sizes)
    assert any("cannot use more" in note for note in encoded.notes)


def test_quality_runs_over_all_rate_points(subject: Subject, crop: Image.Image) -> None:
    last = subject.walk.rate_points - 1
    points = [subject.encode(crop, quality=q).point for q in (0, 50, 100)]
    assert points == [0, round(last / 2), last]


def test_grey_stays_grey(subject: Subject, crop: Image.Image) -> None:
    result = api.decode(
        subject.encode(crop.convert("L"), quality=50).data, Decoding(device="cpu", steps=2)
    )
    assert result.image.mode == "L"
    assert result.image.size == crop.size
    assert api.decode(
        subject.encode(crop, quality=50).data, Decoding(device="cpu", steps=2)
    ).image.mode == "RGB"  # fmt: skip


def test_alpha_is_exact(subject: Subject, crop: Image.Image) -> None:
    alpha = Image.fromarray(np.array(crop)[..., 1] // 2)
    crop = crop.copy()
    crop.putalpha(alpha)
    image = api.decode(subject.encode(crop, quality=20).data, Decoding(device="cpu", steps=1)).image
    assert image.mode == "RGBA"
    np.testing.assert_array_equal(np.array(image)[..., 3], np.array(alpha))


def test_what_is_unknown_is_refused(subject: Subject, crop: Image.Image) -> None:
    file = subject.encode(crop, quality=20).data
    with pytest.raises(InputError, match="nonsense") as caught:
        decoded(file, decoder="nonsense")
    assert all(name in str(caught.value.hint) for name in subject.codec.decoders)
    with pytest.raises(InputError, match="device"):
        api.decode(file, Decoding(device="abacus"))
    with pytest.raises(InputError, match="metadata"):
        subject.encode(crop, metadata="some")
    with pytest.raises(InputError, match="exclude"):
        subject.encode(crop, bpp=0.1, size=100)
    for nonsense in (float("nan"), float("inf"), -1.0):
        with pytest.raises(InputError, match="target"):
            subject.encode(crop, bpp=nonsense)
        with pytest.raises(InputError, match="quality"):
            subject.encode(crop, quality=nonsense)
    with pytest.raises(WeightsError, match=f"{subject.family}-tinny") as unknown:
        api.encode(crop, model=f"{subject.family}-tinny")
    assert subject.model in str(unknown.value.hint)
