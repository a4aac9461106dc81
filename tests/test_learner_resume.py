"""Resumed training: bit for bit what it would have been, whatever stopped it; several processes are one."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import learner_toy as toy
import pytest
import torch

from tessella.errors import InputError
from tessella.processes import Interrupted
from tessella.runs import RunFolder

TESTS = Path(__file__).parent
FULL = {"steps": 40, "ema": 0.8, "accumulate": 2, "average": 3, "checkpoint_every": 5, "validate_every": 7}


def outcome(folder: Path) -> tuple[list[dict], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Records without their times, saved weights, and all tensors of the last checkpoint."""
    run = RunFolder.open(folder)
    found = run.checkpoints.load(pytest.fail)
    assert found
    metrics = [{k: v for k, v in r.items() if k not in ("wall", "items_per_second")} for r in run.metrics()]
    return metrics, run.weights(), {**found.model, **found.optimizer}


def assert_same(one: Path, other: Path) -> None:
    (metrics, *tensors), (others, *other_tensors) = outcome(one), outcome(other)
    assert metrics == others
    for a, b in zip(tensors, other_tensors, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


class Stopping(toy.Source):
    """Sends this process a signal, or raises, when some batch is asked for."""

    def __init__(self, at: tuple[int, int], what: int | BaseException, workers: int = 0) -> None:
        super().__init__(workers)
        self.at, self.what = at, what

    def __call__(self, place):
        for after, batch in super().__call__(place):
            if self.seen[-1] == self.at:
                if isinstance(self.what, BaseException):
                    raise self.what
                os.kill(os.getpid(), self.what)
            yield after, batch


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_rest_is_bit_for_bit(tmp_path, capfd, workers, number):
    changes = {**FULL, "workers": workers}
    whole = toy.Source(workers)
    toy.train(tmp_path / "whole", changes, whole)
    first = Stopping((2, 3), number, workers)
    with pytest.raises(Interrupted) as stopped:
        toy.train(tmp_path / "parts", changes, first)
    assert stopped.value.code == 130 and stopped.value.step == 11
    assert "go on with: tessella train --resume" in capfd.readouterr().err.replace("\n", "")
    rest = toy.Source(workers)
    toy.train(tmp_path / "parts", changes, rest)
    assert_same(tmp_path / "whole", tmp_path / "parts")
    assert first.seen + rest.seen == whole.seen  # no batch is seen twice, none is left out


def test_a_loader_that_dies_of_ctrl_c_loses_nothing(tmp_path):
    toy.train(tmp_path / "whole", FULL)

    class Both(toy.Source):
        def __call__(self, place):
            for item in super().__call__(place):
                if self.seen[-1] == (2, 3):
                    os.kill(os.getpid(), signal.SIGINT)
                    raise RuntimeError("DataLoader worker exited unexpectedly")
                yield item

    with pytest.raises(Interrupted) as stopped:
        toy.train(tmp_path / "parts", FULL, Both())
    assert stopped.value.step == 10
    toy.train(tmp_path / "parts", FULL)
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema": 0.9}, {"accumulate": 3}, {"average": 2, "average_of": "best"}, {"clip": None, "precision": "bf16"}],
)
def test_a_crash_loses_only_what_came_after_the_checkpoint(tmp_path, changes):
    changes = {"checkpoint_every": 6, **changes}
    toy.train(tmp_path / "whole", changes)
    for at in ((1, 4), (3, 8)):
        with pytest.raises(OSError, match="cable"):
            toy.train(tmp_path / "parts", changes, Stopping(at, OSError("cable")))
    toy.train(tmp_path / "parts", changes)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_damaged_checkpoint_costs_only_time(tmp_path, capfd):
    toy.train(tmp_path / "whole", FULL)
    with pytest.raises(OSError, match="cable"):
        toy.train(tmp_path / "parts", FULL, Stopping((6, 1), OSError("cable")))
    newest = RunFolder(tmp_path / "parts").checkpoints.steps()[-1]
    os.truncate(tmp_path / "parts" / "checkpoints" / f"step-{newest:08d}" / "optimizer.safetensors", 100)
    toy.train(tmp_path / "parts", FULL)
    assert f"checkpoint {newest} is damaged" in capfd.readouterr().err
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_full_disk_costs_only_time(tmp_path, monkeypatch):
    toy.train(tmp_path / "whole", FULL)
    real = os.fsync
    calls = []

    def fsync(handle):
        calls.append(handle)
        if len(calls) == 60:
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="disk is full"):
        patch.setattr(os, "fsync", fsync)
        toy.train(tmp_path / "parts", FULL)
    toy.train(tmp_path / "parts", FULL)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_stays_as_it_is(tmp_path):
    toy.train(tmp_path / "run", FULL)
    before = outcome(tmp_path / "run")
    toy.train(tmp_path / "run", FULL)
    after = outcome(tmp_path / "run")
    assert before[0] == after[0] and all(torch.equal(before[1][n], after[1][n]) for n in before[1])


