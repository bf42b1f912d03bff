"""The CDC networks at the paper's scale compute what the authors' own do."""

import hashlib
import json
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from cdcodec.diffusion import samplers, schedules
from cdcodec.errors import WeightsError
from cdcodec.families.cdc import convert
from cdcodec.families.cdc.paper import PAPER_TINY, PaperCdc, PaperConfig
from cdcodec.nn.attention import ChannelNorm, LinearAttention
from cdcodec.nn.prior import FactorizedPrior, bits, gaussian_likelihood
from tests.reference_fill import fill

VECTORS = Path(__file__).parent / "vectors_cdc"
EXPECTED = json.loads((VECTORS / "expected.json").read_text())


def authors_shape(name, shape):
    """Return the shape of a parameter in the authors' checkpoints, from its name there and ours."""
    if name.startswith("context_fn.prior.") and len(shape) == 3:
        return shape[0], 1, 1, *shape[1:]
    return tuple(shape)


def as_checkpoint(state):
    """Return our state dict under the names and in the shapes of the authors' model."""
    renamed = {convert.checkpoint_name(name): tensor for name, tensor in state.items()}
    return {k: t.reshape(authors_shape(k, t.shape)).clone() for k, t in renamed.items()}


def assert_matches(name, found):
    """Compare with a stored tensor within its stored tolerance."""
    expected, tolerance = REFERENCE[name], EXPECTED["tensors"][name]
    torch.testing.assert_close(
        found,
        expected,
        rtol=tolerance["rtol"],
        atol=tolerance["atol"],
        msg=lambda m: f"{name}: {m}",
    )


REFERENCE = load_file(VECTORS / "cdc_xparam.safetensors")


