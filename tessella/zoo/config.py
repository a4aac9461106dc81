"""Config: what a published config.json says, read field by field and refused in one line where it cannot be meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tessella.blocks import Activation
from tessella.errors import InputError, did_you_mean

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "quick_gelu": "quick-gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""The names of `transformers` -> ours; the first of several is written on the way back."""


def whole(config: Mapping[str, Any], name: str, absent: int, most: int = 10**6, least: int = 1) -> int:
    """A whole number from `least` to `most`; `absent` where the file leaves it out, as its own loader would have it."""
    value = config.get(name, absent)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"config.json: '{name}' must be a whole number from {least} to {most}, got {value!r}")
    return value


def wholes(config: Mapping[str, Any], name: str, absent: tuple[int, ...]) -> tuple[int, ...]:
    """Whole numbers from 1, such as one for every stage."""
    values = config.get(name, absent)
    if not isinstance(values, list | tuple) or not values:
        raise InputError(f"config.json: '{name}' must be a list of whole numbers, got {values!r}")
    return tuple(whole({name: value}, name, 1) for value in values)


def number(config: Mapping[str, Any], name: str, absent: float) -> float:
    """A number of at least 0 and below 1, such as a rate or an epsilon."""
    value = config.get(name, absent)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise InputError(f"config.json: '{name}' must be at least 0 and below 1, got {value!r}")
    return float(value)


def activation(config: Mapping[str, Any], name: str = "hidden_act", absent: str = "gelu") -> Activation:
    """Our name of the activation function."""
    theirs = config.get(name, absent)
    if theirs not in ACTIVATIONS:
        raise InputError(f"config.json: {name} '{theirs}' is not known{did_you_mean(str(theirs), ACTIVATIONS)}")
    return ACTIVATIONS[theirs]


def classes(config: Mapping[str, Any]) -> int:
    """How many classes: those with a name, else `num_labels`; two where neither is there, as in `transformers`."""
    names = config.get("id2label")
    if names is None:
        return whole(config, "num_labels", 2)
    if not isinstance(names, Mapping) or not names:
        raise InputError(f"config.json: 'id2label' must name the classes, got {names!r}")
    return len(names)


def rows_and_columns(config: Mapping[str, Any], name: str, absent: int) -> tuple[int, int]:
    """One whole number for a square, or a pair."""
    value = config.get(name, absent)
    sides = value if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2:
        raise InputError(f"config.json: '{name}' must be one whole number or two, got {value!r}")
    return whole({name: sides[0]}, name, absent), whole({name: sides[1]}, name, absent)


def demand(config: Mapping[str, Any], **wanted: Any) -> None:
    """Refuses a switch that changes the computation into one we do not have."""
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise InputError(f"config.json has {name} {config[name]!r}; models are supported with {value!r}")


def agree(layout: str, **facts: tuple[Any, Any]) -> None:
    """Refuses to describe a model in a layout that cannot compute it; facts are (what it has, what is needed)."""
    for name, (has, needed) in facts.items():
        if has != needed:
            what = name.replace("_", " ")
            raise InputError(f"the {layout} layout needs {what} {needed!r}, but the model has {has!r}")


def theirs(ours: str) -> str:
    """Their name of an activation function."""
    return next(name for name, known in ACTIVATIONS.items() if known == ours)
