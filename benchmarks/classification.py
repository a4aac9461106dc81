"""Classification: scores every trained run of the comparison on its test set; writes docs/results/classification.json.

    python benchmarks/classification.py --runs runs --data ../shared/data

Runs are looked for by the names that the README trains them under; those that are missing are left out, with a line.
Images a second of training are measured here, on one thread, all models by turns in one run (`--rates 0` leaves that
out); a run's compute is what it has seen divided by that rate, whatever else the machine did meanwhile.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from tessella.class_evaluate import Judged, compared, judge
from tessella.optimizers import AdamW
from tessella.precision import CopiedWeights
from tessella.predict import load, opened, plain_classifier
from tessella.recipes.vision import Classification
from tessella.show import save_png
from tessella.teacher import Taught, Teacher
from tessella.zoo.counts import multiply_adds, parameters

COMMAND = "python benchmarks/classification.py --runs runs --data DATA"
FAMILIES = {
    "cifar-resnet": "ResNet",
    "cifar-vit": "ViT, which is DeiT without a teacher",
    "cifar-deit-soft": "DeiT, soft distillation",
    "cifar-deit-hard": "DeiT, hard distillation",
    "cifar-deit-token": "DeiT, hard distillation by token",
    "cifar-swin": "Swin",
    "cifar-cvt": "CvT",
}
BEST = 85.0
"""Percent right that the best of them should reach."""
FASHION = 93.0
CURVE = {"resnet": "ResNet", "vit": "ViT", "cvt": "CvT"}
SIZES = (1_000, 5_000, 20_000, 48_000)


@dataclass
class Book:
    """The records so far."""

    hardware: str
    rows: list[dict]

    def add(self, name: str, value: float, unit: str, data: str, split: str, **more) -> None:
        """One record; more: signature, target."""
        target = more.get("target")
        self.rows.append(
            {
                "topic": "vision",
                "name": name,
                "value": round(value, 2),
                "unit": unit,
                "target": target,
                "met": None if target is None else value >= target,
                "command": COMMAND,
                "data": data,
                "split": split,
                "signature": more.get("signature", ""),
                "seeds": [1],
                "hardware": self.hardware,
                "date": dt.date.today().isoformat(),
            }
        )
        print(f"{name}: {value:,.2f} {unit}" + ("" if target is None else f" (target {target}: {value >= target})"))


def there(run: Path) -> bool:
    """Whether a run is finished."""
    found = (run / "model.safetensors").is_file()
    if not found:
        print(f"left out: {run} is not there")
    return found


def seen(run: Path, recipe: Classification) -> int:
    """Images a run has learned from, repetitions counted."""
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] * recipe.batch


class Step:
    """One training step of a run's recipe, on random pixels."""

    def __init__(self, run: Path):
        folder, self.recipe = opened(run)
        classifier = plain_classifier(folder, self.recipe)
        self.model = classifier.model.train()
        self.weights = CopiedWeights(self.model)
        self.optimizer = AdamW().build(self.weights.named)
        self.objective = self.recipe.objective
        if self.recipe.teacher:
            told, taught = opened(self.recipe.teacher.run)
            teacher = Teacher(plain_classifier(told, taught), self.recipe.image, classifier.classes)
            self.objective = Taught(self.recipe.objective, teacher)
        image = self.recipe.image
        self.batch = {
            "image": torch.randn(self.recipe.batch, image.channels, *image.size),
            "label": torch.randint(len(classifier.classes), (self.recipe.batch,)),
        }

    def rate(self) -> float:
        """Images a second of one step."""
        began = time.perf_counter()
        self.optimizer.zero_grad()
        with self.weights.computing(), torch.autocast("cpu", torch.bfloat16):
            self.objective(self.model, self.batch)["loss"].backward()
        self.optimizer.step()
        return self.recipe.batch / (time.perf_counter() - began)


