"""Run folders and checkpoints: whole or refused by name, whatever happens to the disk or the process."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella import files
from tessella.checkpoints import Checkpoint, Checkpoints
from tessella.errors import InputError
from tessella.runs import RunFolder

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "n": torch.tensor(7)}


def finished(folder: Path) -> RunFolder:
    run = RunFolder.create(folder)
    run.write_text("recipe.yaml", "kind: toy\n")
    run.write("codec.json", lambda path: path.write_text("{}"))
    run.save_weights(WEIGHTS)
    run.note(data="abc")
    return run


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        step, {"w": torch.full((100,), float(step))}, {"optimizer/w/exp_avg": torch.ones(100)}, {"x": [1]}
    )


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one
    )


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {"flip": flip, "cut": lambda p: os.truncate(p, p.stat().st_size // 2), "delete": os.unlink}


def test_a_run_comes_back_as_it_was(tmp_path):
    finished(tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    assert run.read_text("recipe.yaml") == "kind: toy\n"
    assert same(run.weights(), WEIGHTS)
    assert set(run.manifest["files"]) == {"recipe.yaml", "codec.json", "model.safetensors"}
    assert run.manifest["data"] == "abc" and run.manifest["versions"]["torch"].startswith("2.")
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("name", ["recipe.yaml", "codec.json", "model.safetensors"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_changed_file_is_refused_by_name(tmp_path, name, damage):
    finished(tmp_path / "run")
    DAMAGES[damage](tmp_path / "run" / name)
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as refused:
        RunFolder.open(tmp_path / "run")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "manifest", ["", "[]", "{", '{"files": 1}', '{"files": {"../x": {}}}', '{"files": {"recipe.yaml": 5}}', "[" * 10**6]
)
def test_a_forged_manifest_is_refused(tmp_path, manifest):
    finished(tmp_path / "run")
    (tmp_path / "run" / files.MANIFEST).write_text(manifest)
    with pytest.raises(InputError):
        RunFolder.open(tmp_path / "run")


def test_what_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no run"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(InputError, match=r"no manifest\.json"):
        RunFolder.open(tmp_path)
    RunFolder.create(tmp_path / "new").write_text("recipe.yaml", "")
    with pytest.raises(InputError, match=r"holds no model\.safetensors yet"):
        RunFolder.open(tmp_path / "new")
    with pytest.raises(InputError, match="not empty"):
        RunFolder.create(tmp_path / "new")


def test_killed_between_weights_and_manifest(tmp_path, monkeypatch):
    """New weights are in place, the manifest still tells of both: the run opens, with the new ones."""
    run = finished(tmp_path / "run")
    new = {**WEIGHTS, "b": torch.zeros(3)}
    written = []
    real = RunFolder._write_manifest

    def second_write_is_killed(self, manifest):
        if written:
            raise KeyboardInterrupt
        written.append(manifest)
        real(self, manifest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_write_manifest", second_write_is_killed)
        with pytest.raises(KeyboardInterrupt):
            run.save_weights(new)
    assert same(RunFolder.open(tmp_path / "run").weights(), new)
    assert "pending" not in run.manifest


def test_killed_before_the_weights_were_swapped(tmp_path, monkeypatch):
    run = finished(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *a: os._exit if "model" in str(a[1]) and 1 / 0 else os.rename(*a))
        with pytest.raises(ZeroDivisionError):
            run.save_weights({"other": torch.ones(1)})
    assert same(RunFolder.open(tmp_path / "run").weights(), WEIGHTS)


def test_ties_are_stored_once_and_come_back(tmp_path):
    big = torch.randn(1000)
    files.save_tensors(tmp_path / "x", {"one": big, "two": big, "part": big[:10]})
    assert (tmp_path / "x").stat().st_size < 4500
    back = files.read_tensors(tmp_path / "x")
    assert same(back, {"one": big, "two": big, "part": big[:10]}) and back["one"] is back["two"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_whoever_may_read_a_run_may_read_its_weights(tmp_path):
    (tmp_path / "ordinary").write_text("")
    files.save_tensors(tmp_path / "weights", {"a": torch.zeros(2)})
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_equal_weights_are_equal_files(tmp_path):
    shas = set()
    for n in range(5):
        files.save_tensors(tmp_path / f"{n}", {**WEIGHTS, "tied": WEIGHTS["n"]})
        shas.add(files.digest(tmp_path / f"{n}")["sha256"])
    assert len(shas) == 1


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_reading_any_bytes_gives_tensors_or_one_line(tmp_path_factory, noise, at):
    path = tmp_path_factory.mktemp("noise") / "x.safetensors"
    files.save_tensors(path, WEIGHTS)
    data = path.read_bytes()
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])
    try:
        files.read_tensors(path)
    except InputError as error:
        assert "\n" not in str(error)


def test_parse_limits(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", files.HEADER_LIMIT + 1) + b"{}")
    os.truncate(path, files.HEADER_LIMIT + 100)  # a hole, not bytes
    with pytest.raises(InputError, match="header"):
        files.read_tensors(path)
    long = tmp_path / "x.json"
    long.write_bytes(b"{}")
    os.truncate(long, files.JSON_LIMIT + 1)
    with pytest.raises(InputError, match="bytes long"):
        files.read_json(long)


def test_checkpoints_come_back_and_old_ones_go(tmp_path):
    kept = Checkpoints(tmp_path / "c", keep=2)
    assert kept.load(print) is None
    for step in (1, 2, 30):
        kept.save(checkpoint(step))
    assert kept.steps() == [2, 30]
    found = kept.load(pytest.fail)
    assert found and found.step == 30 and found.state == {"x": [1]}
    assert same(found.model, checkpoint(30).model) and same(found.optimizer, checkpoint(30).optimizer)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_aloud(tmp_path, name, damage):
    kept = Checkpoints(tmp_path / "c")
    kept.save(checkpoint(1))
    kept.save(checkpoint(2))
    DAMAGES[damage](tmp_path / "c" / "step-00000002" / name)
    said: list[str] = []
    found = kept.load(said.append)
    assert found and found.step == 1
    named = name in said[0] or (name == "manifest.json" and "was changed" in said[0])
    assert len(said) == 1 and named and "\n" not in said[0]
    kept.drop_after(1)
    assert kept.steps() == [1]
    kept.save(checkpoint(2))
    assert kept.load(pytest.fail).step == 2  # type: ignore[union-attr]


def test_no_whole_checkpoint_is_an_error(tmp_path):
    kept = Checkpoints(tmp_path / "c")
    kept.save(checkpoint(1))
    flip(tmp_path / "c" / "step-00000001" / "state.json")
    with pytest.raises(InputError, match="none of the checkpoints"):
        kept.load(lambda line: None)


def test_half_written_checkpoints_do_not_count(tmp_path):
    kept = Checkpoints(tmp_path / "c")
    kept.save(checkpoint(1))
    half = tmp_path / "c" / ".step-00000002.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert kept.load(pytest.fail).step == 1  # type: ignore[union-attr]
    kept.drop_after(1)
    assert not half.exists()


def test_weights_stay_while_a_checkpoint_knows_them(tmp_path):
    kept = Checkpoints(tmp_path / "c", keep=1)
    shas = {step: kept.save_weights(step, WEIGHTS) for step in (1, 2, 3)}
    kept.save(Checkpoint(3, {}, {}, {"candidates": [[2, 0.5, shas[2]], [3, 0.5, shas[3]]]}))
    assert same(kept.read_weights(2, shas[2]), WEIGHTS)
    with pytest.raises(InputError, match="missing"):
        kept.read_weights(1, shas[1])
    with pytest.raises(InputError, match="changed"):
        kept.read_weights(2, "0" * 64)


@pytest.mark.parametrize("after", range(1, 12))
def test_disk_full_at_any_moment_of_a_save(tmp_path, monkeypatch, after):
    kept = Checkpoints(tmp_path / "c")
    kept.save(checkpoint(1))
    calls = []
    real = os.fsync

    def fsync(handle):
        calls.append(handle)
        if len(calls) == after:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        try:
            kept.save(checkpoint(2))
        except InputError as error:
            assert "disk is full" in str(error) and "step-00000002" in str(error) and " free" in str(error)
            assert not list((tmp_path / "c").glob(".*"))
    found = kept.load(pytest.fail)
    assert found and found.step in (1, 2)
    kept.save(checkpoint(2))


def test_no_room_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path / "c")
    kept.save(checkpoint(1))
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: os.terminal_size((0, 0)) and _Usage())
    with pytest.raises(InputError, match=r"800 bytes needed, 10 free"):
        kept.save(checkpoint(2))
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["step-00000001"]


class _Usage:
    free = 10


def test_a_really_full_disk(tmp_path, monkeypatch):
    """A tiny file system, where mounting one is allowed; the check beforehand is switched off."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("not allowed to mount")
    try:
        run = finished(disk / "run")
        run.checkpoints.save(checkpoint(1))
        monkeypatch.setattr(files, "require_space", lambda *a: None)
        monkeypatch.setattr("tessella.checkpoints.files.require_space", lambda *a: None)
        big = {"w": torch.ones(100_000)}
        for save in (
            lambda: run.checkpoints.save(Checkpoint(2, big, {})),
            lambda: run.save_weights(big),
            lambda: run.checkpoints.save_weights(2, big),
        ):
            with pytest.raises(InputError, match=r"disk is full \(400000 bytes needed"):
                save()
        assert same(RunFolder.open(disk / "run").weights(), WEIGHTS)
        assert run.checkpoints.load(pytest.fail).step == 1  # type: ignore[union-attr]
        assert not list(disk.rglob(".*"))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(InputError, match="permission denied"):
            run.checkpoints.save(checkpoint(2))
        with pytest.raises(InputError, match="permission denied"):
            RunFolder.create(disk / "other")
        assert same(RunFolder.open(disk / "run").weights(), WEIGHTS)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_is_said_in_one_line(tmp_path, monkeypatch, code):
    run = finished(tmp_path / "run")

    def refuse(*args, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    for act in (
        lambda: run.checkpoints.save(checkpoint(1)),
        lambda: run.log({"step": 1}),
        lambda: RunFolder.create("x"),
    ):
        with pytest.raises(InputError, match="permission denied"):
            act()


def test_metrics_are_rewound_to_a_step(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    for step in (1, 2, 3):
        run.log({"step": step, "loss": step / 10, "odd": float("nan")})
    run.log({"step": 2, "averaged": [1, 2]})
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert [r["step"] for r in run.metrics()] == [1, 2, 3, 2]
    run.rewind_metrics(2)
    assert run.metrics() == [{"step": s, "loss": s / 10, "odd": None} for s in (1, 2)]
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write("nonsense\n" + json.dumps({"step": 3}) + "\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl:3"):
        run.metrics()
