"""On a CUDA device every family reads the symbols that a CPU reads, and gives nearly its pictures.

`python -m pytest -m gpu tests/test_gpu.py` runs these; nothing beside the package's dependencies
and pytest is needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdcodec import api, families
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import Header
from cdcodec.codec import Codec, Decoding, Describing, Pixels
from cdcodec.draft import Drafter
from cdcodec.evaluation import metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "coffee-original.webp"

PSNR_DB = 45.0
"""Between devices. One may compute in bfloat16 and the other in float32, which is 61 dB on CPUs."""


@pytest.fixture(scope="module", params=sorted(families.FAMILIES))
def model(request: pytest.FixtureRequest) -> str:
    """The name of a family's tiny set."""
    return f"{request.param}-tiny"


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    """A piece of a photograph whose sides are no multiples of a latent's cell."""
    with Image.open(PICTURE) as image:
        return np.array(image.convert("RGB"))[60:190, 40:213]


def codec_on(device: str, model: str) -> Codec:
    codec = families.load_codec(model, device, offline=True)
    assert torch.device(str(codec.device)).type == device
    return codec


def points(codec: Codec) -> list[int]:
    """The first, a middle and the last rate point."""
    last = codec.walk.rate_points - 1
    return sorted({0, last // 2, last})


def test_symbols_written_on_the_gpu_are_those_that_a_cpu_reads(model: str, pixels: Pixels) -> None:
    codec = codec_on("cuda", model)
    analysis = codec.analyse(pixels)
    height, width = pixels.shape[:2]
    family = families.FAMILIES[model.removesuffix("-tiny")]
    for point in points(codec):
        header = Header(family.number, codec.walk.model_id, width, height, point, steps=2)
        drafter = Drafter(codec, analysis, header, ())
        draft = drafter.write(point)
        if isinstance(codec, Describing):
            draft = drafter.add(draft, codec.describe(pixels, draft.latents, point, tune=0))
        walk = codec_on("cpu", model).walk
        read, _reader = api.read_latents(box.read(draft.data), walk)
        written = {**draft.latents, **draft.told}
        assert list(read) == list(written)
        for name in read:
            np.testing.assert_array_equal(read[name], written[name])


def test_a_file_of_one_device_is_nearly_the_same_picture_on_the_other(
    model: str, pixels: Pixels
) -> None:
    for written_on in ("cpu", "cuda"):
        file = api.encode(
            Image.fromarray(pixels), quality=50, model=model, device=written_on, offline=True
        ).data
        for decoder, told in codec_on("cuda", model).decoders.items():
            steps = min(max(told.min_steps, 3), told.max_steps)
            pictures = {
                device: api.decode(
                    file,
                    Decoding(decoder=decoder, steps=steps, device=device, seed=3),
                    offline=True,
                )
                for device in ("cpu", "cuda")
            }
            assert pictures["cuda"].device.startswith("cuda")
            one, other = (pictures[device].picture.pixels for device in ("cpu", "cuda"))
            assert one.shape == other.shape == pixels.shape
            assert metrics.psnr(one, other) >= PSNR_DB


def test_a_gpu_gives_the_same_picture_twice(model: str, pixels: Pixels) -> None:
    file = api.encode(
        Image.fromarray(pixels), quality=50, model=model, device="cuda", offline=True
    ).data
    one, other = (
        api.decode(file, Decoding(device="cuda", seed=5), offline=True).picture.pixels
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, other)


def test_auto_takes_the_gpu(pixels: Pixels) -> None:
    file = api.encode(Image.fromarray(pixels), quality=0, model="cdc-tiny", offline=True).data
    assert api.decode(file, Decoding(steps=1), offline=True).device.startswith("cuda")
