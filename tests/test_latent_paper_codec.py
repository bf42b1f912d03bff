"""Converted checkpoints of the RDEIC and DiffEIC authors encode and decode on Stable Diffusion."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from cdcodec import api, families, weights
from cdcodec.cli.__main__ import main
from cdcodec.codec import Decoding
from cdcodec.diffusion import noise, samplers, schedules
from cdcodec.diffusion.prediction import from_eps
from cdcodec.entropy.coder import Meter, Reader, Writer
from cdcodec.errors import InputError, WeightsError
from cdcodec.families.diffeic import convert as diffeic_convert
from cdcodec.families.rdeic import convert as rdeic_convert
from cdcodec.latent import config, paper_codec
from cdcodec.latent.codec import LatentCodec
from cdcodec.latent.paper_network import PaperNetwork, PaperSizes
from cdcodec.latent.walk import LatentWalk
from cdcodec.nn import stable_diffusion
from cdcodec.nn import stable_diffusion_names as names
from cdcodec.nn.control import controlled_noise
from cdcodec.nn.elic_context import SCALE_BOUND
from cdcodec.nn.prior import bits, gaussian_likelihood
from cdcodec.nn.stable_diffusion import StableDiffusion
from cdcodec.nn.stable_diffusion_config import SD21_BASE, SdConfig
from cdcodec.nn.unet import predict_noise
from cdcodec.weight_file import read_metadata
from tests import random_sd
from tests.reference_fill import fill
from tests.test_diffeic_paper import authors_layout
from tests.test_latent_paper_export import spread

pytest.importorskip("diffusers")

CONVERT: Mapping[str, ModuleType] = {"rdeic": rdeic_convert, "diffeic": diffeic_convert}
DEFAULT_STEPS = {"rdeic": 5, "diffeic": 50}
SIZES = [(1, 1), (70, 17)]


@dataclass(frozen=True)
class Converted:
    """A checkpoint of the authors' kind, made usable by the command."""

    family: str
    checkpoint: Path
    file: Path
    report: dict[str, Any]
    prior: Path

    @property
    def name(self) -> str:
        return f"{self.family}-sd21"

    @property
    def codec(self) -> LatentCodec:
        codec = families.load_codec(self.name, "cpu", True)
        assert isinstance(codec, LatentCodec)
        return codec

    def encode(self, source: Image.Image, **options: Any) -> api.Encoded:
        return api.encode(source, model=self.name, device="cpu", offline=True, **options)

    def read(self) -> PaperNetwork[Any]:
        network = import_module(f"cdcodec.families.{self.family}.paper_network").read(self.file)
        assert isinstance(network, PaperNetwork)
        return network


def tiny_network(family: str) -> PaperNetwork[Any]:
    """Return a small network whose control has something to say."""
    module = import_module(f"cdcodec.families.{family}.paper_network")
    network: PaperNetwork[Any] = module.PaperNetwork(module.TINY_SIZES)
    with torch.no_grad():
        spread(network.compression)
        for parameter in [*network.compression.g_a.parameters()][-2:]:
            parameter *= 20  # steps of y are to have something to round
        for name, parameter in network.control.named_parameters():
            if not name.startswith("narrow."):
                parameter.normal_(0, 0.1)
    return network


def authors_tensors(family: str, network: PaperNetwork[Any]) -> dict[str, Tensor]:
    """Return the tensors of a network under the names and in the shapes of a checkpoint."""
    tensors = {"control_model.scale_list": torch.ones(25), "betas": torch.ones(1000)}
    for ours, tensor in network.compression.state_dict().items():
        name = CONVERT[family].checkpoint_name(ours)
        tensors[name] = (authors_layout(name, tensor) if family == "diffeic" else tensor).clone()
    for ours, tensor in network.control.state_dict().items():
        tensors[names.CONTROL + names.control_checkpoint_name(ours)] = tensor
    return tensors


