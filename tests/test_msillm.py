"""MS-ILLM, the paper preset's base of CGDM: networks, conversion, integer half and codec."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from cdcodec.bitstream.container import ChunkType
from cdcodec.codec import Decoding, Latents, Pixels
from cdcodec.entropy.coder import Meter, Reader, Writer
from cdcodec.entropy.exact import ExactNet
from cdcodec.entropy.tables import TOTAL, gaussian_sigma, gaussian_tables
from cdcodec.errors import BitstreamError, InputError, WeightsError
from cdcodec.families import cgdm
from cdcodec.families.cgdm import config, msillm_convert, msillm_export
from cdcodec.families.cgdm.msillm_codec import MsIllmCodec, pad
from cdcodec.families.cgdm.msillm_convert import LICENCE, our_name, read_checkpoint, weight_file
from cdcodec.families.cgdm.msillm_network import (
    MSILLM_TINY,
    NORM_EPS,
    PUBLISHED,
    ChannelNorm2D,
    MsIllmNetwork,
)
from cdcodec.families.cgdm.msillm_walk import MEAN_ONE, MsIllmWalk, is_msillm, y_shape, z_shape
from cdcodec.weight_file import METADATA_KEY
from tests.reference_fill import fill

SIZES = [(1, 1), (64, 128), (70, 17), (129, 80)]

# SHA-256 over the lines "name extents" of the authors' state dict, sorted, without what CompressAI
# computes from the rest, and the number of values in it.
LEARNED_DIGEST = "bf005e4f490ec3debd5ede1d576b09cd9f1b3823f403701e3a8f50c35d5d75ea"
LEARNED_TENSORS = 151
LEARNED_VALUES = 181_481_103

DERIVED = {
    "hyper_bottleneck._offset": (5,),
    "hyper_bottleneck._quantized_cdf": (5, 23),
    "hyper_bottleneck._cdf_length": (5,),
    "hyper_bottleneck.target": (3,),
    "hyper_bottleneck.likelihood_lower_bound.bound": (1,),
    "latent_bottleneck._offset": (0,),
    "latent_bottleneck._quantized_cdf": (0,),
    "latent_bottleneck._cdf_length": (0,),
    "latent_bottleneck.scale_table": (0,),
    "latent_bottleneck.scale_bound": (1,),
    "latent_bottleneck.likelihood_lower_bound.bound": (1,),
    "latent_bottleneck.lower_bound_scale.bound": (1,),
}
"""What a checkpoint holds besides, with shapes of one whose tables of z were computed."""


def before_1_2_7(name: str) -> str:
    """Return CompressAI's name of a parameter of the prior in the years before 2024."""
    for since, before in (("matrices", "_matrix"), ("biases", "_bias"), ("factors", "_factor")):
        name = re.sub(rf"^(hyper_bottleneck\.){since}\.(\d)$", rf"\1{before}\2", name)
    return name


def before_1_1_9(name: str) -> str:
    """Return CompressAI's name of a parameter of the prior in 2021."""
    return re.sub(r"^(hyper_bottleneck\.)(matrices|biases|factors)", r"\1_\2", name)


def authors_tensors(rename: Callable[[str], str] = before_1_2_7) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint with the authors' names, but small."""
    with torch.device("meta"):
        state = MsIllmNetwork(MSILLM_TINY).state_dict()
    tensors = {
        rename(name): torch.from_numpy(fill(before_1_2_7(name), tensor.shape))
        for name, tensor in state.items()
    }
    # Latents that spread over many symbols and tables, as those of trained networks do.
    for name, gain in (
        ("encoder.blocks.5.weight", 4.0),
        ("hyper_analysis.4.weight", 8.0),
        ("hyper_synthesis_mean.4.weight", 6.0),
        ("hyper_synthesis_scale.4.weight", 6.0),
    ):
        tensors[name] *= gain
    tensors["hyper_synthesis_scale.4.bias"] += 2
    tensors["decoder.blocks.4.weight"] *= 0.2
    tensors["decoder.blocks.4.bias"] += 0.5
    return tensors


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("msillm") / "msillm.safetensors"
    path.write_bytes(weight_file(authors_tensors(), MSILLM_TINY))
    return path


