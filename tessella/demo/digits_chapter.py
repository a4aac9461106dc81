"""Digits chapter: a convnet, a ViT and a ViT with a teacher learn to read digits, from few images and from more."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tessella.charts import line_chart
from tessella.class_evaluate import Judged, judge
from tessella.class_scores import softmax
from tessella.classification import train
from tessella.data.augment import Augment
from tessella.data.pixels import Preprocess
from tessella.data.randaugment import RandAugment
from tessella.demo.digits import Digits, digit_splits, write_digits
from tessella.demo.digits_drawings import Line, Panel, confusion_matrix, sheet
from tessella.demo.digits_words import bias_told, teacher_told
from tessella.evidence import look
from tessella.heads import Classes, Distilled
from tessella.loop import LoopSpec
from tessella.models import Encoder, Model
from tessella.objectives import Classify, Distill, Objective, Soft
from tessella.positions import SinCosGrid
from tessella.predict import load
from tessella.recipes.vision import Classification, LabelledImages, Teacher
from tessella.report import Chapter, Report
from tessella.schedules import Cosine
from tessella.stems.patches import Patches, Pixels
from tessella.trunks.convnet import Entry, ResNet
from tessella.trunks.plain import Plain

INTRO = """scikit-learn carries {all:,} digits that people wrote by hand, 8 x 8 pixels each. A **CNN** knows something \
about pictures before it has seen one: neighbours belong together, and a stroke is the same wherever it stands. A \
**ViT** knows nothing of the kind. It cuts the picture into 16 patches, lets every patch look at every other one, and \
has to find out from the data. What is that knowledge worth, and can it be taught?