CHILDREN = multiprocessing.get_context("forkserver")
# What takes seconds to import is imported once, not by every child. Python 3.11 does not tell the server our path.
CHILDREN.set_forkserver_preload(["torch", "lightning_fabric", "safetensors.torch", "rich.progress", "tessella.learner"])


def child(folder: Path, changes: dict, errors: Path, environment: dict[str, str]) -> None:
    """A training in a process of its own, with its stderr in a file."""
    os.environ.update(environment)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    toy.train(folder, changes)


def start(folder: Path, changes: dict, environment: dict[str, str] | None = None):
    errors = folder.with_suffix(".errors")
    process = CHILDREN.Process(target=child, args=(folder, changes, errors, environment or {}))
    process.start()
    return process, errors


def wait_for_checkpoints(process, folder: Path, other_than: list[int]) -> None:
    until = time.monotonic() + 60
    while process.is_alive() and RunFolder(folder).checkpoints.steps() == other_than:
        assert time.monotonic() < until
        time.sleep(0.002)


def test_killed_again_and_again(tmp_path):
    """kill -9 at random moments, in training and in the middle of saving, until the run gets through."""
    changes = {**FULL, "steps": 240, "checkpoint_every": 2, "validate_every": 3}
    toy.train(tmp_path / "whole", changes)
    moments = random.Random(5)
    for kills in range(100):
        process, errors = start(tmp_path / "parts", changes)
        if kills < 8:
            wait_for_checkpoints(process, tmp_path / "parts", RunFolder(tmp_path / "parts").checkpoints.steps())
            time.sleep(moments.random() * 0.1)
            process.kill()
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, errors.read_text()
    assert kills >= 2
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_ctrl_c_ends_the_program_with_130(tmp_path):
    process, errors = start(tmp_path / "run", {**FULL, "steps": 10**6, "workers": 2})
    wait_for_checkpoints(process, tmp_path / "run", [])
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130, errors.read_text()
    said = errors.read_text()
    assert "Traceback" not in said and said.count("go on with") == 1


def start_two(folder: Path, changes: dict):
    """What torchrun does: two processes that find each other by their environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    same = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    same |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start(folder, changes, {**same, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]


def test_two_processes_stop_together_and_go_on_exactly(tmp_path):
    for process, errors in start_two(tmp_path / "whole", {**FULL, "steps": 30, "validate_every": 3}):
        process.join(60)
        assert process.exitcode == 0, errors.read_text()
    for steps in (10**6, 30):
        pair = start_two(tmp_path / "parts", {**FULL, "steps": steps, "validate_every": 3, "checkpoint_every": 5})
        if steps > 30:
            wait_for_checkpoints(pair[1][0], tmp_path / "parts", [])
            os.kill(pair[1][0].pid, signal.SIGTERM)  # the second process is told, both stop
        for process, _ in pair:
            process.join(60)
        codes = [process.exitcode for process, _ in pair]
        assert codes == ([130, 0] if steps > 30 else [0, 0]), pair[0][1].read_text()
    if RunFolder(tmp_path / "parts").checkpoints.steps()[-1] == 30:
        assert_same(tmp_path / "whole", tmp_path / "parts")


def test_two_devices_are_one_with_twice_the_batches(tmp_path, monkeypatch):
    """The program starts its second process itself: same losses, same weights as one with the same global batch."""
    monkeypatch.setenv("TOY_DROPOUT", "0")
    changes = {"steps": 12, "log_every": 1, "ema": 0.9, "clip": 0.5, "validate_every": 6, "checkpoint_every": 6}
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    program = [
        sys.executable,
        str(TESTS / "learner_toy.py"),
        str(tmp_path / "two"),
        json.dumps({**changes, "devices": 2}),
    ]
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    toy.train(tmp_path / "one", {**changes, "accumulate": 2})
    runs = [RunFolder.open(tmp_path / name) for name in ("one", "two")]
    losses, others = ([r.get("loss") or r["validation"]["mse"] for r in run.metrics()] for run in runs)
    assert len(losses) == 14 and losses == pytest.approx(others, rel=1e-6, abs=1e-6)
    for name, value in runs[0].weights().items():
        assert torch.allclose(value, runs[1].weights()[name], atol=1e-6), name
