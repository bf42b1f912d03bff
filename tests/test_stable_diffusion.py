"""Stable Diffusion as a latent prior: files, networks, names, and the authors' control half."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdcodec import weights
from cdcodec.cli.__main__ import main
from cdcodec.diffusion import prediction, samplers, schedules
from cdcodec.errors import WeightsError
from cdcodec.nn import stable_diffusion_names as names
from cdcodec.nn import stable_diffusion_prompt, stable_diffusion_unet
from cdcodec.nn.control import Control, controlled_noise
from cdcodec.nn.stable_diffusion import SCALE, StableDiffusion, unet_network, vae_network
from cdcodec.nn.stable_diffusion_config import SD21_BASE, TINY, SdConfig
from cdcodec.nn.stable_diffusion_config import TINY_CONTROL as CONTROL
from cdcodec.nn.stable_diffusion_unet import SdUnet, control_half
from cdcodec.nn.unet import predict_noise
from tests import random_sd
from tests.random_sd import seeded
from tests.reference_fill import fill

diffusers = pytest.importorskip("diffusers")

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in the layout of diffusers, of tiny networks with random weights."""
    path = tmp_path_factory.mktemp("sd")
    random_sd.write(path)
    return path


@pytest.fixture(scope="module")
def prior(folder):
    return StableDiffusion.open(folder)


@pytest.fixture(scope="module")
def original(folder):
    """The same networks as diffusers itself reads them."""
    kinds = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}
    return {
        part: kind.from_pretrained(folder / part, low_cpu_mem_usage=False).eval()
        for part, kind in kinds.items()
    }


@pytest.fixture
def z():
    return seeded(lambda: torch.randn(2, 4, 8, 16))


@pytest.fixture
def image():
    return seeded(lambda: torch.rand(1, 3, 64, 128) * 2 - 1)


@pytest.fixture
def copied(folder, tmp_path):
    """The folder again, for tests that change it."""
    for path in folder.rglob("*.*"):
        target = tmp_path / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path


# The networks


@torch.inference_mode()
def test_rows_compute_exactly_what_diffusers_does(prior, original, z):
    t = torch.tensor([0, 731])
    expected = original["unet"](z, t, prior.unet.context.expand(2, -1, -1)).sample
    rows = SdUnet(original["unet"])
    rows.bind(prior.unet.context)
    assert torch.equal(predict_noise(rows, z, t), expected)
    # Where in memory tensors begin decides on a last bit.
    torch.testing.assert_close(predict_noise(prior.unet, z, t), expected)
    assert len(prior.unet.shape.inputs) == len(prior.unet.shape.outputs) == 12
    assert prior.unet.shape.outputs == (24,) * 7 + (16,) * 3 + (8,) * 2
    assert prior.latent_channels == 4


@pytest.mark.parametrize("config", [TINY, SD21_BASE], ids=["tiny", "full"])
def test_widths_of_the_rows_are_known_without_the_network(config):
    assert SdUnet(unet_network(config)).shape == config.unet_shape


@torch.inference_mode()
def test_features_and_latent_are_the_encoder_in_two_parts(prior, original, image):
    features = prior.features(image)
    assert features.shape == (1, prior.feature_channels, 8, 16)
    mode = original["vae"].encode(image).latent_dist.mode()
    torch.testing.assert_close(prior.latent(features), SCALE * mode)
    seen = []
    layer = original["vae"].encoder.conv_act
    hook = layer.register_forward_hook(lambda _layer, _inputs, out: seen.append(out))
    original["vae"].encode(image)
    hook.remove()
    torch.testing.assert_close(features, SCALE * seen[0])


@torch.inference_mode()
def test_decode_undoes_the_scale(prior, original, z):
    found = prior.decode(z)
    assert found.shape == (2, 3, 64, 128)
    torch.testing.assert_close(found, original["vae"].decode(z / SCALE).sample)


