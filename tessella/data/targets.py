"""Targets: what is to be predicted, from the columns of labels: classes, numbers, or several labels a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import pyarrow

from tessella.data.albums import natural
from tessella.data.cell_values import Faults, is_list, lists, numbers, texts, words
from tessella.data.cells import names_of, read_cells
from tessella.data.profiles import GOOD, MOST_VALUES, Profile
from tessella.errors import InputError, did_you_mean
from tessella.spec import Spec, spec

if TYPE_CHECKING:
    from tessella.data.columns import Schema

Task = Literal["classes", "numbers", "labels", "words"]
TASKS: tuple[Task, ...] = get_args(Task)
MOST_CLASSES = 20
"""Different whole numbers that are taken for classes; more are numbers."""
SEPARATOR = "|"
STRATA = 1000
"""Different labels up to which a share is held out of each."""


@spec("target")
class Target(Spec):
    """A number to be predicted: its column, and mean and deviation over the training rows."""

    name: str
    mean: float = 0.0
    deviation: float = 1.0


class Found(NamedTuple):
    """What is to be predicted; see ``Schema``."""

    task: Task
    names: tuple[str, ...]
    targets: tuple[Target, ...]
    why: str


def label_names(label: str, names: Sequence[str], path: Path) -> list[str]:
    """The columns of a label: one, or several with commas between. Raises InputError for what is no column."""
    wanted = [label] if label in names else [part.strip() for part in label.split(",")]
    for name in wanted:
        if name not in names:
            hint = "; it seems to have semicolons: save it with commas" if [";" in n for n in names] == [True] else ""
            raise InputError(f"{path} has no column '{name}' to predict{hint or did_you_mean(name, names)}")
    if len(set(wanted)) < len(wanted):
        raise InputError(f"the label '{label}' names a column twice")
    return wanted


def target_of(profiles: Sequence[Profile], task: Task | None) -> Found:
    """What is to be predicted. Raises InputError where nothing can be learned from such labels."""
    if task is not None and task not in TASKS:
        raise InputError(f"no task '{task}'{did_you_mean(task, TASKS)}")
    for profile in profiles:
        if profile.odd:
            raise InputError(
                f"'{profile.name}' has cells of {profile.odd}; a label is text, a number, or a list of texts"
            )
        if not profile.there:
            raise InputError(f"no row has a label: column '{profile.name}' is empty")
    if len(profiles) > 1 and task not in (None, "numbers"):
        raise InputError(f"{len(profiles)} columns are to be predicted; several can only be numbers, not {task}")
    said = "as you say" if task else ""
    if task == "numbers" or len(profiles) > 1 or (task is None and _are_numbers(profiles[0])):
        return _numbers(profiles, said)
    (profile,) = profiles
    if task == "words":
        return _words(profile, said)
    if task == "labels" or (task is None and profile.listed):
        return _labels(profile, said)
    return _classes(profile, said)


def encoded(schema: Schema, columns: Mapping[str, pyarrow.Array]) -> tuple[np.ndarray, Faults]:
    """Labels of some rows and what is wrong with them: int64 n, float32 n t (standardised), or uint8 n k of 0 and 1.

    Of words they are 0: texts are kept elsewhere (`answers`).
    """
    if schema.task == "numbers":
        values, faults = [], []
        for target in schema.targets:
            read = numbers(columns[target.name])
            values.append((read.values - target.mean) / target.deviation)
            faults += [(f"label '{target.name}' is {reason}", wrong) for reason, wrong in read.faults]
        table = np.stack(values, axis=1).astype(np.float32)
        return table, [*faults, ("no label", np.asarray(np.isnan(table).any(axis=1)))]
    (name,) = schema.label
    if schema.task == "words":
        read = texts(columns[name])
        missing = read.values.is_null().to_numpy(zero_copy_only=False)
        return np.zeros(len(missing), np.int64), [*read.faults, ("no label", missing)]
    number = {name: place for place, name in enumerate(schema.names)}
    if schema.task == "classes":
        read = words(columns[name])
        places = np.array([*(number.get(word, -2) for word in read.words), -1], np.int64)[read.places]
        return places, [
            *read.faults,
            ("no label", places == -1),
            ("label is not among those of training", places == -2),
        ]
    rows = list(lists(columns[name], schema.separator))
    table = np.zeros((len(rows), len(number)), np.uint8)
    odd = np.zeros(len(rows), bool)
    for row, found in enumerate(rows):
        known = [number[word] for word in found if word in number]
        table[row, known] = 1
        odd[row] = len(known) < len(found)
    missing = columns[name].is_null().to_numpy(zero_copy_only=False)
    return table, [("no label", missing), ("label is not among those of training", odd)]


def divided(
    paths: Sequence[Path], label: str, share: float, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(training, held out): which rows of each table, bool n; of classes, ``share`` of each is held out, else of all.

    The same tables, share and seed give the same division; one row at least of a class stays in training.
    Raises InputError for a share outside of 0 to 1 and where nothing can be held out.
    """
    if not 0 < share < 1:
        raise InputError(f"the share held out is {share}; it must lie between 0 and 1")
    names = label_names(label, names_of(paths[0]), paths[0])
    strata = _Strata(names[0])
    tables = [strata.of(path) for path in paths]
    everything = np.concatenate(tables)
    rows = np.flatnonzero(everything >= 0)
    groups = [rows]
    if len(names) == 1 and strata.are_classes:
        first = np.unique(everything[rows], return_index=True)[1]
        groups = [np.delete(rows, first)]  # where there are fewer than one a class to hold out
        if share * len(rows) >= len(first):
            groups = [rows[everything[rows] == stratum] for stratum in everything[rows[first]]]
    held = np.zeros(len(everything), bool)
    for number, group in enumerate(groups):
        if len(group) > 1:
            count = min(max(round(share * len(group)), 1), len(group) - 1)
            held[np.random.default_rng([seed, number]).permutation(group)[:count]] = True
    if not held.any():
        raise InputError("every label has one row; nothing can be held out, give a validation table")
    ends = np.cumsum([len(table) for table in tables])[:-1]
    return np.split(~held, ends), np.split(held, ends)