def converted_by_the_command(
    family: str, tensors: dict[str, Tensor], folder: Path, prior: Path
) -> Converted:
    """Convert a checkpoint by the name of its weights, from which the family follows."""
    checkpoint, report = folder / f"{family}.ckpt", folder / f"{family}.json"
    torch.save({"epoch": 1, "state_dict": tensors}, checkpoint)
    with pytest.MonkeyPatch.context() as streams, report.open("w") as stdout:
        streams.setattr("sys.stdout", stdout)
        command = ["weights", "convert", str(checkpoint), "--name", f"{family}-sd21", "--json"]
        assert main(command) == 0
    file = weights.cache_dir() / f"{family}-sd21.safetensors"
    return Converted(family, checkpoint, file, json.loads(report.read_text()), prior)


def forget() -> None:
    families.load_walk.cache_clear()
    families.load_codec.cache_clear()
    paper_codec.load_prior.cache_clear()


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small Stable Diffusion, registered in a cache for this module alone."""
    folder = tmp_path_factory.mktemp("sd21-base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDCODEC_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(stable_diffusion, "has_fast_bfloat16", lambda device: False)
        forget()
        random_sd.write(folder)
        random_sd.register(folder)
        yield folder
    forget()


@pytest.fixture(scope="module", params=["rdeic", "diffeic"])
def converted(
    request: pytest.FixtureRequest, prior: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Converted]:
    family: str = request.param
    convert = CONVERT[family]
    sizes = import_module(f"cdcodec.families.{family}.paper_network").TINY_SIZES
    network = random_sd.seeded(lambda: tiny_network(family))
    with pytest.MonkeyPatch.context() as patch:
        small = functools.partial(convert.weight_file, sizes=sizes)
        patch.setattr(convert, "weight_file", small)
        tensors = authors_tensors(family, network)
        yield converted_by_the_command(family, tensors, tmp_path_factory.mktemp(family), prior)


Exact: TypeAlias = tuple[PaperNetwork[Any], StableDiffusion]


@pytest.fixture(scope="module")
def exact(converted: Converted) -> Exact:
    """The networks as they are read, in float32 and beside no codec."""
    network, prior = converted.read(), StableDiffusion.open(converted.prior)
    network.place(torch.device("cpu"), torch.float32, prior.unet.context)
    return network, prior


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return Image.fromarray(data.astronaut()).crop((150, 0, 150 + 128, 64))


def decode(file: bytes, **choices: Any) -> np.ndarray:
    decoding = Decoding(**{"device": "cpu", "steps": 2, **choices})
    return api.decode(file, decoding, offline=True).picture.pixels


# Conversion


def test_a_converted_checkpoint_is_registered(converted: Converted) -> None:
    entry = weights.find(converted.name)
    assert (entry.family, entry.preset) == (converted.family, "paper")
    assert entry.model_id == converted.codec.walk.model_id.hex()
    assert converted.report["model_id"] == entry.model_id
    assert weights.verify(converted.name) == [converted.file]


def test_the_file_holds_the_checkpoint_to_the_bit(converted: Converted) -> None:
    stored = authors_tensors(converted.family, converted.read())
    theirs = torch.load(converted.checkpoint, weights_only=True)["state_dict"]
    assert stored.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if name.endswith(".quantiles"):  # of which the file keeps the medians
            tensor, stored[name] = tensor[..., 1], stored[name][..., 1]
        assert torch.equal(stored[name], tensor), name


def test_converting_twice_gives_the_same_file(converted: Converted) -> None:
    convert = CONVERT[converted.family]
    tensors = convert.read_checkpoint(converted.checkpoint)
    assert convert.weight_file(tensors) == converted.file.read_bytes()


@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("rdeic_2_step2.ckpt", [], 2),
        ("rdeic_0.1_step5.ckpt", [], 5),
        ("mine.ckpt", [], 5),
        ("mine.ckpt", ["--steps", "2"], 2),
        ("rdeic_2_step2.ckpt", ["--steps", "3"], 3),
    ],
)
def test_a_checkpoint_is_decoded_with_the_steps_that_it_is_made_for(
    name: str, options: list[str], steps: int, prior: Path, photograph: Image.Image, tmp_path: Path
) -> None:
    sizes = import_module("cdcodec.families.rdeic.paper_network").TINY_SIZES
    network = random_sd.seeded(lambda: tiny_network("rdeic"))
    checkpoint = tmp_path / name
    torch.save({"state_dict": authors_tensors("rdeic", network)}, checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        small = functools.partial(rdeic_convert.weight_file, sizes=sizes)
        patch.setattr(rdeic_convert, "weight_file", small)
        command = ["weights", "convert", str(checkpoint), "--name", "of-steps", "--family", "rdeic"]
        assert main([*command, "-o", str(tmp_path), "--overwrite", *options]) == 0
    file = api.encode(
        photograph, model=str(tmp_path / "of-steps.safetensors"), device="cpu", offline=True
    )
    assert api.info(file.data).steps == steps


def test_steps_are_refused_where_a_checkpoint_is_for_any_number(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.ckpt").touch()
    command = ["weights", "convert", str(tmp_path / "a.ckpt"), "--name", "any", "--steps", "2"]
    assert main([*command, "--family", "diffeic"]) == 3
    assert "checkpoints of diffeic are for any number of steps" in capsys.readouterr().err


def test_a_checkpoint_with_another_control_network_is_refused(converted: Converted) -> None:
    convert = CONVERT[converted.family]
    tensors = convert.read_checkpoint(converted.checkpoint)
    del tensors["control_model.middle_block_out.0.bias"]
    with pytest.raises(WeightsError, match=r"missing: middle_block_out\.0\.bias"):
        convert.weight_file(tensors)


def test_the_metadata_says_which_codec_to_open(converted: Converted) -> None:
    family = converted.family
    metadata = read_metadata(converted.file)
    assert config.preset_of(metadata, family) == "paper"
    (small, _prior) = weights.resolve(f"{family}-tiny", offline=True)
    assert config.preset_of(read_metadata(small), family) is None
    read = import_module(f"cdcodec.families.{family}.export").read
    with pytest.raises(WeightsError, match="does not hold a"):
        read(converted.file)
    for text, problem in (
        ("", "does not say"),
        ("[]", "does not say"),
        ('{"family": "cdc"}', f"family cdc, not {family}"),
        (f'{{"family": "{family}", "preset": "papr"}}', "unknown preset papr"),
    ):
        with pytest.raises(WeightsError, match=problem):
            config.preset_of(text, family)


def test_the_family_of_unknown_weights_is_asked_for(
    converted: Converted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CDCODEC_CACHE", str(tmp_path))
    data = converted.file.read_bytes()
    monkeypatch.setattr(CONVERT[converted.family], "weight_file", lambda tensors, **steps: data)
    command = ["weights", "convert", str(converted.checkpoint), "--name", "mine"]
    assert main(command) == 6
    assert "checkpoint of this CDC model" in capsys.readouterr().err
    assert main([*command, "--family", converted.family]) == 0
    assert weights.find("mine").family == converted.family
    assert main([*command, "--overwrite"]) == 0  # now it is known


# Files


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_any_size_comes_back(
    converted: Converted, photograph: Image.Image, size: tuple[int, int]
) -> None:
    encoded = converted.encode(photograph.resize(size))
    info = api.info(encoded.data, verify=True)
    assert (info.width, info.height, info.point) == (*size, 0)
    assert info.steps == DEFAULT_STEPS[converted.family]
    assert info.model == converted.name
    assert dict(info.bits) == pytest.approx(dict(encoded.bits))
    decoded = api.decode(encoded.data, Decoding(device="cpu", steps=1), offline=True)
    assert decoded.model == converted.name
    assert decoded.image.size == size


def test_a_reader_gets_what_the_writer_wrote(converted: Converted, photograph: Image.Image) -> None:
    codec = converted.codec
    odd = np.array(photograph.crop((0, 0, 100, 50)))
    latents = codec.quantise(codec.analyse(odd), 0)
    assert latents["y"].shape[1:] == (4, 7)
    writer = Writer()
    written = codec.walk.code(writer, latents, 100, 50, 0)
    reader = Reader(writer.finish())
    read = codec.walk.code(reader, None, 100, 50, 0)
    reader.finish()
    for name in written:
        np.testing.assert_array_equal(read[name], written[name])
    assert reader.digest() == writer.digest()
    file = converted.encode(Image.fromarray(odd)).data
    assert api.info(file, verify=True).symbols_sha256 == writer.digest()


@torch.no_grad()
def test_files_are_as_long_as_the_authors_estimate(
    converted: Converted, photograph: Image.Image
) -> None:
    network, codec = converted.read().compression, converted.codec
    analysis = codec.analyse(np.array(photograph))
    y = analysis.y[None]
    name, hyper = network.hyper_latent(y, analysis.z_0[None], torch.zeros(1))
    planes = network.planes(hyper)
    coded = network.context(y, network.h_s(planes))
    scales = coded.scales.clamp_min(SCALE_BOUND)
    found = converted.encode(photograph).bits
    estimate = float(bits(gaussian_likelihood(coded.y_hat, coded.means, scales)))
    assert estimate > 1000
    # An escape costs less than the 30 bits that the estimate stops at.
    assert found["y"] == pytest.approx(estimate, rel=0.05)
    if name == "l":
        estimate = hyper.numel() * np.log2(network.config.entries)
    else:
        estimate = float(bits(network.prior.likelihood(planes)))
    assert found[name] == pytest.approx(estimate, rel=0.01)


def test_margins_are_black_as_the_authors_make_them(
    converted: Converted, photograph: Image.Image
) -> None:
    odd = np.array(photograph.crop((0, 0, 70, 50)))
    padded = converted.codec.pad(odd)
    assert padded.shape == (64, 128, 3)
    assert not padded[50:].any()
    assert not padded[:, 70:].any()
    np.testing.assert_array_equal(padded[:50, :70], odd)


@pytest.mark.parametrize(("steps", "guidance"), [(0, 1.0), (2, 1.0), (2, 1.5)])
@torch.no_grad()
def test_pixels_are_those_of_the_networks_in_float32(
    converted: Converted, exact: Exact, photograph: Image.Image, steps: int, guidance: float
) -> None:
    codec, pixels = converted.codec, np.array(photograph)
    latents = codec.walk.code(Meter(), codec.quantise(codec.analyse(pixels), 0), 128, 64, 0)
    (hyper,) = (torch.from_numpy(latents[name])[None] for name in latents if name != "y")
    network, prior = exact
    y_hat = torch.from_numpy(latents["y"])[None] / 64
    z_c, hint = network.synthesise(y_hat, network.planes(hyper), torch.zeros(1))

    def eps(z: Tensor, n: int) -> Tensor:
        t = torch.tensor([n])
        plain = predict_noise(prior.unet, z, t)
        return plain + guidance * (
            controlled_noise(prior.unet, network.control, z, t, hint) - plain
        )

    def draw(number: int) -> Tensor:
        return torch.from_numpy(noise.gaussian(3, 0, 0, 8, 16, 4, draw=number))[None]

    alpha_bar = schedules.scaled_linear().alpha_bar
    z_0 = z_c
    if steps and converted.family == "rdeic":
        z_0 = samplers.relay(from_eps(eps, alpha_bar), z_c, [299, 0], alpha_bar, draw)
    elif steps:
        z_0 = samplers.ddpm(from_eps(eps, alpha_bar), draw(0), [999, 0], alpha_bar, draw)
    expected = ((prior.decode(z_0)[0] + 1) * 127.5).clamp(0, 255).permute(1, 2, 0).numpy()
    found = decode(converted.encode(photograph).data, steps=steps, guidance=guidance, seed=3)
    assert np.abs(found - expected).max() < 0.51
    assert expected.std() > 1


def test_decoders_follow_seed_and_steps(converted: Converted, photograph: Image.Image) -> None:
    file = converted.encode(photograph.resize((64, 64))).data
    sampling = [name for name in converted.codec.decoders if name != "direct"]
    pictures = [decode(file, decoder=name, seed=seed) for name in sampling for seed in (0, 1)]
    pictures.append(decode(file, decoder="direct", steps=0))
    for k, one in enumerate(pictures):
        assert all((one != other).any() for other in pictures[:k])
    np.testing.assert_array_equal(decode(file, decoder=sampling[-1], seed=1), pictures[-2])
    for name in sampling:
        np.testing.assert_array_equal(decode(file, decoder=name, steps=0), pictures[-1])


def test_large_pictures_are_decoded_in_tiles(converted: Converted) -> None:
    file = converted.encode(Image.fromarray(data.astronaut()).crop((0, 0, 330, 60))).data
    calls: list[tuple[int, int]] = []
    tiled = api.decode(
        file,
        Decoding(device="cpu", steps=1, tile=256),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 2), (2, 2)]
    assert tiled.picture.pixels.shape == (60, 330, 3)


def test_there_is_one_rate(converted: Converted, photograph: Image.Image) -> None:
    free = converted.encode(photograph)
    assert converted.encode(photograph, quality=0).data == free.data
    with pytest.raises(InputError, match="too few"):
        converted.encode(photograph, bpp=free.bpp / 2)


# Stable Diffusion beside it


def test_both_families_share_one_stable_diffusion(converted: Converted) -> None:
    assert (
        paper_codec.load(converted.read(), LatentWalk.load(converted.file), "cpu")[0]
        is converted.codec.prior
    )


def test_without_stable_diffusion_it_is_asked_for(
    converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = LatentWalk.load(converted.file)
    monkeypatch.setenv("CDCODEC_CACHE", str(tmp_path))
    module = import_module(f"cdcodec.families.{converted.family}")
    with pytest.raises(WeightsError, match="need those of Stable Diffusion") as caught:
        module.open_codec([converted.file], walk, "cpu")
    assert caught.value.hint == "cdcodec weights show sd21-base says how to get them"


def test_only_a_cuda_device_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert not paper_codec.is_compiled(cuda)
    monkeypatch.setenv("CDCODEC_COMPILE", "1")
    assert paper_codec.is_compiled(cuda)
    assert not paper_codec.is_compiled(cpu)


# At full scale


@pytest.fixture(scope="module")
def full_prior(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All of Stable Diffusion 2.1 with random weights, registered."""
    folder = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDCODEC_CACHE", str(tmp_path_factory.mktemp("full-cache")))
        forget()
        random_sd.write(folder, SD21_BASE)
        assert SdConfig.read(folder) == SD21_BASE
        random_sd.register(folder)
        yield folder
    forget()
    shutil.rmtree(folder)  # 4 GB, of which pytest would keep three


def full_tensors(family: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint at full scale, filled by the rule of the references."""
    module = import_module(f"cdcodec.families.{family}.paper_network")
    assert isinstance(module.SIZES, PaperSizes)
    with torch.device("meta"):
        shapes = authors_tensors(family, module.PaperNetwork())
    tensors = {name: torch.from_numpy(fill(name, t.shape)) for name, t in shapes.items()}
    return tensors | {"control_model.scale_list": torch.ones(25)}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["rdeic", "diffeic"])
def test_full_size_networks_encode_and_decode(family: str, full_prior: Path) -> None:
    tensors = full_tensors(family)
    converted = converted_by_the_command(family, tensors, full_prior, full_prior)
    picture = Image.fromarray(data.astronaut()).crop((100, 0, 356, 256))
    encoded = converted.encode(picture)
    assert api.info(encoded.data, verify=True).symbols_sha256
    unguided = decode(encoded.data, steps=0)
    assert unguided.shape == (256, 256, 3)
    assert (decode(encoded.data, steps=2) != unguided).any()
