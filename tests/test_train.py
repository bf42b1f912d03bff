"""`cdcodec train` as a user meets it: recipes by name, photographs, progress, a usable result."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from cdcodec import weights
from cdcodec.cli.__main__ import main
from cdcodec.cli.train import duration, unfinished_note
from cdcodec.errors import InputError, WeightsError
from cdcodec.training import config, loop
from cdcodec.training import data as photographs

RECIPES = {
    "cdc-tiny": "base",
    "rdeic-tiny": "independent",
    "cgdm-tiny": "coarse",
}
"""Objectives without perceptual loss; the last two need another set beside their own."""

Failing = Callable[..., str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the folder ten, of ten photographs, and with photo.png."""
    monkeypatch.chdir(tmp_path)
    Path("ten").mkdir()
    for number in range(10):
        top, left = 30 * number, 20 * number
        crop = data.astronaut()[top : top + 96, left : left + 128]
        Image.fromarray(crop).save(Path("ten", f"{number}.png"))
    Image.fromarray(data.coffee()[100:190, 200:330]).save("photo.png")


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Failing:
    def fail(*arguments: str, code: int = InputError.exit_code) -> str:
        assert main(["train", *arguments, "--device", "cpu"]) == code
        said = capsys.readouterr().err
        assert len(said.splitlines()) <= 2  # an error and a hint
        return said

    return fail


def recipe(model: str, *, steps: int = 3, options: str = "") -> str:
    if model == "cgdm-tiny":
        options += '\nbase = "cdc-tiny"'
    Path("mine.toml").write_text(
        f'model = "{model}"\npreset = "tiny"\nobjective = "{RECIPES[model]}"\n'
        f'init = "random"\ndata = "ten"\ncrop = 64\nbatch = 2\nsteps = {steps}\n'
        f"[objective_options]{options}\n",
        encoding="utf-8",
    )
    return "mine.toml"


