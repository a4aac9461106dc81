"""Toy: a lesson small enough to be learnt many times in a test; as a program, it trains in a given folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tessella.data.batches import Position
from tessella.learner import Standing, learn
from tessella.lesson import Lesson
from tessella.loop import LoopSpec
from tessella.optimizers import AdamW
from tessella.processes import launch, seed_all
from tessella.runs import RunFolder
from tessella.schedules import InverseSqrt

BATCHES = 9
"""Batches per epoch."""
USUAL = {"steps": 40, "metric": "mse", "mode": "min", "log_every": 4, "precision": "32", "device": "cpu"}


class Sums(Dataset[dict[str, Tensor]]):
    """Batch i of the data: vectors and their sums, i % 3 + 4 of them."""

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        x = torch.randn(4 + number % 3, 5, generator=torch.Generator().manual_seed(number))
        return {"x": x, "y": x.sum(1, keepdim=True)}


class Toy(nn.Module):
    """Two linear layers, dropout, and an output tied to another name."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(5, 16)
        self.dropout = nn.Dropout(float(os.environ.get("TOY_DROPOUT", "0.2")))
        self.out = nn.Linear(16, 1)
        self.alias = self.out

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.dropout(self.into(x).relu()))


def objective(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor | int]:
    error = model(batch["x"]) - batch["y"]
    return {"loss": (error**2).mean(), "weight": len(error), "off": error.detach().abs().mean()}


def validate(model: nn.Module) -> dict[str, float]:
    assert not model.training
    batch = Sums()[1000]
    torch.rand(3)  # drawing numbers here must not change the training
    return {"mse": (model(batch["x"]) - batch["y"]).square().mean().item()}


class Source:
    """The batches of the toy, with a memory of which were asked for."""

    def __init__(self, workers: int = 0) -> None:
        self.workers = workers
        self.seen: list[tuple[int, int]] = []

    def __call__(self, place: Position) -> Iterator[tuple[Position, dict[str, Tensor]]]:
        numbers = range(place.batch, BATCHES)
        torch.rand(1)  # as above
        rows = [place.epoch * 100 + n for n in numbers]
        loader = DataLoader(Sums(), sampler=rows, batch_size=None, num_workers=self.workers)  # type: ignore[arg-type]
        for number, batch in zip(numbers, loader, strict=True):
            self.seen.append((place.epoch, number))
            yield Position(place.epoch, number).advance(BATCHES), batch


def train(folder: Path, changes: dict, source: Source | None = None, judged: bool = True) -> tuple[Toy, Standing]:
    """Trains in a folder, or goes on there."""
    loop = LoopSpec.model_validate({**USUAL, **changes})
    fabric = launch(loop)
    if fabric.is_global_zero:
        run = RunFolder.resume(folder) if folder.exists() else RunFolder.create(folder)
        if not (folder / "recipe.yaml").exists():
            run.write_text("recipe.yaml", "toy: true\n")
    fabric.barrier()
    seed_all(loop.seed)
    toy = Toy()
    lesson = Lesson(toy, objective, source or Source(loop.workers), validate if judged else None)
    standing = learn(lesson, RunFolder(folder, loop.keep), loop, AdamW(), InverseSqrt(peak=0.02, warmup=8), fabric)
    return toy, standing


if __name__ == "__main__":
    train(Path(sys.argv[1]), json.loads(sys.argv[2]))
