"""Emoji: pictures found by words of two languages that were never said of them; writes docs/results/clip-emoji.json.

    python benchmarks/emoji.py --data ../shared/data --runs runs

Of every emoji with a name in English and in Korean, half have only their English name in training, half only their
Korean one; of its other keywords, in each language 70 % are in training, 10 % in validation, 20 % in the test. Asked is
for an emoji by a keyword of the test, or by its name in the language that training did not have, among all 1,883.
Emoji that training did show with the same text are no candidates, and an answer is right if the text belongs to it.

Beside the towers stand two ways to search the training texts alone: TF-IDF of words, and of their characters (two to
four in a row). Equal scores count half.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from sklearn.feature_extraction.text import TfidfVectorizer

from tessella.matcher import Matcher
from tessella.predict import load
from tessella.tasks import train

LANGUAGES = {"en": "an English", "ko": "a Korean"}
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
SEED = 1
COMMAND = "python benchmarks/emoji.py"
TOP = 10
WORDS, CHARACTERS = "TF-IDF of words", "TF-IDF of characters"


@dataclass
class Emoji:
    """One picture, and the texts of each part."""

    image: dict
    texts: dict[str, list[str]]
    """"train", "val", and of the test "en keyword", "ko keyword", "en name", "ko name"."""


def divided(rows: list[dict]) -> list[Emoji]:
    """Who is told what, by the seed."""
    rng = np.random.default_rng(SEED)
    found = []
    for row in rows:
        names = {language: row[f"annotation_{language}"] for language in LANGUAGES}
        if not all(names.values()):
            continue
        texts: dict[str, list[str]] = defaultdict(list)
        told = "en" if rng.random() < 0.5 else "ko"
        untold = "ko" if told == "en" else "en"
        texts["train"].append(names[told])
        texts[f"{untold} name"].append(names[untold])
        for language in LANGUAGES:
            tags = sorted(set(row[f"tags_{language}"] or []) - set(names.values()))
            order = rng.permutation(len(tags))
            held, kept = round(SHARES["test"] * len(tags)), round((SHARES["test"] + SHARES["val"]) * len(tags))
            texts[f"{language} keyword"] += [tags[i] for i in order[:held]]
            texts["val"] += [tags[i] for i in order[held:kept]]
            texts["train"] += [tags[i] for i in order[kept:]]
        found.append(Emoji(row["image"], dict(texts)))
    return found


def written(emoji: list[Emoji], folder: Path) -> Path:
    """The tables that training reads: each picture with its texts."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        rows = [{"image": one.image, "captions": one.texts[split]} for one in emoji if one.texts.get(split)]
        pa.parquet.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


def asked(emoji: list[Emoji], kind: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Different texts of a kind of question; bool q n: which emoji are right, and which are no candidates."""
    owners: dict[str, list[int]] = defaultdict(list)
    shown: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(emoji):
        for text in one.texts.get(kind, []):
            owners[text].append(number)
        for text in one.texts["train"]:
            shown[text].append(number)
    texts = sorted(owners)
    right, left_out = (np.zeros((len(texts), len(emoji)), bool) for _ in range(2))
    for row, text in enumerate(texts):
        right[row, owners[text]] = True
        left_out[row, shown[text]] = True
    return texts, right, left_out & ~right


def recall(scores: np.ndarray, right: np.ndarray, left_out: np.ndarray) -> float:
    """The share of questions with a right one among the first ten; wrong ones of the same score stand half before."""
    scores = np.where(left_out, -np.inf, scores)
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    ranks = 1 + ((scores > best) & ~right).sum(axis=1) + ((scores == best) & ~right & ~left_out).sum(axis=1) / 2
    return float((ranks <= TOP).mean())


def searched(emoji: list[Emoji], texts: list[str], analyzer: str) -> np.ndarray:
    """TF-IDF cosines q n of texts with all that training says of each emoji."""
    words = {"ngram_range": (1, 1), "token_pattern": r"\S+"} if analyzer == "word" else {"ngram_range": (2, 4)}
    vectors = TfidfVectorizer(analyzer=analyzer, sublinear_tf=True, **words)
    documents = vectors.fit_transform([" ".join(one.texts["train"]) for one in emoji])
    return (vectors.transform(texts) @ documents.T).toarray()


def seen(matcher: Matcher, emoji: list[Emoji]) -> np.ndarray:
    """n e."""
    return np.stack([np.asarray(vector) for vector in matcher.images([one.image["bytes"] for one in emoji])])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--hardware", default="2 cores AMD EPYC (Zen 4), CPU")
    parser.add_argument("--out", type=Path, default=Path("docs/results/clip-emoji.json"))
    given = parser.parse_args()
    emoji = divided(pa.parquet.read_table(given.data / "openmoji" / "openmoji.parquet").to_pylist())
    tables, run = written(emoji, given.runs / "emoji-data"), given.runs / "emoji"
    if not (run / "model.safetensors").is_file():
        train("openmoji", tables, run, [], print)
    matcher = load(run)
    images, rows = seen(matcher, emoji), []
    for language, told in LANGUAGES.items():
        for kind in ("keyword", "name"):
            texts, right, left_out = asked(emoji, f"{language} {kind}")
            ways = {"two towers": matcher.texts(texts) @ images.T}
            ways |= {WORDS: searched(emoji, texts, "word"), CHARACTERS: searched(emoji, texts, "char_wb")}
            ways["chance"] = np.zeros_like(ways[WORDS])
            ways["chance"][:] = np.random.default_rng(SEED).random(right.shape)
            for way, scores in ways.items():
                rows.append(
                    {
                        "topic": "clip",
                        "name": f"emoji by {told} {kind} never said of it, {way}: R@{TOP}",
                        "value": round(100 * recall(scores, right, left_out), 2),
                        "unit": "%",
                        "target": None,
                        "met": None,
                        "command": COMMAND,
                        "data": "openmoji",
                        "split": f"{len(texts):,} texts, {len(emoji):,} emoji",
                        "signature": "text to image, emoji that training shows with the text left out",
                        "seeds": [SEED],
                        "hardware": given.hardware,
                        "date": dt.date.today().isoformat(),
                    }
                )
                print(f"{rows[-1]['name']}: {rows[-1]['value']}")
    given.out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
