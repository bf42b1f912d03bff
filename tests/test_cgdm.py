"""What CGDM promises beside the contract of all families."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cdcodec import api, enhancement, families
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import Chunk, ChunkType
from cdcodec.cli.__main__ import main
from cdcodec.codec import Decoding, Pixels
from cdcodec.diffusion import schedules
from cdcodec.errors import BitstreamError, InputError, WeightsError
from cdcodec.families.cgdm import export, objectives, tuning
from cdcodec.families.cgdm.codec import PATCH, CgdmCodec
from cdcodec.families.cgdm.config import TINY, TRAIN_STEPS, describe, parse
from cdcodec.families.cgdm.fusion import DynamicKernel
from cdcodec.families.cgdm.network import CgdmNetwork, build
from cdcodec.families.cgdm.walk import LIMIT, MAX_SYNTAX_BYTES, CgdmWalk
from tests.benchmarks.post_processing import seams

MODEL = "cgdm-tiny"
ON_CPU = Decoding(device="cpu")


@pytest.fixture(scope="module")
def codec() -> CgdmCodec:
    codec = families.load_codec(MODEL, "cpu", True)
    assert isinstance(codec, CgdmCodec)
    return codec


@pytest.fixture(scope="module")
def walk(codec: CgdmCodec) -> CgdmWalk:
    return codec.walk


@pytest.fixture(scope="module")
def original(photograph: Pixels) -> Pixels:
    return photograph[30:130, 170:290]


@pytest.fixture(scope="module")
def jpeg(original: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "photo.jpg"
    Image.fromarray(original).save(path, quality=15)
    return path


@pytest.fixture
def network() -> CgdmNetwork:
    return build(TINY, seed=2)


def descend(
    objective: objectives.CoarseObjective | objectives.FineObjective,
    batch: Tensor,
    steps: int,
) -> Iterator[dict[str, float]]:
    """Train on one batch with the same draws in every step, and yield what is logged."""
    optimizer = torch.optim.Adam(objective.parameters(), lr=2e-3)
    for _ in range(steps):
        loss, logs = objective.loss(lambda: batch, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield {**logs, "total": loss.item()}


# The syntax vector


@pytest.mark.parametrize("scale", [1, 4, 40, 127])
def test_no_vector_of_8_bits_takes_more_than_20_bytes(walk: CgdmWalk, scale: int) -> None:
    draw = np.random.default_rng(scale)
    for _ in range(20):
        vector = draw.integers(-scale, scale + 1, len(walk.syntax.index)).astype(np.int32)
        shrunk = walk.syntax.shrink(vector)
        payload = walk.syntax.pack(shrunk)
        assert len(payload) <= MAX_SYNTAX_BYTES
        np.testing.assert_array_equal(walk.syntax.unpack(payload), shrunk)
        assert (np.sign(shrunk) * np.sign(vector) >= 0).all()


def test_the_neutral_vector_takes_no_bytes(walk: CgdmWalk) -> None:
    neutral = np.zeros(len(walk.syntax.index), np.int32)
    assert walk.syntax.pack(neutral) == b""
    np.testing.assert_array_equal(walk.syntax.unpack(b""), neutral)


def test_vectors_that_no_encoder_writes_are_refused(walk: CgdmWalk) -> None:
    with pytest.raises(BitstreamError, match="21 bytes"):
        walk.syntax.unpack(bytes(21))
    one = np.zeros(len(walk.syntax.index), np.int32)
    one[0] = LIMIT + 1
    assert len(walk.syntax.pack(one)) <= MAX_SYNTAX_BYTES
    with pytest.raises(BitstreamError, match="8 bits"):
        walk.syntax.unpack(walk.syntax.pack(one))


def test_files_carry_the_vector_in_a_chunk_that_changes_the_picture(original: Pixels) -> None:
    data = api.encode(Image.fromarray(original), quality=50, model=MODEL, device="cpu").data
    file = box.read(data)
    payload = file.chunk(ChunkType.SYNTAX)
    assert payload
    assert ("syntax", len(payload)) in api.info(data, offline=True).chunks
    neutral = tuple(
        replace(chunk, payload=b"") if chunk.type == ChunkType.SYNTAX else chunk
        for chunk in file.chunks
    )
    zeroed = box.write(replace(file, chunks=neutral))
    with_it, without = (api.decode(each, ON_CPU).picture.pixels for each in (data, zeroed))
    assert (with_it != without).any()
    base = [api.decode(each, replace(ON_CPU, steps=0)).picture.pixels for each in (data, zeroed)]
    np.testing.assert_array_equal(*base)


def test_a_file_without_the_chunk_is_refused(original: Pixels) -> None:
    data = api.encode(Image.fromarray(original), quality=0, model=MODEL, device="cpu").data
    file = box.read(data)
    latents = tuple(chunk for chunk in file.chunks if chunk.type == ChunkType.LATENTS)
    with pytest.raises(BitstreamError, match="no syntax chunk"):
        api.decode(box.write(replace(file, chunks=latents)), ON_CPU)
    other = Chunk(ChunkType.SYNTAX, bytes(MAX_SYNTAX_BYTES + 1))
    with pytest.raises(BitstreamError, match="21 bytes"):
        api.decode(box.write(replace(file, chunks=(*latents, other))), ON_CPU)


def test_room_that_the_vector_leaves_is_used(original: Pixels, walk: CgdmWalk) -> None:
    picture = Image.fromarray(original)
    last = walk.rate_points - 1
    sizes = [
        len(api.encode(picture, quality=100 * point / last, model=MODEL, device="cpu").data)
        for point in range(last + 1)
    ]
    for budget in (size + by for size in sizes for by in (-1, 0, MAX_SYNTAX_BYTES)):
        if budget >= min(sizes):
            taken = len(api.encode(picture, size=budget, model=MODEL, device="cpu").data)
            assert taken == max(size for size in sizes if size <= budget)


# The decoder


def test_no_steps_give_the_base_codecs_picture(original: Pixels) -> None:
    picture = Image.fromarray(original)
    mine = api.encode(picture, quality=50, model=MODEL, device="cpu").data
    bases = api.encode(picture, quality=50, model="cdc-tiny", device="cpu").data
    base = api.decode(bases, replace(ON_CPU, steps=1)).picture.pixels
    for choice in ({"steps": 0}, {"decoder": "base"}):
        decoded = api.decode(mine, replace(ON_CPU, **choice)).picture.pixels
        np.testing.assert_array_equal(decoded, base)


def test_all_patches_start_from_the_same_tile_of_noise(codec: CgdmCodec) -> None:
    flat = np.full((3 * PATCH, 2 * PATCH, 3), 120, np.uint8)

    def restored(seed: int) -> Pixels:
        choices = {"steps": 3, "decoder": "ddim", "stochasticity": 1.0, "seed": seed}
        return codec.enhance(flat, b"", replace(ON_CPU, **choices))

    # Both windows lie inside of patches, and whole tiles apart.
    whole = restored(seed=0).astype(int)
    first, again = (whole[top : top + 48, 64:112] for top in (64, 64 + PATCH))
    other = restored(seed=1)[64:112, 64:112].astype(int)
    assert np.abs(first - again).max() <= 2  # rounding to bfloat16
    assert np.abs(first - other).max() > 5


def test_patches_leave_no_seam(codec: CgdmCodec, photograph: Pixels) -> None:
    picture = np.array(Image.fromarray(photograph).resize((3 * PATCH, 2 * PATCH)))
    decoding = replace(ON_CPU, steps=3, decoder="ddim", stochasticity=1.0)
    restored = codec.enhance(picture, b"", decoding).astype(np.float64)
    at, inside = seams(restored - picture)
    assert at == pytest.approx(inside, rel=0.2)  # a random network; figures are in RESULTS.md


def test_kernels_start_as_the_identity_and_differ_from_sample_to_sample() -> None:
    kernel = DynamicKernel(4, 6, 2)
    x = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    condition = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(kernel(x, condition), x)
    nn.init.normal_(kernel.make.weight, generator=torch.Generator().manual_seed(2))
    both = kernel(x, condition)
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], kernel(x[i : i + 1], condition[i : i + 1]))
    assert not torch.allclose(kernel(x, condition.flip(0)), both)


# Tuning


def test_tuning_is_never_worse_by_its_own_objective(
    codec: CgdmCodec, original: Pixels, jpeg: Path
) -> None:
    decoded = np.array(Image.open(jpeg))
    schedule = schedules.cosine(TRAIN_STEPS)
    tile = torch.randn(1, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(0))
    tuner = tuning.choose_patches(codec.network, schedule, original, decoded, tile)
    generated = tuning.generate(codec.network.syntax, original, decoded, codec.device)
    too_long = np.full_like(generated, 100)
    fit = codec.walk.syntax.shrink
    for start in (generated, too_long):
        calls: list[tuple[int, int]] = []
        best = tuning.tune(tuner, start, 25, fit, lambda *done: calls.append(done))  # noqa: B023
        costs = [
            tuner.judge(torch.from_numpy(s[None].astype(np.float32))) for s in (fit(start), best)
        ]
        assert costs[1] <= costs[0]
        assert calls == [(n, 25) for n in range(1, 26)]
        assert len(codec.walk.syntax.pack(best)) <= MAX_SYNTAX_BYTES
    assert (best != fit(too_long)).any()


@pytest.mark.parametrize("size", [(1, 1), (200, 9), (17, 150)])
def test_pictures_of_any_size_can_be_tuned_and_enhanced(
    original: Pixels, size: tuple[int, int]
) -> None:
    picture = Image.fromarray(original).resize(size)
    data = api.encode(picture, quality=50, model=MODEL, tune=3, device="cpu").data
    assert api.decode(data, replace(ON_CPU, steps=2)).image.size == size
    description = enhancement.describe(picture, picture, model=MODEL, tune=3, device="cpu")
    enhanced = enhancement.enhance(
        picture, replace(ON_CPU, steps=2), model=MODEL, description=description
    )
    assert enhanced.image.size == size


def test_tuning_changes_the_chunk_only(original: Pixels) -> None:
    picture = Image.fromarray(original)
    plain, tuned = (
        box.read(
            api.encode(picture, quality=50, model=MODEL, tune=n, device="cpu").data
        ) for n in (0, 20)
    )  # fmt: skip
    assert plain.header == tuned.header
    assert plain.chunk(ChunkType.LATENTS) == tuned.chunk(ChunkType.LATENTS)
    assert plain.chunk(ChunkType.SYNTAX) != tuned.chunk(ChunkType.SYNTAX)


def test_models_with_nothing_to_tune_say_so(original: Pixels) -> None:
    with pytest.raises(InputError, match="nothing to tune"):
        api.encode(Image.fromarray(original), model="cdc-tiny", tune=5, device="cpu")


# Other codecs' pictures


def enhance(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return main(["enhance", *map(str, arguments), "--model", MODEL, "--device", "cpu"])


def test_enhance_works_on_another_codecs_picture(jpeg: Path, tmp_path: Path) -> None:
    out = tmp_path / "better.png"
    assert enhance(jpeg, "-o", out, "--steps", 3) == 0
    with Image.open(jpeg) as before, Image.open(out) as after:
        assert before.size == after.size
        assert (np.array(before) != np.array(after)).any()


def test_a_vector_made_of_the_reference_is_written_and_read(
    jpeg: Path, original: Pixels, tmp_path: Path
) -> None:
    reference, vector = tmp_path / "original.png", tmp_path / "out.bin"
    Image.fromarray(original).save(reference)
    common = "--steps", 3, "--syntax", vector
    assert enhance(jpeg, "-o", tmp_path / "a.png", "--reference", reference, *common) == 0
    assert 8 < len(vector.read_bytes()) <= 8 + MAX_SYNTAX_BYTES
    assert enhance(jpeg, "-o", tmp_path / "b.png", *common) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    whole = vector.read_bytes()
    for damaged in (b"", whole[:-1], whole[:5] + bytes([whole[5] ^ 1]) + whole[6:]):
        vector.write_bytes(damaged)
        assert enhance(jpeg, "-o", tmp_path / "c.png", *common) == BitstreamError.exit_code
        assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize("victim", ["photo.jpg", "out.png"])
def test_a_vector_does_not_take_the_place_of_a_picture(
    jpeg: Path, original: Pixels, tmp_path: Path, victim: str
) -> None:
    copy, reference = tmp_path / "photo.jpg", tmp_path / "original.png"
    copy.write_bytes(jpeg.read_bytes())
    Image.fromarray(original).save(reference)
    paths = copy, "-o", tmp_path / "out.png", "--reference", reference
    code = enhance(*paths, "--syntax", tmp_path / victim, "--overwrite")
    assert code == InputError.exit_code
    assert copy.read_bytes() == jpeg.read_bytes()
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    "options", [("--reference", "a.png"), ("--tune", 3), ("--syntax", "-"), ("--reference", "-")]
)
def test_options_that_make_no_sense_together_are_wrong_usage(
    jpeg: Path, options: tuple[object, ...]
) -> None:
    assert enhance(jpeg, *options) == 2


def test_vectors_of_other_weights_are_refused(jpeg: Path, walk: CgdmWalk) -> None:
    with pytest.raises(BitstreamError, match="damaged"):
        enhancement.enhance(jpeg, ON_CPU, model=MODEL, description=b"nonsense")
    others = CgdmWalk(families.load_walk("cdc-nano", True), walk.syntax)
    vector = np.ones(len(walk.syntax.index), np.int32)
    with pytest.raises(BitstreamError, match="other weights"):
        enhancement.enhance(jpeg, ON_CPU, model=MODEL, description=others.seal(vector))


def test_a_reference_of_another_size_is_refused(jpeg: Path, photograph: Pixels) -> None:
    with pytest.raises(InputError, match="512x512 pixels, the picture 120x100"):
        enhancement.describe(Image.fromarray(photograph), jpeg, model=MODEL, device="cpu")


def test_models_that_decode_only_their_own_files_cannot_enhance(jpeg: Path) -> None:
    with pytest.raises(InputError, match="can't enhance"):
        enhancement.enhance(jpeg, ON_CPU, model="cdc-tiny")


# Weight files and training


def test_exporting_what_was_exported_gives_the_same_file(
    network: CgdmNetwork, tmp_path: Path
) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    export.write(network, first)
    export.write(export.read(first), second)
    assert first.read_bytes() == second.read_bytes()


def test_a_file_says_its_sizes_and_nothing_else_is_taken() -> None:
    assert parse(describe(TINY)) == TINY
    for wrong in ("", "{}", '{"family": "cdc"}', '{"family": "cgdm", "config": {"depth": 3}}'):
        with pytest.raises(WeightsError):
            parse(wrong)


def test_the_model_id_depends_on_the_base(walk: CgdmWalk) -> None:
    other = families.load_walk("cdc-nano", True)
    assert CgdmWalk(other, walk.syntax).model_id != walk.model_id


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_ten_steps_lower_the_loss(
    stage: str, network: CgdmNetwork, batch: Tensor, lpips: Path
) -> None:
    kind, options = objectives.OBJECTIVES[stage]
    config = options(base="cdc-tiny", others=0.5)
    # A batch a step and one link a chain, so that all losses are of the same kind.
    if stage == "fine":
        config = replace(config, lpips=str(lpips), chain_steps=(1,))
    else:
        config = replace(config, reuse=1)
    logs = list(descend(kind(network, config), batch, steps=10))
    assert logs[-1]["total"] < logs[0]["total"]
    assert logs[0]["bits"] > 0


def test_training_on_later_links_lowers_the_perceptual_loss(
    network: CgdmNetwork, batch: Tensor, lpips: Path
) -> None:
    config = objectives.FineConfig(
        base="cdc-tiny", lpips=str(lpips), chain_steps=(2,), adversarial_start=99, others=0.0
    )
    logs = list(descend(objectives.FineObjective(network, config), batch, steps=24))[1::2]
    assert logs[-1]["lpips"] < logs[0]["lpips"]
    assert logs[-1]["total"] < logs[0]["total"]


def test_later_links_of_a_chain_take_the_perceptual_terms(
    network: CgdmNetwork, batch: Tensor, lpips: Path
) -> None:
    config = objectives.FineConfig(
        base="cdc-tiny", lpips=str(lpips), chain_steps=(3,), adversarial_start=1
    )
    logs = list(descend(objectives.FineObjective(network, config), batch, steps=6))
    assert ["lpips" in each for each in logs] == [False, True, True] * 2
    assert "discriminator" in logs[-1]


def test_other_codecs_pictures_get_better_with_quality(original: Pixels) -> None:
    for choice in (0.1, 0.9):
        errors = [
            np.square(
                objectives.code_with_other(original, u, choice) - original.astype(float)
            ).mean()
            for u in (0.0, 1.0)
        ]
        assert errors[1] < errors[0]


def test_unknown_presets_are_refused(batch: Tensor) -> None:
    with pytest.raises(InputError, match="preset"):
        objectives.initial("giant", 0, lambda: batch)
