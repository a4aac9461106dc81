"""Checkpoints: the moments of a training run from which it can go on exactly."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tessella import files
from tessella.errors import InputError

FORMAT = 1


@dataclass
class Checkpoint:
    """One moment: after ``step`` optimizer steps."""

    step: int
    model: dict[str, Tensor]
    """The model's state dict, fp32."""
    optimizer: dict[str, Tensor]
    """``name/exp_avg``-like tensors of the optimizer and ``ema/name`` ones, if there are any."""
    state: dict[str, Any] = field(default_factory=dict)
    """Everything else, as JSON data."""


@dataclass
class Checkpoints:
    """The folder of a run's checkpoints, and of the weights kept for averaging.

    Each checkpoint is a folder ``step-XXXXXXXX`` that appears complete or not at all; ``weights-XXXXXXXX.safetensors``
    are weights only. The newest ``keep`` checkpoints stay, and every weights file that one of them lists in
    ``state["candidates"]`` (rows that begin with the step).
    """

    folder: Path
    keep: int = 2

    def steps(self) -> list[int]:
        """The steps of the checkpoints there are, damaged ones included, ascending."""
        found = (re.fullmatch(r"step-(\d{8,})", p.name) for p in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes a checkpoint and then drops the ones no longer needed.

        Errors: InputError when the disk is full or the folder read-only; earlier checkpoints are intact then.
        """
        path = self._path(checkpoint.step)
        needed = files.tensor_bytes(checkpoint.model) + files.tensor_bytes(checkpoint.optimizer)
        with files.explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        files.require_space(self.folder, needed)
        with files.new_folder(path, needed) as temporary:
            files.save_tensors(temporary / "model.safetensors", checkpoint.model)
            files.save_tensors(temporary / "optimizer.safetensors", checkpoint.optimizer)
            state = {"format": FORMAT, "step": checkpoint.step, **checkpoint.state}
            files.write_json(temporary / "state.json", state)
        self._prune()
        return path

    def load(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is whole; None if there has never been one.

        Each damaged one is passed over with one line through ``say``. Errors: InputError if all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._read(step)
            except InputError as error:
                say(f"checkpoint {step} is damaged and passed over: {error}")
        if steps:
            raise InputError(f"{self.folder}: none of the checkpoints {steps} is whole; train again in a new folder")
        return None

    def drop_after(self, step: int) -> None:
        """Removes later checkpoints (damaged ones, once an earlier one was chosen) and half-written leftovers."""
        files.sweep(self.folder)
        for late in self.steps():
            if late > step:
                shutil.rmtree(self._path(late))

    def save_weights(self, step: int, weights: Mapping[str, Tensor]) -> str:
        """Keeps weights for averaging. Out: the SHA-256 of their file."""
        with files.explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(self._weights(step), files.tensor_bytes(weights)) as temporary:
            files.save_tensors(temporary, weights)
        return files.digest(self._weights(step))["sha256"]

    def read_weights(self, step: int, sha256: str) -> dict[str, Tensor]:
        """Weights kept for averaging. Errors: InputError if they are missing or not those with this SHA-256."""
        path = self._weights(step)
        tensors = files.read_tensors(path)
        if files.digest(path)["sha256"] != sha256:
            raise InputError(f"{path} was changed after it was saved")
        return tensors

    def _read(self, step: int) -> Checkpoint:
        path = self._path(step)
        damage = find_damage(path, ("model.safetensors", "optimizer.safetensors", "state.json"))
        if damage:
            raise InputError(damage)
        state = files.read_json(path / "state.json")
        if state.pop("format", None) != FORMAT or state.pop("step", None) != step:
            raise InputError(f"{path}/state.json is not of format {FORMAT} and step {step}")
        model = files.read_tensors(path / "model.safetensors")
        return Checkpoint(step, model, files.read_tensors(path / "optimizer.safetensors"), state)

    def _prune(self) -> None:
        steps = self.steps()
        for old in steps[: -self.keep]:
            shutil.rmtree(self._path(old), ignore_errors=True)
        needed = set()
        for step in steps[-self.keep :]:
            with contextlib.suppress(InputError):  # a damaged one needs nothing
                rows = files.read_json(self._path(step) / "state.json").get("candidates", [])
                needed |= {self._weights(int(row[0])) for row in rows}
        for weights in self.folder.glob("weights-*.safetensors"):
            if weights not in needed:
                weights.unlink()

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _weights(self, step: int) -> Path:
        return self.folder / f"weights-{step:08d}.safetensors"


def find_damage(folder: Path, required: tuple[str, ...]) -> str | None:
    """What is wrong with a folder that carries a manifest, in one line; None if every file is as it was written.

    ``required`` are names that the manifest has to list.
    """
    try:
        listed = files.read_json(folder / files.MANIFEST).get("files")
    except InputError as error:
        return str(error)
    if not isinstance(listed, dict):
        return f"{folder}/{files.MANIFEST} lists no files"
    for name in required:
        if name not in listed:
            return f"{folder}/{files.MANIFEST} does not list {name}"
    for name, wanted in listed.items():
        damage = compare(folder, name, wanted if isinstance(wanted, dict) else {})
        if damage:
            return damage
    return None


def compare(folder: Path, name: str, wanted: Mapping[str, Any]) -> str | None:
    """What is wrong with one listed file, in one line; None if size and SHA-256 are those of the manifest."""
    path = folder / name
    if name != Path(name).name or name in ("", ".", ".."):
        return f"{folder}/{files.MANIFEST} lists {name!r}, which is not the name of a file of this folder"
    if not path.is_file():
        return f"{path} is missing"
    with files.explained(path):
        size = path.stat().st_size
        if size != wanted.get("size"):
            return f"{path} was changed after the run was saved ({size} bytes, expected {wanted.get('size')})"
        sha = files.digest(path)["sha256"]
    if sha != wanted.get("sha256"):
        expected = str(wanted.get("sha256"))[:12]
        return f"{path} was changed after the run was saved (sha256 {sha[:12]}…, expected {expected}…)"
    return None