class _Strata:
    """The number of each row's label."""

    def __init__(self, name: str):
        self.profile = Profile(name)
        self.numbers: dict[str, int] = {}

    @property
    def are_classes(self) -> bool:
        """Whether there are labels to be told apart."""
        profile = self.profile
        if profile.listed or profile.odd or profile.many or _are_numbers(profile):
            return False
        return len(self.numbers) <= STRATA and not _mostly_different(len(self.numbers), profile)

    def of(self, path: Path) -> np.ndarray:
        """Int64 n, as many as the table has rows, broken ones too; -1 where there is no label."""
        broken: list[int] = [0]
        parts = [np.zeros(0, np.int64)]
        count = 0
        for cells in read_cells(path, [self.profile.name], lambda file, row, *told: broken.append(row)):
            column = cells.columns[self.profile.name]
            self.profile.add(column)
            part = np.full(int(cells.rows[-1]) - count, -1)
            part[cells.rows - 1 - count] = self._numbered(column)
            parts.append(part)
            count += len(part)
        return np.concatenate([*parts, np.full(max(0, max(broken) - count), -1)])

    def _numbered(self, cells: pyarrow.Array) -> np.ndarray:
        if self.profile.odd or is_list(cells.type) or self.profile.many or len(self.numbers) > STRATA:
            return np.where(cells.is_valid().to_numpy(zero_copy_only=False), 0, -1)
        read = words(cells)
        known = [self.numbers.setdefault(word, len(self.numbers)) for word in read.words]
        return np.array([*known, -1], np.int64)[read.places]


def _are_numbers(profile: Profile) -> bool:
    if profile.listed or profile.numeric.count < GOOD * profile.there:
        return False
    return not profile.numeric.whole or profile.many or len(profile.values) > MOST_CLASSES


def _mostly_different(labels: int, profile: Profile) -> bool:
    """Whether labels are texts rather than classes: hardly any comes twice, in more than a few rows."""
    return labels > profile.there / 2 and profile.there > MOST_CLASSES


def _numbers(profiles: Sequence[Profile], said: str) -> Found:
    for profile in profiles:
        if profile.listed or profile.numeric.count < GOOD * profile.there:
            raise InputError(f"'{profile.name}' cannot be predicted as numbers: most of its cells are none")
        if profile.numeric.low == profile.numeric.high:
            raise InputError(
                f"the label '{profile.name}' is {profile.numeric.low:g} in every row; nothing can be learned"
            )
    targets = tuple(Target(name=p.name, mean=p.numeric.mean, deviation=p.numeric.deviation) for p in profiles)
    ranges = ", ".join(f"{p.numeric.low:.6g} to {p.numeric.high:.6g}" for p in profiles)
    return Found("numbers", tuple(p.name for p in profiles), targets, said or ranges)


def _classes(profile: Profile, said: str) -> Found:
    if profile.listed:
        raise InputError(f"'{profile.name}' has lists of labels; they are predicted as labels, not classes")
    counted = profile.values
    if profile.many or _mostly_different(len(counted), profile):
        told = f"over {MOST_VALUES:,}" if profile.many else f"{len(counted):,}"
        raise InputError(
            f"'{profile.name}' has {told} different labels in {profile.there:,} rows; these are no classes"
        )
    if len(counted) < 2:
        raise InputError(f"'{profile.name}' has one class, '{next(iter(counted))}'; telling apart takes two or more")
    rarest, most = min(counted.values()), max(counted.values())
    return Found("classes", _sorted(counted), (), said or f"{rarest:,} to {most:,} rows each")


def _words(profile: Profile, said: str) -> Found:
    if profile.listed:
        raise InputError(f"'{profile.name}' has lists of texts; an answer in words is one text a row")
    counted = f"over {MOST_VALUES:,}" if profile.many else f"{len(profile.values):,}"
    return Found("words", (), (), f"{said and f'{said}; '}{counted} different answers")


def _labels(profile: Profile, said: str) -> Found:
    counted: Counter[str] = profile.values
    if not profile.listed:
        counted = Counter()
        for texts, count in profile.values.items():
            counted.update(dict.fromkeys({word for part in texts.split(SEPARATOR) if (word := part.strip())}, count))
    if profile.many:
        raise InputError(f"'{profile.name}' has over {MOST_VALUES:,} different labels; these are too many to predict")
    if not counted:
        raise InputError(f"'{profile.name}' has no label in any row")
    return Found("labels", _sorted(counted), (), said or f"{profile.there:,} rows have one or more")


def _sorted(words: Counter[str]) -> tuple[str, ...]:
    try:
        return tuple(sorted(words, key=float))
    except ValueError:
        return tuple(sorted(words, key=natural))
