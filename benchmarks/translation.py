"""Translation: scores every trained run of the ladder on its test sets and writes docs/results/translation.json.

    python benchmarks/translation.py --runs runs --data ../shared/data

Runs are looked for by the names that the README trains them under; those that are missing are left out, with a line.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tessella.evaluate import Evaluation, evaluate, read_test_set
from tessella.exporting.run import export_run
from tessella.predict import load
from tessella.scores import compare, moses_bleu

COMMAND = "python benchmarks/translation.py --runs runs --data DATA"
LADDER = {"de-en-seq2seq": 22.0, "de-en-additive": 34.0, "de-en": 39.0}
"""Run -> the least BLEU hoped for (test_2016_flickr, lower-cased 13a)."""
PUBLISHED = {"2016": 41.0, "2017": 33.4}
"""Moses-tokenised lower-cased BLEU of Transformer-Tiny en-de (Wu et al. 2021), by test set."""
MINUTES = 40.0


@dataclass
class Book:
    """The records so far."""

    hardware: str
    training: str
    """What the runs were trained on."""
    rows: list[dict]

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        data: str,
        split: str,
        signature: str = "",
        target: float | None = None,
        most: bool = False,
    ) -> None:
        """One record; most: the target is an upper bound."""
        met = None if target is None else (value <= target if most else value >= target)
        self.rows.append(
            {
                "topic": "translation",
                "name": name,
                "value": round(value, 2),
                "unit": unit,
                "target": target,
                "met": met,
                "command": COMMAND,
                "data": data,
                "split": split,
                "signature": signature,
                "seeds": [1],
                "hardware": self.hardware,
                "date": dt.date.today().isoformat(),
            }
        )
        print(f"{name}: {value:.2f} {unit}" + ("" if target is None else f" (target {target}: {met})"))


def present(runs: Path, names: Sequence[str]) -> Iterator[str]:
    """Those that are trained."""
    for name in names:
        if (runs / name / "manifest.json").is_file():
            yield name
        else:
            print(f"left out: {runs / name} is not there")


def ladder(book: Book, runs: Path, data: Path) -> None:
    """German to English: no attention, attention, Transformer; over all and by quartile of source length."""
    test = read_test_set(data / "multi30k/test_2016_flickr.de", data / "multi30k/test_2016_flickr.en")
    found: dict[str, Evaluation] = {}
    for name in present(runs, list(LADDER)):
        found[name] = evaluate(load(runs / name), test, name)
        for score in found[name].report.scores:
            goal = LADDER[name] if score.metric == "bleu-lc" else None
            if score.metric != "bleu-char":
                book.add(f"{name} {score.metric}, beam 5", score.value, score.metric, "multi30k", "test_2016_flickr",
                         score.signature, goal)  # fmt: skip
        for part, numbers in found[name].report.groups["source length"].items():
            book.add(f"{name} bleu-lc, sources of {part}", numbers["bleu-lc"], "bleu-lc", "multi30k",
                     "test_2016_flickr")  # fmt: skip
        trained(book, runs / name, MINUTES if name == "de-en" else None)
    if len(found) > 1:
        systems = {name: [a.text for a in e.answers] for name, e in found.items()}
        for row in compare(systems, [p.target for p in test.pairs])[1:]:
            book.add(f"{row['system']} against {next(iter(systems))}, paired bootstrap", row["p"], "p", "multi30k",
                     "test_2016_flickr", "1000 samples, bleu-lc")  # fmt: skip


def english_german(book: Book, runs: Path, data: Path) -> None:
    """English to German with the tiny Transformer, as published and as sacreBLEU."""
    for name in present(runs, ["en-de"]):
        translator = load(runs / name)
        for year, goal in PUBLISHED.items():
            split = f"test_{year}_flickr"
            test = read_test_set(data / f"multi30k/{split}.en", data / f"multi30k/{split}.de")
            answers = evaluate(translator, test, name)
            texts, references = [a.text for a in answers.answers], [p.target for p in test.pairs]
            book.add(f"{name} Moses-tokenised lower-cased BLEU {year}, beam 5", moses_bleu(texts, references, "de"),
                     "bleu", "multi30k", split, "sacremoses, normalised, lower-cased, tok:none", goal)  # fmt: skip
            for score in answers.report.scores[:2]:
                book.add(f"{name} {score.metric} {year}, beam 5", score.value, score.metric, "multi30k", split,
                         score.signature)  # fmt: skip
        trained(book, runs / name, None)


def korean_english(book: Book, runs: Path, data: Path) -> None:
    """Korean to English by domain, and on two sets from outside both."""
    for name in present(runs, ["ko-en"]):
        translator, folder = load(runs / name), data / "ko-en"
        test = read_test_set(folder / "test.ko", folder / "test.en", domain=folder / "test.domain")
        made = evaluate(translator, test, name)
        signatures = {s.metric: s.signature for s in made.report.scores}
        for domain, numbers in made.report.groups["domain"].items():
            for metric in ("bleu", "chrf"):
                goal = 15.0 if (domain, metric) == ("tatoeba", "bleu") else None
                book.add(f"{name} {metric}, {domain}, beam 5", numbers[metric], metric, "ko-en", f"test, {domain}",
                         signatures[metric], goal)  # fmt: skip
        for outside in ("news_test", "jhe_dev"):
            made = evaluate(translator, read_test_set(folder / f"{outside}.ko", folder / f"{outside}.en"), name)
            for score in made.report.scores:
                if score.metric in ("bleu", "chrf"):
                    book.add(f"{name} {score.metric}, {outside}, out of domain", score.value, score.metric, "ko-en",
                             outside, score.signature)  # fmt: skip
        trained(book, runs / name, None)


def agreement(book: Book, runs: Path, data: Path) -> None:
    """How many translations of the test set the CTranslate2 export shares with tessella, and how others differ."""
    for name in present(runs, ["de-en"]):
        from ctranslate2 import Translator as Theirs

        ours = load(runs / name)
        test = read_test_set(data / "multi30k/test_2016_flickr.de", data / "multi30k/test_2016_flickr.en")
        folder = runs / f"{name}-ct2"
        if not folder.exists():
            export_run(str(runs / name), "ctranslate2", folder)
        how = ours.decoding.replace(penalty="power", alpha=1.0)
        texts = [p.source for p in test.pairs]
        answers = ours.translate(texts, how)
        rows = ours.codec.source.encode(texts)
        names = ours.codec.source.vocabulary
        theirs = Theirs(str(folder), "cpu", inter_threads=1, intra_threads=torch.get_num_threads())
        found = theirs.translate_batch(
            [[names[i] for i in row] for row in rows], beam_size=how.beam, length_penalty=1.0, patience=8,
            max_decoding_length=120, min_decoding_length=0, return_scores=True, max_batch_size=64,
        )  # fmt: skip
        pieces = ours.codec.target.vocabulary
        same, near, worst = 0, 0, 0.0
        for answer, other in zip(answers, found, strict=True):
            if [pieces[i] for i in answer.ids] == other.hypotheses[0]:
                same += 1
            else:
                gap = abs(answer.score - other.scores[0])
                near += gap < 1e-3
                worst = max(worst, gap)
        print(f"CTranslate2: {same} of {len(answers)} the same, {near} more are near-ties, largest gap {worst:.2g}")
        book.add(f"{name} CTranslate2 export: same translations", 100 * same / len(answers), "%", "multi30k",
                 "test_2016_flickr", "beam 5, length penalty 1, patience 8")  # fmt: skip
        book.add(f"{name} CTranslate2 export: other translations whose score differs by under 0.001 (near-ties)", near,
                 "sentences", "multi30k", "test_2016_flickr")  # fmt: skip
        book.add(f"{name} CTranslate2 export: other translations, no near-ties", len(answers) - same - near,
                 "sentences", "multi30k", "test_2016_flickr")  # fmt: skip


def trained(book: Book, run: Path, most: float | None) -> None:
    """Minutes of training, as the run's own log has them, on whatever else the machine was doing."""
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    book.add(f"{run.name} training time, {last['step']:,} steps, {last['epoch']} epochs, wall clock",
             last["wall"] / 60, "minutes", run.name, "train", target=most, most=True)  # fmt: skip
    book.rows[-1]["hardware"] = book.training


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--hardware", default=f"{torch.get_num_threads()} cores AMD EPYC (Zen 4), CPU")
    parser.add_argument("--training", default="2 cores AMD EPYC (Zen 4), CPU", help="what the runs were trained on")
    parser.add_argument("--out", type=Path, default=Path("docs/results/translation.json"))
    given = parser.parse_args()
    book = Book(given.hardware, given.training, [])
    for part in (ladder, english_german, korean_english, agreement):
        part(book, given.runs, given.data)
    given.out.write_text(json.dumps(book.rows, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
