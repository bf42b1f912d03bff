"""DiffEIC's compression networks at the paper's scale compute what the authors' own do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cdcodec.entropy.tables import gaussian_sigma
from cdcodec.errors import WeightsError
from cdcodec.families.diffeic import convert
from cdcodec.families.diffeic.paper import PAPER_TINY, PaperCompression
from cdcodec.nn.elic_context import SCALE_BOUND
from cdcodec.nn.prior import bits, gaussian_likelihood
from tests.reference_fill import fill

VECTORS = Path(__file__).parent / "vectors_diffeic"
EXPECTED = json.loads((VECTORS / "expected.json").read_text())
REFERENCE = load_file(VECTORS / "diffeic.safetensors")
U = torch.zeros(1)
CONTROL = {"control_model.scale_list": torch.ones(25)}


def assert_matches(name: str, found: Tensor) -> None:
    """Compare with a stored tensor within its stored tolerance."""
    tolerance = EXPECTED["tensors"][name]
    torch.testing.assert_close(
        found,
        REFERENCE[name],
        rtol=tolerance["rtol"],
        atol=tolerance["atol"],
        msg=lambda m: f"{name}: {m}",
    )


def authors_layout(name: str, tensor: Tensor) -> Tensor:
    """Return a parameter of ours, under the authors' name, as it is in their checkpoints."""
    if ".entropy_bottleneck." not in name:
        return tensor
    if name.endswith(".quantiles"):
        return torch.cat([tensor[0] - 10, tensor[0], tensor[0] + 10], -1)
    return tensor.transpose(1, 2)