def rates(runs: list[Path], rounds: int) -> dict[str, float]:
    """Median images a second of each, by turns."""
    torch.set_num_threads(1)
    steps = {run.name: Step(run) for run in runs}
    measured: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            rate = step.rate()
            if turn:  # the first one finds no kernel ready
                measured[name].append(rate)
    return {name: statistics.median(values) for name, values in measured.items() if values}


def describe(book: Book, run: Path, label: str, rate: float | None, found: Judged, data: str) -> None:
    """All columns of a row of the table."""
    _, recipe = opened(run)
    size = (1, recipe.image.channels, *recipe.image.size)
    low, high = found.report.interval
    target = FASHION if run.name == "fashion" else None
    book.add(f"{label}: accuracy", 100 * found.report.top1, "%", data, "test",
             signature=f"top-1, 95% interval {100 * low:.1f} to {100 * high:.1f}", target=target)  # fmt: skip
    book.add(f"{label}: parameters", parameters(recipe.model) / 1e6, "million", data, "test")
    book.add(f"{label}: multiply-adds an image", multiply_adds(recipe.model, size) / 1e6, "million", data, "test")
    book.add(f"{label}: images learned from", seen(run, recipe) / 1e3, "thousand", data, "train")
    if rate:
        book.add(f"{label}: training, one thread, quiet", rate, "images/s", data, "train")
        minutes = seen(run, recipe) / rate / 60
        book.add(f"{label}: compute on one core", minutes, "minutes", data, "train")


def comparison(book: Book, runs: Path, data: Path, rounds: int) -> None:
    """Every family on CIFAR-10."""
    names = [name for name in FAMILIES if there(runs / name)]
    speed = rates([runs / name for name in names], rounds)
    found = {}
    for name in names:
        found[name] = judge(name, load(runs / name), data / "cifar10", "test", batch=250)
        describe(book, runs / name, FAMILIES[name], speed.get(name), found[name], "cifar10")
    if names:
        best = max(found.values(), key=lambda one: one.report.top1)
        book.add("the best of them", 100 * best.report.top1, "%", "cifar10", "test",
                 signature=FAMILIES[best.run], target=BEST)  # fmt: skip
    for student in ("cifar-deit-soft", "cifar-deit-hard", "cifar-deit-token"):
        if student in found and "cifar-vit" in found:
            difference = compared([found["cifar-vit"], found[student]])[0].difference
            print(f"{student} against no teacher: {difference}")


def fashion(book: Book, runs: Path, data: Path, rounds: int) -> None:
    """Fashion-MNIST."""
    run = runs / "fashion"
    if there(run):
        speed = rates([run], rounds)
        found = judge("fashion", load(run), data / "fashion-mnist", "test", batch=250)
        describe(book, run, "Fashion-MNIST, CvT", speed.get("fashion"), found, "fashion-mnist")


def efficiency(book: Book, runs: Path, data: Path, picture: Path) -> None:
    """Accuracy by the number of images, one line a family, each run of the same compute."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for family, label in CURVE.items():
        points = []
        for size in SIZES:
            run = runs / f"few-{family}-{size}"
            if there(run):
                top = 100 * judge(run.name, load(run), data / "cifar10", "test", batch=250).report.top1
                points.append((size, top))
                book.add(f"{label} from {size:,} images: accuracy", top, "%", "cifar10", "test")
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
    if axes.lines:
        axes.set_xscale("log")
        axes.set_xticks(SIZES, [f"{size:,}" for size in SIZES], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("training images")
        axes.set_ylabel("CIFAR-10 test accuracy, %")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        save_png(figure, picture)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rates", type=int, default=7, help="rounds of measuring speed")
    parser.add_argument("--hardware", default="2 cores AMD EPYC (Zen 4), CPU")
    parser.add_argument("--out", type=Path, default=Path("docs/results/classification.json"))
    given = parser.parse_args()
    book = Book(given.hardware, [])
    comparison(book, given.runs, given.data, given.rates)
    fashion(book, given.runs, given.data, given.rates)
    efficiency(book, given.runs, given.data, given.out.parent / "data-efficiency.png")
    given.out.write_text(json.dumps(book.rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
