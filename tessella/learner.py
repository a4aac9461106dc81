"""Learner: the one training loop, for every task."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from tessella import files, optimizers
from tessella.averages import Ema, mean, swapped
from tessella.checkpoints import Checkpoint
from tessella.data.batches import Position
from tessella.errors import InputError, did_you_mean
from tessella.lesson import Lesson, Stream
from tessella.loop import LoopSpec, Often
from tessella.optimizers import OptimizerSpec
from tessella.processes import Interrupted, launch, seed_all, stop_requests
from tessella.progress import ProgressBar
from tessella.runs import METRICS, RunFolder
from tessella.schedules import Schedule
from tessella.stepper import Stepper

LOOK_EVERY = 10
"""Steps between two looks at what an accelerator has computed: looking makes the processor wait for it."""


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
    candidates: list[list[Any]] = field(default_factory=list)
    """Weights kept for averaging: step, metric, SHA-256."""


def learn(
    lesson: Lesson,
    run: RunFolder,
    loop: LoopSpec,
    optimizer: OptimizerSpec,
    schedule: Schedule,
    fabric: Fabric | None = None,
) -> Standing:
    """Trains a lesson's model and leaves the best weights in the run folder, as ``model.safetensors`` and in the model.

    Goes on from the newest whole checkpoint if the run has one: on a CPU with the same numbers, bit for bit, as if it
    had never stopped. ``fabric`` is that of ``launch(loop)``, made here if left out.

    Errors: InputError for unusable settings, a full disk, damaged checkpoints and a loss that is not finite;
    Interrupted (a SystemExit with code 130) after Ctrl-C or SIGTERM, with everything saved.
    """
    return Learner(lesson, run, loop, optimizer, schedule, fabric or launch(loop)).run()


class Learner:
    """The state and the rhythm of one training; see ``learn``."""

    def __init__(
        self,
        lesson: Lesson,
        run: RunFolder,
        loop: LoopSpec,
        optimizer: OptimizerSpec,
        schedule: Schedule,
        fabric: Fabric,
    ) -> None:
        self.lesson, self.folder, self.loop, self.schedule, self.fabric = lesson, run, loop, schedule, fabric
        schedule.rate(1, loop.steps)  # complains now rather than after the data was read
        if loop.average and loop.average_of == "best" and lesson.validate is None:
            raise InputError("averaging the best checkpoints needs validation data; set loop.average_of to last")
        self.writes = fabric.is_global_zero
        self.standing = Standing()
        self.stepper = Stepper(fabric, lesson, loop, optimizer)
        self.ema = Ema(self.stepper.weights.named, loop.ema) if loop.ema else None
        self.stream = Stream(lesson, Position(), fabric.global_rank, fabric.world_size)
        self.unseen: list[tuple[int, float, Tensor]] = []
        """Steps whose row of sums nobody has looked at yet: step, learning rate, row."""
        self.saved = -1
        """The step of the last checkpoint."""
        self.bar = ProgressBar(loop.steps, 0, visible=False)

    def run(self) -> Standing:
        """The whole training."""
        self.bar = ProgressBar(self.loop.steps, self.standing.step, visible=self.writes)
        self._restore()
        self.began = time.monotonic() - self.standing.seconds
        self.bar.start = self.standing.step
        with stop_requests() as self.request, self.bar:
            while not self._over():
                self._advance()
            self._finish()
        self._load_best()
        return self.standing

    def _over(self) -> bool:
        loop, now = self.loop, self.standing
        return (
            (loop.steps is not None and now.step >= loop.steps)
            or (loop.epochs is not None and self.stream.place.epoch >= loop.epochs)
            or (loop.patience is not None and now.stale >= loop.patience)
        )

    def _advance(self) -> None:
        """One step, and whatever is due after it."""
        began, now, epoch = time.monotonic(), self.standing, self.stream.place.epoch
        try:
            batches = self.stream.take(self.loop.accumulate)
        except Exception:
            if not self.request.asked or self.fabric.world_size > 1:
                raise
            self._stop()  # Ctrl-C reaches the loader's processes too: their end is no error then
        rate = self.schedule.rate(now.step + 1, self.loop.steps)
        row = self.stepper.take(now.step + 1, batches, rate, self.request.asked)
        now.step += 1
        if self.ema:
            self.ema.update(self.stepper.weights.named, now.step)
        self.unseen.append((now.step, rate, row))
        ended = self.stream.place.epoch > epoch
        validate = self.lesson.validate is not None and self._due(self.loop.validate_every, ended)
        save, log = self._due(self.loop.checkpoint_every, ended), now.step % self.loop.log_every == 0
        look = self.fabric.device.type == "cpu" or now.step % LOOK_EVERY == 0
        stop = self._look() if look or validate or save or log or self._over() else False
        now.tally["seconds"] = now.tally.get("seconds", 0.0) + time.monotonic() - began
        if log:
            self._log()
        if validate:
            self._validate()
        if save:
            self._keep_last()
            self._save()
        if stop:
            self._stop()

    def _due(self, often: Often, epoch_ended: bool) -> bool:
        return epoch_ended if often == "epoch" else self.standing.step % often == 0

    def _look(self) -> bool:
        """Reads the rows of the last steps into the tally. Out: whether a process was asked to stop."""
        tally = self.standing.tally
        rows = torch.stack([row for _, _, row in self.unseen]).tolist()
        for (step, rate, _), (weight, _, *sums) in zip(self.unseen, rows, strict=True):
            if not math.isfinite(sums[0]):
                raise InputError(
                    f"the loss is not finite at step {step} (learning rate {rate:.3g}); nothing was saved since step "
                    f"{max(self.saved, 0)}; lower the learning rate, lengthen the warm-up or clip the gradient"
                )
            for name, value in zip(("weight", *self.stepper.names), (weight, *sums), strict=True):
                tally[name] = tally.get(name, 0.0) + value
        step, rate, _ = self.unseen[-1]
        speed = tally["weight"] / tally["seconds"] if tally.get("seconds") else 0.0
        self.bar.update(step, rows[-1][2] / rows[-1][0], rate, speed, self._total())
        self.unseen.clear()
        return any(row[1] > 0 for row in rows)

    def _total(self) -> int | None:
        """The number of steps, if it is known by now."""
        if self.loop.epochs is None or self.stream.place.epoch == 0:
            return self.loop.steps
        by_epochs = round(self.standing.step / self.stream.place.epoch * self.loop.epochs)
        return min(self.loop.steps or by_epochs, by_epochs)

    def _log(self) -> None:
        tally, now = self.standing.tally, self.standing
        weight, seconds = tally["weight"], tally.get("seconds", 0.0)
        means = {name: tally[name] / weight for name in self.stepper.names}
        rate = self.schedule.rate(now.step, self.loop.steps)
        self._record(**means, lr=rate, items_per_second=weight / seconds if seconds else None)
        self.standing.tally = {}

    def _record(self, **values: Any) -> None:
        if self.writes:
            seconds = round(time.monotonic() - self.began, 3)
            self.folder.log({"step": self.standing.step, "epoch": self.stream.place.epoch, **values, "wall": seconds})

    def _shown(self) -> AbstractContextManager[None]:
        """The model with the weights that are judged and saved."""
        return swapped(self.lesson.model, self.ema.average) if self.ema else nullcontext()

    def _score(self) -> tuple[dict[str, float], float]:
        """All numbers of a validation of the model as it is, and the one that decides; the same on all processes."""
        scores: dict[str, float] = {}
        if self.writes:
            assert self.lesson.validate
            self.lesson.model.eval()
            seed_all(self.loop.seed, self.standing.step)
            with torch.no_grad(), self.fabric.autocast():
                scores = {name: float(value) for name, value in self.lesson.validate(self.lesson.model).items()}
        scores = self.fabric.broadcast(scores)
        if self.loop.metric not in scores:
            tail = did_you_mean(self.loop.metric, scores)
            raise InputError(f"the validation gives no '{self.loop.metric}' (loop.metric){tail}")
        return scores, scores[self.loop.metric]

    def _validate(self) -> None:
        now = self.standing
        with self._shown():
            scores, value = self._score()
            best = self.loop.better(value, now.best)
            now.validated, now.stale = now.step, 0 if best else now.stale + 1
            self._record(validation=scores, best=best)
            self.bar.score(self.loop.metric, value)
            if best:
                now.best, now.best_step = value, now.step
                if self.writes:
                    self.folder.save_weights(self.lesson.model.state_dict())
        if self.loop.average_of == "best" and self.loop.average and value == value:
            ranked = sorted([*(row[1] for row in now.candidates), value], reverse=self.loop.mode == "max")
            if value in ranked[: self.loop.average]:
                self._add_candidate(value)

    def _keep_last(self) -> None:
        if self.loop.average_of == "last" and self.loop.average:
            self._add_candidate(None)

    def _add_candidate(self, value: float | None) -> None:
        """Keeps the present weights for averaging, and forgets the worst or oldest ones (their files go with the
        last checkpoint that knows them)."""
        weights = self.ema.average if self.ema else self.stepper.weights.named
        sha = self.folder.checkpoints.save_weights(self.standing.step, weights) if self.writes else ""
        rows = [row for row in self.standing.candidates if row[0] != self.standing.step]
        rows.append([self.standing.step, value, sha])
        if value is not None:
            rows.sort(key=lambda row: row[1], reverse=self.loop.mode == "min")  # the best one last
        self.standing.candidates = rows[-self.loop.average :]

    def _save(self) -> None:
        """A checkpoint of this very moment."""
        now = self.standing
        if self.saved == now.step:
            return
        self.saved = now.step
        now.seconds = time.monotonic() - self.began
        if not self.writes:
            return
        memory = optimizers.memory(self.stepper.optimizer, self.stepper.weights.named)
        tensors = {f"optimizer/{name}": tensor for name, tensor in memory.items()}
        tensors |= {f"ema/{name}": tensor for name, tensor in (self.ema.average if self.ema else {}).items()}
        place = self.stream.place.to_dict()
        state = {**asdict(now), "place": place, "seed": self.loop.seed, "world": self.fabric.world_size}
        if (self.folder.path / METRICS).exists():
            files.sync(self.folder.path / METRICS)
        model = self.lesson.model.state_dict()
        self.folder.checkpoints.save(Checkpoint(now.step, model, tensors, state))

    def _stop(self) -> None:
        self._save()
        path = self.folder.path
        self.bar.say(f"stopped after step {self.standing.step}; go on with: tessella train --resume {path}")
        raise Interrupted(self.standing.step)

    def _restore(self) -> None:
        """Takes up the newest whole checkpoint, if there is one."""
        found = self.folder.checkpoints.load(self.bar.say)
        self.fabric.barrier()  # nobody changes the folder before everybody has read it
        if found:
            self._take_up(found)
        if self.writes:
            self.folder.checkpoints.drop_after(self.standing.step)
            self.folder.bring_back_best()
            self.folder.rewind_metrics(self.standing.step)
        self.fabric.barrier()

    def _take_up(self, found: Checkpoint) -> None:
        state = dict(found.state)
        place, seed, world = state.pop("place"), state.pop("seed"), state.pop("world")
        if (seed, world) != (self.loop.seed, self.fabric.world_size):
            self.bar.say(f"the checkpoint is of seed {seed} on {world} devices: from here on the numbers will differ")
        _fill(self.lesson.model, found.model)
        self.stepper.weights.publish()
        tensors = found.optimizer
        memory = {n.removeprefix("optimizer/"): t for n, t in tensors.items() if n.startswith("optimizer/")}
        optimizers.recall(self.stepper.optimizer, self.stepper.weights.named, memory)
        if self.ema:
            for name, average in self.ema.average.items():
                if f"ema/{name}" not in tensors:
                    raise InputError(f"the checkpoint has no moving average of '{name}'; keep loop.ema as it was")
                average.copy_(tensors[f"ema/{name}"])
        self.stream.place = Position.from_dict(place)
        self.standing = Standing(step=found.step, **state)
        self.saved = found.step
        self.bar.say(f"going on after step {found.step}")

    def _finish(self) -> None:
        """The last validation, checkpoint and average."""
        if self.standing.tally.get("weight"):
            self._log()
        if self.lesson.validate and self.standing.validated != self.standing.step:
            self._validate()
        self._save()
        if self.lesson.validate is None and self.writes:
            with self._shown():
                self.folder.save_weights(self.lesson.model.state_dict())
        if len(self.standing.candidates) > 1:
            self._average()
        self.fabric.barrier()

    def _average(self) -> None:
        """Puts the mean of the kept weights in the place of the best ones, unless it validates worse."""
        checkpoints = self.folder.checkpoints
        steps, several = [], []
        for step, _, sha in sorted(self.standing.candidates, key=lambda row: row[0]):
            try:
                several.append(checkpoints.read_weights(step, sha))
                steps.append(step)
            except InputError as error:
                self.bar.say(f"the average is without step {step}: {error}")
        if not several:
            return
        with swapped(self.lesson.model, mean(several)):
            scores, value = self._score() if self.lesson.validate else ({}, math.nan)
            kept = self.lesson.validate is None or self.loop.better(value, self.standing.best)
            self._record(averaged=steps, validation=scores, best=kept)
            if kept and self.writes:
                self.folder.set_aside_best()
                self.folder.save_weights(self.lesson.model.state_dict())
            if kept and self.lesson.validate:
                self.standing.best = value

    def _load_best(self) -> None:
        """Leaves the model with the weights that the run folder holds."""
        if (self.folder.path / "model.safetensors").exists():
            _fill(self.lesson.model, self.folder.weights())
        self.lesson.model.eval()


def _fill(model: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copies a state dict into a model. Errors: InputError unless names and shapes are the same on both sides."""
    own = model.state_dict()
    odd = sorted(own.keys() ^ tensors.keys())
    if odd:
        whose = "model" if odd[0] in own else "checkpoint"
        raise InputError(f"only the {whose} has '{odd[0]}' ({len(odd)} such names); keep the recipe as it was")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise InputError(f"'{name}' is {tuple(own[name].shape)} here, {tuple(tensor.shape)} in the checkpoint")
    model.load_state_dict(tensors)
