"""Processes: where a training runs, with which random numbers, and how it is asked to stop."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from tessella.errors import InputError
from tessella.loop import LoopSpec
from tessella.precision import FABRIC, choose


class Interrupted(SystemExit):
    """A training was asked to stop, and has saved where it was: the program ends with code 130.

    Only the first process does: one that is started by it and fails would make it seem to have failed itself.
    """

    def __init__(self, step: int, rank: int = 0) -> None:
        super().__init__(130 if rank == 0 else 0)
        self.step = step


def launch(loop: LoopSpec) -> Fabric:
    """The fabric that ``learn`` runs on; with several devices it starts the other processes.

    Those run the same program from its beginning: call it early, and prepare data behind ``fabric.is_global_zero`` and
    ``fabric.barrier()``. Under torchrun, its number of processes counts. Errors: InputError without enough devices.
    """
    device = ("cuda" if torch.cuda.is_available() else "cpu") if loop.device == "auto" else loop.device
    devices, nodes = loop.devices, 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    if device == "cuda" and devices > torch.cuda.device_count():
        raise InputError(
            f"{devices} CUDA devices asked for, {torch.cuda.device_count()} here; set loop.device or devices"
        )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would announce the precision
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=FABRIC[choose(loop.precision, device)],
    )
    fabric.launch()
    return fabric


def seed_all(seed: int, step: int = 0, rank: int = 0) -> None:
    """Sets the generators of torch (all devices), numpy and Python to a pure function of the three numbers.

    The loop does so before every step: what a step draws depends neither on what was drawn before nor on where a
    training was interrupted, so that nothing of the generators has to be saved. Step 0 is for making the model.
    """
    mixed = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    number = int.from_bytes(mixed, "little") >> 1
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)
    torch.manual_seed(number)


@dataclass
class StopRequest:
    """Whether somebody has asked this process to stop."""

    asked: bool = False


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside, the first Ctrl-C or SIGTERM only sets ``asked``; a second one acts as always."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield request
        return
    owner = os.getpid()
    old: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)

    def ask(number: int, frame: Any) -> None:
        if os.getpid() == owner:  # a forked loader has this handler too; it goes on until its owner ends it
            request.asked = True
            restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        old[number] = signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
