"""Loop: how long, how often and with what a model learns, as data."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from tessella.errors import InputError
from tessella.precision import PrecisionName
from tessella.spec import Spec, spec

Often = PositiveInt | Literal["epoch"]
"""Every so many steps, or at the end of each epoch."""


def due(often: Often, step: int, epoch_ended: bool) -> bool:
    """Whether something is due after a step."""
    return epoch_ended if often == "epoch" else step % often == 0


@spec("loop")
class LoopSpec(Spec):
    """The settings of the training loop. It ends after ``steps`` or ``epochs``, whichever comes first."""

    steps: PositiveInt | None = None
    """Optimizer steps."""
    epochs: PositiveInt | None = None
    accumulate: PositiveInt = 1
    """Batches per optimizer step and process: their gradients are added up as if they were one batch."""
    clip: float | None = Field(1.0, gt=0)
    """The largest norm of the gradient; null for no limit."""
    precision: PrecisionName = "auto"
    """``auto``: bf16 where the hardware is good at it, else 32. Weights are fp32 in any case."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: PositiveInt = 1
    """Processes, each on a device of its own; every one takes ``accumulate`` batches per step."""
    seed: NonNegativeInt = 1
    validate_every: Often = "epoch"
    patience: PositiveInt | None = None
    """Stop after so many validations without a better metric."""
    metric: str = "bleu"
    """Which of the validation's numbers decides what is best."""
    mode: Literal["max", "min"] = "max"
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of the exponential moving average that is validated and saved in place of the weights; null for none."""
    average: NonNegativeInt = 0
    """The weights of so many checkpoints are averaged at the end, and kept if they validate better; 0 for none."""
    average_of: Literal["last", "best"] = "last"
    checkpoint_every: Often = "epoch"
    checkpoint_minutes: float | None = Field(15, gt=0)
    """Another checkpoint if the last one is this old, for the safety of long epochs; never averaged. Null for none."""
    keep: PositiveInt = 2
    """Checkpoints kept."""
    log_every: PositiveInt = 50
    """Steps per record in metrics.jsonl."""
    workers: NonNegativeInt = 0
    """Processes that prepare batches; 0: the training process itself."""

    @field_validator("precision", mode="before")
    @classmethod
    def _number_is_name(cls, value: Any) -> Any:
        return "32" if value == 32 else value

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.steps is None and self.epochs is None:
            raise InputError("the loop has no end; set loop.steps or loop.epochs")
        return self

    def better(self, value: float, than: float | None) -> bool:
        """Whether a metric beats another one (None: any number does; NaN never does)."""
        if value != value:
            return False
        return than is None or (value > than if self.mode == "max" else value < than)

    def length(self, step: int, epoch: int) -> int | None:
        """How many steps there will be, judged after ``step`` of them and ``epoch`` whole epochs; None if unknown."""
        if self.epochs is None or epoch == 0:
            return self.steps
        by_epochs = round(step / epoch * self.epochs)
        return min(self.steps or by_epochs, by_epochs)
