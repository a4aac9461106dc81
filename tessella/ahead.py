"""Ahead: pictures decoded by threads while the model computes those before them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from tessella.data.pictures import Pictures
from tessella.data.pixels import Unreadable
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError

T = TypeVar("T")
A = TypeVar("A")
THREADS = 4
"""That decode pictures while the model computes; Pillow works without Python's lock."""


def computed(
    items: Iterable[T], read: Callable[[T], Tensor], compute: Callable[[Tensor], Iterable[A]], batch: int = 32
) -> Iterator[A | InputError]:
    """One answer of `compute` for each item in order (rows of a tensor on the CPU), or why it has none.

    `read` makes an item's tensor, an InputError of it being that item's answer; the next batch is read while `compute`
    works on a stack of those before. InputErrors of `compute` itself, which no item could please, are raised.
    """

    def attempt(item: T) -> Tensor | InputError:
        try:
            return read(item)
        except InputError as error:
            return error

    left = iter(items)
    reading: deque[list[Future[Tensor | InputError]]] = deque()
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        while True:
            reading.append([pool.submit(attempt, item) for item in islice(left, batch)])
            if len(reading) == 1 and reading[0]:
                continue  # one batch ahead
            done = [future.result() for future in reading.popleft()]
            if not done:
                return
            good = [one for one in done if isinstance(one, Tensor)]
            answers = compute(torch.stack(good)) if good else ()
            rows: Iterator[A] = iter(answers.cpu() if isinstance(answers, Tensor) else answers)  # pyright: ignore
            yield from (next(rows) if isinstance(one, Tensor) else one for one in done)


def answered(
    pictures: Pictures,
    answers: Iterable[A | InputError],
    quarantine: Quarantine,
    where: object,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[list[int], list[A]]:
    """The numbers of the pictures that have an answer, and the answers; the others are set aside by name.

    where: the data, as it was given. `done` is told how many more are answered. Raises InputError where none is.
    """
    kept, rows = [], []
    for number, answer in enumerate(answers):
        if isinstance(answer, InputError):
            reason = answer.reason if isinstance(answer, Unreadable) else str(answer)
            quarantine.add(*pictures.place(number), reason, pictures.name(number))
        else:
            kept.append(number)
            rows.append(answer)
        done(1)
    if not kept:
        told = "; ".join(f"{reason}: {count:,}" for reason, count in quarantine.reasons().items())
        raise InputError(f"{where}: none of {len(pictures)} pictures can be read ({told})")
    return kept, rows
