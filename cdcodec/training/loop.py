"""The training loop: any family's objective, an EMA of its weights, a time limit, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from cdcodec import families, weights
from cdcodec.errors import InputError, WeightsError
from cdcodec.nn.device import pick
from cdcodec.training import checkpoint, config, data

CHECKPOINT_SECONDS = 300
REPORT_SECONDS = 10
"""At least so long after a report, and at the end of a step, the next one is due."""

PERCEPTUAL = {"lpips": "lpips-squeeze", "vgg16": "vgg16"}
"""Options that name a weight file, and the weight sets that are taken if there is no such file."""

Report = Callable[[dict[str, float]], None]
"""Called with means since the last call, of "loss" and of the objective's other figures, and with
"step", "steps" (of the recipe), "seconds" (spent), "left" (seconds) and "done" (a part of 1)."""


@dataclass(frozen=True)
class Trained:
    """The outcome of a run.

    Attributes:
        path: The exported weight file.
        codes: Whether the file is a model by itself, and not a part of others.
        step: Updates that were made, in all.
        steps: Updates of the recipe.
        seconds_to_go: Seconds that the other updates would take; 0 if there are none.
        from_nothing: Whether the run began with random networks.
    """

    path: Path
    codes: bool
    step: int
    steps: int
    seconds_to_go: float
    from_nothing: bool


class Objective(Protocol):
    """What a family gives the loop to minimise."""

    def parameters(self) -> list[nn.Parameter]:
        """What the loop's optimiser updates."""

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint has to keep beside the network."""

    def loss(
        self, batches: Callable[[], Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the next loss, and figures to report."""


class Trainable(Protocol):
    """What a family's `objectives` module has.

    Attributes:
        OBJECTIVES: Objectives by the names that recipes use, each with its configuration.
    """

    OBJECTIVES: Mapping[str, tuple[Callable[..., Objective], type]]

    def initial(self, preset: str, seed: int, batches: Callable[[], Tensor]) -> nn.Module:
        """Return the networks that training starts with; batches are there to learn from."""

    def read(self, path: Path) -> nn.Module:
        """Return the networks of a weight file."""

    def write(self, network: nn.Module, path: Path) -> None:
        """Write a weight file."""


def train(
    recipe_path: Path,
    run_dir: Path,
    *,
    resume: bool = False,
    minutes: float | None = None,
    device: str = "auto",
    photographs: str | None = None,
    report: Report = lambda figures: None,
) -> Trained:
    """Train by a recipe and export the result.

    Args:
        recipe_path: TOML file, see training.config.Recipe.
        run_dir: Receives checkpoints and the exported weight file.
        resume: Go on from run_dir's checkpoint.
        minutes: Stop cleanly after this time; the learning rate falls towards it. What a resumed
            run has spent before does not count.
        device: See nn.device.pick.
        photographs: Folder or glob, instead of the recipe's `data`; relative to the working
            directory.
        report: See Report.

    Raises:
        InputError: If recipe, data or checkpoint can't be used.
    """
    recipe = config.load(recipe_path)
    if not resume and (run_dir / checkpoint.NAME).exists():
        raise InputError(f"{run_dir} holds a run already", hint="--resume goes on with it")
    where = pick(device)
    folder = recipe_path.parent
    if photographs is None and config.is_bundled(recipe_path):
        raise InputError(
            f"the recipe {recipe_path.stem} comes without photographs",
            hint="--data FOLDER says where yours are",
        )
    pattern = str(folder / recipe.data) if photographs is None else photographs
    crops = data.Crops(data.find(pattern, recipe.crop), recipe.crop, recipe.seed)

    def batches() -> Tensor:
        return crops.batch(recipe.batch).to(where, memory_format=torch.channels_last)

    family = cast(Trainable, families.training(weights.find(recipe.model).family))
    network = initial(family, recipe, folder, batches)
    network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = make_objective(family, recipe, network, folder)
    run = _Run(recipe, network, objective)
    if resume:
        run.progress = checkpoint.restore(run_dir, run.kept, run.optimizer, run.trained)
        crops.restart(recipe.seed + run.progress.step)
    generator = torch.Generator(where).manual_seed(recipe.seed + run.progress.step)
    pace = _Pace(recipe, minutes, run.progress)
    figures = _Means()
    saved = reported = time.monotonic()
    while not pace.finished():
        figures.add(run.step(lambda: objective.loss(batches, generator), pace.learning_rate()))
        run.progress.seconds = pace.seconds()
        first = run.progress.step == pace.first_step + 1
        if first or pace.finished() or time.monotonic() - reported > REPORT_SECONDS:
            report(pace.place() | figures.take())
            reported = time.monotonic()
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            checkpoint.store(run_dir, run.progress, run.kept, run.optimizer, run.trained)
            saved = time.monotonic()
    checkpoint.store(run_dir, run.progress, run.kept, run.optimizer, run.trained)
    path = run_dir / f"{recipe.model}.safetensors"
    family.write(run.average.cpu(), path)
    return Trained(
        path=path,
        codes=weights.find(recipe.model).family in families.FAMILIES,
        step=run.progress.step,
        steps=recipe.steps,
        seconds_to_go=pace.seconds_of(recipe.steps - run.progress.step),
        from_nothing=recipe.init == "random",
    )


