"""Recipe: the role: everything that decides how a training goes, but where the data lies."""

from __future__ import annotations

from tessella.spec import Spec


class Recipe(Spec):
    """Role: one kind of task with all its settings; ``recipe.yaml`` of a run holds one."""

    about: str = ""
