"""Matching: scores trained runs of captioned images on their test set; writes docs/results/clip-flickr8k.json.

    tessella train flickr8k --data ../shared/data/flickr8k --out runs/flickr8k
    for b in 64 512 4096; do
      tessella train flickr8k_batch --data ../shared/data/flickr8k --out runs/flickr8k-$b --set batch=$b \\
        --set loop.steps=$((120000 / b))
    done
    python benchmarks/matching.py --runs runs --data ../shared/data

Every run of the curve learns from the same number of images, in batches of another size, 64 at once in the towers.
Runs that are missing are left out, with a line, and their records stay as they are.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from pathlib import Path

from matplotlib.figure import Figure

from tessella.match_evaluate import match_scores
from tessella.match_scores import Recall
from tessella.predict import load, opened
from tessella.show import save_png

COMMAND = "python benchmarks/matching.py --runs runs --data DATA"
TARGET = 20.0
"""Percent of captions whose image should be among the first ten."""
ON_A_GPU = "Flickr8k, text to image, 30 minutes on a GPU: R@10"
BATCHES = (64, 512, 4096)
TOPS = (1, 5, 10)


def record(hardware: str, name: str, value: float, unit: str, target: float | None = None) -> dict:
    """One record; printed too."""
    told = f" (target {target:g}: {value >= target})" if target is not None else ""
    print(f"{name}: {value:,.2f} {unit}{told}")
    return {
        "topic": "clip",
        "name": name,
        "value": round(value, 2),
        "unit": unit,
        "target": target,
        "met": None if target is None else value >= target,
        "command": COMMAND,
        "data": "flickr8k",
        "split": "test, 500 images of five captions",
        "signature": "every caption is a query; equal scores count half; from scratch",
        "seeds": [1],
        "hardware": hardware,
        "date": dt.date.today().isoformat(),
    }


def scored(run: Path, data: Path) -> tuple[Recall, Recall]:
    """Text to image, and image to text."""
    found = match_scores(run.name, load(run), data / "flickr8k", "test", batch=100)
    return found.by_text, found.by_image


def best(run: Path, data: Path, hardware: str) -> list[dict]:
    """All numbers of the run that should be as good as it can."""
    rows = []
    for way, recall in zip(("text to image", "image to text"), scored(run, data), strict=True):
        for k in TOPS:
            target = TARGET if way == "text to image" and k == max(TOPS) else None
            rows.append(record(hardware, f"Flickr8k, {way}: R@{k}", 100 * recall.at(k), "%", target))
            rows.append(record(hardware, f"Flickr8k, {way}: R@{k} by chance", 100 * recall.chance(k), "%"))
        rows.append(record(hardware, f"Flickr8k, {way}: median rank of {recall.candidates}", recall.median, ""))
    seconds = [json.loads(line)["wall"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    _, recipe = opened(run)
    images = steps * getattr(recipe, "batch") / 1e3  # noqa: B009  # of a 'matching' recipe
    rows.append(record(hardware, "Flickr8k, training: images learned from", images, "thousand"))
    rows.append(record(hardware, "Flickr8k, training: one thread beside other work", max(seconds) / 60, "minutes"))
    return rows


def curve(runs: Path, data: Path, hardware: str, picture: Path) -> list[dict]:
    """Recall by the size of the batch."""
    rows, points = [], []
    for size in BATCHES:
        run = runs / f"flickr8k-{size}"
        if not there(run):
            continue
        recall, _ = scored(run, data)
        points.append((size, 100 * recall.at(10)))
        rows.append(record(hardware, f"Flickr8k, batches of {size:,}: text to image R@10", points[-1][1], "%"))
        rows.append(record(hardware, f"Flickr8k, batches of {size:,}: median rank", recall.median, ""))
    if len(points) > 1:
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot(*zip(*points, strict=True), marker="o")
        axes.set_xscale("log", base=2)
        axes.set_xticks(BATCHES, [f"{size:,}" for size in BATCHES])
        axes.set_xlabel("images a batch, the same number of images in all")
        axes.set_ylabel("text to image, R@10, %")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        save_png(figure, picture)
    return rows


def there(run: Path) -> bool:
    """Whether a run is finished."""
    found = (run / "model.safetensors").is_file()
    if not found:
        print(f"left out: {run} is not there; what was recorded of it stays")
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--hardware", default="2 cores AMD EPYC (Zen 4), CPU")
    parser.add_argument("--out", type=Path, default=Path("docs/results/clip-flickr8k.json"))
    given = parser.parse_args()
    rows = {row["name"]: row for row in (json.loads(given.out.read_text()) if given.out.is_file() else [])}
    rows.setdefault(ON_A_GPU, {**record("", ON_A_GPU, 0.0, "", 30.0), "value": "not measured: no GPU", "met": None})
    new = best(given.runs / "flickr8k", given.data, given.hardware) if there(given.runs / "flickr8k") else []
    new += curve(given.runs, given.data, given.hardware, given.out.parent / "clip-batches.png")
    rows.update({row["name"]: row for row in new})
    given.out.write_text(json.dumps(list(rows.values()), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