class _Run:
    """What training moves: the network, its moving average, the optimiser."""

    def __init__(self, recipe: config.Recipe, network: nn.Module, objective: Objective) -> None:
        self.recipe = recipe
        self.network = network
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.trained = objective.parameters()
        self.optimizer = torch.optim.Adam(self.trained, lr=recipe.learning_rate, betas=(0.9, 0.99))
        self.kept = {"network": network, "average": self.average, **objective.modules()}
        self.progress = checkpoint.Progress()

    def step(
        self, loss_of: Callable[[], tuple[Tensor, dict[str, float]]], learning_rate: float
    ) -> dict[str, float]:
        """Make one update and return what there is to report."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        loss, figures = loss_of()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.recipe.clip)
        if torch.isfinite(norm):  # a single bad batch must not end a run of hours
            self.optimizer.step()
        self.progress.step += 1
        step = self.progress.step
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.network.parameters()), 1 - decay
            )
        return {"loss": loss.item(), **figures, "gradient": norm.item()}


class _Pace:
    """How far a run is, by updates or by time, and what its learning rate is there."""

    def __init__(
        self, recipe: config.Recipe, minutes: float | None, progress: checkpoint.Progress
    ) -> None:
        self.recipe = recipe
        self.minutes = minutes
        self.progress = progress
        self.first_step = progress.step
        self.spent_before = progress.seconds
        self.begun = time.monotonic()

    def seconds(self) -> float:
        """Seconds spent on the run, those before it was resumed included."""
        return self.spent_before + time.monotonic() - self.begun

    def done(self) -> float:
        """Part of the run that is behind us, 0..1 and beyond."""
        by_time = (time.monotonic() - self.begun) / (60 * self.minutes) if self.minutes else 0.0
        return max(self.progress.step / self.recipe.steps, by_time)

    def seconds_of(self, steps: int) -> float:
        """Return about how long so many steps take, by those of this run."""
        made = self.progress.step - self.first_step
        return max(steps, 0) * (time.monotonic() - self.begun) / made if made else 0.0

    def place(self) -> dict[str, float]:
        """Return where the run is, see Report."""
        left = self.seconds_of(self.recipe.steps - self.progress.step)
        if self.minutes:
            left = min(left, max(0.0, 60 * self.minutes - (time.monotonic() - self.begun)))
        return {
            "step": self.progress.step,
            "steps": self.recipe.steps,
            "seconds": self.seconds(),
            "left": left,
            "done": self.done(),
        }

    def finished(self) -> bool:
        """Tell whether updates or time are used up."""
        return self.done() >= 1

    def learning_rate(self) -> float:
        """Rise linearly, fall by a cosine."""
        since = self.progress.step - self.first_step
        rise = min(1.0, (since + 1) / max(1, self.recipe.warmup_steps))
        final = self.recipe.final_fraction
        fall = final + (1 - final) * (1 + math.cos(math.pi * min(self.done(), 1.0))) / 2
        return self.recipe.learning_rate * rise * fall


class _Means:
    """Means of figures since they were last taken."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, figures: dict[str, float]) -> None:
        """Note the figures of one update; not all updates have the same ones."""
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        """Return the means and start anew."""
        means = {name: sum(values) / len(values) for name, values in self.values.items()}
        self.values = {}
        return means


def initial(
    family: Trainable, recipe: config.Recipe, folder: Path, batches: Callable[[], Tensor]
) -> nn.Module:
    """Return the network that a recipe starts from.

    Raises:
        InputError: If the preset is unknown.
        WeightsError: If the weights to go on from can't be had.
    """
    if recipe.init == "random":
        return family.initial(recipe.preset, recipe.seed, batches)
    if recipe.init == "bundled":
        (path, *_rest) = weights.resolve(recipe.model)
        return family.read(path)
    return family.read(folder / recipe.init)


def make_objective(
    family: Trainable, recipe: config.Recipe, network: nn.Module, folder: Path
) -> Objective:
    """Return a recipe's objective.

    Raises:
        InputError: If it, or one of its options, is unknown.
        WeightsError: If it needs the weights of a perceptual loss, which aren't here.
    """
    if recipe.objective not in family.OBJECTIVES:
        known = ", ".join(family.OBJECTIVES)
        raise InputError(f"unknown objective {recipe.objective}, not one of {known}")
    kind, options = family.OBJECTIVES[recipe.objective]
    table = dict(recipe.objective_options)
    for file, known in PERCEPTUAL.items():
        if table.get(file):
            own = folder / table[file]
            table[file] = str(own if own.exists() else _added(known) or own)
    return kind(network, config.fill(options, table, f"options of {recipe.objective}"))


def _added(name: str) -> Path | None:
    """Return the file of a weight set, if the user has added it."""
    try:
        return weights.resolve(name)[0]
    except WeightsError:
        return None
