"""Sounds: spoken digits of a speaker who was never heard; writes docs/results/sounds.json.

    python benchmarks/sounds.py --data ../shared/data/spoken-digits [--seeds 1 2 3] [--speakers theo ...] [--runs runs]

Each speaker of the Free Spoken Digit Dataset is left out once: a model learns from all recordings of the others (a
tenth of them for validation) by the recipe `sounds`, as `tessella train sounds` does, and is judged once, at the end of
the training, on all 500 recordings of the one left out. A training that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tessella.data.quarantine import Quarantine
from tessella.data.records import read_records
from tessella.fuser import Fuser
from tessella.fusing import train
from tessella.predict import load
from tessella.recipes.fusing import Fusion
from tessella.recipes.named import recipe as recipe_named

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
COMMAND = "python benchmarks/sounds.py --data ../shared/data/spoken-digits"


def write_tables(data: Path, speaker: str, folder: Path) -> None:
    """train.parquet of all others' recordings, test.parquet of the speaker's."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.concat_tables([pq.read_table(data / f"{split}.parquet") for split in ("train", "test")])
    own = np.asarray(table["speaker"].to_pylist()) == speaker
    for name, rows in (("train", ~own), ("test", own)):
        pq.write_table(table.filter(pa.array(rows)).select(["audio", "label"]), folder / f"{name}.parquet")


def measured(speaker: str, seed: int, given: argparse.Namespace) -> float:
    """Percent right of the speaker's digits, by a model that never heard him."""
    folder, out = given.runs / f"sounds-without-{speaker}", given.runs / f"sounds-without-{speaker}-{seed}"
    write_tables(given.data, speaker, folder)
    recipe = recipe_named(given.recipe, [*given.set, f"loop.seed={seed}"])
    assert isinstance(recipe, Fusion)
    begun = time.process_time()
    train(recipe, folder / "train.parquet", out, resume=out.exists(), say=given.say)  # one that is at its end stays so
    print(f"{out}: {(time.process_time() - begun) / 60:.1f} processor minutes", flush=True)
    fuser = load(out)
    assert isinstance(fuser, Fuser)
    quarantine = Quarantine()
    records = read_records([folder / "test.parquet"], fuser.schema, quarantine)
    answers = [int(answer.argmax()) for answer in fuser.answers(records)]
    assert len(answers) == 500 and not len(quarantine)
    right = 100 * float((np.asarray(answers) == np.asarray(records.labels)).mean())
    print(f"{speaker}, seed {seed}: {right:.1f} %", flush=True)
    return right


def record(name: str, values: list[float], signature: str, split: str, given: argparse.Namespace) -> dict:
    """A number of the table."""
    return {
        "topic": "fusion",
        "name": name,
        "value": round(float(np.mean(values)), 1),
        "unit": "%",
        "target": ">= 90",
        "met": bool(np.mean(values) >= 90),
        "command": f"{COMMAND} --speakers {' '.join(given.speakers)} --seeds {' '.join(map(str, given.seeds))}",
        "data": "Free Spoken Digit Dataset",
        "split": split,
        "signature": signature,
        "seeds": given.seeds,
        "hardware": given.hardware,
        "date": dt.date.today().isoformat(),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--recipe", default="sounds")
    parser.add_argument("--set", nargs="*", default=[], help="changes of the recipe, such as loop.epochs=5")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--speakers", nargs="+", choices=SPEAKERS, default=list(SPEAKERS))
    parser.add_argument("--hardware", default="1 core AMD EPYC (Zen 4), CPU")
    parser.add_argument("--out", type=Path, default=Path("docs/results/sounds.json"))
    given = parser.parse_args()
    given.say = print
    found: dict[str, list[float]] = {speaker: [] for speaker in given.speakers}
    for seed in given.seeds:
        for speaker in given.speakers:
            found[speaker].append(measured(speaker, seed, given))
    six = len(found) == len(SPEAKERS)
    by_seed = np.mean(list(found.values()), axis=0).tolist()
    rows = [
        record(
            f"spoken digits alone, unseen speaker, mean over {'all six' if six else ' and '.join(found)}",
            by_seed,
            told(by_seed),
            f"all 500 recordings of each of {len(found)} speakers, left out of the training in turn",
            given,
        )
    ]
    rows = rows if len(found) > 1 else []  # the mean of one is what follows
    for speaker, values in found.items():
        split = f"all 500 recordings of {speaker}, the other five in the training"
        rows.append(record(f"spoken digits alone, {speaker} unseen", values, told(values), split, given))
    given.out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    for row in rows:
        print(f"{row['name']}: {row['value']} % ({row['signature']})")


def told(values: list[float]) -> str:
    """How many seeds a number is of, and how far they lie apart."""
    if len(values) < 2:
        return "one seed only"
    return f"mean of {len(values)} seeds, deviation {np.std(values, ddof=1):.1f}"


if __name__ == "__main__":
    main()
