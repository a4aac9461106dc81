"""Fuser: rows of mixed data in, classes, numbers or labels out."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
from torch import Tensor, nn

from tessella.data.columns import Schema
from tessella.data.quarantine import Quarantine
from tessella.data.record_batches import Preparation, in_order, opened
from tessella.data.records import Records, read_records
from tessella.errors import InputError
from tessella.stems.streams import THERE


@dataclass(frozen=True)
class Guess:
    """What is said of one row, or why nothing is.

    Of classes: `value` is the likeliest, `chances` the probability of each; of numbers: `value` has one a target; of
    several labels: `value` are those with a probability of at least a half, `chances` that of each.
    """

    name: str
    value: Any = None
    chances: Mapping[str, float] | None = None
    error: str | None = None


class Fuser:
    """A model with all that belongs to its use: what the columns hold, and how each kind of them is prepared."""

    def __init__(self, model: nn.Module, preparation: Preparation):
        self.model, self.preparation = model.eval(), preparation

    @property
    def schema(self) -> Schema:
        """What the columns hold and what is predicted."""
        return self.preparation.schema

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self.model.state_dict().values())).device

    @property
    def dtype(self) -> torch.dtype:
        """The numbers in which it computes."""
        weights = self.model.state_dict().values()
        return next((tensor.dtype for tensor in weights if tensor.is_floating_point()), torch.float32)

    def placed(self, source: Mapping[str, Tensor], without: Collection[str] = ()) -> dict[str, Tensor]:
        """The streams of a batch where the model computes and in its numbers, less those that nobody shall have.

        Tables stay float32: the numbers of categories are more than bf16 can tell apart.
        """
        streams, own = self.schema.streams, self.dtype
        made = {}
        for name, tensor in source.items():
            if name.removesuffix(THERE) not in without:
                media = tensor.is_floating_point() and streams.get(name) != "table"
                made[name] = tensor.to(self.device, own if media else None)
        return made

    @torch.inference_mode()
    def logits(self, source: Mapping[str, Tensor], without: Collection[str] = ()) -> Tensor:
        """A batch's "source" -> float32 b k: scores of classes or labels, or numbers in units of their deviation."""
        return self.model(self.placed(source, without)).float()

    def answers(self, records: Records, without: Collection[str] = (), batch: int = 64) -> Iterator[Any]:
        """Logits k (float32, on the CPU) of each record in order, or why it has none (a file that cannot be read).

        without: streams that are taken away from everybody. Raises InputError for names that are no streams, and where
        no stream is left.
        """
        known = list(self.schema.streams)
        for name in without:
            if name not in known:
                raise InputError(f"there is no stream '{name}' to leave out; there are {', '.join(known)}")
        if not set(known) - set(without):
            raise InputError(f"without {', '.join(without)} there is nothing left to predict from")
        for start in range(0, len(records), batch):
            yield from self._tried(records.take(range(start, min(start + batch, len(records)))), without)

    def guesses(self, records: Records, batch: int = 64) -> Iterator[Guess]:
        """What is said of each record, in order."""
        for number, answer in enumerate(self.answers(records, batch=batch)):
            yield self.guess(records.name(number), answer)

    def guess(self, name: str, answer: Any) -> Guess:
        """An answer in words."""
        if isinstance(answer, InputError):
            return Guess(name, error=str(answer))
        if not answer.isfinite().all():
            return Guess(name, error="the model answers with numbers that are not finite; were its weights trained?")
        schema = self.schema
        if schema.task == "numbers":
            values = [v * t.deviation + t.mean for v, t in zip(answer.tolist(), schema.targets, strict=True)]
            return Guess(name, dict(zip(schema.names, values, strict=True)))
        if schema.task == "labels":
            chances = dict(zip(schema.names, answer.sigmoid().tolist(), strict=True))
            return Guess(name, [label for label, chance in chances.items() if chance >= 0.5], chances)
        chances = dict(zip(schema.names, answer.softmax(dim=-1).tolist(), strict=True))
        return Guess(name, max(chances, key=chances.__getitem__), chances)

    def __call__(self, rows: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> Guess | list[Guess]:
        """What is said of rows {column: value}, files of media by their path; of one row, or of a list of them.

        Columns may be left out: they are missing. Raises InputError where a row cannot be used.
        """
        if isinstance(rows, Mapping):
            return self._of_rows([rows])[0]
        return self._of_rows(list(rows))

    def _of_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[Guess]:
        records = self.records(rows)
        return [
            Guess(f"row {number + 1}", guess.value, guess.chances, guess.error)
            for number, guess in enumerate(self.guesses(records))
        ]

    def records(self, rows: Sequence[Mapping[str, Any]]) -> Records:
        """Rows {column: value} as records. Raises InputError for one that cannot be used."""
        media = {column.name for column in self.schema.media}
        used = [column.name for column in self.schema.used]
        plain = [{name: _cell(row.get(name), name in media) for name in used} for row in rows]
        columns = {name: [row[name] for row in plain] for name in used}
        with tempfile.TemporaryDirectory(prefix="tessella-") as folder:
            path = Path(folder) / "rows.parquet"
            pyarrow.parquet.write_table(pyarrow.table({n: _column(n, values) for n, values in columns.items()}), path)
            quarantine = Quarantine()
            try:
                records = read_records([path], self.schema, quarantine, labelled=False)
            except InputError:
                if not len(quarantine):
                    raise
        for item in quarantine:
            raise InputError(f"row {item.line}: {item.reason}{f' ({item.sample})' if item.sample else ''}")
        return records

    def _tried(self, records: Records, without: Collection[str]) -> list[Any]:
        """Answers to a batch of records; where one of them cannot be read, each by itself."""
        try:
            (batch,) = in_order(opened(records, self.preparation), len(records))
            read = batch["source"]
        except InputError as error:
            if len(records) == 1:
                return [error]
            return [self._tried(records.take([number]), without)[0] for number in range(len(records))]
        return self.computed(read, without)

    def computed(self, source: Mapping[str, Tensor], without: Collection[str]) -> list[Any]:
        """The answer to each row of a batch's "source"."""
        return list(self.logits(source, without).cpu())


def _cell(value: Any, is_file: bool) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if is_file and isinstance(value, str | os.PathLike) and os.fspath(value):
        return os.path.abspath(os.fspath(value))
    return value


def _column(name: str, values: list[Any]) -> pyarrow.Array:
    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowException, TypeError, ValueError):
        raise InputError(f"the values of '{name}' are of several kinds, or of one that no table has") from None
