"""Fuse words: how people read the scores of fusions, in a terminal and on a page."""

from __future__ import annotations

from tessella.data.columns import Schema
from tessella.fuse_evaluate import Group, Masked
from tessella.fuse_scores import Measures, Paired

SHARES = ("accuracy", "balanced", "all right")
UNITS = ("MAE", "RMSE", "median error")
"""Measures in the unit of the label."""
PLAIN = {"classes": "most frequent", "numbers": "training mean", "labels": "never a label"}
"""Task -> what needs no model."""
OUTCOME = {"classes": "accuracy", "numbers": "MAE", "labels": "all right"}
"""Task -> the mean of what rows are compared by."""
CHIEF = {
    "classes": ("accuracy", "AUC"),
    "numbers": ("MAE", "R²"),
    "labels": ("mAP", "all right"),
}
"""Task -> what is shown where there is no room for all measures."""


def figure(name: str, value: float | None) -> str:
    """A measure by its name."""
    if value is None:
        return "–"
    if name in SHARES:
        return f"{value:.2%}"
    if name in UNITS:
        return in_unit(value)
    return f"{value:.3f}"


def in_unit(value: float, sign: str = "") -> str:
    """An error in the unit of the label."""
    return f"{value:{sign}#.4g}" if abs(value) < 1000 else f"{value:{sign},.0f}"


def outcome(schema: Schema) -> str:
    """What the mean over rows is called."""
    return "error in deviations" if len(schema.targets) > 1 else OUTCOME[schema.task]


def level(schema: Schema, mean: float, interval: tuple[float, float] | None) -> tuple[str, str]:
    """The mean outcome of rows, and its interval."""
    if schema.task == "numbers":
        return in_unit(mean), f"{in_unit(interval[0])}–{in_unit(interval[1])}" if interval else "–"
    return f"{mean:.2%}", f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}" if interval else "–"


def change(schema: Schema, found: Paired) -> tuple[str, str, str]:
    """A difference of outcomes (in points, or in the unit of the error), its interval, and p."""
    p = f"{found.p:.3f}" if found.p >= 0.001 else "<0.001"
    ends = found.interval
    if schema.task == "numbers":
        return in_unit(found.difference, "+"), f"{in_unit(ends[0], '+')} to {in_unit(ends[1], '+')}" if ends else "–", p
    return f"{100 * found.difference:+.2f}", f"{100 * ends[0]:+.2f} to {100 * ends[1]:+.2f}" if ends else "–", p


def masked_name(masked: Masked) -> str:
    """Such as "without photo", "photo alone"."""
    if len(masked.streams) == 1 and len(masked.without) > 1:
        return f"{masked.streams[0]} alone"
    return f"without {', '.join(masked.without)}"


def worth(schema: Schema, masked: Masked) -> str:
    """Such as "without photo: -3.1 points"."""
    by = masked.change.difference
    told = f"{in_unit(by, '+')} of {outcome(schema)}" if schema.task == "numbers" else f"{100 * by:+.1f} points"
    return f"{masked_name(masked)}: {told}"


def chief(schema: Schema, measured: dict[str, Measures]) -> dict[str, float | None]:
    """The few measures that say most; of several numbers their mean R²."""
    if len(measured) == 1:
        (only,) = measured.values()
        return {name: only[name] for name in CHIEF[schema.task]}
    known = [each["R²"] for each in measured.values() if each["R²"] is not None]
    return {"mean R²": sum(known) / len(known) if known else None}


def group_name(group: Group) -> str:
    """What the rows of a group lack."""
    return ", ".join(group.lacking) or "nothing"


def unseen(counts: dict[str, int]) -> str:
    """Such as "Size 12, Colour 3"."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
