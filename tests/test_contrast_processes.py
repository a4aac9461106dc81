"""Contrast across processes: two with a part of the batch each learn what one does with all of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import tiny_towers as tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tessella.contrast import Contrast
from tessella.lesson import Lesson
from tessella.loop import LoopSpec
from tessella.optimizers import Sgd
from tessella.processes import launch
from tessella.similarity import Sigmoid, Softmax
from tessella.stepper import Stepper

Two = tuple[int, int]
CASES: dict[str, tuple[Contrast, Two, Two]] = {
    "softmax": (Contrast(), (4, 4), (0, 0)),
    "unequal": (Contrast(), (5, 2), (0, 0)),
    "one pair here": (Contrast(), (1, 6), (0, 0)),
    "chunks": (Contrast(chunk=2), (3, 5), (0, 0)),
    "negatives": (Contrast(chunk=2), (4, 3), (3, 1)),
    "negatives of one": (Contrast(), (3, 4), (0, 2)),
    "hardness": (Contrast(loss=Softmax(hardness=0.5), chunk=3), (4, 4), (2, 2)),
    "sigmoid": (Contrast(loss=Sigmoid()), (5, 3), (0, 0)),
    "sigmoid, negatives": (Contrast(loss=Sigmoid(), chunk=2), (4, 3), (1, 3)),
}
"""What is learned, pairs of each process, negatives of each."""


def split(
    batch: dict[str, Tensor], counts: tuple[int, int], negatives: tuple[int, int], rank: int
) -> dict[str, Tensor]:
    """A process's part."""
    part = {name: batch[name].split(counts)[rank] for name in ("image", "text")}
    if negatives[rank]:
        part["negative"] = batch["negative"].split(negatives)[rank]
    return part


def learned(name: str, fabric, rank: int | None) -> dict[str, Tensor]:
    """Gradients, and sums over processes, of one step; rank None has the whole batch."""
    objective, counts, negatives = CASES[name]
    batch = tiny.noise(sum(counts), sum(negatives))
    model = tiny.built(tiny.vit(), tiny.causal(), bias=-2.0 if isinstance(objective.loss, Sigmoid) else None)
    stepper = Stepper(fabric, Lesson(model, objective, lambda place: iter(())), LOOP, Sgd(momentum=0.0))
    part = batch if rank is None else split(batch, counts, negatives, rank)
    row = stepper.take(1, [part], rate=0.1, stop=False)
    named = {n: w.grad for n, w in stepper.weights.named.items() if w.grad is not None}
    means = dict(zip(stepper.names, row[3:] / row[0], strict=True))
    return {**named, **means, "weight": row[0]}


LOOP = LoopSpec(steps=1, precision="32", device="cpu", clip=None)


def child(folder: Path, rank: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.dup2(os.open(folder / f"{rank}.errors", os.O_WRONLY | os.O_CREAT), 2)
    torch.set_num_threads(1)
    fabric = launch(LOOP)
    for name in CASES:
        found = learned(name, fabric, rank)
        if rank == 0:
            save_file({n: t.contiguous() for n, t in found.items()}, folder / f"{name}.safetensors")
    if rank == 0:  # validation is for one process, and must not wait for the other
        model: nn.Module = tiny.built(tiny.vit(), tiny.causal())
        with torch.no_grad():
            loss = Contrast()(model, tiny.noise(4))["loss"].item()
        (folder / "alone.json").write_text(json.dumps(loss))
    fabric.barrier()


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """What two processes found of all cases."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    same = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    same |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "lightning_fabric", "tessella.stepper", "tessella.contrast"])
    pair = []
    for rank in range(2):
        environment = {**same, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        pair.append(context.Process(target=child, args=(folder, rank, environment), daemon=True))
        pair[-1].start()
    for rank, process in enumerate(pair):
        process.join(120)
        assert process.exitcode == 0, (folder / f"{rank}.errors").read_text()[-3000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_does(two, name):
    found, wanted = load_file(two / f"{name}.safetensors"), learned(name, launch(LOOP), None)
    assert found.keys() == wanted.keys() and {"loss", "accuracy", "image.head.project.weight"} <= found.keys()
    for part, value in wanted.items():
        torch.testing.assert_close(found[part], value, rtol=1e-5, atol=1e-6, msg=lambda m, part=part: f"{part}: {m}")


def test_alone_nobody_is_waited_for(two):
    alone = json.loads((two / "alone.json").read_text())
    assert alone == pytest.approx(Contrast()(tiny.built(tiny.vit(), tiny.causal()), tiny.noise(4))["loss"].item())
