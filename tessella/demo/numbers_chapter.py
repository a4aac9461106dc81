"""Numbers chapter: pictures and words in one space, and numbers read and found by names that no picture had."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tessella.charts import bar_chart, heat_map
from tessella.data.augment import Augment
from tessella.data.pixels import Preprocess
from tessella.data.randaugment import RandAugment
from tessella.demo.digits import digit_splits
from tessella.demo.digits_drawings import Line, Panel, sheet
from tessella.demo.numbers import ALL, LANGUAGES, SIZE, Numbers, composed, files, name, unseen, write_numbers
from tessella.demo.numbers_drawings import similarity
from tessella.demo.numbers_reading import Reading, read
from tessella.demo.numbers_search import INDEX, compared, indexed, installed
from tessella.demo.numbers_words import CHANCE, mistakes_told, translated_told, unseen_told
from tessella.heads import AttentionPool, Embed
from tessella.loop import LoopSpec
from tessella.matcher import Matcher
from tessella.matching import train
from tessella.models import Encoder, Towers
from tessella.positions import Learned
from tessella.predict import load
from tessella.recipes.matching import Matching
from tessella.report import Chapter, Report
from tessella.runs import RunFolder
from tessella.schedules import Cosine
from tessella.stems.patches import Pixels
from tessella.stems.words import Words
from tessella.text import CodecSpec
from tessella.trunks.convnet import Entry, ResNet
from tessella.trunks.plain import Causal

INTRO = """Two towers, as in **CLIP**: one makes a vector of a picture, the other of a text, and they learn that what \
belongs together is close. Here a picture is two digits that people wrote by hand, side by side, and its text is the \
number in English or in Korean words, as num2words spells it: {example}. Of the {all} numbers {seen} are learned, and \
{held} are never shown, neither their pictures nor their names.

