"""Lesson: what there is to learn, and how far one has come with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from tessella.data.batches import Position
from tessella.errors import InputError

Batch = dict[str, Tensor]


@dataclass
class Lesson:
    """What there is to learn, whatever the task: all that the loop knows of it."""

    model: nn.Module
    objective: Callable[[nn.Module, Batch], Mapping[str, Any]]
    """``objective(model, batch)`` gives ``loss`` (a mean, scalar tensor), ``weight`` (the number of items it is over)
    and any other means over the same items."""
    batches: Callable[[Position], Iterator[tuple[Position, Batch]]]
    """``batches(position)``: the batches from there on, each with the position after it, which at the end of an epoch
    is ``(epoch + 1, 0)``. It may end with the epoch and is asked again then. All processes ask for the same stream:
    the loop deals the batches out."""
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None
    """``validate(model)``: numbers by name; asked on the first process only, model in eval mode, without gradients."""


@dataclass
class Standing:
    """How far a training is, apart from tensors: JSON data in each checkpoint."""

    step: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    """Validations since the best one."""
    validated: int = 0
    """The step of the last validation."""
    seconds: float = 0.0
    """Spent so far, over all sittings."""
    tally: dict[str, float] = field(default_factory=dict)
    """Sums since the last record in metrics.jsonl."""


class Stream:
    """A lesson's batches without end, dealt out to ``world`` processes like cards."""

    def __init__(self, lesson: Lesson, place: Position, rank: int = 0, world: int = 1) -> None:
        self.lesson, self.place = lesson, place
        self.rank, self.world = rank, world
        self._batches: Iterator[tuple[Position, Batch]] | None = None

    def take(self, count: int) -> list[Batch]:
        """The next ``count`` batches of this process; ``place`` moves past those of all processes.

        Errors: InputError if the data gives no batch at all.
        """
        before, mine = self.place, []
        try:
            for turn in range(count * self.world):
                batch = self._next()
                if turn % self.world == self.rank:
                    mine.append(batch)
        except BaseException:  # as if nothing had been taken: the place is saved when a loader dies of Ctrl-C
            self.place, self._batches = before, None
            raise
        return mine

    def _next(self) -> Batch:
        for _ in range(3):  # the rest of this epoch may be empty, a whole one may not
            self._batches = self._batches or iter(self.lesson.batches(self.place))
            try:
                self.place, batch = next(self._batches)
            except StopIteration:
                if self.place.batch:
                    self.place = Position(self.place.epoch + 1, 0)
                self._batches = None
                continue
            return batch
        raise InputError("the training data gives no batch; look into quarantine.jsonl for what was set aside")