def as_checkpoint(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our state dict under the names and in the shapes of the authors' model."""
    renamed = {convert.checkpoint_name(name): tensor for name, tensor in state.items()}
    return {name: authors_layout(name, tensor).clone() for name, tensor in renamed.items()}


def checkpoint() -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, filled by the rule."""
    with torch.device("meta"):
        shapes = {k: t.shape for k, t in as_checkpoint(PaperCompression().state_dict()).items()}
    return {name: torch.from_numpy(fill(name, shape)) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def filled() -> dict[str, Tensor]:
    return checkpoint()


@pytest.fixture(scope="module")
def model(filled: dict[str, Tensor]) -> PaperCompression:
    with torch.device("meta"):
        model = PaperCompression()
    state, _ = convert.split_checkpoint(filled | CONTROL)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def y(model: PaperCompression) -> Tensor:
    x = REFERENCE["x"] / 255
    return model.analyse(2 * x - 1, torch.zeros(0), REFERENCE["ref"])


@pytest.fixture(scope="module")
def hyper(model: PaperCompression) -> Tensor:
    """The hyper planes of the reference's z."""
    planes: Tensor = model.h_s(model.planes(REFERENCE["z_symbols"]))
    return planes


@pytest.fixture(scope="module")
def y_hat(model: PaperCompression) -> Tensor:
    """Symbols and means of the reference, put together."""
    means = REFERENCE["means"]
    order = model.context.in_coding_order(torch.arange(means.numel()).view(means.shape))
    y_hat = means.flatten().clone()
    y_hat[order] += REFERENCE["y_symbols"]
    return y_hat.view(means.shape)


# The reference, stage by stage


def test_parameters_are_filled_as_in_the_reference(filled: dict[str, Tensor]) -> None:
    for name, check in EXPECTED["fill_check"].items():
        assert list(filled[name].shape) == check["shape"]
        little_endian = filled[name].numpy().astype("<f4").tobytes()
        assert hashlib.sha256(little_endian).hexdigest() == check["sha256_float32_le"], name


def test_there_are_as_many_parameters_as_in_the_checkpoints(model: PaperCompression) -> None:
    quantiles = 2 * model.prior.medians.numel()  # of which we keep the median alone
    found = sum(p.numel() for p in model.parameters()) + quantiles
    assert found == EXPECTED["parameters"]


def test_analysis_matches(model: PaperCompression, y: Tensor) -> None:
    assert_matches("y.crop", y[:, ::8])
    assert_matches("z", model.h_a(y, REFERENCE["ref"]))


def test_whole_steps_of_z_match(model: PaperCompression, y: Tensor) -> None:
    name, steps = model.hyper_latent(y, REFERENCE["ref"], U)
    assert name == "z"
    assert torch.equal(steps, REFERENCE["z_symbols"].long())
    rounded = torch.round(REFERENCE["z"] - model.prior.medians)
    assert torch.equal(rounded, REFERENCE["z_symbols"].float())


def test_what_is_decoded_from_z_matches(model: PaperCompression, hyper: Tensor) -> None:
    assert_matches("hyper_params.crop", hyper[:, ::8])
    assert_matches("f_c", model.f_c(model.planes(REFERENCE["z_symbols"])))


def test_probabilities_of_z_are_those_of_the_authors(model: PaperCompression) -> None:
    pmf = model.prior.pmf(-40, 40)
    rows = zip(
        pmf,
        REFERENCE["z_cdf"].numpy(),
        REFERENCE["z_cdf_length"].tolist(),
        REFERENCE["z_cdf_offset"].tolist(),
        strict=True,
    )
    for row, cdf, length, low in rows:
        inside = length - 2  # but for 0 at the front and the tails' mass at the end
        theirs = np.diff(cdf[: inside + 1])
        ours = row[40 + low :][:inside]
        # How much they leave to the tails depends on the longest table of all channels.
        np.testing.assert_allclose(ours / ours.sum(), theirs / theirs.sum(), atol=3 / 2**16)


def test_context_matches(model: PaperCompression, y: Tensor, y_hat: Tensor, hyper: Tensor) -> None:
    coded = model.context(y, hyper)
    assert_matches("means", coded.means)
    assert_matches("scales.crop", coded.scales[:, ::4])
    in_order = model.context.in_coding_order
    assert torch.equal(in_order(coded.symbols), REFERENCE["y_symbols"].float())
    torch.testing.assert_close(coded.y_hat, y_hat, rtol=1e-4, atol=2e-4)
    # The authors' tables are ours, but they take the next wider one where we take the nearest.
    sigmas = [gaussian_sigma(i) for i in range(64)]
    assert_matches("scale_table", torch.tensor(sigmas))
    scales = in_order(coded.scales).clamp_min(SCALE_BOUND)
    index = np.searchsorted(np.array(sigmas[:-1], np.float32), scales.numpy())
    np.testing.assert_array_equal(index, REFERENCE["y_indexes"])


def test_bits_match(model: PaperCompression, y: Tensor, hyper: Tensor) -> None:
    coded = model.context(y, hyper)
    scales = coded.scales.clamp_min(SCALE_BOUND)
    bits_y = bits(gaussian_likelihood(coded.y_hat, coded.means, scales))
    bits_z = bits(model.prior.likelihood(model.planes(REFERENCE["z_symbols"])))
    assert_matches("bits", torch.stack([bits_y, bits_z]))


def test_synthesis_matches(model: PaperCompression, y_hat: Tensor) -> None:
    z_c, hint = model.synthesise(y_hat, model.planes(REFERENCE["z_symbols"]), U)
    assert_matches("z_c", z_c)
    assert torch.equal(hint, z_c)
    assert_matches("z_c", model.g_s(y_hat, REFERENCE["f_c"]))


def test_whole_chain_matches(model: PaperCompression, y: Tensor) -> None:
    _, steps = model.hyper_latent(y, REFERENCE["ref"], U)
    planes = model.planes(steps)
    coded = model.context(model.gain(U) * y, model.h_s(planes))
    assert_matches("z_c", model.synthesise(coded.y_hat, planes, U)[0])


# Checkpoints


@pytest.fixture
def tiny() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PaperCompression(PAPER_TINY).state_dict()


@pytest.fixture
def published(tiny: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a Lightning checkpoint of the authors' model may hold, in small."""
    rest = (
        "preprocess_model.entropy_bottleneck.target",
        "preprocess_model.entropy_bottleneck._offset",
        "preprocess_model.entropy_bottleneck.likelihood_lower_bound.bound",
        "preprocess_model.gaussian_conditional.scale_table",
        "model.diffusion_model.out.0.weight",
        "first_stage_model.encoder.conv_in.weight",
        "cond_stage_model.model.ln_final.weight",
        "betas",
        "lvlb_weights",
    )
    return as_checkpoint(tiny) | CONTROL | {name: torch.ones(2) for name in rest}


def assert_taken_apart(published: dict[str, Tensor], tiny: dict[str, Tensor]) -> None:
    state, control = convert.split_checkpoint(published, PAPER_TINY)
    assert state.keys() == tiny.keys()
    assert all(torch.equal(state[name], tiny[name]) for name in tiny)
    assert sorted(control) == ["scale_list"]


def test_a_checkpoint_is_taken_apart(
    published: dict[str, Tensor], tiny: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"epoch": 1, "state_dict": published}, tmp_path / "lc.ckpt")
    assert_taken_apart(convert.read_checkpoint(tmp_path / "lc.ckpt"), tiny)


def test_names_of_a_later_compressai_are_known(
    published: dict[str, Tensor], tiny: dict[str, Tensor]
) -> None:
    prior = "preprocess_model.entropy_bottleneck."
    later = {}
    for name, tensor in published.items():
        for old, new in (("_matrix", "matrices."), ("_bias", "biases."), ("_factor", "factors.")):
            name = name.replace(prior + old, prior + new)
        later[name] = tensor
    assert later.keys() != published.keys()
    assert_taken_apart(later, tiny)


def test_every_parameter_has_a_name_of_its_own(tiny: dict[str, Tensor]) -> None:
    names = {convert.checkpoint_name(name) for name in tiny}
    assert len(names) == len(tiny)
    assert all(name.startswith("preprocess_model.") for name in names)


@pytest.mark.parametrize(
    "name", ["entropy_bottleneck._matrix2", "entropy_bottleneck.quantiles", "f_c.4.bias"]
)
def test_what_does_not_fit_is_named(published: dict[str, Tensor], name: str) -> None:
    name = f"preprocess_model.{name}"
    whole = published[name]
    for tensor in (whole[0], whole[:-1]):
        with pytest.raises(WeightsError, match=f"wrong shape: {name}"):
            convert.split_checkpoint(published | {name: tensor}, PAPER_TINY)
    with pytest.raises(WeightsError, match=f"not finite: {name}"):
        convert.split_checkpoint(published | {name: whole / 0}, PAPER_TINY)
    del published[name]
    with pytest.raises(WeightsError, match=f"missing: {name}"):
        convert.split_checkpoint(published, PAPER_TINY)


def test_a_prior_under_names_of_no_release_is_refused(published: dict[str, Tensor]) -> None:
    prior = "preprocess_model.entropy_bottleneck."
    published[f"{prior}matrix.0"] = published.pop(f"{prior}_matrix0")
    with pytest.raises(WeightsError, match=r"missing: .*_matrix0; unexpected: .*matrix\.0"):
        convert.split_checkpoint(published, PAPER_TINY)
