"""Classification: scores every trained run of the comparison on its test set; writes docs/results/classification.json.

    python benchmarks/classification.py --runs runs --data ../shared/data

The runs are trained, each with `--threads 1` and with `--data DATA/cifar10` unless something else is said, by

    tessella train cifar10_resnet --out runs/cifar-resnet
    tessella train cifar10_vit --out runs/cifar-vit
    tessella train cifar10_deit_soft --teacher runs/cifar-resnet --out runs/cifar-deit-soft
    tessella train cifar10_deit_hard --teacher runs/cifar-resnet --out runs/cifar-deit-hard
    tessella train cifar10_deit_token --teacher runs/cifar-resnet --out runs/cifar-deit-token
    tessella train cifar10_swin --out runs/cifar-swin
    tessella train cifar10_cvt --out runs/cifar-cvt
    tessella train fashion_mnist --data DATA/fashion-mnist --out runs/fashion

and those of the curve, for n in 1000 5000 20000 48000, and likewise for `cifar10_vit` as runs/few-vit-n and for
`cifar10_cvt --model cvt_nano` as runs/few-cvt-n, by

    tessella train cifar10_resnet --out runs/few-resnet-n --set data.limit=n --set loop.steps=1500
        --set schedule.warmup=150 --set loop.validate_every=1500 --set loop.checkpoint_every=1500

Of a run that is not there, the records of an earlier time are kept, with a line. Images a second of training are
measured here, on one thread, all models by turns in one run (`--rates 0` leaves that out); a run's compute is what it
has seen divided by that rate, whatever else the machine did meanwhile.
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
BEST_OF = "the best of them"
BEST = 85.0
"""Percent right that the best of them should reach."""
FASHION = 93.0
CURVE = {"resnet": "ResNet", "vit": "ViT", "cvt": "CvT"}
SIZES = (1_000, 5_000, 20_000, 48_000)
"""The last are all: 2,000 of the 50,000 are held out for validation."""
ON_A_GPU = {"ResNet-18": 95.0, "ViT": 88.0, "DeiT": 91.0, "Swin": 92.0, "CvT": 94.0}
"""Percent right that half an hour on a GPU should reach."""


@dataclass
class Book:
    """The records so far, and those of earlier times."""

    hardware: str
    before: list[dict]
    rows: list[dict]

    def add(self, name: str, value: float | str, unit: str, data: str, split: str, **more) -> None:
        """One record; more: signature, target. Words in the place of a value say why there is none."""
        target, told = more.get("target"), isinstance(value, str)
        met = None if target is None or told else value >= target
        self.rows.append(
            {
                "topic": "vision",
                "name": name,
                "value": value if told else round(value, 2),
                "unit": unit,
                "target": target,
                "met": met,
                "command": COMMAND,
                "data": data,
                "split": split,
                "signature": more.get("signature", ""),
                "seeds": [1],
                "hardware": self.hardware,
                "date": dt.date.today().isoformat(),
            }
        )
        shown = value if told else f"{value:,.2f} {unit}"
        print(f"{name}: {shown}" + ("" if target is None else f" (target {target}: {met})"))

    def measured(self, name: str) -> float | None:
        """The value of a record, if there is one and it is a number."""
        values = [row["value"] for row in self.rows + self.before if row["name"] == name]
        return values[0] if values and not isinstance(values[0], str) else None

    def whole(self) -> list[dict]:
        """With what was recorded at an earlier time and not again; everything at the place it had."""
        again = {row["name"]: row for row in self.rows}
        lost = [row for row in self.before if row["name"] not in again]
        for label in dict.fromkeys(row["name"].partition(":")[0] for row in lost):
            dates = {row["date"] for row in lost if row["name"].partition(":")[0] == label}
            print(f"kept, of {', '.join(sorted(dates))}: {label}")
        known = {row["name"] for row in self.before}
        new = [row for row in self.rows if row["name"] not in known]
        return [again.get(row["name"], row) for row in self.before] + new


def there(run: Path) -> bool:
    """Whether a run is finished."""
    if not (run / "model.safetensors").is_file():
        print(f"not scored: {run} is not there")
        return False
    wanted = opened(run)[1].loop.steps
    if steps(run) < wanted:
        print(f"not scored: {run} is at step {steps(run):,} of {wanted:,}")
    return steps(run) >= wanted


def steps(run: Path) -> int:
    """How many steps a run has made."""
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]


def seen(run: Path, recipe: Classification) -> int:
    """Images a run has learned from, repetitions counted."""
    return steps(run) * recipe.batch


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


def efficiency(book: Book, runs: Path, data: Path) -> None:
    """Accuracy by the number of images, each run of the same steps."""
    for family, label in CURVE.items():
        for size in SIZES:
            run = runs / f"few-{family}-{size}"
            if there(run):
                found = judge(run.name, load(run), data / "cifar10", "test", batch=250)
                low, high = found.report.interval
                told = f"top-1, 95% interval {100 * low:.1f} to {100 * high:.1f}; {steps(run):,} steps"
                book.add(learned_from(label, size), 100 * found.report.top1, "%", "cifar10", "test", signature=told)


def learned_from(label: str, size: int) -> str:
    """The name of a record of the curve."""
    return f"{label} from {size:,} images: accuracy"


def draw(book: Book, picture: Path) -> None:
    """The curve, one line a family."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for label in CURVE.values():
        values = [(size, book.measured(learned_from(label, size))) for size in SIZES]
        points = [(size, value) for size, value in values if value is not None]
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


def best(book: Book) -> None:
    """The first of the families, whenever each was measured."""
    tops = {label: book.measured(f"{label}: accuracy") for label in FAMILIES.values()}
    scored = {label: top for label, top in tops.items() if top is not None}
    if scored:
        first = max(scored, key=lambda label: scored[label])
        book.add(BEST_OF, scored[first], "%", "cifar10", "test", signature=first, target=BEST)


def on_a_gpu(book: Book) -> None:
    """Targets that nobody could measure yet, so that the table says so."""
    for family, target in ON_A_GPU.items():
        name = f"{family}, 30 minutes on a GPU: accuracy"
        if book.measured(name) is None:
            book.add(name, "not measured: no GPU", "", "cifar10", "test", target=target)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rates", type=int, default=7, help="rounds of measuring speed")
    parser.add_argument("--hardware", default="2 cores AMD EPYC (Zen 4), CPU")
    parser.add_argument("--out", type=Path, default=Path("docs/results/classification.json"))
    given = parser.parse_args()
    book = Book(given.hardware, json.loads(given.out.read_text()) if given.out.is_file() else [], [])
    comparison(book, given.runs, given.data, given.rates)
    fashion(book, given.runs, given.data, given.rates)
    efficiency(book, given.runs, given.data)
    best(book)
    on_a_gpu(book)
    draw(book, given.out.parent / "data-efficiency.png")
    given.out.write_text(json.dumps(book.whole(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