@torch.inference_mode()
def test_bfloat16_stays_close_and_gives_float32(folder, z):
    prior = StableDiffusion.open(folder)
    t = torch.tensor([3, 731])
    control = seeded(lambda: Control(control_half(8, CONTROL), prior.unet.shape))
    control.narrow.bind(prior.unet.context)
    exact, picture = controlled_noise(prior.unet, control, z, t, z), prior.decode(z)
    prior.place(torch.device("cpu"), torch.bfloat16)
    for part in (control, control.to(torch.bfloat16)):  # the caller's may be of another precision
        low = controlled_noise(prior.unet, part, z, t, z)
        assert low.dtype == torch.float32
        assert not torch.equal(low, exact)
        torch.testing.assert_close(low, exact, rtol=0, atol=0.05)
    assert prior.decode(z).dtype == torch.float32
    assert (prior.decode(z) - picture).abs().mean() < 0.01
    assert {p.dtype for p in prior.vae.parameters()} == {torch.float32}
    prior.place(torch.device("cpu"), torch.float32)
    assert prior.unet.dtype == torch.float32


def test_the_prior_is_frozen_and_lets_gradients_through(prior, z):
    assert not any(p.requires_grad for p in prior.parameters())
    assert not any(module.training for module in prior.modules())
    z.requires_grad_()
    predict_noise(prior.unet, z, torch.tensor([5, 5])).sum().backward()
    assert z.grad.abs().sum() > 0


@pytest.mark.slow
@torch.inference_mode()
def test_compiling_changes_no_result(folder, z):
    prior = StableDiffusion.open(folder)
    t = torch.tensor([5, 6])
    before = predict_noise(prior.unet, z, t)
    prior.unet.compile(backend="eager")
    torch.testing.assert_close(predict_noise(prior.unet, z, t), before)


def test_importing_the_prior_does_not_import_diffusers():
    script = """
import sys
import cdcodec.nn.stable_diffusion, cdcodec.nn.stable_diffusion_prompt
sys.exit(bool({"diffusers", "transformers"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# Control


def test_a_fresh_control_network_changes_nothing(prior, z):
    half = seeded(lambda: control_half(4 + 6, CONTROL))
    half.bind(prior.unet.context)
    control = Control(half, prior.unet.shape)
    t, hint = torch.tensor([5, 700]), torch.ones(2, 6, 8, 16)
    with torch.inference_mode():
        eps = controlled_noise(prior.unet, control, z, t, hint)
        assert torch.equal(eps, predict_noise(prior.unet, z, t))
    control.leave[3].weight.data.fill_(0.1)
    loss = controlled_noise(prior.unet, control, z, t, hint).sum()
    assert loss != eps.sum()
    loss.backward()
    assert control.narrow.rows[0].resample.weight.grad.abs().sum() > 0


def test_the_prompt_is_no_part_of_the_control_networks_weights(prior):
    half = control_half(8, CONTROL)
    with pytest.raises(AssertionError, match="bind the empty prompt"):
        half.input(0, torch.zeros(1, 8, 8, 8), half.embed(torch.tensor([0])))
    before = half.state_dict().keys()
    half.bind(prior.unet.context)
    assert half.state_dict().keys() == before
    assert "context" not in before


# Names


def on_meta(kind, in_channels=8):
    """Return our state dict of a network at full scale, without values."""
    if kind == "control":
        with torch.device("meta"):
            return Control(control_half(in_channels), SdUnet(unet_network()).shape).state_dict()
    return {"unet": unet_network, "vae": vae_network}[kind]().state_dict()


CHECKPOINT_NAME = {
    "unet": (names.UNET, names.unet_checkpoint_name),
    "vae": (names.VAE, names.vae_checkpoint_name),
    "control": (names.CONTROL, names.control_checkpoint_name),
}


@pytest.mark.parametrize("family", ["diffeic", "rdeic"])
@pytest.mark.parametrize("kind", list(CHECKPOINT_NAME))
def test_names_and_shapes_are_those_of_the_authors_checkpoints(family, kind):
    expected = json.loads((FOLDER / f"vectors_{family}" / "unet.json").read_text())["names"][kind]
    prefix, checkpoint_name = CHECKPOINT_NAME[kind]
    lines = []
    for name, tensor in on_meta(kind, {"diffeic": 8, "rdeic": 260}[family]).items():
        shape = list(tensor.shape)
        if kind == "vae" and ".attentions." in name and tensor.ndim == 2:
            shape += [1, 1]
        lines.append(f"{prefix}{checkpoint_name(name)} {shape}")
    assert len(set(lines)) == expected["count"]
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == expected["sha256"]


def as_checkpoint(state, kind):
    """Return a state dict under CompVis' names and in its shapes, without the prefix."""
    rename = CHECKPOINT_NAME[kind][1]
    conv = kind == "vae"
    return {
        rename(name): t[..., None, None] if conv and ".to_" in name and t.ndim == 2 else t
        for name, t in state.items()
    }


