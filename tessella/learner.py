"""Learner: the one training loop, for every task."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from tessella import files
from tessella.averages import Candidates, swapped
from tessella.checkpoints import Checkpoint
from tessella.data.batches import Position
from tessella.errors import InputError, did_you_mean
from tessella.lesson import Lesson, Standing, Stream
from tessella.loop import LoopSpec, due
from tessella.optimizers import OptimizerSpec
from tessella.processes import Interrupted, launch, seed_all, stop_requests
from tessella.progress import ProgressBar
from tessella.runs import METRICS, RunFolder
from tessella.schedules import Schedule
from tessella.stepper import Stepper, fill

LOOK_EVERY = 10
"""Steps between two looks at what an accelerator has computed: looking makes the processor wait for it."""


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
        run.checkpoints.keep = loop.keep
        self.writes = fabric.is_global_zero
        self.standing = Standing()
        self.stepper = Stepper(fabric, lesson, loop, optimizer)
        self.candidates = Candidates(run.checkpoints, loop.average, loop.mode)
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
        self.saved_at = time.monotonic()
        self.began = self.saved_at - self.standing.seconds
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
        self.unseen.append((now.step, rate, row))
        ended = self.stream.place.epoch > epoch
        validate = self.lesson.validate is not None and due(self.loop.validate_every, now.step, ended)
        save, log = due(self.loop.checkpoint_every, now.step, ended), now.step % self.loop.log_every == 0
        look = self.fabric.device.type == "cpu" or now.step % LOOK_EVERY == 0
        stop = self._look() if look or validate or save or log or self._over() else False
        now.tally["seconds"] = now.tally.get("seconds", 0.0) + time.monotonic() - began
        if log:
            self._log()
        if validate:
            self._validate()
        if save and self.loop.average_of == "last":
            self.candidates.add(now.step, None, self.stepper.best_guess, self.writes)
        if not self._over():  # the last checkpoint comes after the last validation
            if save or self._long_ago():
                self._save()
            if stop:
                self._stop()

    def _look(self) -> bool:
        """Reads the rows of the last steps into the tally. Out: whether a process was asked to stop."""
        tally = self.standing.tally
        rows = torch.stack([row for _, _, row in self.unseen]).tolist()
        for (step, rate, _), (weight, _, norm, *sums) in zip(self.unseen, rows, strict=True):
            self._refuse_infinity(step, rate, weight, norm, sums[0])
            for name, value in zip(("weight", *self.stepper.names), (weight, *sums), strict=True):
                tally[name] = tally.get(name, 0.0) + value
        step, rate, _ = self.unseen[-1]
        speed = tally["weight"] / tally["seconds"] if tally.get("seconds") else 0.0
        self.bar.update(step, rows[-1][3] / rows[-1][0], rate, speed, self.loop.length(step, self.stream.place.epoch))
        self.unseen.clear()
        return any(row[1] > 0 for row in rows)

    def _refuse_infinity(self, step: int, rate: float, weight: float, norm: float, loss: float) -> None:
        """What no later step could mend: it is seen before anything of it is saved."""
        since = f"at step {step} (learning rate {rate:.3g}); nothing was saved since step {max(self.saved, 0)}"
        if not weight > 0:
            raise InputError(f"there is nothing to learn from {since}; look for batches without any target")
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "gradient" if math.isfinite(loss) else "loss"
            raise InputError(
                f"the {what} is not finite {since}; lower the learning rate, lengthen the warm-up or clip the gradient"
            )

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
        with swapped(self.lesson.model, self.stepper.best_guess):
            scores, value = self._score()
            best = self.loop.better(value, now.best)
            now.validated, now.stale = now.step, 0 if best else now.stale + 1
            self._record(validation=scores, best=best)
            self.bar.score(self.loop.metric, value)
            if best:
                now.best, now.best_step = value, now.step
                if self.writes:
                    self.folder.save_weights(self.lesson.model.state_dict())
        if self.loop.average_of == "best" and not math.isnan(value):
            self.candidates.add(now.step, value, self.stepper.best_guess, self.writes)

    def _save(self) -> None:
        """A checkpoint of this very moment."""
        now = self.standing
        if self.unseen:
            self._look()
        if self.saved == now.step:
            return
        self.saved, self.saved_at = now.step, time.monotonic()
        now.seconds = self.saved_at - self.began
        if not self.writes:
            return
        state = {
            **asdict(now),
            "candidates": self.candidates.rows,
            "place": self.stream.place.to_dict(),
            "setting": self._setting(),
        }
        if (self.folder.path / METRICS).exists():
            files.sync(self.folder.path / METRICS)
        moment = Checkpoint(now.step, self.lesson.model.state_dict(), self.stepper.memory(), state)
        self.folder.checkpoints.save(moment)

    def _long_ago(self) -> bool:
        """Whether too much would be lost now; a checkpoint more or less changes no number."""
        minutes = self.loop.checkpoint_minutes
        return self.writes and minutes is not None and time.monotonic() - self.saved_at > 60 * minutes

    def _stop(self) -> None:
        self._save()
        self.fabric.barrier()
        path = self.folder.path
        self.bar.say(f"stopped after step {self.standing.step}; go on with: tessella train --resume {path}")
        raise Interrupted(self.standing.step, self.fabric.global_rank)

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
        try:
            place, setting, rows = Position.from_dict(state.pop("place")), state.pop("setting"), state.pop("candidates")
            self.standing = Standing(step=found.step, **state)
        except (KeyError, TypeError) as error:
            raise InputError(f"the checkpoint of step {found.step} is not of this version: {error}") from None
        self.stepper.recall(found.model, found.optimizer)
        self.stream.place, self.candidates.rows, self.saved = place, rows, found.step
        if setting != self._setting():
            self.bar.say(f"the checkpoint was made with {setting}, now {self._setting()}: the numbers will differ")
        self.bar.say(f"going on after step {found.step}")

    def _setting(self) -> dict[str, Any]:
        """What must be the same for a resumed training to give the same numbers."""
        precision = type(self.fabric.strategy.precision).__name__
        return {"seed": self.loop.seed, "devices": self.fabric.world_size, "precision": precision}

    def _finish(self) -> None:
        """The last validation, checkpoint and average."""
        if self.standing.tally.get("weight"):
            self._log()
            self.saved = -1
        if self.lesson.validate and self.standing.validated != self.standing.step:
            self._validate()
            self.saved = -1
        self._save()
        if self.lesson.validate is None and self.writes:
            with swapped(self.lesson.model, self.stepper.best_guess):
                self.folder.save_weights(self.lesson.model.state_dict())
        if len(self.candidates.rows) > 1:
            self._average()
        self.fabric.barrier()

    def _average(self) -> None:
        """Puts the mean of the kept weights in the place of the best ones, unless it validates worse."""
        steps, weights = self.candidates.mean(self.bar.say)
        with swapped(self.lesson.model, weights):
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
            fill(self.lesson.model, self.folder.weights())
        self.lesson.model.eval()
