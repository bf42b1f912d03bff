"""Schedules, predictions, samplers, noise and tiles."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcodec.diffusion import prediction, samplers, schedules
from cdcodec.diffusion.noise import gaussian, philox
from cdcodec.diffusion.tiling import blend, tiles

# Steps, ᾱ and posterior of the respaced processes that the authors of DiffEIC and RDEIC sample
# with: timesteps, alpha_bar, then variance and mean coefficients of x_0 and of x_t.
RESPACED = {
    "diffeic": (
        1000,
        [0, 250, 500, 749, 999],
        [0.99915, 0.6737926252333215, 0.2763326838229746, 0.056623491598269717],
        [0.0008485063816629127, 0.2659021981663408, 0.6099157851941669, 0.8697901770038216],
        [0.9978184585733774, 0.6691003838630419, 0.44304418670874474, 0.21939552457336137],
        [0.0021397987565423926, 0.28867409804146005, 0.34724507639109015, 0.2719022922421794],
    ),
    "rdeic": (
        300,
        [0, 75, 150, 224, 299],
        [0.99915, 0.9240925092677396, 0.8278116322144659, 0.7159236018855372],
        [0.0008411968526083115, 0.04593094849121573, 0.08192581310313542, 0.12039683546340388],
        [0.9892226681682829, 0.5816724619758845, 0.43289514333607704, 0.358602455660883],
        [0.0107690320395475, 0.4172428117364292, 0.5636846833379098, 0.6335262732226967],
    ),
}


@pytest.fixture(scope="module")
def cosine():
    return schedules.cosine()


@pytest.fixture
def image():
    return torch.from_numpy(gaussian(1, 0, 0, 6, 8, 3))[None].tanh()


@pytest.fixture
def eps():
    return torch.from_numpy(gaussian(2, 0, 0, 6, 8, 3))[None]


# Schedules


@pytest.mark.parametrize("name", RESPACED)
def test_stable_diffusion_schedule_and_spacing_are_those_of_the_authors(name):
    n_train, expected_steps, alpha_bar, *_ = RESPACED[name]
    assert schedules.spaced_timesteps(5, n_train) == expected_steps[::-1]
    found = schedules.scaled_linear().alpha_bar[expected_steps[:4]]
    np.testing.assert_allclose(found, alpha_bar, rtol=1e-13)


def test_linear_schedule_of_any_length_ends_in_nearly_pure_noise():
    for steps in (1000, 20_000):
        process = schedules.linear(steps)
        assert len(process) == steps
        assert process.alpha_bar[-1] == pytest.approx(4.2e-5, rel=0.05)
    assert schedules.linear(1000).alpha_bar[0] == pytest.approx(1 - 1e-4)


def test_linear_schedule_takes_other_betas():
    assert schedules.linear(10, 0.1, 0.1).alpha_bar[-1] == pytest.approx(0.9**10)


def test_timesteps_run_from_the_last_to_the_first():
    assert schedules.timesteps(3, 8193) == [8192, 4096, 0]
    assert schedules.timesteps(15, 8193)[7] == 4096
    assert schedules.timesteps(1, 8193) == schedules.spaced_timesteps(1, 8193) == [8192]
    assert schedules.timesteps(5, 5) == [4, 3, 2, 1, 0]


def test_trailing_timesteps_begin_at_the_last_and_never_end_at_the_first():
    assert schedules.trailing_timesteps(1, 8193) == [8192]
    assert schedules.trailing_timesteps(2, 8193) == [8192, 4096]
    assert schedules.trailing_timesteps(3, 8193) == [8192, 5461, 2730]
    assert schedules.trailing_timesteps(5, 6) == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("steps", [0, 11])
def test_more_steps_than_the_process_has_are_refused(steps):
    with pytest.raises(ValueError, match="sampling steps"):
        schedules.timesteps(steps, 10)
    with pytest.raises(ValueError, match="sampling steps"):
        schedules.spaced_timesteps(steps, 10)
    with pytest.raises(ValueError, match="sampling steps"):
        schedules.trailing_timesteps(steps, 10)


@pytest.mark.parametrize("alpha_bar", [[0.5, 0.5], [0.4, 0.5], [1.0, 0.5], [0.5, 0.0]])
def test_a_schedule_that_does_not_fall_is_refused(alpha_bar):
    with pytest.raises(ValueError, match="strictly"):
        schedules.Schedule(np.array(alpha_bar))


def test_a_schedule_cannot_be_changed(cosine):
    with pytest.raises(ValueError, match="read-only"):
        cosine.alpha_bar[0] = 0.5


def test_diffused_images_keep_unit_variance_and_their_snr(cosine, image, eps):
    n = torch.tensor([0, 4096, 8192])
    signal, noise = cosine.rates(n)
    assert signal.shape == (3, 1, 1, 1)
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(3, 1, 1, 1))
    torch.testing.assert_close((signal / noise).flatten() ** 2, cosine.snr(n))
    x_n = cosine.diffuse(image.expand(3, -1, -1, -1), eps.expand(3, -1, -1, -1), n)
    torch.testing.assert_close(x_n[2:], eps, rtol=0, atol=1e-4)
    torch.testing.assert_close(x_n[:1], image, rtol=0, atol=0.02)


# Predictions


def test_the_three_predictions_give_the_same_denoiser(cosine, image, eps):
    n = 3000
    signal, noise = prediction.rates(cosine.alpha_bar, n)
    x_t = signal * image + noise * eps
    for denoise in (
        prediction.from_x0(lambda x, n: image),
        prediction.from_eps(lambda x, n: eps, cosine.alpha_bar),
        prediction.from_v(lambda x, n: signal * eps - noise * image, cosine.alpha_bar),
    ):
        torch.testing.assert_close(denoise(x_t, n), image, rtol=0, atol=1e-5)


def test_an_estimate_is_clamped_to_the_limit(cosine, image):
    network = lambda x, n: 5 * image  # noqa: E731
    assert prediction.from_x0(network, limit=1.0)(image, 0).abs().max() == 1
    assert prediction.from_eps(network, cosine.alpha_bar, limit=0.5)(image, 9).abs().max() == 0.5


# Samplers


def test_ddim_with_a_perfect_denoiser_stays_on_the_path_of_diffusion(cosine, image, eps):
    indices = schedules.timesteps(5, len(cosine))
    seen = []

    def denoise(x_t, n):
        seen.append((x_t, n))
        return image

    start = cosine.diffuse(image, eps, torch.tensor(indices[:1]))
    result = samplers.ddim(denoise, start, indices, cosine.alpha_bar)
    assert torch.equal(result, image)
    assert [n for _, n in seen] == indices
    for x_t, n in seen:
        expected = cosine.diffuse(image, eps, torch.tensor([n]))
        torch.testing.assert_close(x_t, expected, rtol=0, atol=1e-5)


def test_one_step_is_one_look_at_the_start(cosine, image):
    result = samplers.ddim(lambda x, n: x * n, image, [8192], cosine.alpha_bar)
    assert torch.equal(result, image * 8192)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_progress_is_told_after_every_step(cosine, image, sampler):
    calls = []
    arguments = [lambda x, n: image, image, [9, 5, 0], cosine.alpha_bar]
    if sampler == "ddpm":
        arguments.append(lambda k: image)
    getattr(samplers, sampler)(*arguments, progress=lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("name", RESPACED)
def test_ddpm_has_the_posterior_of_the_respaced_process(name):
    _, steps, _, variance, of_x_0, of_x = RESPACED[name]
    alpha_bar = schedules.scaled_linear().alpha_bar
    for k in range(1, 5):

        def after_one_step(x_0, x, noise, k=k):
            seen = []

            def denoise(x_t, n):
                seen.append(x_t)
                return torch.full((1, 1, 1, 1), x_0)

            start = torch.full((1, 1, 1, 1), x)
            indices = [steps[k], steps[k - 1]]
            samplers.ddpm(
                denoise, start, indices, alpha_bar, lambda _: torch.full_like(start, noise)
            )
            return seen[1].item()

        assert after_one_step(1.0, 0.0, 0.0) == pytest.approx(of_x_0[k - 1], rel=1e-6)
        assert after_one_step(0.0, 1.0, 0.0) == pytest.approx(of_x[k - 1], rel=1e-6)
        assert after_one_step(0.0, 0.0, 1.0) == pytest.approx(math.sqrt(variance[k - 1]), rel=1e-6)


def test_the_relay_starts_from_content_variables_with_a_little_noise():
    alpha_bar = schedules.scaled_linear().alpha_bar
    z_c, fields = torch.full((1, 1, 1, 1), 2.0), [0.5, 3.0]
    seen = []

    def denoise(z_n, n):
        seen.append((n, z_n.item()))
        return z_n - 1

    def noise(number):
        return torch.full((1, 1, 1, 1), fields[number])

    indices = schedules.spaced_timesteps(2, 300)
    z_0 = samplers.relay(denoise, z_c, indices, alpha_bar, noise)
    # The values that the authors' code has at N = 300: 0.76953 and 0.63861.
    assert seen[0] == (299, pytest.approx(0.76953 * 2.0 + 0.63861 * 0.5, abs=1e-5))
    again = samplers.ddpm(denoise, torch.tensor(seen[0][1]), indices, alpha_bar, noise)
    assert z_0.item() == pytest.approx(again.item(), rel=1e-6)
    assert samplers.relay(denoise, z_c, [299], alpha_bar, noise).item() == pytest.approx(
        seen[0][1] - 1
    )


def test_ddpm_asks_for_fresh_noise_at_every_step_but_the_last(cosine, image):
    draws = []

    def noise(draw):
        draws.append(draw)
        return samplers.noise_tensor(3, 3, 6, 8, draw=draw)

    samplers.ddpm(lambda x, n: image, image, [8, 4, 2, 0], cosine.alpha_bar, noise)
    assert draws == [1, 2, 3]


def test_noise_tensor_is_scaled_by_gamma_and_zero_without_it():
    noise = samplers.noise_tensor(7, 3, 6, 8)
    assert torch.equal(samplers.noise_tensor(7, 3, 6, 8, gamma=0.5), noise / 2)
    assert torch.equal(samplers.noise_tensor(7, 3, 6, 8, gamma=0), torch.zeros(1, 3, 6, 8))
    assert torch.equal(samplers.noise_tensor(7, 3, 2, 3, top=4, left=5), noise[:, :, 4:, 5:])


# Noise


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that come with Random123, the reference implementation
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            0xFFFFFFFFFFFFFFFF,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, expected):
    words = philox(tuple(np.uint64(word) for word in counter), key)
    assert tuple(int(word) for word in words) == expected


def test_noise_is_the_same_on_every_machine():
    first = gaussian(0, 0, 0, 1, 8, 1).flatten() * 2**20
    assert first.tolist() == [
        1402711, -268259, 780586, 1234772, 470108, 660787, 1127030, 280544,
    ]  # fmt: skip
    last = gaussian(2**64 - 1, 70_000, 123, 1, 3, 2, draw=5).flatten() * 2**20
    assert last.tolist() == [559113, 1392572, -1236298, -186326, 570473, -885748]
    whole = (gaussian(42, 0, 0, 64, 48, 3) * 2**20).astype("<i4").tobytes()
    assert hashlib.sha256(whole).hexdigest() == (
        "49c84541f53cbe6484b2fad08d81226e5bd7c5b3b0ecab2149bde42a1adf0b99"
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 9), st.integers(1, 20))
def test_noise_of_a_crop_is_the_crop_of_the_noise(top, left, height, width):
    whole = gaussian(5, 0, 0, 70, 80, 2)
    crop = gaussian(5, top, left, height, width, 2)
    assert np.array_equal(crop, whole[:, top : top + height, left : left + width])


def test_noise_in_several_strips_is_the_noise_in_one():
    tall = gaussian(5, 0, 0, 3000, 40, 1)
    assert np.array_equal(gaussian(5, 2500, 0, 100, 40, 1), tall[:, 2500:2600])


def test_noise_is_standard_normal_and_white():
    noise = gaussian(9, 0, 0, 512, 512, 2)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.005
    assert noise.std() == pytest.approx(1, abs=0.005)
    assert (noise**4).mean() == pytest.approx(3, abs=0.05)
    for shift in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 8)):
        assert abs((noise * np.roll(noise, shift, (0, 1, 2))).mean()) < 0.006


def test_seeds_channels_and_draws_are_independent():
    fields = [gaussian(seed, 0, 0, 64, 64, 1, draw=draw) for seed in (0, 1) for draw in (0, 1)]
    fields.append(gaussian(1 << 32, 0, 0, 64, 64, 1))
    fields.append(gaussian(0, 0, 0, 64, 64, 2)[1:])
    for k, one in enumerate(fields):
        for other in fields[:k]:
            assert abs((one * other).mean()) < 0.08


@pytest.mark.parametrize("window", [(-1, 0, 0), (1 << 64, 0, 0), (0, -1, 0), (0, 0, (1 << 32) - 4)])
def test_noise_outside_of_the_plane_is_refused(window):
    with pytest.raises(ValueError, match="outside"):
        gaussian(*window, 8, 8, 3)


def test_an_empty_window_has_no_noise():
    assert gaussian(0, 3, 3, 0, 8, 3).shape == (3, 0, 8)


# Tiles


def crops(image):
    """Return a render function that copies the tile out of image [C, H, W]."""
    return lambda tile: image[:, tile.top : tile.rows.stop, tile.left : tile.columns.stop].copy()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(2, 7), st.integers(0, 3), st.data())
def test_tiles_that_agree_give_their_image_to_the_last_bit(rows, columns, size, overlap, data):
    multiple = data.draw(st.sampled_from([1, 8]))
    overlap = min(overlap, size // 2)
    height, width = rows * multiple, columns * multiple
    windows = tiles(height, width, size * multiple, overlap * multiple, multiple)
    image = gaussian(3, 0, 0, height, width, 3)
    out = np.full((height, width, 3), np.nan, np.float32)
    blend(windows, crops(image), out)
    assert np.array_equal(out, np.moveaxis(image, 0, -1))


def test_tiles_have_one_size_and_start_at_multiples():
    windows = tiles(640, 832, 256, 64, 64)
    assert {(w.height, w.width) for w in windows} == {(256, 256)}
    assert all(w.top % 64 == w.left % 64 == 0 for w in windows)
    assert [w.top for w in windows[::4]] == [0, 192, 384]
    assert [w.left for w in windows[:4]] == [0, 192, 384, 576]


def test_an_image_within_one_tile_is_one_window():
    (window,) = tiles(64, 192, 256, 64, 64)
    assert (window.top, window.left, window.height, window.width) == (0, 0, 64, 192)


def test_a_seam_is_one_linear_ramp():
    windows = tiles(8, 24, 16, 8, 8)
    out = np.empty((8, 24, 1), np.float32)
    blend(windows, lambda tile: np.full((1, 8, 16), tile.left / 8, np.float32), out)
    ramp = (np.arange(8) + 0.5) / 8
    np.testing.assert_array_equal(out[3, :, 0], np.concatenate([[0] * 8, ramp, [1] * 8]))


def test_four_tiles_meet_bilinearly():
    windows = tiles(24, 24, 16, 8, 8)
    out = np.empty((24, 24, 1), np.float32)
    values = iter([0, 1, 2, 3])
    blend(windows, lambda tile: np.full((1, 16, 16), next(values), np.float32), out)
    ramp = (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(out[8:16, 8:16, 0], 2 * ramp[:, None] + ramp, rtol=1e-6)


def test_finished_rows_are_written_before_the_next_row_but_one_is_rendered():
    out = np.full((40, 16, 1), np.nan, np.float32)

    def render(tile):
        assert not np.isnan(out[: max(tile.top - 8, 0)]).any()
        return np.zeros((1, 16, 16), np.float32)

    blend(tiles(40, 16, 16, 8, 8), render, out)
    assert not np.isnan(out).any()


def test_eight_bit_output_is_rounded_and_clamped():
    values = np.array([-0.5, 0, 0.5 / 255 - 1e-5, 0.5 / 255, 1, 1.5], np.float32)[None, None]
    out = np.empty((1, 6, 1), np.uint8)
    blend(tiles(1, 6, 8, 0, 1), lambda tile: values, out)
    assert out.flatten().tolist() == [0, 0, 0, 1, 255, 255]


def test_channels_first_output_is_filled_through_a_view():
    image = gaussian(3, 0, 0, 24, 24, 3)
    out = np.empty_like(image)
    blend(tiles(24, 24, 16, 8, 8), crops(image), np.moveaxis(out, 0, -1))
    assert np.array_equal(out, image)


@pytest.mark.parametrize(
    "arguments",
    [(63, 64, 64, 0, 64), (64, 64, 96, 32, 64), (64, 64, 64, 32, 64), (64, 64, 0, 0, 64),
     (64, 64, 64, -64, 64), (512, 512, 128, 128, 64), (0, 64, 64, 0, 64)],
)  # fmt: skip
def test_windows_off_the_grid_are_refused(arguments):
    with pytest.raises(ValueError, match="pixel"):
        tiles(*arguments)


def test_a_render_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match="8x8 tile"):
        blend(
            tiles(8, 8, 8, 0, 8), lambda tile: np.zeros((3, 8, 7), np.float32), np.empty((8, 8, 3))
        )