def test_tensors_under_compvis_names_are_converted_strictly(prior, original):
    for kind, convert in [("unet", names.unet_state), ("vae", names.vae_state)]:
        state = original[kind].state_dict()
        found = convert(as_checkpoint(state, kind), state)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)
    control = Control(control_half(8, CONTROL), prior.unet.shape)
    state = control.state_dict()
    theirs = {f"control_model.{n}": t for n, t in as_checkpoint(state, "control").items()}
    theirs = names.below({**theirs, "preprocess_model.x": torch.ones(1)}, names.CONTROL)
    theirs["scale_list"] = torch.ones(25)
    control.load_state_dict(names.control_state(theirs, state))
    with pytest.raises(WeightsError, match="scales its control network"):
        names.control_state({**theirs, "scale_list": torch.full((25,), 0.5)}, state)
    del theirs["enc_zero_convs_out.3.0.bias"]
    theirs["time_embed.0.bias"] = torch.ones(1)
    theirs["middle_block_out.0.bias"] = torch.ones(1)
    with pytest.raises(WeightsError) as caught:
        names.control_state(theirs, state)
    assert "missing: enc_zero_convs_out.3.0.bias;" in caught.value.message
    assert "unexpected: time_embed.0.bias;" in caught.value.message
    assert "wrong shape: middle_block_out.0.bias (1,), not (24,)" in caught.value.message


def test_the_autoencoders_old_names_are_read(copied, prior, z):
    path = copied / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(path).items():
        for new, was in old.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{was}.")
        tensors[name] = tensor
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in tensors
    save_file(tensors, path)
    torch.testing.assert_close(StableDiffusion.open(copied).decode(z), prior.decode(z))


# Files


@pytest.mark.parametrize(
    "name",
    [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "empty_prompt.safetensors",
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_missing_or_damaged_file_is_a_weights_error(copied, name, content):
    path = copied / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(WeightsError):
        StableDiffusion.open(copied)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("unet", {"block_out_channels": [8, 16, 24, 32]}, "wrong shape"),
        ("unet", {"layers_per_block": 3}, "unet has layers_per_block 3"),
        ("unet", {"use_linear_projection": False}, "unet has use_linear_projection False"),
        ("vae", {"latent_channels": 16}, "vae has latent_channels 16"),
        ("vae", {"block_out_channels": None}, "no Stable Diffusion 2"),
    ],
)
def test_networks_of_another_kind_are_refused(copied, part, changes, message):
    path = copied / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(WeightsError, match=message):
        StableDiffusion.open(copied)


def test_a_unet_that_predicts_v_is_refused(copied):
    (copied / "scheduler").mkdir()
    path = copied / "scheduler" / "scheduler_config.json"
    path.write_text('{"prediction_type": "epsilon"}')
    StableDiffusion.open(copied)
    path.write_text('{"prediction_type": "v_prediction"}')
    with pytest.raises(WeightsError, match=r"only 2\.1-base will do"):
        StableDiffusion.open(copied)


def test_without_diffusers_the_hint_says_what_to_install(monkeypatch, folder):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(stable_diffusion_unet, "import_module", missing)
    with pytest.raises(WeightsError, match="needs diffusers") as caught:
        StableDiffusion.open(folder)
    assert caught.value.hint == "in a checkout of cdcodec: pip install '.[sd]'"
    monkeypatch.setattr(stable_diffusion_prompt, "import_module", missing)
    with pytest.raises(WeightsError, match="needs transformers") as caught:
        stable_diffusion_prompt.empty_prompt(folder)
    assert caught.value.hint == "in a checkout of cdcodec: pip install '.[sd]'"


