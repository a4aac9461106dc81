"""Story: a whole model's source on one page, lowest part first."""

from __future__ import annotations

import inspect
import sys
import types
from itertools import groupby

from torch import nn

from tessella.zoo.catalog import MODELS, model_spec


def story(name: str) -> str:
    """The zoo page of a model, then the source of every part it is made of, in the order of the floors."""
    made = model_spec(name, {"vocab": 1000})
    used = {type(module) for module in made.build().modules()} | {type(made)}
    classes = sorted(_ours(used), key=_floor)
    sources = [_page(module, list(group)) for module, group in groupby(classes, lambda cls: cls.__module__)]
    page = inspect.getmodule(inspect.unwrap(getattr(MODELS[name], "func", MODELS[name])))
    title = f"# {name}\n\n{(page.__doc__ or '').strip()}\n" if page else f"# {name}\n"
    return "\n\n".join([title, *sources])


def _ours(classes: set[type]) -> set[type]:
    """Those of tessella, with their bases, which may hold half of the method."""
    bases = {base for cls in classes for base in cls.__mro__}
    return {c for c in bases if c.__module__.startswith("tessella.") and issubclass(c, nn.Module)}


def _page(module: str, classes: list[type]) -> str:
    """What the model uses of one file."""
    sources = "\n\n\n".join(inspect.getsource(cls).rstrip() for cls in classes)
    return f"# {module.replace('.', '/')}.py\n\n{sources}\n"


def _floor(cls: type) -> tuple[int, str, int]:
    """A module stands above the modules it imports; within a module, the order of writing."""
    return _height(sys.modules[cls.__module__]), cls.__module__, inspect.getsourcelines(cls)[1]


def _height(module: types.ModuleType) -> int:
    below = {
        getattr(value, "__module__", None) or getattr(value, "__name__", "")
        for value in vars(module).values()
        if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value)
    }
    names = {n for n in below if n and n.startswith("tessella.") and n != module.__name__}
    return 1 + max((_height(sys.modules[n]) for n in names), default=0)
