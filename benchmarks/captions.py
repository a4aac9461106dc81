"""Captions: scores the captioner of Flickr8k on its test set; writes docs/results/captions.json and captions.md.

    tessella train flickr8k_captions --data ../shared/data/flickr8k --out runs/flickr8k-captions --threads 1
    python benchmarks/captions.py --runs runs --data ../shared/data

Beside the captioner stand what people score against each other (the first caption of every image against the other
four), and the captioner's captions each given to another image, which shows what of a score is owed to the image.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from tessella.caption_evaluate import Told, caption_run
from tessella.caption_scores import CaptionScores, caption_scores
from tessella.predict import load
from tessella.runs import RunFolder

COMMAND = "python benchmarks/captions.py --runs runs --data DATA"
RUN = "flickr8k-captions"
BLEU, MINUTES = 12.0, 90.0
"""What was hoped for: at least, and at most."""
SHIFTS = (1, 7, 50, 111, 250)
"""By how many images captions are moved where they are given to others."""
SHOWN = 10
"""Captions in the table: of the best, of the worst, and of those in between."""


def record(hardware: str, name: str, value: float, unit: str, signature: str | None, met: bool | None = None) -> dict:
    """One record; printed too."""
    target = {None: None, "minutes": f"<= {MINUTES:g}"}.get(unit if met is not None else None, f">= {BLEU:g}")
    print(f"{name}: {value:,.3f} {unit}{f' (target {target}: {met})' if met is not None else ''}")
    return {
        "topic": "fusion",
        "name": f"captions of Flickr8k, {name}",
        "value": round(value, 3),
        "unit": unit,
        "target": target,
        "met": met,
        "command": COMMAND,
        "data": "flickr8k",
        "split": "test, 500 images of five captions",
        "signature": signature,
        "seeds": [1],
        "hardware": hardware,
        "date": dt.date.today().isoformat(),
    }


def records(hardware: str, told: dict[str, Told], minutes: float) -> list[dict]:
    """All of them."""
    usual = told["beam 5"]
    references = usual.data.captions
    signatures = {score.metric: score.signature for score in usual.scores.scores}
    made = []

    def add(name: str, value: float, unit: str, signature: str | None, met: bool | None = None) -> None:
        made.append(record(hardware, name, value, unit, signature, met))

    def three(name: str, scores: CaptionScores, met: bool | None = None) -> None:
        add(f"{name}: BLEU-4", scores.value("bleu-4"), "", signatures["bleu-4"], met)
        add(f"{name}: chrF", scores.value("chrf"), "", signatures["chrf"])
        add(f"{name}: CIDEr", scores.value("cider"), "", signatures["cider"])

    three("beam 5", usual.scores, usual.scores.value("bleu-4") >= BLEU)
    three("greedy", told["greedy"].scores)
    three("people, the first against the other four", people(references))
    for metric, value in moved([one.text for one in usual.captions], references).items():
        add(f"captions of other images: {metric}", value, "", signatures[metric])
    for name, one in told.items():
        add(f"{name}: captions that say something twice in a row", one.scores.degenerate, "%", None)
    add("beam 5: different captions", usual.scores.distinct, "of 500", None)
    add("training", minutes, "minutes", "one thread, validation included", minutes <= MINUTES)
    return made


def people(references: Sequence[Sequence[str]]) -> CaptionScores:
    """One person's captions, as if a captioner had written them."""
    return caption_scores([several[0] for several in references], [several[1:] for several in references])


def moved(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU-4 and CIDEr, where every image has the caption of another one; the mean over `SHIFTS`."""
    found = [caption_scores([*captions[n:], *captions[:n]], references) for n in SHIFTS]
    return {name: sum(one.value(name) for one in found) / len(found) for name in ("bleu-4", "cider")}


def names(data: Path) -> list[str]:
    """What the images of the test set are called, in the order of its rows."""
    return [image["path"] for image in pq.read_table(data / "flickr8k" / "test.parquet")["image"].to_pylist()]


def table(told: Told, files: Sequence[str]) -> str:
    """Good captions and bad ones, as Markdown."""
    order = sorted(range(len(told.captions)), key=lambda number: (-told.each[number], number))
    step = len(order) // (SHOWN + 1)
    parts = {
        "The best by CIDEr": order[:SHOWN],
        "Evenly spread over all, from good to bad": order[step : step * SHOWN + 1 : step],
        "Among the worst by CIDEr": order[-SHOWN:],
    }
    s = told.scores
    lines = [
        "# Captions of Flickr8k's test images",
        "",
        f"Written by `{COMMAND}`. Over all 500: {s.distinct} different captions, BLEU-4 {s.value('bleu-4'):.2f}, "
        f"CIDEr {s.value('cider'):.3f}. The scores below are of single captions against all five that people wrote.",
    ]
    for title, numbers in parts.items():
        lines += ["", f"## {title}", "", "| image | caption | CIDEr | BLEU |"]
        lines += ["| --- | --- | ---: | ---: |"]
        for number in numbers:
            one = told.example(number)
            file = files[told.data.pictures.place(number)[1] - 1]
            lines.append(f"| `{file}` | {one.caption} | {one.cider:.2f} | {one.bleu:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--hardware", default="2 cores AMD EPYC (Zen 4), CPU")
    given = parser.parse_args()
    captioner = load(given.runs / RUN)
    usual = captioner.decoding.replace(beam=5)
    ways = {
        "beam 5": usual,
        "beam 5 without the guard against repeats": usual.replace(no_repeat=0),
        "greedy": usual.replace(beam=1),
        "greedy without the guard against repeats": usual.replace(beam=1, no_repeat=0),
    }
    told = {name: caption_run(RUN, captioner, given.data / "flickr8k", "test", how=how) for name, how in ways.items()}
    minutes = max(line["wall"] for line in RunFolder(given.runs / RUN).metrics()) / 60
    made = records(given.hardware, told, minutes)
    (given.out / "captions.json").write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n")
    (given.out / "captions.md").write_text(table(told["beam 5"], names(given.data)))


if __name__ == "__main__":
    main()