# The empty prompt


@pytest.fixture
def with_text(copied):
    """The folder with a tiny text encoder, and a tokenizer that knows the three tokens."""
    import transformers

    vocabulary = {"!": 0, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    tokenizer = copied / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    described = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "!",
        "unk_token": "<|endoftext|>",
    }
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(described))
    config = transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=3,
        hidden_act="gelu",
        projection_dim=12,
    )
    encoder = seeded(lambda: transformers.CLIPTextModel(config))
    encoder.save_pretrained(copied / "text_encoder")
    return copied


def test_the_empty_prompt_is_embedded_once_and_read_as_a_file(with_text):
    path = with_text / "empty_prompt.safetensors"
    path.write_bytes(stable_diffusion_prompt.prompt_file(with_text))
    embedding = stable_diffusion_prompt.empty_prompt(with_text)
    assert embedding.shape == (1, 77, 12)
    assert torch.equal(StableDiffusion.open(with_text).unet.context, embedding)
    assert not torch.equal(embedding[0, 1], embedding[0, 2])


def test_another_tokenizer_is_refused(with_text):
    path = with_text / "tokenizer" / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"pad_token": "!"', '"pad_token": "<|endoftext|>"'))
    with pytest.raises(WeightsError, match="isn't the tokenizer of Stable Diffusion 2"):
        stable_diffusion_prompt.empty_prompt(with_text)


def test_a_missing_text_encoder_is_a_weights_error(folder):
    with pytest.raises(WeightsError, match="cannot read the text encoder") as caught:
        stable_diffusion_prompt.empty_prompt(folder)
    assert "\n" not in caught.value.message


def test_a_downloaded_folder_is_added_as_a_weight_set(with_text, tmp_path, monkeypatch, z):
    """All in one command: the two networks, and the prompt made from the text encoder."""
    registered = weights.find("sd21-base", registry=weights.load_registry(weights.registry_path()))
    files = tuple(replace(file, sha256="", bytes=0) for file in registered.files)
    registry = tmp_path / "registry.toml"
    weights.register(registry, replace(registered, files=files))
    monkeypatch.setattr(weights.places, "registry_path", lambda: registry)
    monkeypatch.setenv("CDCODEC_CACHE", str(tmp_path / "cache"))
    (with_text / "empty_prompt.safetensors").unlink()
    for _ in range(2):  # the second time nothing new is made
        assert main(["weights", "add", "sd21-base", str(with_text)]) == 0
        paths = weights.resolve("sd21-base")
        assert [path.parent.name for path in paths] == ["sha256"] * 3
    prior = StableDiffusion.load(*paths, SdConfig.read(with_text))
    assert torch.equal(prior.unet.context, stable_diffusion_prompt.empty_prompt(with_text))
    assert prior.decode(z).shape == (2, 3, 64, 128)


# The reference, at full scale


class Reference:
    """Stored tensors of a family, and its full networks filled by the rule."""

    def __init__(self, family, unet, in_channels):
        stored = FOLDER / f"vectors_{family}"
        self.tensors = load_file(stored / "unet.safetensors")
        self.expected = json.loads((stored / "unet.json").read_text())
        self.unet = unet
        with torch.device("meta"):
            self.control = Control(control_half(in_channels), unet.shape)
        state = self.control.state_dict()
        filled = filled_tensors(state, "control")
        self.control.load_state_dict(names.control_state(filled, state), assign=True)
        self.control.narrow.bind(unet.context)
        self.control.requires_grad_(False).eval()
        self.hint = self.tensors["z_c" if in_channels == 8 else "guide_hint"]
        self.alpha_bar = schedules.scaled_linear().alpha_bar

    def __getitem__(self, name):
        return self.tensors[name]

    def check(self, name, found):
        tolerance = self.expected["tensors"][name]
        torch.testing.assert_close(found, self[name], **tolerance, msg=lambda m: f"{name}: {m}")

    def controlled(self, z, t, guidance=1.0):
        n = torch.tensor([t])
        eps = controlled_noise(self.unet, self.control, z, n, self.hint)
        if guidance == 1:
            return eps
        plain = predict_noise(self.unet, z, n)
        return plain + guidance * (eps - plain)

    def trace(self, sampler, start, indices, guidance=1.0):
        """Return the states after every step, of noises as they were drawn."""
        noises, states = self["sampler.noises"], []
        denoise = prediction.from_eps(lambda z, t: self.controlled(z, t, guidance), self.alpha_bar)

        def watched(z, t):
            states.append(z)
            return denoise(z, t)

        end = sampler(watched, start, indices, self.alpha_bar, lambda draw: noises[draw])
        return torch.stack([*states[1:], end]), states[0]


