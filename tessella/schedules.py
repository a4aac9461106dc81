"""Schedules: the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, PositiveInt, model_validator

from tessella.errors import InputError
from tessella.spec import Spec, spec


class Schedule(Spec):
    """The learning rate of each optimizer step. Steps count from 1."""

    def rate(self, step: int, total: int | None = None) -> float:
        """The learning rate of a step; ``total`` is the length of the training in steps, None if not known."""
        raise NotImplementedError


@spec("constant")
class Constant(Schedule):
    """``peak`` from the end of a linear warm-up on."""

    peak: float = Field(3e-4, gt=0)
    warmup: int = Field(0, ge=0)

    def rate(self, step: int, total: int | None = None) -> float:
        return self.peak * min(1.0, step / max(self.warmup, 1))


@spec("noam")
class Noam(Schedule):
    """``scale · width^-½ · min(step^-½, step · warmup^-1½)``: Vaswani et al. 2017, equation 3."""

    width: PositiveInt = 512
    warmup: PositiveInt = 4000
    scale: float = Field(1.0, gt=0)

    def rate(self, step: int, total: int | None = None) -> float:
        return self.scale * self.width**-0.5 * min(step**-0.5, step * self.warmup**-1.5)


@spec("inverse-sqrt")
class InverseSqrt(Schedule):
    """Linear to ``peak`` at step ``warmup``, then falling with the square root of the step: ``noam`` by its peak."""

    peak: float = Field(5e-4, gt=0)
    warmup: PositiveInt = 4000

    def rate(self, step: int, total: int | None = None) -> float:
        return self.peak * min(step / self.warmup, math.sqrt(self.warmup / step))


@spec("cosine")
class Cosine(Schedule):
    """Linear to ``peak`` at step ``warmup``, then half a cosine to ``final`` at step ``steps``, and flat after it.

    Loshchilov and Hutter 2017, equation 5, one period. ``steps`` is the length of the training if left out.
    """

    peak: float = Field(5e-4, gt=0)
    warmup: int = Field(0, ge=0)
    final: float = Field(0.0, ge=0)
    steps: PositiveInt | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.final > self.peak:
            raise InputError(f"'cosine' falls: final ({self.final}) must not be above peak ({self.peak})")
        if self.steps is not None and self.steps <= self.warmup:
            raise InputError(f"'cosine' needs more steps ({self.steps}) than warm-up ({self.warmup})")
        return self

    def rate(self, step: int, total: int | None = None) -> float:
        steps = self.steps or total
        if steps is None:
            raise InputError("'cosine' needs its 'steps' where the training is counted in epochs; set schedule.steps")
        if step <= self.warmup:
            return self.peak * step / self.warmup
        done = min(1.0, (step - self.warmup) / max(steps - self.warmup, 1))
        return self.final + (self.peak - self.final) * (1 + math.cos(math.pi * done)) / 2
