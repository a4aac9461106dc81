"""Sitting: what the trainings of all tasks do alike once each knows its lesson: counted, begun, learned, told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from tessella.learner import learn
from tessella.lesson import Lesson
from tessella.loop import LoopSpec
from tessella.runs import RunFolder
from tessella.schedules import Schedule

Say = Callable[[str], None]


class Sitting:
    """One sitting of a training: a fresh one in a folder that is not there yet, or (resume) the next of a run.

    fabric: the processes that train; only the first of them speaks and writes.
    Raises InputError for a folder that is taken; of a run to go on with, where it is none.
    """

    def __init__(self, fabric: Fabric, out: Path, resume: bool, say: Say):
        self.fabric, self.out, self.resume = fabric, out, resume
        self.first = fabric.is_global_zero
        self.say: Say = say if self.first else lambda line: None
        if self.first and not resume:
            RunFolder.require_vacant(out)

    def learned(self, lesson: Lesson, recipe: Any, items: int, begin: Callable[[RunFolder], None]) -> Mapping[str, Any]:
        """Trains on so many items by the recipe's loop, schedule and optimizer; out: {"metric", "best", "step"}.

        begin: writes what a run holds before its first step. The folder is made only here, when all that may be
        refused was looked at: the corrected command can have the same one.
        """
        own = list(lesson.model.parameters())
        learning = sum(p.numel() for p in own if p.requires_grad)
        self.say(f"{sum(p.numel() for p in own):,} parameters ({learning:,} learn) on {self.fabric.device}")
        loop = in_steps(recipe.loop, items, recipe.batch)
        schedule = in_time(recipe.schedule, loop, self.say)
        if self.first and not self.resume:
            begin(RunFolder.create(self.out))
        self.fabric.barrier()
        standing = learn(lesson, RunFolder(self.out), loop, recipe.optimizer, schedule, self.fabric)
        self.say(f"done: {self.out} ({loop.metric} {standing.best:.2f} on validation)")
        return {"metric": loop.metric, "best": standing.best, "step": standing.best_step}


def in_steps(loop: LoopSpec, items: int, batch: int) -> LoopSpec:
    """A training counted in epochs, in steps as well, which a schedule wants to know."""
    if loop.steps is not None or loop.epochs is None:
        return loop
    batches = loop.epochs * max(1, items // batch)  # what is left of an epoch beside whole batches is left out
    return loop.replace(steps=-(-batches // (loop.accumulate * loop.devices)))


def in_time(schedule: Schedule, loop: LoopSpec, say: Say) -> Schedule:
    """A schedule whose warm-up is over after a tenth of a training that is not four times as long."""
    warmup = getattr(schedule, "warmup", 0)
    if loop.steps is None or 4 * warmup <= loop.steps:
        return schedule
    shorter = max(1, loop.steps // 10)
    say(f"warm-up, in steps: {shorter} instead of {warmup}, for the training has only {loop.steps}")
    return schedule.replace(warmup=shorter)