@pytest.fixture(scope="module")
def codec(file: Path) -> MsIllmCodec:
    walk = cgdm.open_walk(file)
    opened = cgdm.open_codec([file], walk, "cpu")
    assert isinstance(opened, MsIllmCodec)
    return opened


@pytest.fixture(scope="module")
def network(codec: MsIllmCodec) -> MsIllmNetwork:
    return codec.network


def latents_of(codec: MsIllmCodec, pixels: Pixels) -> Latents:
    return codec.quantise(codec.analyse(pixels), 0)


def crop(photograph: Pixels, width: int, height: int) -> Pixels:
    return photograph[100 : 100 + height, 150 : 150 + width]


# Networks


def test_names_and_shapes_are_those_of_the_published_checkpoints() -> None:
    with torch.device("meta"):
        state = MsIllmNetwork().state_dict()
    lines = [f"{name} {' '.join(map(str, tensor.shape))}\n" for name, tensor in state.items()]
    assert len(lines) == LEARNED_TENSORS
    assert sum(tensor.numel() for tensor in state.values()) == LEARNED_VALUES
    assert hashlib.sha256("".join(sorted(lines)).encode()).hexdigest() == LEARNED_DIGEST


def test_channel_norm_divides_by_the_unbiased_variance() -> None:
    norm = ChannelNorm2D(4)
    with torch.no_grad():
        norm.gamma.copy_(torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1))
        norm.beta.copy_(torch.tensor([0.5, 0, -1, 2]).view(1, 4, 1, 1))
    x = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    squares = (x - x.mean(1, keepdim=True)).square().sum(1, keepdim=True)
    by_hand = (x - x.mean(1, keepdim=True)) / (squares / 3 + NORM_EPS).sqrt()
    torch.testing.assert_close(norm(x), by_hand * norm.gamma + norm.beta)
    assert NORM_EPS == 1e-3


def test_the_transforms_change_resolution_sixteenfold(network: MsIllmNetwork) -> None:
    with torch.no_grad():
        y = network.encoder(torch.rand(1, 3, 64, 128))
        z = network.hyper_analysis(y)
        assert y.shape == (1, MSILLM_TINY.latent, 4, 8)
        assert z.shape == (1, MSILLM_TINY.hyper, 1, 2)
        assert all(part.shape == y.shape for part in network.parameters_of(z))
        assert network.decoder(y).shape == (1, 3, 64, 128)


def test_the_decoder_adds_its_head_to_all_residual_blocks_together(network: MsIllmNetwork) -> None:
    decoder = network.decoder
    y_hat = torch.randn(1, MSILLM_TINY.latent, 3, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        head = decoder.block_0(y_hat)
        h = head
        for block in decoder.resid_blocks:
            conv1, norm1, _, conv2, norm2 = block.sequence  # type: ignore[union-attr]
            h = h + norm2(conv2(F.relu(norm1(conv1(h)))))
        h = h + head
        for doubling, norm, _ in list(decoder.blocks)[:-1]:  # type: ignore[misc]
            h = F.relu(norm(doubling(h)))
        torch.testing.assert_close(decoder(y_hat), decoder.blocks[-1](h))


def test_the_prior_is_that_of_the_checkpoint() -> None:
    tensors = {
        our_name(name).removeprefix("hyper_bottleneck."): tensor.double()
        for name, tensor in authors_tensors().items()
        if name.startswith("hyper_bottleneck.")
    }
    network = read_state(authors_tensors())
    edges = torch.arange(-8, 9, dtype=torch.float64)[None, None] - 0.5
    logits = tensors["quantiles"][:, :, 1:2] + edges  # [N, 1, 17]
    for k in range(5):  # CompressAI's layout: every step from the left
        logits = F.softplus(tensors[f"matrices.{k}"]) @ logits + tensors[f"biases.{k}"]
        if k < 4:
            logits = logits + torch.tanh(tensors[f"factors.{k}"]) * torch.tanh(logits)
    expected = torch.sigmoid(logits).diff(dim=2)[:, 0].numpy()
    found = network.hyper_bottleneck.prior().pmf(-8, 7)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    walk = msillm_export.walk_of(network)
    gaussians = len(gaussian_tables())
    assert len(walk.tables) == gaussians + MSILLM_TINY.hyper
    for channel, row in enumerate(expected):
        index = gaussians + channel
        start, low = walk.tables.starts[index], walk.tables.lows[index]
        for value in range(-3, 4):
            frequency = walk.tables.frequencies[start + value - low]
            assert frequency / TOTAL == pytest.approx(row[value + 8], rel=1e-3)


def read_state(tensors: Mapping[str, Tensor]) -> MsIllmNetwork:
    network = MsIllmNetwork(MSILLM_TINY)
    network.load_state_dict(msillm_convert.convert(tensors, MSILLM_TINY), strict=True)
    return network


# Conversion


def test_names_of_all_ages_of_the_prior_convert_to_the_same_file(file: Path) -> None:
    for rename in (before_1_2_7, before_1_1_9, str):
        tensors = authors_tensors(rename)
        assert {our_name(name) for name in tensors} == {our_name(n) for n in authors_tensors()}
        assert weight_file(tensors, MSILLM_TINY) == file.read_bytes()


def test_what_is_computed_from_the_rest_may_be_there(file: Path) -> None:
    tensors = authors_tensors() | {name: torch.zeros(shape) for name, shape in DERIVED.items()}
    assert weight_file(tensors, MSILLM_TINY) == file.read_bytes()


def test_checkpoints_are_read_from_pickles_and_safetensors(tmp_path: Path, file: Path) -> None:
    tensors = authors_tensors()
    torch.save(tensors, tmp_path / "msillm.ckpt")
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "lightning.ckpt")
    save_file(tensors, tmp_path / "msillm.safetensors")
    for path in tmp_path.iterdir():
        assert weight_file(read_checkpoint(path), MSILLM_TINY) == file.read_bytes()
    (tmp_path / "msillm.ckpt").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"cannot read msillm\.ckpt"):
        read_checkpoint(tmp_path / "msillm.ckpt")


