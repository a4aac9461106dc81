"""Recipe: the role: everything that decides how a training goes, but where the data lies."""

from __future__ import annotations

from typing import NamedTuple

from tessella.spec import Spec


class Recipe(Spec):
    """Role: one kind of task with all its settings; ``recipe.yaml`` of a run holds one."""

    about: str = ""


class Chosen(NamedTuple):
    """What one says in a word when training a model that reads images, or rows of mixed data."""

    model: str | None = None
    """A name of the zoo; images are then prepared as its published weights want them."""
    image_size: int | None = None
    start: str | None = None
    """A run folder or hf://owner/name to begin with."""
    freeze: bool = False
    teacher: str | None = None
    label: str | None = None
    """The column to be predicted."""
    scheme: str | None = None
    """How streams are fused."""
    kinds: tuple[str, ...] = ()
    """NAME=KIND: what a column holds, where it is not what it looks like."""
