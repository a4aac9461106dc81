"""RunFolder: everything a trained model needs, in one folder that says what it holds."""

from __future__ import annotations

import contextlib
import json
import math
import platform
import shutil
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from tessella import files
from tessella.checkpoints import Checkpoints, compare
from tessella.errors import InputError

MODEL = "model.safetensors"
METRICS = "metrics.jsonl"


class RunFolder:
    """A folder with ``recipe.yaml model.safetensors codec.json …``, ``manifest.json`` (SHA-256 and size of each,
    library versions, data fingerprint), ``metrics.jsonl`` and ``checkpoints/``.

    Made by ``create`` (a new run), ``resume`` (to train on) or ``open`` (to predict; every file is verified).
    """

    def __init__(self, path: str | Path, keep: int = 2) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints", keep)

    @staticmethod
    def require_vacant(path: str | Path) -> None:
        """InputError if something is there already, so that no new run can be."""
        path = Path(path)
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise InputError(f"{path} is not empty; go on with it (--resume {path}) or choose another folder")

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """A new, empty run. Errors: InputError if something is there already, or nothing can be written."""
        cls.require_vacant(path)
        run = cls(path)
        with files.explained(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        versions = {name: _version(name) for name in ("tessella", "torch", "safetensors", "tokenizers")}
        run._write_manifest({"files": {}, "versions": {**versions, "python": platform.python_version()}})
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """A finished run, for prediction. Errors: InputError naming the first file that is missing or changed."""
        run = cls(path)
        run._verify()
        if MODEL not in run.manifest["files"]:
            raise InputError(f"{run.path} holds no {MODEL} yet; train on with --resume {run.path}")
        return run

    @classmethod
    def resume(cls, path: str | Path) -> RunFolder:
        """A run to train on: leftovers of a killed process are swept away, the files verified like in ``open``."""
        run = cls(path)
        run._verify()
        files.sweep(run.path)
        files.sweep(run.checkpoints.folder)
        return run

    @property
    def manifest(self) -> dict[str, Any]:
        """``{"files": {name: {"sha256", "size"}}, "versions": {…}, …facts}``."""
        if not self.path.is_dir():
            raise InputError(f"there is no run {self.path}; give the folder that a training has written")
        if not (self.path / files.MANIFEST).is_file():
            raise InputError(f"{self.path} has no {files.MANIFEST}, so it is not a run; give a folder written by train")
        manifest = files.read_json(self.path / files.MANIFEST)
        if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("pending", {}), dict):
            raise InputError(f"{self.path}/{files.MANIFEST} lists no files; it was changed after the run was saved")
        return manifest

    def note(self, **facts: Any) -> None:
        """Adds JSON facts to the manifest: ``run.note(data=fingerprint)``."""
        assert not facts.keys() & {"files", "pending", "versions"}
        self._write_manifest({**self.manifest, **facts})

    def write(self, name: str, writer: Callable[[Path], Any], needed: int = 0) -> None:
        """Writes one file of the run, whole or not at all, and lists it in the manifest.

        ``writer`` gets a temporary path to write to (``codec.save``); ``needed`` is its size in bytes, if known.
        """
        path = self.path / name
        with files.replacing(path, needed) as temporary:
            writer(temporary)
            manifest = self.manifest
            entry = files.digest(temporary)
            # Both contents are announced before the swap: a process killed in between leaves a folder that verifies.
            self._write_manifest({**manifest, "pending": {name: entry}})
        manifest["files"] = {**manifest["files"], name: entry}
        manifest.pop("pending", None)
        self._write_manifest(manifest)

    def write_text(self, name: str, text: str) -> None:
        """Writes one text file of the run (``recipe.yaml``), whole or not at all, and lists it in the manifest."""
        self.write(name, lambda path: path.write_text(text, encoding="utf-8"), len(text.encode()))

    def read_text(self, name: str) -> str:
        """One text file of the run, e.g. ``recipe.yaml``."""
        path = self.path / name
        with files.explained(path):
            if not path.is_file():
                raise InputError(f"{path} is missing")
            if path.stat().st_size > files.JSON_LIMIT:
                raise InputError(f"{path} is longer than the {files.JSON_LIMIT} bytes that are read")
            return path.read_text(encoding="utf-8")

    def save_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replaces ``model.safetensors`` by a state dict."""
        self.write(MODEL, lambda path: files.save_tensors(path, weights), files.tensor_bytes(weights))

    def weights(self) -> dict[str, Tensor]:
        """The state dict in ``model.safetensors``, on the CPU, with every name of tied tensors."""
        return files.read_tensors(self.path / MODEL)

    def set_aside_best(self) -> None:
        """Keeps the present weights beside, before averaged ones replace them: see ``bring_back_best``."""
        if not self._best.exists() and (self.path / MODEL).exists():
            self._best.parent.mkdir(parents=True, exist_ok=True)
            with files.replacing(self._best, (self.path / MODEL).stat().st_size) as temporary:
                shutil.copyfile(self.path / MODEL, temporary)

    def bring_back_best(self) -> None:
        """Undoes the averaging, when a finished run is trained on: the best single weights count again."""
        if self._best.exists():
            self.write(MODEL, lambda path: shutil.copyfile(self._best, path))
            self._best.unlink()

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends one line to ``metrics.jsonl``; numbers that are not finite become null."""
        path = self.path / METRICS
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        with files.explained(path, 4096), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The records logged so far; a last line that was cut by a crash is left out."""
        path = self.path / METRICS
        if not path.exists():
            return []
        with files.explained(path):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        records = []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                int(record["step"])
            except (ValueError, KeyError, TypeError, RecursionError):
                if number == len(lines):
                    break
                raise InputError(f"{path}:{number} is not a record with a step; remove this line") from None
            records.append(record)
        return records

    def rewind_metrics(self, step: int) -> None:
        """Drops the records after ``step`` and those of a final average: training goes on from there."""
        kept = [r for r in self.metrics() if int(r["step"]) <= step and "averaged" not in r]
        files.write_text(self.path / METRICS, "".join(json.dumps(record) + "\n" for record in kept))

    @property
    def _best(self) -> Path:
        return self.checkpoints.folder / "best.safetensors"

    def _verify(self) -> None:
        manifest = self.manifest
        pending = manifest.get("pending", {})
        for name, wanted in manifest["files"].items():
            damage = compare(self.path, name, wanted if isinstance(wanted, dict) else {})
            if damage and not (name in pending and compare(self.path, name, pending[name]) is None):
                raise InputError(damage)
        if pending:
            self._settle(manifest)

    def _settle(self, manifest: dict[str, Any]) -> None:
        """After a crash during ``write``: lists what is really there."""
        for name, wanted in manifest.pop("pending").items():
            if compare(self.path, name, wanted) is None:
                manifest["files"][name] = wanted
        with contextlib.suppress(InputError):  # a read-only run can be used all the same
            self._write_manifest(manifest)

    def _write_manifest(self, manifest: Mapping[str, Any]) -> None:
        files.write_json(self.path / files.MANIFEST, manifest)


def _version(package: str) -> str | None:
    if package == "tessella":
        from tessella import __version__

        return __version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