def filled_tensors(state, kind):
    prefix, checkpoint_name = CHECKPOINT_NAME[kind]
    theirs = {checkpoint_name(name): tensor.shape for name, tensor in state.items()}
    return {name: torch.from_numpy(fill(prefix + name, shape)) for name, shape in theirs.items()}


@pytest.fixture(scope="module")
def full_unet():
    network = unet_network()
    state = network.state_dict()
    network.load_state_dict(names.unet_state(filled_tensors(state, "unet"), state), assign=True)
    assert sum(p.numel() for p in network.parameters()) == 865_910_724
    unet = SdUnet(network)
    unet.bind(load_file(FOLDER / "vectors_diffeic" / "unet.safetensors")["context"])
    return unet.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def diffeic(full_unet):
    return Reference("diffeic", full_unet, 8)


@pytest.fixture(scope="module")
def rdeic(full_unet):
    return Reference("rdeic", full_unet, 260)


@pytest.mark.parametrize("family", ["diffeic", "rdeic"])
def test_parameters_are_filled_as_in_the_reference(family):
    checks = json.loads((FOLDER / f"vectors_{family}" / "unet.json").read_text())["fill_check"]
    assert checks
    for name, check in checks.items():
        digest = hashlib.sha256(fill(name, check["shape"]).astype("<f4").tobytes()).hexdigest()
        assert digest == check["sha256_float32_le"], name


@pytest.mark.slow
@torch.inference_mode()
def test_diffeic_noise_predictions_are_those_of_the_authors(diffeic):
    for t in (0, 500, 999):
        diffeic.check(f"unet.eps.t{t}", diffeic.controlled(diffeic["unet.z_t"], t))
    plain = predict_noise(diffeic.unet, diffeic["unet.z_t"], torch.tensor([500]))
    diffeic.check("unet.eps_plain.t500", plain)


@pytest.mark.slow
@torch.inference_mode()
def test_diffeic_sampler_goes_through_the_states_of_the_authors(diffeic):
    start = diffeic["sampler.noises"][0]
    indices = schedules.spaced_timesteps(5, 1000)
    found, _ = diffeic.trace(samplers.ddpm, start, indices)
    diffeic.check("sampler.steps5.trace", found)


@pytest.mark.slow
@torch.inference_mode()
def test_rdeic_noise_predictions_are_those_of_the_authors(rdeic):
    for t in (0, 299):
        rdeic.check(f"unet.eps.t{t}", rdeic.controlled(rdeic["unet.z_t"], t))
        plain = predict_noise(rdeic.unet, rdeic["unet.z_t"], torch.tensor([t]))
        rdeic.check(f"unet.eps_sd.t{t}", plain)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "guidance"), [(2, 1.0), (5, 1.0), (2, 1.5)])
@torch.inference_mode()
def test_rdeic_sampler_goes_through_the_states_of_the_authors(rdeic, steps, guidance):
    indices = schedules.spaced_timesteps(steps, 300)
    found, start = rdeic.trace(samplers.relay, rdeic["z_c"], indices, guidance)
    rdeic.check("relay.z_N", start)
    scale = ".scale1p5" if guidance == 1.5 else ""
    rdeic.check(f"sampler.steps{steps}{scale}.trace", found)