def lacking(tensors: dict[str, Tensor]) -> None:
    del tensors["decoder.blocks.4.bias"]


def without_prior(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if "_matrix" in name or "_bias" in name]:
        del tensors[name]


def strange(tensors: dict[str, Tensor]) -> None:
    tensors["discriminator.0.weight"] = torch.zeros(1)


def misshapen(tensors: dict[str, Tensor]) -> None:
    tensors["encoder.blocks.0.1.gamma"] = torch.ones(4)


def infinite(tensors: dict[str, Tensor]) -> None:
    tensors["hyper_analysis.0.bias"][1] = float("inf")


def double(tensors: dict[str, Tensor]) -> None:
    tensors["hyper_bottleneck.matrices.0"] = tensors["hyper_bottleneck._matrix0"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lacking, r"missing: decoder\.blocks\.4\.bias$"),
        (without_prior, r"missing: hyper_bottleneck\.biases\.0, .* and 5 more$"),
        (strange, r"unexpected: discriminator\.0\.weight$"),
        (misshapen, r"wrong shape: encoder\.blocks\.0\.1\.gamma \(4,\), not \(1, 4, 1, 1\)$"),
        (infinite, r"not finite: hyper_analysis\.0\.bias$"),
        (double, r"there twice: hyper_bottleneck\.matrices\.0$"),
        (dict.clear, r"missing: decoder\.block_0\.0\.beta, "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_checkpoints_are_refused_in_one_line(
    damage: Callable[[dict[str, Tensor]], None], said: str
) -> None:
    tensors = authors_tensors()
    damage(tensors)
    with pytest.raises(WeightsError, match=said) as caught:
        weight_file(tensors, MSILLM_TINY)
    assert caught.value.message.startswith("not a checkpoint of MS-ILLM; ")
    assert "\n" not in caught.value.message
    assert "NeuralCompression" in str(caught.value.hint)


def test_the_file_holds_the_checkpoint_to_the_bit(file: Path) -> None:
    stored = msillm_export.read(file).state_dict()
    theirs = {our_name(name): tensor for name, tensor in authors_tensors().items()}
    assert stored.keys() == theirs.keys()
    for name, tensor in stored.items():
        assert torch.equal(tensor, theirs[name])


def test_the_file_says_what_it_is_and_under_which_licence(file: Path) -> None:
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    assert list(metadata) == [METADATA_KEY]
    text = metadata[METADATA_KEY]
    assert config.preset_of(text) == config.MSILLM
    assert msillm_export.parse(text) == MSILLM_TINY
    assert f'"licence": "{LICENCE}"' in text
    assert LICENCE == "CC-BY-NC-4.0"
    with pytest.raises(WeightsError, match="MsIllmConfig"):
        msillm_export.parse(text.replace("residual", "special"))
    with pytest.raises(WeightsError, match="not a post-processor"):
        config.parse(text)


def test_half_precision_halves_the_file_and_comes_back_unchanged(
    file: Path, tmp_path: Path
) -> None:
    halves = tmp_path / "halves.safetensors"
    halves.write_bytes(weight_file(authors_tensors(), MSILLM_TINY, torch.float16))
    assert halves.stat().st_size < file.stat().st_size
    again = msillm_export.read(halves)
    assert {tensor.dtype for tensor in again.state_dict().values()} == {torch.float32}
    assert msillm_export.pack(again, LICENCE, torch.float16) == halves.read_bytes()
    tensors = authors_tensors()
    tensors["encoder.blocks.0.0.bias"][0] = 1e6
    with pytest.raises(WeightsError, match=r"encoder\.blocks\.0\.0\.bias is .* beyond float16"):
        weight_file(tensors, MSILLM_TINY, torch.float16)


def test_weights_too_large_to_be_exact_are_refused() -> None:
    tensors = authors_tensors()
    tensors["hyper_synthesis_mean.2.bias"] += 1e8
    with pytest.raises(WeightsError, match="exceed"):
        weight_file(tensors, MSILLM_TINY)


# Weight files that are something else


def test_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    network = {"encoder.blocks.0.0.bias": torch.zeros(4)}

    def write(tensors: Mapping[str, Tensor], text: str) -> None:
        save_file(dict(tensors), path, {METADATA_KEY: text})

    path.write_bytes(b"nothing")
    for opener in (MsIllmWalk.load, msillm_export.read):
        with pytest.raises(WeightsError, match="cannot read"):
            opener(path)
    write(network, config.describe(config.TINY))
    assert not is_msillm(path)
    for opener in (MsIllmWalk.load, msillm_export.read):
        with pytest.raises(WeightsError, match="not those of an MS-ILLM"):
            opener(path)
    write(network, msillm_export.describe(MSILLM_TINY, LICENCE))
    with pytest.raises(WeightsError, match="never exported"):
        MsIllmWalk.load(path)
    with pytest.raises(WeightsError, match="do not fit their configuration"):
        msillm_export.read(path)


def test_parts_that_do_not_fit_each_other_are_refused(codec: MsIllmCodec) -> None:
    walk = codec.walk
    parts: dict[str, Any] = {
        "tables": walk.tables,
        "mean": walk.mean,
        "scale": walk.scale,
        "scale_thresholds": walk.scale_thresholds,
    }
    for change, said in (
        ({"tables": gaussian_tables()}, "tables don't fit"),
        ({"scale": ExactNet(walk.scale.layers[:-1], 255)}, "of mean and scale"),
        ({"scale_thresholds": walk.scale_thresholds[::-1].copy()}, "don't rise"),
        ({"scale_thresholds": walk.scale_thresholds[1:]}, "tables don't fit"),
        ({"scale_thresholds": walk.scale_thresholds.astype(np.int64)}, "int32"),
    ):
        with pytest.raises(WeightsError, match=said):
            MsIllmWalk.build(**{**parts, **change})


# The integer half


def test_the_integer_networks_give_what_the_float_ones_do(
    codec: MsIllmCodec, network: MsIllmNetwork
) -> None:
    random = np.random.default_rng(5)
    z = random.integers(-40, 41, (MSILLM_TINY.hyper, 3, 5)).astype(np.int32)
    with torch.no_grad():
        z_hat = torch.from_numpy(z).float() + network.hyper_bottleneck.medians
        mean, scale = (part[0].numpy() for part in network.parameters_of(z_hat[None]))
    # Half a step of rounding, and what 16-bit weights lose of values in the tens.
    assert np.abs(mean).max() > 20
    assert np.abs(codec.walk.mean(z) / MEAN_ONE - mean).max() < 0.6 / MEAN_ONE
    highest = codec.walk.scale_thresholds[-1] / msillm_export.SCALE_ONE
    found = codec.walk.scale(z) / msillm_export.SCALE_ONE
    assert np.abs(found - scale.clip(0, highest)).max() < 0.01
    assert found.min() == 0


def test_a_scale_chooses_the_table_that_is_nearest_on_a_logarithmic_scale(
    codec: MsIllmCodec,
) -> None:
    thresholds = codec.walk.scale_thresholds / msillm_export.SCALE_ONE
    for index in (0, 1, 20, 62, 63):
        sigma = gaussian_sigma(index)
        assert np.searchsorted(thresholds, sigma, side="right") == index
        assert np.searchsorted(thresholds, sigma * 1.05, side="right") == index
    assert np.searchsorted(thresholds, 0.0, side="right") == 0


@pytest.mark.parametrize("size", SIZES)
def test_latents_come_back_and_their_bits_are_known_before(
    codec: MsIllmCodec, photograph: Pixels, size: tuple[int, int]
) -> None:
    walk = codec.walk
    latents = latents_of(codec, crop(photograph, *size))
    assert latents["y"].shape[1:] == y_shape(*size)
    assert latents["z"].shape[1:] == z_shape(*size)
    writer, meter = Writer(), Meter()
    written = walk.code(writer, latents, *size, 0)
    data = writer.finish()
    counted = walk.code(meter, latents, *size, 0)
    reader = Reader(data)
    read = walk.code(reader, None, *size, 0)
    reader.finish()
    assert reader.digest() == writer.digest()
    for name in ("z", "y"):
        assert read[name].dtype == np.int32
        np.testing.assert_array_equal(read[name], written[name])
        np.testing.assert_array_equal(counted[name], written[name])
    assert np.abs(read["y"] - latents["y"]).max() <= MEAN_ONE // 2
    assert abs(8 * len(data) - meter.total_bits) <= 0.01 * meter.total_bits + 40


def test_walking_again_over_what_was_decoded_changes_nothing(
    codec: MsIllmCodec, photograph: Pixels
) -> None:
    writer, again = Writer(), Writer()
    decoded = codec.walk.code(writer, latents_of(codec, crop(photograph, 70, 50)), 70, 50, 0)
    codec.walk.code(again, decoded, 70, 50, 0)
    assert again.finish() == writer.finish()


def test_the_symbols_use_many_tables(codec: MsIllmCodec, photograph: Pixels) -> None:
    latents = latents_of(codec, crop(photograph, 128, 128))
    scale = codec.walk.scale(latents["z"])
    index = np.searchsorted(codec.walk.scale_thresholds, scale, side="right")
    assert len(np.unique(index)) > 20


def test_the_model_id_depends_on_what_decides_bits_alone(file: Path, tmp_path: Path) -> None:
    expected = MsIllmWalk.load(file).model_id
    assert len(expected) == 4
    path = tmp_path / "other.safetensors"
    for name, same in (
        ("decoder.blocks.4.bias", True),
        ("encoder.blocks.5.bias", True),
        ("hyper_synthesis_mean.4.bias", False),
        ("hyper_synthesis_scale.0.bias", False),
        ("hyper_bottleneck._bias2", False),
        ("hyper_bottleneck.quantiles", False),
    ):
        tensors = authors_tensors()
        tensors[name] += 0.25
        path.write_bytes(weight_file(tensors, MSILLM_TINY))
        assert (MsIllmWalk.load(path).model_id == expected) is same
    assert msillm_export.walk_of(msillm_export.read(file)).model_id == expected


def test_side_information_is_the_neutral_syntax_vector(codec: MsIllmCodec) -> None:
    packed = codec.walk.pack({})
    assert packed == {ChunkType.SYNTAX: b""}
    assert codec.walk.unpack(packed) == {}
    with pytest.raises(BitstreamError, match="syntax"):
        codec.walk.unpack({ChunkType.SYNTAX: b"\0"})


def test_the_walk_needs_no_torch(file: Path) -> None:
    script = """
import sys
from pathlib import Path
from cdcodec.families import cgdm
cgdm.open_walk(Path(sys.argv[1]))
sys.exit("torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script, str(file)], check=True)


# The codec


def decode(codec: MsIllmCodec, latents: Latents, width: int, height: int, **at: Any) -> Pixels:
    decoded = codec.walk.code(Meter(), latents, width, height, 0)
    choices = Decoding(**{"steps": 0, "decoder": "base", **at})
    return codec.synthesise(decoded, width, height, 0, choices)


def test_there_is_one_decoder_and_it_takes_no_steps(codec: MsIllmCodec) -> None:
    assert list(codec.decoders) == ["base"]
    base = codec.decoders["base"]
    assert (base.steps, base.min_steps, base.max_steps, base.stochasticity) == (0, 0, 0, None)
    assert codec.walk.rate_points == 1


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_any_size_come_back_in_that_size(
    codec: MsIllmCodec, photograph: Pixels, size: tuple[int, int]
) -> None:
    width, height = size
    picture = decode(codec, latents_of(codec, crop(photograph, width, height)), width, height)
    assert picture.dtype == np.uint8
    assert picture.shape == (height, width, 3)


def test_the_codec_computes_what_the_authors_networks_do(
    codec: MsIllmCodec, network: MsIllmNetwork, photograph: Pixels
) -> None:
    pixels = crop(photograph, 192, 128)
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        y = network.encoder(x)
        medians = network.hyper_bottleneck.medians
        z_hat = torch.round(network.hyper_analysis(y) - medians) + medians
        mean, _ = network.parameters_of(z_hat)
        y_hat = torch.round(y - mean) + mean
        x_hat = network.decoder(y_hat)[0].clamp(0, 1).permute(1, 2, 0).numpy()
    latents = latents_of(codec, pixels)
    decoded = codec.walk.code(Meter(), latents, 192, 128, 0)["y"] / MEAN_ONE
    away = np.abs(decoded - y_hat[0].numpy())
    # Where y lies between two steps, a rounding of its mean in the eighth bit may decide.
    assert np.mean(away > 1.1 / MEAN_ONE) < 0.03
    picture = decode(codec, latents, 192, 128)
    assert np.abs(picture / 255.0 - x_hat).mean() < 0.01
    assert picture.std() > 5


def test_large_pictures_are_decoded_in_tiles(codec: MsIllmCodec, photograph: Pixels) -> None:
    latents = latents_of(codec, photograph[:272])
    whole = decode(codec, latents, 512, 272).astype(int)
    tiled = decode(codec, latents, 512, 272, tile=256).astype(int)
    difference = np.abs(tiled - whole)
    assert difference.max() > 0
    assert difference.mean() < 1
    with pytest.raises(InputError, match="no side of a tile"):
        decode(codec, latents, 512, 272, tile=250)


def test_padding_reflects_where_it_can() -> None:
    random = np.random.default_rng(3)
    for height, width in ((64, 128), (70, 100), (1, 1), (32, 90), (33, 33), (20, 64)):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        padded = pad(pixels)
        assert padded.shape == (-(-height // 64) * 64, -(-width // 64) * 64, 3)
        np.testing.assert_array_equal(padded[:height, :width], pixels)
        if min(height, width) > 32:
            x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
            margins = (0, padded.shape[1] - width, 0, padded.shape[0] - height)
            expected = F.pad(x, margins, mode="reflect")[0].permute(1, 2, 0).byte()
            np.testing.assert_array_equal(padded, expected.numpy())
    tall = pad(random.integers(0, 256, (20, 64, 3), dtype=np.uint8))
    assert (tall[20:] == tall[19]).all()


@pytest.mark.slow
def test_a_model_of_the_published_size_codes_a_picture(photograph: Pixels, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tensors = {
            before_1_2_7(name): tensor for name, tensor in MsIllmNetwork().state_dict().items()
        }
    path = tmp_path / "msillm.safetensors"
    path.write_bytes(weight_file(tensors))
    del tensors
    walk = MsIllmWalk.load(path)
    codec = MsIllmCodec.load(path, walk, "cpu")
    assert codec.network.config == PUBLISHED
    writer = Writer()
    decoded = walk.code(writer, latents_of(codec, crop(photograph, 100, 70)), 100, 70, 0)
    reader = Reader(writer.finish())
    read = walk.code(reader, None, 100, 70, 0)
    reader.finish()
    np.testing.assert_array_equal(read["y"], decoded["y"])
    picture = codec.synthesise(read, 100, 70, 0, Decoding(steps=0, decoder="base"))
    assert picture.shape == (70, 100, 3)
