"""Fuse answers: what a fusion says of rows, summed as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tessella.data.columns import Schema
from tessella.data.quarantine import Quarantine
from tessella.data.records import Records
from tessella.errors import InputError
from tessella.fuse_sums import ClassSums, LabelSums, NumberSums, Sums

AT_ONCE = 1024
"""Rows that are summed at once."""


class Answers(Protocol):
    """What is evaluated: a fusion's predictor."""

    @property
    def schema(self) -> Schema:
        """What the columns hold and what is predicted."""
        ...

    def answers(self, records: Records, without: Sequence[str] = (), batch: int = 32) -> Iterator[Tensor | InputError]:
        """What the model says of each row, float32 k, or why it says nothing; `without`: streams no row has."""
        ...


def sums_for(schema: Schema) -> Sums:
    """What adds up answers to this label."""
    if schema.task == "classes":
        return ClassSums(schema.names)
    if schema.task == "labels":
        return LabelSums(schema.names)
    targets = schema.targets
    return NumberSums(schema.names, [one.mean for one in targets], [one.deviation for one in targets])


def in_units(values: np.ndarray, schema: Schema) -> np.ndarray:
    """Numbers n t as the model has them -> in the units of the table; anything else as it is."""
    if schema.task != "numbers":
        return values
    return values.astype(np.float64) * [one.deviation for one in schema.targets] + [one.mean for one in schema.targets]


def answered(
    fuser: Answers,
    records: Records,
    without: Sequence[str],
    batch: int,
    quarantine: Quarantine,
    done: Callable[[int], None],
) -> tuple[np.ndarray, Sums]:
    """The numbers of the rows that have an answer, and their sums; the others are set aside."""
    sums, schema, labels = sums_for(fuser.schema), fuser.schema, records.labels
    assert labels is not None
    kept: list[int] = []
    numbered = enumerate(fuser.answers(records, without, batch))
    while part := list(islice(numbered, AT_ONCE)):
        good = [number for number, answer in part if isinstance(answer, Tensor)]
        rows = [answer for _, answer in part if isinstance(answer, Tensor)]
        if rows:
            sums.add(in_units(torch.stack(rows).numpy(), schema), in_units(labels[good], schema))
        for number, answer in part:
            if isinstance(answer, InputError):
                quarantine.add(*records.place(number), getattr(answer, "reason", str(answer)))
        kept += good
        done(len(part))
    if not kept:
        raise InputError(f"{records.files[0]}: none of {len(records):,} rows can be read ({told_reasons(quarantine)})")
    return np.array(kept), sums


def told_reasons(quarantine: Quarantine) -> str:
    """Such as "no label: 3; truncated: 1"."""
    return "; ".join(f"{reason}: {count:,}" for reason, count in quarantine.reasons().items())
