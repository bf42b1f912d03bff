"""RDEIC's compression networks at the paper's scale compute what the authors' own do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cdcodec.entropy.tables import gaussian_sigma
from cdcodec.errors import WeightsError
from cdcodec.families.rdeic import convert
from cdcodec.families.rdeic.paper import PAPER_TINY, PaperCompression
from cdcodec.nn.elic_context import SCALE_BOUND
from cdcodec.nn.prior import bits, gaussian_likelihood
from tests.reference_fill import fill

VECTORS = Path(__file__).parent / "vectors_rdeic"
EXPECTED = json.loads((VECTORS / "expected.json").read_text())
REFERENCE = load_file(VECTORS / "rdeic.safetensors")
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


def checkpoint() -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, filled by the rule."""
    with torch.device("meta"):
        state = PaperCompression().state_dict()
    names = {convert.checkpoint_name(name): tensor.shape for name, tensor in state.items()}
    return {name: torch.from_numpy(fill(name, shape)) for name, shape in names.items()}


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
    unused = torch.zeros(0)
    return model.analyse(unused, REFERENCE["feature"], unused)


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
    assert sum(p.numel() for p in model.parameters()) == EXPECTED["parameters"]


def test_analysis_matches(model: PaperCompression, y: Tensor) -> None:
    assert_matches("y.crop", y[:, ::8])
    assert_matches("z", model.h_a(y))


def test_indices_match(model: PaperCompression, y: Tensor) -> None:
    for name, z in (("vq_indices", REFERENCE["z"]), ("vq_test.indices", REFERENCE["vq_test.z"])):
        assert torch.equal(model.codebook.nearest(z), REFERENCE[name].long())
    name, indices = model.hyper_latent(y, torch.zeros(0), U)
    assert name == "l"
    assert torch.equal(indices, REFERENCE["vq_indices"].long())


def test_hyper_planes_match(model: PaperCompression) -> None:
    planes = model.h_s(model.planes(REFERENCE["vq_indices"]))
    assert_matches("hyper_params.crop", planes[:, ::8])


def test_context_matches(model: PaperCompression, y: Tensor, y_hat: Tensor) -> None:
    coded = model.context(y, model.h_s(model.planes(REFERENCE["vq_indices"])))
    assert_matches("means", coded.means)
    assert_matches("scales.crop", coded.scales[:, ::4])
    in_order = model.context.in_coding_order
    assert torch.equal(in_order(coded.symbols), REFERENCE["y_symbols"].float())
    torch.testing.assert_close(coded.y_hat, y_hat, rtol=1e-4, atol=2e-4)
    # The authors' tables are ours, but they take the next wider one where we take the nearest.
    sigmas = [gaussian_sigma(i) for i in range(63)]
    scales = in_order(coded.scales).clamp_min(SCALE_BOUND).double()
    index = np.searchsorted(np.array(sigmas, np.float32), scales.float().numpy())
    np.testing.assert_array_equal(index, REFERENCE["y_indexes"])


def test_bits_match(model: PaperCompression, y: Tensor) -> None:
    coded = model.context(y, model.h_s(model.planes(REFERENCE["vq_indices"])))
    scales = coded.scales.clamp_min(SCALE_BOUND)
    bits_y = bits(gaussian_likelihood(coded.y_hat, coded.means, scales))
    indices = REFERENCE["vq_indices"]
    bits_l = np.log2(model.config.entries) * indices.numel()
    assert_matches("bits", torch.stack([bits_y, torch.tensor(bits_l, dtype=torch.float32)]))


def test_synthesis_matches(model: PaperCompression, y_hat: Tensor) -> None:
    z_c, guide = model.synthesise(y_hat, torch.zeros(0), U)
    assert_matches("guide_hint.crop", guide[:, ::16])
    assert_matches("z_c", z_c)


def test_whole_chain_matches(model: PaperCompression, y: Tensor) -> None:
    _, indices = model.hyper_latent(y, torch.zeros(0), U)
    planes = model.planes(indices)
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
    ours = {convert.checkpoint_name(name): tensor.clone() for name, tensor in tiny.items()}
    control = {
        "control_model.scale_list": torch.ones(25),
        "control_model.control_model.input_blocks.0.0.weight": torch.ones(2, 3),
    }
    rest = {
        name: torch.ones(2)
        for name in (
            "preprocess_model.quantize.embed_prob",
            "preprocess_model.gaussian_conditional._quantized_cdf",
            "preprocess_model.gaussian_conditional.scale_table",
            "preprocess_model.gaussian_conditional.lower_bound_scale.bound",
            "perceptual_loss.net.lin0.model.1.weight",
            "model.diffusion_model.out.0.weight",
            "first_stage_model.encoder.conv_in.weight",
            "cond_stage_model.model.ln_final.weight",
            "betas",
            "alphas_cumprod",
        )
    }
    return ours | control | rest


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_checkpoint_is_taken_apart(
    published: dict[str, Tensor], tiny: dict[str, Tensor], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({"epoch": 1, "state_dict": published}, path)
    else:
        save_file(published, path)
    state, control = convert.split_checkpoint(convert.read_checkpoint(path), PAPER_TINY)
    assert state.keys() == tiny.keys()
    assert all(torch.equal(state[name], tiny[name]) for name in tiny)
    assert sorted(control) == ["control_model.input_blocks.0.0.weight", "scale_list"]


def test_every_parameter_has_a_name_of_its_own(tiny: dict[str, Tensor]) -> None:
    names = {convert.checkpoint_name(name) for name in tiny}
    assert len(names) == len(tiny)
    assert all(name.startswith("preprocess_model.") for name in names)


Spoil = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda t: t.pop("preprocess_model.out.bias"), r"missing: preprocess_model\.out\.bias"),
        (lambda t: t.update({"other.bias": torch.ones(1)}), r"unexpected: other\.bias"),
        (
            lambda t: t.update({"preprocess_model.out.bias": torch.ones(3)}),
            r"wrong shape: preprocess_model\.out\.bias \(3,\)",
        ),
        (
            lambda t: t["preprocess_model.out.bias"].fill_(torch.nan),
            r"not finite: preprocess_model\.out\.bias",
        ),
        (
            lambda t: t["control_model.scale_list"].fill_(torch.inf),
            r"not finite: control_model\.scale_list",
        ),
        (
            lambda t: [t.pop(name) for name in list(t) if name.startswith("control_model.")],
            r"missing: control_model\.\*",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    published: dict[str, Tensor], spoil: Spoil, problem: str
) -> None:
    spoil(published)
    with pytest.raises(WeightsError, match=problem) as caught:
        convert.split_checkpoint(published, PAPER_TINY)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a checkpoint", bytes(1000)])
def test_a_file_that_is_no_checkpoint_is_a_weights_error(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="cannot read model"):
        convert.read_checkpoint(tmp_path / name)


def test_a_file_of_something_else_holds_no_model(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(WeightsError, match="holds no model"):
        convert.read_checkpoint(tmp_path / "list.ckpt")
