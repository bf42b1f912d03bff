"""The training loop: any family's objective, an EMA of its weights, a time limit, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from cdcodec import families, weights
from cdcodec.errors import InputError
from cdcodec.nn.device import pick
from cdcodec.training import checkpoint, config, data

CHECKPOINT_SECONDS = 300
REPORT_STEPS = 50

Report = Callable[[dict[str, float]], None]


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

    def initial(self, preset: str, seed: int) -> nn.Module:
        """Return random networks."""

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
    report: Report = lambda figures: None,
) -> Path:
    """Train by a recipe and export the result.

    Args:
        recipe_path: TOML file, see training.config.Recipe.
        run_dir: Receives checkpoints and the exported weight file.
        resume: Go on from run_dir's checkpoint.
        minutes: Stop cleanly after this time; the learning rate falls towards it. What a resumed
            run has spent before does not count.
        device: See nn.device.pick.
        report: Called now and then with mean figures.

    Returns:
        The exported weight file.

    Raises:
        InputError: If recipe, data or checkpoint can't be used.
    """
    recipe = config.load(recipe_path)
    if not resume and (run_dir / checkpoint.NAME).exists():
        raise InputError(f"{run_dir} holds a run already", hint="--resume goes on with it")
    where = pick(device)
    family = cast(Trainable, families.training(weights.find(recipe.model).family))
    network = initial(family, recipe, recipe_path.parent).to(
        where, memory_format=torch.channels_last
    )  # type: ignore[call-overload]
    objective = make_objective(family, recipe, network, recipe_path.parent)
    average = copy.deepcopy(network).requires_grad_(False)
    trained = objective.parameters()
    optimizer = torch.optim.Adam(trained, lr=recipe.learning_rate, betas=(0.9, 0.99))
    kept = {"network": network, "average": average, **objective.modules()}
    progress = checkpoint.Progress()
    if resume:
        progress = checkpoint.restore(run_dir, kept, optimizer, trained)

    photographs = data.find(str(recipe_path.parent / recipe.data), recipe.crop)
    crops = data.Crops(photographs, recipe.crop, recipe.seed + progress.step)
    generator = torch.Generator(where).manual_seed(recipe.seed + progress.step)

    def batches() -> Tensor:
        return crops.batch(recipe.batch).to(where, memory_format=torch.channels_last)

    begun = saved = time.monotonic()
    spent_before = progress.seconds
    first_step = progress.step
    sums: dict[str, list[float]] = {}
    while True:
        elapsed = time.monotonic() - begun
        done = max(progress.step / recipe.steps, elapsed / (60 * minutes) if minutes else 0.0)
        if done >= 1:
            break
        rise = min(1.0, (progress.step - first_step + 1) / max(1, recipe.warmup_steps))
        fall = (
            recipe.final_fraction + (1 - recipe.final_fraction) * (1 + math.cos(math.pi * done)) / 2
        )
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rise * fall
        loss, figures = objective.loss(batches, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(trained, recipe.clip)
        if torch.isfinite(norm):  # a single bad batch must not end a run of hours
            optimizer.step()
        progress.step += 1
        _follow(average, network, min(recipe.ema, (1 + progress.step) / (10 + progress.step)))
        progress.seconds = spent_before + time.monotonic() - begun
        for name, value in {**figures, "gradient": norm.item()}.items():
            sums.setdefault(name, []).append(value)
        if progress.step % REPORT_STEPS == 0:
            means = {name: sum(values) / len(values) for name, values in sums.items()}
            report({"step": progress.step, "seconds": progress.seconds, "done": done, **means})
            sums = {}
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            checkpoint.store(run_dir, progress, kept, optimizer, trained)
            saved = time.monotonic()
    checkpoint.store(run_dir, progress, kept, optimizer, trained)
    path = run_dir / f"{recipe.model}.safetensors"
    family.write(average.cpu(), path)
    return path


def initial(family: Trainable, recipe: config.Recipe, folder: Path) -> nn.Module:
    """Return the network that a recipe starts from.

    Raises:
        InputError: If the preset is unknown.
        WeightsError: If the weights to go on from can't be had.
    """
    if recipe.init == "random":
        return family.initial(recipe.preset, recipe.seed)
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
    """
    if recipe.objective not in family.OBJECTIVES:
        known = ", ".join(family.OBJECTIVES)
        raise InputError(f"unknown objective {recipe.objective}, not one of {known}")
    kind, options = family.OBJECTIVES[recipe.objective]
    table = dict(recipe.objective_options)
    if "lpips" in table:
        table["lpips"] = str(folder / table["lpips"])
    return kind(network, config.fill(options, table, f"options of {recipe.objective}"))


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