The third system is the same ViT with a **teacher** (DeiT): an extra token learns what the CNN says of each image, \
beside the class token, which learns the labels."""


@dataclass(frozen=True)
class System:
    """One of the three: its name on the page, its folder, its model, what it learns, and the peak of its rate."""

    name: str
    folder: str
    model: Model
    peak: float
    objective: Objective = field(default_factory=Classify)
    teacher: str | None = None
    """The folder of the system whose answers it learns, too."""


def _vit(dim: int = 64, special: int = 1) -> Encoder:
    """Patches of 2 x 2 pixels with fixed positions, which so short a training need not find out."""
    return Encoder(
        stem=Patches(dim=dim, patch=2, size=(8, 8), channels=1, special=special, positions=SinCosGrid()),
        trunk=Plain(dim=dim, depth=2, heads=4, hidden=2 * dim, dropout=0.0, activation="gelu", norm="pre"),
        head=Classes(dim=dim, classes=10) if special == 1 else Distilled(dim=dim, classes=10),
    )


def _cnn() -> Encoder:
    """Two residual blocks behind a 3 x 3 convolution."""
    trunk = ResNet(dim=1, entry=Entry(width=16, size=3, stride=1, pool="none"), depths=(1, 1), widths=(32, 64))
    return Encoder(stem=Pixels(dim=1), trunk=trunk, head=Classes(dim=64, classes=10, pool="mean"))


CNN = System("CNN", "cnn", _cnn(), 3e-3)
VIT = System("ViT", "vit", _vit(), 4e-3)
DEIT = System("DeiT", "deit", _vit(special=2), 4e-3, Distill(teaching=Soft(weight=0.8, tau=2.0)), CNN.folder)
SYSTEMS = (CNN, VIT, DEIT)
SIZES: tuple[int | None, ...] = (50, 200, 800, None)
"""Images to learn from; None for all."""
STEPS = 500
BATCH = 32
SHOWN = 6
"""Digits in a row."""

Grid = Mapping[str, Mapping[int, Judged]]
"""System -> images learned from -> what it says of the test."""


def digits(report: Report, out: Path, say: Callable[[str], None]) -> None:
    """Trains the three systems on few and on more images under `out` (made anew), and writes the chapter."""
    splits = digit_splits()
    shutil.rmtree(out, ignore_errors=True)
    data = write_digits(out / "data", splits)
    found: dict[str, dict[int, Judged]] = {system.name: {} for system in SYSTEMS}
    seconds: dict[str, float] = {}
    for limit in SIZES:
        images = limit or len(splits["train"].labels)
        say(f"\n{images:,} images to learn from, {STEPS} steps each")
        for system in SYSTEMS:
            run, began = folder(out, system, limit), time.monotonic()
            train(recipe(system, out, limit), data, run, say=lambda line: None)
            seconds[system.name] = time.monotonic() - began
            judged = judge(system.name, load(run), data, "test", batch=100)
            found[system.name][images] = judged
            say(f"{system.name}: {judged.report.top1:.1%} of {judged.report.images} unseen digits right")
    chapter = report.chapter(
        "digits", "Digits: what a convolution knows", INTRO.format(all=sum(map(count, splits.values())))
    )
    write_scores(chapter, found, seconds, splits)
    write_looks(chapter, out, splits["test"])
    write_answers(chapter, found, say)
    example = next(iter(sorted((data / "test").glob("*/*.png"))))
    say(f"\ntry: tessella classify {folder(out, VIT, None)} {example}")


def count(digits: Digits) -> int:
    """How many there are."""
    return len(digits.labels)


def folder(out: Path, system: System, limit: int | None) -> Path:
    """Where a run is; the one on all images has the plain name."""
    return out / (system.folder if limit is None else f"{system.folder}-{limit}")


def recipe(system: System, out: Path, limit: int | None) -> Classification:
    """All learn alike; the teacher of the taught one has seen the same images and no more."""
    teacher = next((one for one in SYSTEMS if one.folder == system.teacher), None)
    return Classification(
        data=LabelledImages(limit=limit),
        image=Preprocess(size=(8, 8), channels=1, mean=(0.305,), std=(0.376,), crop=1.0),
        augment=Augment(randaugment=RandAugment(number=1, magnitude=4), mixup=0.8, cutmix=1.0),
        model=system.model,
        objective=system.objective,
        teacher=Teacher(run=str(folder(out, teacher, limit))) if teacher else None,
        schedule=Cosine(peak=system.peak, warmup=STEPS // 10),
        loop=LoopSpec(
            steps=STEPS, metric="accuracy", validate_every=STEPS, checkpoint_every=STEPS, checkpoint_minutes=None,
            log_every=20, keep=1, precision="32",
        ),
        batch=BATCH,
    )  # fmt: skip


def write_scores(chapter: Chapter, found: Grid, seconds: Mapping[str, float], splits: Mapping[str, Digits]) -> None:
    """Numbers, the curve over the size of the data, and what they say."""
    most = {name: runs[max(runs)] for name, runs in found.items()}
    first = next(iter(most.values())).report
    chapter.numbers({name: f"{one.report.top1:.1%}" for name, one in most.items()})
    chapter.text(
        f"Share of {first.images} unseen digits read right after learning from {count(splits['train']):,}. No digit of "
        f"this test was learned from; {count(splits['val'])} others were for validation. (The same people wrote all "
        "three parts: the handwriting of a stranger would be harder.)"
    )
    lines = {name: [(float(n), one.report.top1) for n, one in runs.items()] for name, runs in found.items()}
    chapter.figure(
        line_chart(lines, "images learned from", "read right", percent=True),
        f"As data grows: the same {STEPS} steps for all, on more and more different images.",
    )
    sizes = list(next(iter(found.values())))
    chapter.table(
        ["system", "parameters", "seconds", *(f"{n:,} images" for n in sizes), "95 % interval"],
        [
            [
                system.name,
                sum(p.numel() for p in system.model.build().parameters()),
                round(seconds[system.name]),
                *(f"{one.report.top1:.1%}" for one in found[system.name].values()),
                "{:.1%} to {:.1%}".format(*most[system.name].report.interval),
            ]
            for system in SYSTEMS
        ],
        "Seconds and the interval (bootstrap over the test) are of learning from all images.",
    )
    right = {name: {n: one.right for n, one in runs.items()} for name, runs in found.items()}
    chapter.heading("What convolution brings along")
    chapter.text(bias_told(CNN.name, right[CNN.name], VIT.name, right[VIT.name]))
    chapter.heading("What a teacher passes on")
    alike = [float((most[name].answers == most[CNN.name].answers).mean()) for name in (VIT.name, DEIT.name)]
    chapter.text(
        teacher_told(VIT.name, right[VIT.name], DEIT.name, right[DEIT.name])
        + f"\n\nAfter learning from all, the {DEIT.name} gives the CNN's answer, right or wrong, to {alike[1]:.1%} of "
        f"the test, and the {VIT.name} to {alike[0]:.1%}."
    )


def write_looks(chapter: Chapter, out: Path, test: Digits) -> None:
    """Where class and distillation token look, in a few unseen digits."""
    chapter.heading("Where they look")
    chapter.text(
        "The class token asks the patches; its attention in the last layer tells which. Rollout follows the attention "
        "through all layers back to the picture, half of it staying in place for the residual connections. In each map "
        "the strongest patch has the full colour; rest on a patch to see its share."
    )
    shown = [int(np.flatnonzero(test.labels == label)[0]) for label in np.unique(test.labels)][:SHOWN]
    panes: dict[str, str | bytes] = {}
    for system in (VIT, DEIT):
        classifier = load(folder(out, system, None))
        seen = [look(classifier, Image.fromarray(test.pixels[i])) for i in shown]
        said = [Line(f"{one.answers[0][0]}, {one.answers[0][1]:.0%}") for one in seen]
        rows = {"read as": [Panel(test.pixels[i], under=(line,)) for i, line in zip(shown, said, strict=True)]}
        for reader in seen[0].readers:
            rows[f"{reader},\nlast layer"] = [Panel(one.image[..., 0], one.last(reader).mean(dim=0)) for one in seen]
            rows[f"{reader},\nrollout"] = [Panel(one.image[..., 0], one.rolled(reader)) for one in seen]
        panes[system.name] = sheet(rows, f"where the {system.name} looks")
    chapter.figure(panes)


def write_answers(chapter: Chapter, found: Grid, say: Callable[[str], None]) -> None:
    """The confusion matrices, and digits that are hard or easy, with what each system says of them."""
    most = {name: runs[max(runs)] for name, runs in found.items()}
    chapter.heading("What is taken for what")
    chapter.figure(
        {name: confusion_matrix(one.classifier.classes, one.report.confusion, name) for name, one in most.items()},
        "Each row is a digit as it was meant, each column what it was read as; learned from all images.",
    )
    vit = most[VIT.name]
    sure = softmax(vit.logits.astype(float)).max(axis=1)
    unsure = [i for i in np.argsort(sure, kind="stable").tolist() if vit.right[i]][:SHOWN]
    for told, chosen in (
        (f"The {VIT.name}'s surest mistakes", vit.mistakes(SHOWN)),
        (f"Right, but the {VIT.name} was not sure", unsure),
    ):
        if chosen:
            chapter.heading(told)
            chapter.figure(sheet({"": [_answered(most, i) for i in chosen]}, told))
    for i in vit.mistakes(3):
        meant, *said = (line.text for line in _answered(most, i).under)
        say(f"  {vit.pictures.name(i)} is {meant}. {', '.join(said)}")


def _answered(most: Mapping[str, Judged], i: int) -> Panel:
    """A digit of the test, and what each system takes it for."""
    first = next(iter(most.values()))
    meant = first.classifier.classes[first.pictures.labels[i]]
    lines = [Line(f"a {meant}")]
    for name, one in most.items():
        answer = int(one.answers[i])
        share = softmax(one.logits[i : i + 1].astype(float))[0, answer]
        lines.append(Line(f"{name}: {one.classifier.classes[answer]} {share:.0%}", bool(one.right[i])))
    return Panel(np.asarray(first.pictures.decode(i, channels=1)), under=tuple(lines))
