import contextlib
import io
import struct
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from cdcodec import image
from cdcodec.errors import BitstreamError, InputError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PHOTO = skimage.data.astronaut()[40:77, 180:231].copy()  # 37 rows of 51 pixels, and in them a face


def file_of(img, format="PNG", **options):
    buffer = io.BytesIO()
    img.save(buffer, format, **options)
    return buffer.getvalue()


def photo_image(mode="RGB"):
    return Image.fromarray(PHOTO).convert(mode)


def png(colour_type, depth, rows, *chunks):
    """A PNG whose samples nobody has converted: `rows` are the bytes of each row."""
    width = len(rows[0]) * 8 // depth // {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    body = b"".join(b"\0" + bytes(row) for row in rows)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def curve(gamma):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def grey_profile(gamma):
    """An ICC profile of a grey device with one power curve (ICC.1, 8.4.3 and 10.6)."""
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    text = b"grey"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + bytes(79)
    description += bytes(-len(description) % 4)
    tags, data, at = b"", b"", 128 + 4 + 3 * 12
    for name, body in ((b"desc", description), (b"wtpt", white), (b"kTRC", curve(gamma))):
        tags += name + struct.pack(">II", at + len(data), len(body))
        data += body
    total = at + len(data)
    header = struct.pack(">I4sI4s4s4s", total, bytes(4), 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", 3) + tags + data


# Modes and depths


def test_an_rgb_file_comes_as_its_pixels(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(file_of(photo_image()))
    for source in (path, str(path), path.read_bytes(), path.open("rb"), photo_image()):
        picture = image.load(source)
        np.testing.assert_array_equal(picture.pixels, PHOTO)
        assert (picture.width, picture.height) == (51, 37)
        assert not picture.grey
        assert picture.alpha is picture.icc is picture.exif is picture.xmp is None
        assert picture.notes == ()
        if isinstance(source, io.BufferedReader):
            assert not source.closed
            source.close()


def test_pixels_are_writable_and_contiguous():
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (file_of(photo_image()), file_of(photo_image(), "JPEG", exif=exif)):
        pixels = image.load(data).pixels
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous


def test_a_pillow_image_is_left_as_it_was():
    img = photo_image()
    img.info["icc_profile"] = SRGB
    image.load(img)
    assert img.info == {"icc_profile": SRGB}
    assert img.getpixel((0, 0)) == tuple(PHOTO[0, 0])


def test_a_stream_is_read_from_where_it_stands():
    stream = io.BytesIO(b"prefix" + file_of(photo_image()))
    stream.seek(6)
    np.testing.assert_array_equal(image.load(stream).pixels, PHOTO)


def test_a_stream_that_cannot_seek_is_read():
    class Pipe(io.RawIOBase):
        def __init__(self, data):
            self.data = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.data.readinto(buffer)

    np.testing.assert_array_equal(image.load(Pipe(file_of(photo_image()))).pixels, PHOTO)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_images_are_grey_in_three_equal_planes(mode):
    img = photo_image(mode)
    picture = image.load(file_of(img))
    assert picture.grey
    assert picture.alpha is None
    assert picture.pixels.shape == (37, 51, 3)
    for plane in range(3):
        np.testing.assert_array_equal(picture.pixels[..., plane], np.array(img.convert("L")))


def test_an_rgb_image_without_colour_stays_rgb():
    assert not image.load(photo_image("L").convert("RGB")).grey


def test_16_bit_grey_is_rounded_with_a_note():
    values = np.array([[0, 128, 129, 257, 300, 65407, 65535]], np.uint16)
    wanted = np.round(values / 257).astype(np.uint8)
    for source in (
        file_of(Image.fromarray(values)),
        file_of(Image.fromarray(values), "TIFF"),
        Image.fromarray(values),
        Image.fromarray(values.astype(np.int32)),
        b"P5 7 1 65535\n" + values.astype(">u2").tobytes(),
    ):
        picture = image.load(source)
        assert picture.grey
        np.testing.assert_array_equal(picture.pixels[..., 1], wanted)
        assert picture.notes == ("16 bits a sample reduced to 8",)


def test_16_bit_colour_is_reduced_with_a_note():
    values = (PHOTO[:2].astype(">u2") * 257).reshape(2, -1)
    data = png(2, 16, [row.tobytes() for row in values])
    for source in (data, b"P6 51 2 65535\n" + values.tobytes()):
        picture = image.load(source)
        np.testing.assert_array_equal(picture.pixels, PHOTO[:2])
        assert picture.notes == ("16 bits a sample reduced to 8",)


def test_16_bit_grey_with_alpha_is_grey_with_alpha():
    samples = np.array([[[1000, 65535], [40000, 30000]]], ">u2")
    picture = image.load(png(4, 16, [samples.tobytes()]))
    assert picture.grey
    assert picture.alpha.tolist() == [[255, 117]]
    assert picture.pixels[0, :, 0].tolist() == [3, 156]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_kept_and_so_are_the_colours_beneath_it(mode):
    img = photo_image(mode)
    alpha = np.tile(np.arange(51, dtype=np.uint8) * 5, (37, 1))
    img.putalpha(Image.fromarray(alpha))
    picture = image.load(file_of(img))
    assert picture.grey == (mode == "LA")
    np.testing.assert_array_equal(picture.alpha, alpha)
    np.testing.assert_array_equal(
        picture.pixels, np.array(photo_image("L" if picture.grey else "RGB").convert("RGB"))
    )


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_opaque_alpha_plane_is_dropped(mode):
    assert image.load(file_of(photo_image(mode))).alpha is None


@pytest.mark.parametrize("transparency", [7, bytes([0, 128] + [255] * 254)])
def test_a_palette_with_transparency_has_alpha(transparency):
    img = photo_image("P")
    picture = image.load(file_of(img, transparency=transparency))
    wanted = image.load(img).pixels
    np.testing.assert_array_equal(picture.pixels, wanted)
    table = np.full(256, 255, np.uint8)
    if isinstance(transparency, int):
        table[transparency] = 0
    else:
        table[:] = list(transparency)
    alpha = table[np.array(img)]
    if alpha.min() == 255:
        assert picture.alpha is None
    else:
        np.testing.assert_array_equal(picture.alpha, alpha)


def test_a_palette_comes_as_its_colours():
    img = photo_image("P")
    picture = image.load(file_of(img))
    np.testing.assert_array_equal(picture.pixels, np.array(img.convert("RGB")))
    assert not picture.grey


@pytest.mark.parametrize(
    ("colour_type", "depth", "row", "key", "alpha"),
    [
        (0, 8, [5, 6, 7], [0, 6], [255, 0, 255]),
        (0, 1, [0b10100000], [0, 1], [0, 255, 0, 255, 255, 255, 255, 255]),
        (0, 1, [0b10100000], [0, 0], [255, 0, 255, 0, 0, 0, 0, 0]),
        (0, 2, [0b00011011], [0, 2], [255, 255, 0, 255]),
        (0, 4, [0x5A, 0xFA], [0, 10], [255, 0, 255, 0]),
        (0, 16, [1, 2, 1, 3], [1, 3], [255, 0]),
        (2, 8, [1, 2, 3, 1, 2, 4], [0, 1, 0, 2, 0, 3], [0, 255]),
        (2, 16, [1, 0, 2, 0, 3, 0, 9, 0, 9, 0, 9, 0], [1, 0, 2, 0, 3, 0], [0, 255]),
    ],
)
def test_a_png_with_one_transparent_colour_has_alpha(colour_type, depth, row, key, alpha):
    picture = image.load(png(colour_type, depth, [row], (b"tRNS", bytes(key))))
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [alpha]


def test_cmyk_is_converted_with_a_note():
    picture = image.load(file_of(photo_image("CMYK"), "JPEG", quality=95))
    assert picture.notes == ("CMYK converted to sRGB",)
    assert np.abs(picture.pixels.astype(int) - PHOTO).mean() < 8
    assert picture.icc is None


def test_cmyk_with_a_broken_profile_is_still_converted():
    data = file_of(photo_image("CMYK"), "JPEG", quality=95, icc_profile=b"no profile at all")
    picture = image.load(data)
    assert picture.notes == ("CMYK converted to sRGB", "colour profile could not be applied")
    assert picture.icc is None
    assert np.abs(picture.pixels.astype(int) - PHOTO).mean() < 8


def test_lab_is_converted_with_a_note():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    img = ImageCms.profileToProfile(
        photo_image(), ImageCms.createProfile("sRGB"), lab, outputMode="LAB"
    )
    picture = image.load(file_of(img, "TIFF"))
    assert "Lab converted to sRGB" in picture.notes
    assert np.abs(picture.pixels.astype(int) - PHOTO).mean() < 4


def test_floating_point_samples_are_refused():
    with pytest.raises(InputError, match="mode F") as caught:
        image.load(Image.fromarray(np.zeros((2, 2), np.float32)))
    assert "8 or 16 bits" in caught.value.hint


def test_32_bit_samples_are_refused():
    with pytest.raises(InputError, match="more than 16 bits"):
        image.load(Image.fromarray(np.array([[70_000]], np.int32)))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken_with_a_note(format):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = file_of(frames[0], format, save_all=True, append_images=frames[1:], **options)
    picture = image.load(data)
    assert picture.pixels.tolist() == np.full((6, 8, 3), [200, 0, 0]).tolist()
    assert picture.notes == ("several frames or pages: only the first is taken",)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_the_smallest_images_are_read(size):
    picture = image.load(file_of(Image.new("RGB", size, (1, 2, 3))))
    assert (picture.width, picture.height) == size


# Orientation and metadata


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_orientation_is_baked_and_leaves_the_metadata(orientation, format):
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif[0x0112] = orientation
    exif[0x0131] = "some software"
    options = {"lossless": True} if format == "WEBP" else {}
    data = file_of(photo_image(), format, exif=exif, **options)
    picture = image.load(data)
    with Image.open(io.BytesIO(data)) as img:
        wanted = np.array(ImageOps.exif_transpose(img).convert("RGB"))
    np.testing.assert_array_equal(picture.pixels, wanted)
    kept = Image.Exif()
    kept.load(picture.exif)
    assert dict(kept) == {0x010F: "a maker", 0x0131: "some software"}


def test_alpha_turns_with_the_pixels():
    img = photo_image("RGBA")
    alpha = (np.arange(37 * 51, dtype=np.uint16) % 251).astype(np.uint8).reshape(37, 51)
    img.putalpha(Image.fromarray(alpha))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = image.load(file_of(img, exif=exif))
    np.testing.assert_array_equal(picture.alpha, np.rot90(alpha, -1))
    assert picture.exif is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_all_else_in_exif_stays_where_its_offsets_say(order):
    def entry(tag, kind, count, value):
        return struct.pack(order + "HHII", tag, kind, count, value)

    maker = b"maker\0"
    start = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    value = 6 if order == "<" else 6 << 16
    entries = [entry(0x010F, 2, 6, 100), entry(0x0112, 3, 1, value), entry(0x0131, 2, 6, 106)]
    block = start + struct.pack(order + "H", 3) + b"".join(entries)
    block += struct.pack(order + "I", 90)  # next directory
    block = block.ljust(90, b"?") + struct.pack(order + "HI", 0, 0)
    block = block.ljust(100, b"?") + maker + b"other\0" + b"notes that point about"
    picture = image.load(file_of(photo_image(), "JPEG", exif=b"Exif\0\0" + block))
    assert (picture.height, picture.width) == (51, 37)
    assert len(picture.exif) == len(block)
    assert picture.exif[90:] == block[90:]
    assert picture.exif[8:38] == (
        struct.pack(order + "H", 2) + entries[0] + entries[2] + struct.pack(order + "I", 90)
    )


def test_exif_without_an_orientation_is_kept_byte_for_byte():
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    block = exif.tobytes()
    assert image.load(file_of(photo_image(), "JPEG", exif=block)).exif == block[6:]


@pytest.mark.parametrize(
    "exif", [b"", b"rubbish", b"II*\0", b"II*\0\xff\xff\xff\x7f", b"MM\0*" * 3]
)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_costs_no_picture(exif, format):
    picture = image.load(file_of(photo_image(), format, exif=b"Exif\0\0" + exif))
    assert (picture.height, picture.width) == (37, 51)
    assert picture.exif is None
    assert picture.notes in ((), ("EXIF dropped: it is damaged",))


def test_orientation_in_xmp_is_baked_and_removed():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    for data in (
        file_of(photo_image(), "JPEG", xmp=xmp),
        file_of(photo_image(), "WEBP", xmp=xmp),
        file_of(photo_image(), "PNG", pnginfo=text),
    ):
        picture = image.load(data)
        assert (picture.height, picture.width) == (51, 37)
        assert picture.xmp == b'<x:xmpmeta><rdf:Description dc:title="t"/></x:xmpmeta>'


# Colour profiles


def test_the_profile_of_a_colour_image_is_kept():
    for data in (
        file_of(photo_image(), icc_profile=SRGB),
        file_of(photo_image(), "JPEG", icc_profile=SRGB),
    ):
        assert image.load(data).icc == SRGB


def test_a_grey_profile_on_a_grey_image_is_kept():
    profile = grey_profile(1.0)
    picture = image.load(file_of(photo_image("L"), icc_profile=profile))
    assert picture.icc == profile
    assert picture.notes == ()


@pytest.mark.parametrize(
    ("mode", "profile"), [("L", SRGB), ("RGB", grey_profile(2.2)), ("RGB", b"no profile")]
)
def test_a_profile_of_another_kind_is_dropped_with_a_note(mode, profile):
    picture = image.load(file_of(photo_image(mode), icc_profile=profile))
    assert picture.icc is None
    assert picture.notes == ("colour profile dropped: it does not fit the image",)


def test_srgb_pixels_stay_when_converted_to_srgb():
    picture = image.to_srgb(image.Picture(PHOTO, icc=SRGB))
    assert picture.icc is None
    assert np.abs(picture.pixels.astype(int) - PHOTO).max() <= 1


def test_without_a_profile_conversion_changes_nothing():
    picture = image.Picture(PHOTO)
    assert image.to_srgb(picture) is picture


def test_linear_grey_becomes_srgb_grey():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    picture = image.to_srgb(image.Picture(ramp, grey=True, icc=grey_profile(1.0)))
    linear = np.arange(256) / 255
    wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert picture.grey
    assert picture.icc is None
    assert np.ptp(picture.pixels, axis=2).max() == 0
    assert np.abs(picture.pixels[0, :, 0] - 255 * wanted).max() < 1


def test_a_profile_that_cannot_be_used_is_dropped_with_a_note():
    broken = SRGB[:40] + bytes(200)
    picture = image.to_srgb(image.Picture(PHOTO, icc=broken))
    assert picture.icc is None
    assert picture.notes == ("colour profile could not be applied: pixels taken as sRGB",)
    np.testing.assert_array_equal(picture.pixels, PHOTO)


# What cannot be read


def message_of(source, **options):
    with pytest.raises(InputError) as caught:
        image.load(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("cannot read ")
    return text.removeprefix("cannot read ")


def test_a_missing_file_is_an_input_error(tmp_path):
    path = tmp_path / "none.png"
    assert message_of(path) == f"{path}: no such file or directory"


def test_a_directory_is_an_input_error(tmp_path):
    assert message_of(tmp_path) == f"{tmp_path}: it is a directory"


def test_an_empty_file_is_an_input_error(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    assert message_of(path) == f"{path}: it is empty"
    assert message_of(b"") == "the image: it is empty"


@pytest.mark.parametrize(
    "data", [b"hello, world\n" * 99, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0" * 999]
)
def test_a_file_of_another_kind_is_an_input_error(tmp_path, data):
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    assert message_of(path) == f"{path}: not an image of a known format"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_file_truncated_anywhere_is_read_or_an_input_error(format):
    data = file_of(photo_image(), format)
    refused = 0
    for length in range(0, len(data), max(1, len(data) // 97)):
        try:
            picture = image.load(data[:length])
        except InputError:
            refused += 1
        else:
            assert picture.pixels.shape == (37, 51, 3)
    assert refused > 85


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_a_damaged_file_is_read_or_an_input_error(format):
    data = file_of(photo_image(), format, exif=Image.Exif())
    random = np.random.default_rng(5)
    for _ in range(150):
        damaged = bytearray(data)
        for at in random.integers(0, min(len(data), 400), 3):
            damaged[at] = random.integers(0, 256)
        with contextlib.suppress(InputError):
            image.load(bytes(damaged), max_pixels=100_000)


def test_a_bomb_is_refused_before_its_pixels_are_decoded():
    bomb = bytearray(png(2, 8, [bytes(30)]))
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    assert message_of(bytes(bomb)).endswith("too many pixels")
    bomb[16:24] = struct.pack(">II", 10_000, 10_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    text = message_of(bytes(bomb), max_pixels=99_999_999)
    assert "10000x10000 is 100,000,000 pixels" in text


def test_the_limit_of_pixels_is_inclusive():
    data = file_of(photo_image())
    assert image.load(data, max_pixels=37 * 51).width == 51
    assert "1,887 pixels, more than the limit of 1,886" in message_of(data, max_pixels=37 * 51 - 1)


def test_a_side_beyond_the_format_is_refused():
    assert "65,535 pixels a side" in message_of(Image.new("L", (65_536, 1)))


def test_an_image_without_pixels_is_refused():
    assert message_of(Image.new("RGB", (0, 4))) == "the image: it has no pixels"


def test_pillow_warnings_do_not_escape_and_filters_stay():
    before = list(warnings.filters)
    img = photo_image("P")
    img.info["transparency"] = bytes(255)
    image.load(img)
    assert warnings.filters == before


# Writing


@pytest.mark.parametrize("format", ["png", "webp", "tiff"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_what_is_written_losslessly_is_read_back(format, grey, has_alpha):
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    pixels = np.repeat(PHOTO[..., 1:2], 3, axis=2) if grey else PHOTO
    picture = image.Picture(
        pixels=pixels,
        grey=grey,
        alpha=PHOTO[..., 0].copy() // 2 if has_alpha else None,
        icc=grey_profile(2.2) if grey else SRGB,
        exif=exif.tobytes()[6:],
        xmp=b"<x:xmpmeta/>",
    )
    buffer = io.BytesIO()
    image.save(picture, buffer, format)
    back = image.load(buffer.getvalue())
    np.testing.assert_array_equal(back.pixels, pixels)
    if format != "webp":  # which has no grey
        assert back.grey == grey
        assert back.icc == picture.icc
    assert back.xmp == picture.xmp
    kept = Image.Exif()
    kept.load(back.exif)
    assert dict(kept) == {0x010F: "a maker"}
    if has_alpha:
        np.testing.assert_array_equal(back.alpha, picture.alpha)
    else:
        assert back.alpha is None


@pytest.mark.parametrize("format", ["ppm", "bmp"])
@pytest.mark.parametrize("grey", [False, True])
def test_plain_formats_hold_the_pixels(format, grey):
    pixels = np.repeat(PHOTO[..., 1:2], 3, axis=2) if grey else PHOTO
    buffer = io.BytesIO()
    image.save(image.Picture(pixels, grey=grey, icc=SRGB, exif=b"MM"), buffer, format)
    back = image.load(buffer.getvalue())
    np.testing.assert_array_equal(back.pixels, pixels)
    assert back.grey == grey


def test_the_size_of_the_original_in_its_exif_does_not_spoil_a_tiff():
    exif = Image.Exif()
    exif[0x0100] = 4000
    exif[0x010F] = "a maker"
    exif[0x8769] = {0x829A: 0.25}  # exposure time
    buffer = io.BytesIO()
    image.save(image.Picture(PHOTO, exif=exif.tobytes()[6:]), buffer, "tiff")
    back = image.load(buffer.getvalue())
    np.testing.assert_array_equal(back.pixels, PHOTO)
    kept = Image.Exif()
    kept.load(back.exif)
    assert kept[0x010F] == "a maker"
    assert kept.get_ifd(0x8769) == {0x829A: 0.25}


def test_jpeg_is_written_in_good_quality_with_its_metadata():
    buffer = io.BytesIO()
    image.save(image.Picture(PHOTO, icc=SRGB, xmp=b"<x:xmpmeta/>"), buffer, "jpeg")
    back = image.load(buffer.getvalue())
    assert np.abs(back.pixels.astype(int) - PHOTO).mean() < 3
    assert back.icc == SRGB
    assert back.xmp == b"<x:xmpmeta/>"


def test_an_image_is_written_to_a_stream_that_cannot_seek():
    class Pipe(io.RawIOBase):
        data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    image.save(image.Picture(PHOTO), pipe, "tiff")
    np.testing.assert_array_equal(image.load(pipe.data).pixels, PHOTO)


@pytest.mark.parametrize("format", ["ppm", "bmp", "jpeg"])
def test_alpha_is_not_lost_silently(format):
    picture = image.Picture(PHOTO, alpha=PHOTO[..., 0])
    buffer = io.BytesIO()
    with pytest.raises(InputError, match="cannot hold the alpha plane") as caught:
        image.save(picture, buffer, format)
    assert "png" in caught.value.hint
    assert buffer.getvalue() == b""


def test_an_unknown_format_is_an_input_error_with_the_nearest_name():
    with pytest.raises(InputError, match="unknown image format 'pngg'") as caught:
        image.save(image.Picture(PHOTO), io.BytesIO(), "pngg")
    assert caught.value.hint == "did you mean png?"


def test_what_a_format_cannot_hold_is_an_input_error():
    wide = image.Picture(np.zeros((1, 20_000, 3), np.uint8))
    with pytest.raises(InputError, match="as webp"):
        image.save(wide, io.BytesIO(), "webp")
    with pytest.raises(InputError, match="as jpeg"):
        image.save(replace(wide, exif=b"MM\0*" + bytes(99_999)), io.BytesIO(), "jpeg")


def test_errors_of_the_output_are_the_callers():
    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        image.save(image.Picture(PHOTO), Full(), "png")


def test_a_pillow_image_carries_everything():
    alpha = PHOTO[..., 0]
    grey = np.repeat(PHOTO[..., :1], 3, axis=2)
    for picture, mode in (
        (image.Picture(PHOTO), "RGB"),
        (image.Picture(PHOTO, alpha=alpha), "RGBA"),
        (image.Picture(grey, grey=True), "L"),
        (image.Picture(grey, grey=True, alpha=alpha), "LA"),
    ):
        img = image.to_image(replace(picture, icc=b"i", exif=b"e", xmp=b"x"))
        assert img.mode == mode
        assert img.info == {"icc_profile": b"i", "exif": b"Exif\0\0e", "xmp": b"x"}
        np.testing.assert_array_equal(np.array(img.convert("RGB")), picture.pixels)


def test_every_extension_names_a_format_that_can_be_written():
    assert set(image.EXTENSIONS.values()) == set(image.WRITABLE)


# Alpha payloads and padding


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)))
@settings(max_examples=60, deadline=None)
def test_any_alpha_plane_comes_back(alpha):
    back = image.decode_alpha(image.encode_alpha(alpha), alpha.shape[1], alpha.shape[0])
    np.testing.assert_array_equal(back, alpha)
    assert back.flags.writeable


@pytest.mark.parametrize("mode", list(image.AlphaMode)[1:])
def test_every_alpha_mode_is_decoded(mode):
    alpha = PHOTO[..., 0]
    if mode is image.AlphaMode.MASK:
        alpha = np.where(alpha > 99, 255, 0).astype(np.uint8)
    body = zlib.compress(image._alpha_residual(alpha, mode))
    np.testing.assert_array_equal(image.decode_alpha(bytes([mode]) + body, 51, 37), alpha)


def test_alpha_modes_are_chosen_by_content():
    y, x = np.mgrid[0:64, 0:96]
    disc = np.where((y - 32) ** 2 + (x - 48) ** 2 < 800, 255, 0).astype(np.uint8)
    slope = (x + 2 * y).astype(np.uint8)
    assert image.encode_alpha(np.full((999, 999), 7, np.uint8)) == b"\x00\x07"
    assert image.encode_alpha(disc)[0] == image.AlphaMode.MASK
    assert len(image.encode_alpha(disc)) < 160
    assert image.encode_alpha(slope)[0] == image.AlphaMode.GRADIENT
    assert len(image.encode_alpha(slope)) < 60


def test_an_alpha_payload_truncated_anywhere_is_a_bitstream_error():
    for alpha in (PHOTO[..., 0], np.full((37, 51), 9, np.uint8)):
        payload = image.encode_alpha(alpha)
        for length in range(len(payload)):
            with pytest.raises(BitstreamError):
                image.decode_alpha(payload[:length], 51, 37)
        with pytest.raises(BitstreamError):
            image.decode_alpha(payload + b"\0", 51, 37)


def test_alpha_of_another_size_or_mode_is_a_bitstream_error():
    payload = image.encode_alpha(PHOTO[..., 0])
    for width, height in ((50, 37), (51, 36), (51, 38), (600, 600)):
        with pytest.raises(BitstreamError, match="does not inflate"):
            image.decode_alpha(payload, width, height)
    with pytest.raises(BitstreamError, match="unknown mode"):
        image.decode_alpha(b"\x63" + payload[1:], 51, 37)


def test_an_alpha_bomb_is_not_inflated():
    bomb = bytes([image.AlphaMode.PLAIN]) + zlib.compress(bytes(50_000_000))
    with pytest.raises(BitstreamError, match="does not inflate to its 16 bytes"):
        image.decode_alpha(bomb, 4, 4)


@pytest.mark.parametrize(("size", "padded"), [((37, 51), (64, 64)), ((64, 65), (64, 128))])
def test_padding_repeats_the_last_row_and_column(size, padded):
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    out = image.pad(pixels, 64)
    assert out.shape == (*padded, 3)
    np.testing.assert_array_equal(out[: size[0], : size[1]], pixels)
    assert (out[size[0] :, : size[1]] == pixels[-1]).all()
    assert (out[: size[0], size[1] :] == pixels[:, -1:]).all()