@pytest.fixture(scope="module")
def filled():
    """Tensors of a checkpoint, filled by the rule."""
    with torch.device("meta"):
        state = PaperCdc().state_dict()
    names = {convert.checkpoint_name(name): tensor.shape for name, tensor in state.items()}
    shapes = {name: authors_shape(name, shape) for name, shape in names.items()}
    return {name: torch.from_numpy(fill(name, shape)) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def model(filled):
    with torch.device("meta"):
        model = PaperCdc()
    model.load_state_dict(convert.convert(filled), assign=True)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def context(model):
    return model.compressor.context(REFERENCE["y_hat"])


# The reference, stage by stage


def test_parameters_are_filled_as_in_the_reference(filled):
    for name, check in EXPECTED["fill_check"].items():
        assert list(filled[name].shape) == check["shape"]
        little_endian = filled[name].numpy().astype("<f4").tobytes()
        assert hashlib.sha256(little_endian).hexdigest() == check["sha256_float32_le"], name


def test_there_are_as_many_parameters_as_in_the_paper(model):
    for part, count in EXPECTED["parameters"].items():
        assert sum(p.numel() for p in getattr(model, part).parameters()) == count


def test_cosine_schedule_is_the_one_of_the_authors():
    train = EXPECTED["train"]
    alpha_bar = schedules.cosine().alpha_bar
    assert len(alpha_bar) == 8193
    at = alpha_bar[train["index"]]
    np.testing.assert_allclose(at, train["alphas_cumprod"], rtol=2e-7)
    np.testing.assert_allclose(at / (1 - at), train["snr"], rtol=2e-7)
    np.testing.assert_allclose(np.sqrt(1 / at - 1), train["sqrt_recipm1_alphas_cumprod"], rtol=2e-7)


def test_timesteps_are_those_of_the_authors():
    for steps, indices in EXPECTED["sample_indices"].items():
        assert schedules.timesteps(int(steps), 8193) == indices[::-1]


def test_analysis_matches(model):
    y, z = model.compressor.analyse(2 * REFERENCE["x"] - 1)
    assert_matches("y", y)
    assert_matches("z", z)
    assert_matches("z", model.compressor.h_a(REFERENCE["y"]))


def test_hyper_decoder_matches(model):
    mean, scale = model.compressor.parameters_of_y(REFERENCE["z_hat"])
    assert_matches("mean", mean)
    assert_matches("scale", scale)


def test_quantisation_matches(model):
    assert_matches("z_hat", model.compressor.prior.quantise(REFERENCE["z"]))
    mean = REFERENCE["mean"]
    assert_matches("y_hat", torch.round(REFERENCE["y"] - mean) + mean)


def test_bits_match(model):
    likelihood_z = model.compressor.prior.likelihood(REFERENCE["z_hat"])
    assert_matches("z_likelihood_bits", -torch.log2(likelihood_z))
    likelihood_y = gaussian_likelihood(REFERENCE["y_hat"], REFERENCE["mean"], REFERENCE["scale"])
    both = torch.stack([bits(likelihood_y), bits(likelihood_z)])
    assert_matches("bits", both)
    assert_matches("bpp", both.sum()[None] / (128 * 192))


def test_context_maps_match(context):
    for level, found in enumerate(context):
        moments = [found.mean(), found.std(correction=0), found.min(), found.max()]
        assert_matches(f"context.{level}.moments", torch.stack(moments))
        if level < 3:
            assert_matches(f"context.{level}.crop", found[:, :, 8:24, 8:24])
        else:
            assert_matches("context.3", found)


def test_unet_matches(model, context):
    assert_matches(
        "unet.x0", model.unet(REFERENCE["unet.x_t"], torch.tensor([4096 / 8193]), context)
    )


@pytest.mark.parametrize(("gamma", "steps"), [(0, 1), (0, 3), (0, 5), (0.8, 3)])
def test_every_state_of_the_sampler_and_the_image_match(model, context, gamma, steps):
    states = []
    denoise = model.denoiser(context)

    def watched(x_t, n):
        states.append(x_t)
        return denoise(x_t, n)

    start = gamma * REFERENCE["noise"]
    indices = schedules.timesteps(steps, 8193)
    states.append(samplers.ddim(watched, start, indices, model.schedule.alpha_bar))
    name = f"decode.gamma{'0p8' if gamma else '0'}.steps{steps}"
    assert_matches(f"{name}.trace.crop", torch.cat(states[1:])[:, :, 40:88, 70:118])
    assert_matches(name, states[-1] / 2 + 0.5)


def test_whole_chain_from_image_to_image_matches(model):
    compressor = model.compressor
    y, z = compressor.analyse(2 * REFERENCE["x"] - 1)
    z_hat = compressor.prior.quantise(z)
    mean, scale = compressor.parameters_of_y(z_hat)
    y_hat = torch.round(y - mean) + mean
    assert torch.equal((y_hat - mean).round(), (REFERENCE["y_hat"] - REFERENCE["mean"]).round())
    total = bits(gaussian_likelihood(y_hat, mean, scale)) + bits(compressor.prior.likelihood(z_hat))
    assert_matches("bpp", total[None] / (128 * 192))
    x_hat = model.decode(y_hat, torch.zeros(1, 3, 128, 192), 1)
    assert_matches("decode.gamma0.steps1", x_hat)


# The prior


def test_exported_probabilities_are_the_likelihoods_in_float64(model):
    prior = model.compressor.prior
    pmf = prior.pmf(-3, 4)
    assert pmf.dtype == np.float64
    assert pmf.shape == (256, 8)
    symbols = torch.arange(-3.0, 5.0)[None, None, None] + prior.medians
    np.testing.assert_allclose(prior.likelihood(symbols)[0, :, 0], pmf, rtol=1e-4, atol=1e-8)


def test_probabilities_add_up_to_one():
    pmf = FactorizedPrior(5).pmf(-300, 300)
    assert (pmf >= 0).all()
    np.testing.assert_allclose(pmf.sum(1), 1, rtol=0, atol=1e-9)


def test_likelihood_follows_the_channels_of_a_batch(model):
    prior = model.compressor.prior
    z = REFERENCE["z_hat"]
    batch = torch.cat([z, z.flip(3), z + 1])
    together = prior.likelihood(batch)
    for one, alone in zip(together.split(1), batch.split(1), strict=True):
        torch.testing.assert_close(one, prior.likelihood(alone))


def test_median_loss_moves_the_medians_alone_to_the_median():
    prior = FactorizedPrior(4)
    optimiser = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        prior.median_loss().backward()
        assert all(p.grad is None for p in [*prior.matrices, *prior.biases, *prior.gates])
        optimiser.step()
    logits = prior.logits(prior.medians.detach().view(4, 1))
    torch.testing.assert_close(logits, torch.zeros(4, 1), rtol=0, atol=0.02)


def test_gaussian_likelihoods_add_up_to_one_and_have_a_floor():
    y = torch.arange(-40.0, 41.0)
    likelihood = gaussian_likelihood(y, torch.tensor(0.3), torch.tensor(5.0))
    assert likelihood.sum() == pytest.approx(1, abs=1e-5)
    assert gaussian_likelihood(y[:1], torch.zeros(1), torch.ones(1)).item() == pytest.approx(1e-9)


# Attention


def test_channel_norm_is_layer_norm_over_channels():
    x = torch.from_numpy(fill("x", (2, 5, 3, 4)))
    expected = F.layer_norm(x.movedim(1, -1), (5,)).movedim(-1, 1)
    torch.testing.assert_close(ChannelNorm(5)(x), expected)


def test_linear_attention_reads_a_softmax_mean_of_the_values():
    attention = LinearAttention(4).requires_grad_(False)
    x = torch.from_numpy(fill("x", (1, 4, 3, 2)))
    query, key, value = attention.to_qkv(x)[0].flatten(1).chunk(3)
    weights = torch.exp(key) / torch.exp(key).sum(1, keepdim=True)
    summary = torch.einsum("dn,en->de", weights, value)
    read = torch.einsum("de,dn->en", summary, query) / 2
    torch.testing.assert_close(attention(x), attention.to_out(read.view(1, 4, 3, 2)))


# eps-prediction


def test_eps_model_decodes_with_the_linear_schedule():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PaperCdc(PaperConfig(width=4, prediction="eps")).eval().requires_grad_(False)
    assert len(model.schedule) == 20_000
    y_hat = torch.zeros(1, 16, 4, 4)
    start = samplers.noise_tensor(1, 3, 64, 64)
    x_hat = model.decode(y_hat, start, 3)
    assert x_hat.shape == (1, 3, 64, 64)
    assert x_hat.min() >= 0
    assert x_hat.max() <= 1
    # One step inverts x_N = sqrt(ᾱ) x_0 + sqrt(1 - ᾱ) eps for the eps that the network predicts.
    n, alpha_bar = 19_999, model.schedule.alpha_bar[-1]
    eps = model.unet(start, torch.tensor([n / 20_000]), model.compressor.context(y_hat))
    x_0 = (start - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)
    torch.testing.assert_close(model.decode(y_hat, start, 1), x_0.clamp(-1, 1) / 2 + 0.5)


# Checkpoints


@pytest.fixture(scope="module")
def tiny():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PaperCdc(PAPER_TINY).state_dict()


@pytest.fixture
def published(tiny):
    """What the authors' trainer saves, in small."""
    averaged = as_checkpoint(tiny)
    online = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    rest = {"loss_fn_vgg.lin0.weight": torch.ones(3), "train_betas": torch.ones(8193)}
    ema = {"initted": torch.tensor([True]), "step": torch.tensor([7])}
    ema |= {f"ema_model.{name}": t for name, t in (averaged | rest).items()}
    ema |= {f"online_model.{name}": t for name, t in (online | rest).items()}
    return {"step": 7, "model": online | rest, "ema": ema}


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_published_checkpoint_gives_the_averaged_weights(published, tiny, tmp_path):
    torch.save(published, tmp_path / "model.pt")
    tensors = convert.read_checkpoint(tmp_path / "model.pt")
    assert_same_state(convert.convert(tensors, PAPER_TINY), tiny)


def test_checkpoint_without_averages_gives_the_model(tiny, tmp_path):
    torch.save({"step": 7, "model": as_checkpoint(tiny)}, tmp_path / "model.pt")
    tensors = convert.read_checkpoint(tmp_path / "model.pt")
    assert_same_state(convert.convert(tensors, PAPER_TINY), tiny)


@pytest.mark.parametrize("prefix", ["", "ema_model."])
def test_checkpoint_as_safetensors_is_read(tiny, tmp_path, prefix):
    tensors = {prefix + name: tensor for name, tensor in as_checkpoint(tiny).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    tensors = convert.read_checkpoint(tmp_path / "model.safetensors")
    assert_same_state(convert.convert(tensors, PAPER_TINY), tiny)


def test_every_parameter_has_a_name_of_its_own(tiny):
    names = {convert.checkpoint_name(name) for name in tiny}
    assert len(names) == len(tiny) == 466
    assert all(re.match(r"(denoise_fn|context_fn)\.", name) for name in names)


def test_missing_and_unexpected_parameters_are_named(tiny):
    tensors = as_checkpoint(tiny)
    del tensors["denoise_fn.final_conv.1.bias"]
    tensors["denoise_fn.surplus"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        convert.convert(tensors, PAPER_TINY)
    assert "missing: denoise_fn.final_conv.1.bias;" in caught.value.message
    assert "unexpected: denoise_fn.surplus" in caught.value.message


def test_weights_of_another_size_are_refused_in_one_line(tiny):
    with pytest.raises(WeightsError, match=r"wrong shape: .*, not .* and \d+ more") as caught:
        convert.convert(as_checkpoint(tiny))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a checkpoint", bytes(1000)])
def test_a_file_that_is_no_checkpoint_is_a_weights_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="cannot read model"):
        convert.read_checkpoint(tmp_path / name)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"model": print}, protocol=2))
    with pytest.raises(WeightsError, match="cannot read"):
        convert.read_checkpoint(tmp_path / "model.pt")


def test_a_missing_file_and_a_file_of_something_else_are_weights_errors(tmp_path):
    with pytest.raises(WeightsError, match="cannot read"):
        convert.read_checkpoint(tmp_path / "model.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds no model"):
        convert.read_checkpoint(tmp_path / "list.pt")