There are no classes, so nothing has to be learned for a new one: a picture is read as the number whose **name** is \
nearest. Can a number be read that was never seen, because the parts of its name were?"""

STEPS = 500
BATCH = 128
LENGTH = 12
"""Ids of a name, at most."""
PIECES = 340
"""So few that names are spelled by parts that others have, too; with many, each would be one piece."""
SHOWN = 8
"""Pictures in a row."""
TOP = 10
"""Found pictures that are counted."""


def numbers(report: Report, out: Path, say: Callable[[str], None]) -> None:
    """Trains two towers under `out` (made anew), reads and finds numbers they have not seen, and writes the chapter."""
    parts, held = composed(digit_splits()), unseen()
    shutil.rmtree(out, ignore_errors=True)
    data = write_numbers(out / "data", parts)
    say(f"\n{len(parts['train'].values):,} pictures of {ALL - len(held)} numbers to learn from, {STEPS} steps")
    began = time.monotonic()
    train(recipe(), data, out / "clip", say=lambda line: None)
    seconds = time.monotonic() - began
    matcher = load(out / "clip")
    test = files(data, "test", parts["test"])
    reading = read(matcher, test, parts["test"].values, held)
    for language in LANGUAGES:
        right = reading.right(language)
        say(f"{language}: {right[reading.new].mean():.1%} of {reading.new.sum()} pictures of unseen numbers read right")
    example = " or ".join(name(int(held[len(held) // 2]), language) for language in LANGUAGES)
    intro = INTRO.format(example=example, all=ALL, seen=ALL - len(held), held=len(held))
    chapter = report.chapter("numbers", "Numbers: read what was never shown", intro)
    write_scores(chapter, reading, parts, out / "clip", seconds)
    write_matrix(chapter, reading)
    write_pictures(chapter, reading, parts["test"], say)
    write_search(chapter, out, matcher, test, reading, parts["test"])
    labels = ",".join(name(n, "English") for n in held.tolist())
    unknown = test[int(np.flatnonzero(reading.new)[0])]
    say(f'\ntry: tessella classify {out / "clip"} {unknown} --labels "{labels}"')


def towers() -> Towers:
    """A small residual network that knows where on its raster it looks, and two blocks of a causal Transformer."""
    trunk = ResNet(dim=1, entry=Entry(width=16, size=3, stride=1, pool="none"), depths=(1, 1), widths=(32, 64))
    head = AttentionPool(dim=64, width=64, heads=4, grid=(SIZE[0] // 2, SIZE[1] // 2))
    words = Words(vocab=0, dim=64, positions=Learned(length=LENGTH, spread=0.01), scale=1.0, dropout=0.1, spread=0.02)
    causal = Causal(dim=64, depth=2, heads=4, hidden=128, dropout=0.1, activation="gelu", norm="pre")
    return Towers(
        image=Encoder(stem=Pixels(dim=1), trunk=trunk, head=head),
        text=Encoder(stem=words, trunk=causal, head=Embed(dim=64, width=64, pool="last")),
    )


def recipe() -> Matching:
    """Each picture with one of its names, the other one in the next epoch."""
    return Matching(
        image=Preprocess(size=SIZE, channels=1, mean=(0.16,), std=(0.31,), crop=1.0),
        augment=Augment(crop="pad", padding=1, randaugment=RandAugment(number=1, magnitude=4)),
        codec=CodecSpec(size=PIECES),
        length=LENGTH,
        model=towers(),
        schedule=Cosine(peak=3e-3, warmup=STEPS // 10),
        loop=LoopSpec(
            steps=STEPS, metric="recall@10", validate_every=STEPS, checkpoint_every=STEPS, checkpoint_minutes=None,
            log_every=20, keep=1, precision="32",
        ),
        batch=BATCH,
    )  # fmt: skip


def write_scores(chapter: Chapter, reading: Reading, parts: dict[str, Numbers], run: Path, seconds: float) -> None:
    """Numbers, a table with chance beside them, unseen numbers by group, and what that says."""
    new, held = reading.new, reading.held
    chapter.numbers(
        {f"unseen numbers, {language}": f"{reading.right(language)[new].mean():.0%}" for language in LANGUAGES}
        | {f"learned numbers, {language}": f"{reading.right(language)[~new].mean():.0%}" for language in LANGUAGES}
    )
    weights = sum(tensor.numel() for tensor in RunFolder(run).weights().values())
    chapter.text(
        f"Share of pictures read right among all {ALL} names; by chance it would be {CHANCE:.0%}. The test has "
        f"{new.sum():,} pictures of the {len(held)} unseen numbers and {(~new).sum():,} of the others, all of digits "
        f"that no training picture has. {weights:,} weights learned from {len(parts['train'].values):,} pictures in "
        f"{STEPS} steps, {seconds:.0f} seconds."
    )
    rows = []
    for language in LANGUAGES:
        right, among = reading.right(language), reading.right(language, held)
        rows.append([language, *(f"{one.mean():.1%}" for one in (right[~new], right[new], among[new]))])
    rows.append(["chance", f"{CHANCE:.1%}", f"{CHANCE:.1%}", f"{1 / len(held):.1%}"])
    chapter.table(
        ["names in", f"learned numbers, among {ALL}", f"unseen, among {ALL}", f"unseen, among the {len(held)}"], rows
    )
    groups = {language: reading.groups(language) for language in LANGUAGES}
    kinds = [kind for kind, right in groups["English"].items() if len(right)]
    chapter.heading("Which of the unseen")
    chapter.text(
        "From 20 on, names are put together from parts that come again in others. English names from 10 to 19 have "
        "forms of their own, and below 10 the nought in front is not spoken."
    )
    chapter.figure(
        bar_chart(
            kinds,
            {language: [float(found[kind].mean()) for kind in kinds] for language, found in groups.items()},
            "unseen numbers",
            f"read right among {ALL}",
            counts=[len(groups["English"][kind]) for kind in kinds],
            percent=True,
        )
    )
    chapter.text(f"{unseen_told(reading)}\n\n{mistakes_told(reading)}")
    chapter.heading("Two languages that met in pictures only")
    chapter.text(translated_told(reading))


def write_matrix(chapter: Chapter, reading: Reading) -> None:
    """How near pictures and names are: the unseen numbers among themselves, and all numbers."""
    chapter.heading("How near pictures and names are")
    held, label = reading.held, "how near pictures of numbers are to names"
    digits = [f"{n:02}" for n in held.tolist()]
    panes: dict[str, str | bytes] = {}
    for language in LANGUAGES:
        near, names = reading.together(language), [name(n, language) for n in range(ALL)]
        panes[f"all {ALL}, {language}"] = similarity(near, names, held.tolist(), label)
        some = near[np.ix_(held, held)].tolist()
        panes[f"unseen {len(held)}, {language}"] = heat_map(digits, [names[n] for n in held.tolist()], some, label)
    order = sorted(panes, key=lambda told: told.startswith("unseen"))
    chapter.figure(
        {told: panes[told] for told in order},
        "The mean cosine of the test's pictures of a number (row) with a name (column); the more colour, the nearer. "
        "Frames are round numbers that were never shown. A square along the diagonal has one first digit, a slanting "
        "line one second digit.",
    )


def write_pictures(chapter: Chapter, reading: Reading, test: Numbers, say: Callable[[str], None]) -> None:
    """Unseen numbers and what they are read as: one picture of each, and the surest mistakes."""
    some = [int(np.flatnonzero(test.values == n)[0]) for n in reading.held.tolist()]
    wrong = reading.new & ~np.all([reading.right(language) for language in LANGUAGES], axis=0)
    sure = np.mean([reading.sure(language) for language in LANGUAGES], axis=0)
    mistakes: dict[int, int] = {}
    for i in np.argsort(-sure, kind="stable").tolist():
        if wrong[i]:
            mistakes.setdefault(int(test.values[i]), i)
    surest = list(mistakes.values())[:SHOWN]
    for told, chosen in (("One picture of each unseen number", some), ("The surest mistakes, one a number", surest)):
        if chosen:
            chapter.heading(told)
            panels = [_read(reading, test, i) for i in chosen]
            rows = {" " * n: panels[n : n + SHOWN] for n in range(0, len(panels), SHOWN)}  # blank names are not shown
            chapter.figure(sheet(rows, told))
    for i in some[:: max(1, len(some) // 5)]:
        number, *lines = _read(reading, test, i).under
        told = ", ".join(f"{'✓' if line.right else '✗'} {line.text}" for line in lines)
        say(f"  {number.text}: {told}")


def _read(reading: Reading, test: Numbers, i: int) -> Panel:
    """A picture of the test, the number it shows, and the nearest name in each language."""
    lines = [Line(f"{test.values[i]:02}")]
    for language in LANGUAGES:
        answer = int(reading.answers(language)[i])
        lines.append(Line(name(answer, language), answer == test.values[i]))
    return Panel(test.pixels[i], under=tuple(lines))


def write_search(
    chapter: Chapter, out: Path, matcher: Matcher, pictures: list[Path], reading: Reading, test: Numbers
) -> None:
    """The test's pictures in an index, asked for numbers that were never learned."""
    folder = out / "data" / "test"
    find = indexed(out / INDEX, folder, pictures, matcher, out / "clip") if installed() else compared(reading.pictures)
    chapter.heading("Search")
    command = f'tessella search {out / INDEX} "{name(int(reading.held[-1]), "English")}"'
    how = (
        f"an index of them (LanceDB) finds the nearest; try `{command}`."
        if installed()
        else "the nearest are found by comparing all, as LanceDB is not installed (`pip install 'tessella[search]'`)."
    )
    share = {
        language: np.mean(
            [test.values[find(reading.words[language][n], TOP).places] == n for n in reading.held.tolist()]
        )
        for language in LANGUAGES
    }
    count = np.mean([(test.values == n).sum() for n in reading.held]) / len(test.values)
    told = " and ".join(f"{one:.0%} for names in {language}" for language, one in share.items())
    chapter.text(
        f"The same vectors serve the other way round: a name is asked, and {len(test.values):,} pictures answer; {how} "
        f"Of the first {TOP} pictures for each of the {len(reading.held)} unseen numbers, {told} show it; of all "
        f"pictures, {count:.1%} do."
    )
    rows = {}
    for number, language in _queries(reading.held):
        found = find(reading.words[language][number], SHOWN)
        told = f"{name(number, language)}\n({number:02})"
        rows[told] = [
            Panel(test.pixels[i], under=(Line(f"{test.values[i]:02}  {cosine:.2f}", bool(test.values[i] == number)),))
            for i, cosine in zip(*found, strict=True)
        ]
    chapter.figure(
        sheet(rows, "what names find"),
        "The nearest pictures to names that were never learned, with the number they show and their cosine.",
    )


def _queries(held: np.ndarray) -> list[tuple[int, str]]:
    """Two unseen numbers of two parts, one in each language, and one from 10 to 19."""
    later = held[held >= 20]
    first, second = LANGUAGES
    return [(int(later[0]), first), (int(later[len(later) // 2]), second), (int(held[held >= 10][0]), first)]