@pytest.mark.parametrize("model", RECIPES)
def test_what_was_trained_encodes_and_decodes_at_once(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", recipe(model), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    made = captured.out.strip()
    assert made == str(Path("runs", "mine", f"{model}.safetensors"))
    assert (
        f"to use it: cdcodec encode PHOTO --model {made}, and decode with the same" in captured.err
    )
    common = ["--device", "cpu", "--model", made]
    assert main(["encode", "photo.png", "-o", "photo.cdc", "-q", "30", *common]) == 0
    assert main(["decode", "photo.cdc", "-o", "again.png", "--steps", "1", *common]) == 0
    with Image.open("again.png") as again:
        assert again.size == (130, 90)
    assert np.array(Image.open("again.png")).std() > 0


def test_new_bits_are_not_read_with_other_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", recipe("cdc-tiny"), "--device", "cpu"]) == 0
    made = capsys.readouterr().out.strip()
    assert main(["encode", "photo.png", "-o", "photo.cdc", "-q", "30", "--model", made]) == 0
    assert main(["decode", "photo.cdc", "-o", "again.png"]) == WeightsError.exit_code
    assert "--model FILE.safetensors names weights of your own" in capsys.readouterr().err


def test_a_run_says_where_it_is_from_the_first_step_to_the_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", recipe("cdc-tiny", steps=1000), "--minutes", "0.02"]) == 0
    first, *_others, last, note, _use = capsys.readouterr().err.splitlines()
    form = r"step ([\d,]+) of 1,000, loss [\d.e+-]+, \d+ s left \(.*psnr [\d.]+.*\)"
    assert re.fullmatch(form, first).group(1) == "1"  # type: ignore[union-attr]
    made = re.fullmatch(form, last).group(1)  # type: ignore[union-attr]
    assert note.startswith(f"cdcodec: note: {made} of 1,000 steps (")
    assert "were made, from random weights: " in note
    assert note.endswith(" here, and --resume makes them")


def test_reports_are_never_twenty_seconds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    class Slow(loop._Run):
        def step(self, *arguments: object) -> dict[str, float]:
            nonlocal now
            now += 4.0
            self.progress.step += 1
            return {"loss": 1.0}

    monkeypatch.setattr(loop, "time", Clock)
    monkeypatch.setattr(loop, "_Run", Slow)
    said: list[dict[str, float]] = []
    path = Path(recipe("cdc-tiny", steps=100))
    trained = loop.train(path, Path("run"), minutes=3, device="cpu", report=said.append)
    assert trained.step == 45
    assert trained.seconds_to_go == pytest.approx(4 * 55)
    seconds = [each["seconds"] for each in said]
    assert seconds[0] == 4
    assert seconds[-1] == 180
    assert max(b - a for a, b in zip(seconds, seconds[1:], strict=False)) <= 20
    for each in said:
        assert each["left"] == pytest.approx(180 - each["seconds"])
        assert each["steps"] == 100


@pytest.mark.parametrize(
    ("step", "from_nothing", "said"),
    [
        (70, True, "70 of 10,000 steps (0.7 %) were made, from random weights: "
                   "pictures are still poor, and don't show what the whole recipe gives"),
        (70, False, "from trained weights: pictures are nearly those of the weights at the start"),
        (5000, True, "5,000 of 10,000 steps (50 %) were made"),
    ],
)  # fmt: skip
def test_a_run_that_ended_early_says_how_far_it_is(
    step: int, from_nothing: bool, said: str
) -> None:
    trained = loop.Trained(Path("a"), True, step, 10_000, 9000.0, from_nothing)
    note = unfinished_note(trained)
    assert note is not None
    assert said in note
    assert "the other steps take about 2.5 h here" in note


def test_a_whole_run_needs_no_excuse() -> None:
    assert unfinished_note(loop.Trained(Path("a"), True, 10_000, 10_000, 0.0, True)) is None


def test_durations_are_said_as_people_do() -> None:
    said = [duration(seconds) for seconds in (0, 59.6, 89, 91, 3600, 9000)]
    assert said == ["0 s", "60 s", "89 s", "2 min", "60 min", "2.5 h"]


# ---- recipes


@pytest.mark.parametrize("name", sorted(path.stem for path in config.RECIPES.glob("*.toml")))
def test_bundled_recipes_are_found_by_name(name: str) -> None:
    for spelling in (name, f"{name}.toml"):
        assert config.find(spelling) == config.RECIPES / f"{name}.toml"
    assert config.load(config.find(name)).model == "-".join(name.split("-")[:2])


def test_a_file_comes_before_a_recipe_of_the_same_name() -> None:
    shutil.copy(recipe("cdc-tiny"), "cdc-nano-base.toml")
    assert config.load(config.find("cdc-nano-base.toml")).model == "cdc-tiny"


@pytest.mark.parametrize("name", ["cdc-nano-bse", "cdc-nano-base.tml", "cdc-nano-bas.toml"])
def test_a_misspelt_recipe_is_answered_by_the_nearest_and_all(name: str, failing: Failing) -> None:
    said = failing(name, "--data", "ten")
    assert f"no recipe has the name {name}, neither a file nor a bundled one" in said
    assert "hint: did you mean cdc-nano-base? the recipes that come with cdcodec are " in said
    assert all(path.stem in said for path in config.RECIPES.glob("*.toml"))


def test_a_bundled_recipe_asks_for_photographs(failing: Failing) -> None:
    said = failing("cdc-nano-base")
    assert "the recipe cdc-nano-base comes without photographs" in said
    assert "hint: --data FOLDER says where yours are" in said


def test_the_perceptual_loss_is_taken_from_the_weights_that_were_added(
    monkeypatch: pytest.MonkeyPatch, lpips: Path, failing: Failing
) -> None:
    shutil.copy(
        recipe("cdc-tiny", steps=1, options='\nlpips = "missing.safetensors"'), "chain.toml"
    )
    text = Path("chain.toml").read_text(encoding="utf-8").replace('"base"', '"chain"')
    Path("chain.toml").write_text(text, encoding="utf-8")
    said = failing("chain.toml", code=WeightsError.exit_code)
    assert "cannot read the weights of the perceptual loss" in said
    assert "hint: cdcodec weights add lpips-squeeze FILE adds them" in said
    added = {"lpips-squeeze": [lpips]}
    resolve = weights.resolve
    monkeypatch.setattr(weights, "resolve", lambda name: added.get(name) or resolve(name))
    assert main(["train", "chain.toml", "--device", "cpu"]) == 0


# ---- photographs


@pytest.mark.parametrize("folder", ["none", "empty", "texts", "above", "small", "broken", "n*/*"])
def test_missing_folders_are_told_from_those_without_photographs(
    folder: str, failing: Failing
) -> None:
    if folder not in ("none", "n*/*"):
        Path(folder).mkdir()
    if folder == "texts":
        Path(folder, "a.txt").write_text("no picture", encoding="utf-8")
    if folder == "above":
        shutil.copytree("ten", Path(folder, "ten"))
    if folder == "small":
        Image.new("RGB", (63, 200)).save(Path(folder, "a.png"))
    if folder == "broken":
        Path(folder, "a.jpg").write_text("no picture", encoding="utf-8")
    said = {
        "none": "there is no folder none\n",
        "empty": "there are no photographs in empty\nhint: photographs are PNG, JPEG or WebP files",
        "texts": "there are no photographs in texts\nhint: photographs are PNG, JPEG or WebP files",
        "above": f"files; for those in its subfolders: --data '{Path('above', '*', '*')}'\n",
        "small": "no photograph of 1 in small is large enough\n"
        "hint: the recipe needs at least 64 pixels on each side",
        "broken": f"cannot read the photograph {Path('broken', 'a.jpg')}: cannot identify",
        "n*/*": "no file matches n*/*\n",
    }
    assert said[folder] in failing(recipe("cdc-tiny"), "--data", folder)


def test_the_name_for_photographs_in_folders_below_finds_them() -> None:
    shutil.copytree("ten", Path("above", "ten"))
    assert len(photographs.find(str(Path("above", "*", "*")), 64)) == 10


def test_data_is_relative_to_where_one_is_and_not_to_the_recipe() -> None:
    Path("recipes").mkdir()
    path = shutil.copy(recipe("cdc-tiny", steps=1), "recipes")
    assert main(["train", path, "--data", "ten", "--device", "cpu"]) == 0
