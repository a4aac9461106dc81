"""Fused: trainings of fusion on tables that are decoded once, what they answer with streams left out, and records."""

from __future__ import annotations

import datetime as dt
import json
import re
import statistics
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tessella import fusing
from tessella.data.quarantine import Quarantine
from tessella.data.record_batches import Prepared, in_order, prepared
from tessella.data.records import read_records
from tessella.fuser import Fuser
from tessella.predict import load
from tessella.processes import launch, seed_all
from tessella.recipes.fusing import Fusion
from tessella.sitting import Sitting


class Trained(NamedTuple):
    """A run and what its training took."""

    path: Path
    seconds: float
    """Of the processor, from the first step to the last; 0 if the run was there already."""


class Course:
    """Trainings on one folder of tables, whose files are decoded once for all that prepare them alike."""

    def __init__(self, data: Path):
        self.data = data
        self._held: dict[str, Any] = {}

    def train(self, recipe: Fusion, out: Path) -> Trained:
        """What ``tessella train`` does with the recipe and the folder, unless the run is there."""
        told = out / "seconds.json"
        if (out / "model.safetensors").is_file() and told.is_file():
            return Trained(out, json.loads(told.read_text()))
        sitting = Sitting(launch(recipe.loop), out, False, lambda line: None)
        rows, codec, quarantine = self._rows(recipe)
        recipe = fusing.filled(recipe, rows, codec)
        preparation = fusing.preparation_of(recipe, codec)
        key = repr(preparation)
        if key not in self._held:
            self._held[key] = [prepared(records, preparation, quarantine) for records in rows[1:]]
        training, validation = self._held[key]
        seed_all(recipe.loop.seed, 0)
        assert recipe.model is not None
        lesson = fusing.lesson_of(recipe, recipe.model.build(), training, validation)
        start = partial(fusing.begun_run, recipe=recipe, rows=rows, codec=codec, quarantine=quarantine, data=self.data)
        began = time.process_time()
        sitting.learned(lesson, recipe, len(training), start)
        seconds = time.process_time() - began
        told.write_text(json.dumps(seconds))
        return Trained(out, seconds)

    def _rows(self, recipe: Fusion) -> Any:
        key = repr((recipe.data, recipe.codec))
        if key not in self._held:
            quarantine = Quarantine()
            rows = fusing.read_rows(recipe, self.data, quarantine)
            self._held[key] = rows, fusing.codec_of(recipe, rows, None), quarantine
        return self._held[key]

    def test(self, fuser: Fuser) -> Prepared:
        """The test rows, as the run reads them."""
        key = "test " + repr(fuser.preparation)
        if key not in self._held:
            records = read_records([self.data / "test.parquet"], fuser.schema, Quarantine())
            self._held[key] = prepared(records, fuser.preparation)
        return self._held[key]

    def answers(self, run: Path, without: Collection[str] = ()) -> tuple[Tensor, Tensor]:
        """Logits n k and labels n of the test rows, with streams left out."""
        fuser = load(run)
        rows = self.test(fuser)
        batches = [(fuser.logits(batch["source"], without), batch["label"]) for batch in in_order(rows, 250)]
        return torch.cat([logits for logits, _ in batches]), torch.cat([label for _, label in batches])


def right(logits: Tensor, labels: Tensor) -> float:
    """Percent."""
    return 100 * float((logits.argmax(dim=1) == labels).float().mean())


def hardware() -> str:
    """Such as ``1 core AMD EPYC, torch 2.13.0 CPU``."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return f"1 core {found[1].strip() if found else ''}, torch {torch.__version__.split('+')[0]} CPU"


def mean(values: Sequence[float]) -> str:
    """Such as ``81.2 ± 0.4``: mean and standard deviation over seeds."""
    apart = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.2f} ± {apart:.2f}"


class Writer:
    """Records of one file of docs/results."""

    def __init__(self, command: str, data: str, split: str, hardware: str, seeds: Sequence[int]):
        self.same = {
            "topic": "fusion",
            "command": command,
            "data": data,
            "split": split,
            "seeds": list(seeds),
            "hardware": hardware,
            "date": dt.date.today().isoformat(),
        }
        self.rows: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        value: float | str,
        unit: str,
        target: str | None = None,
        met: bool | None = None,
        signature: str | None = None,
    ) -> None:
        """One number, printed as well."""
        aim = "" if target is None else f" (target {target}: {'yes' if met else 'NO'})"
        print(f"{name}: {value} {unit}{aim}", flush=True)
        self.rows.append(
            {**self.same, "name": name, "value": value, "unit": unit, "target": target, "met": met}
            | ({"signature": signature} if signature else {})
        )

    def save(self, path: Path) -> None:
        """The file."""
        path.write_text(json.dumps(self.rows, indent=1, ensure_ascii=False) + "\n")
