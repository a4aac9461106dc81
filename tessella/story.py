"""Story: a whole model's source on one page, lowest part first."""

from __future__ import annotations

import inspect
import re
import sys
import types
from itertools import groupby

import torch
from torch import nn

from tessella.zoo.catalog import CARDS, MODELS, full_name, model_spec

Part = type | types.FunctionType


def story(name: str) -> str:
    """The zoo page of a model, then the source of every part it is made of, in the order of the floors."""
    name = full_name(name)
    made = model_spec(name, {} if name in CARDS else {"vocab": 1000})
    with torch.device("meta"):
        used = {type(module) for module in made.build().modules()} | {type(made)}
    parts = sorted(_with_functions(_ours(used)), key=_floor)
    sources = [_page(module, list(group)) for module, group in groupby(parts, lambda part: part.__module__)]
    page = inspect.getmodule(inspect.unwrap(getattr(MODELS[name], "func", MODELS[name])))
    title = f"# {name}\n\n{(page.__doc__ or '').strip()}\n" if page else f"# {name}\n"
    return "\n\n".join([title, *sources])


def _ours(classes: set[type]) -> set[Part]:
    """Those of tessella, with their bases, which may hold half of the method."""
    bases = {base for cls in classes for base in cls.__mro__}
    return {c for c in bases if c.__module__.startswith("tessella.") and issubclass(c, nn.Module)}


def _with_functions(parts: set[Part]) -> set[Part]:
    """The parts, the functions of tessella that they call, and those that these call."""
    found, waiting = set(parts), list(parts)
    while waiting:
        part = waiting.pop()
        source, known = inspect.getsource(part), vars(sys.modules[part.__module__])
        for name in set(re.findall(r"(?<![.\w])(?<!def )(\w+)\(", source)):
            called = known.get(name)
            if inspect.isfunction(called) and called.__module__.startswith("tessella.") and called not in found:
                found.add(called)
                waiting.append(called)
    return found


def _page(module: str, parts: list[Part]) -> str:
    """What the model uses of one file."""
    sources = "\n\n\n".join(inspect.getsource(part).rstrip() for part in parts)
    return f"# {module.replace('.', '/')}.py\n\n{sources}\n"


def _floor(part: Part) -> tuple[int, str, int]:
    """A module stands above the modules it imports; within a module, the order of writing."""
    return _height(sys.modules[part.__module__]), part.__module__, inspect.getsourcelines(part)[1]


def _height(module: types.ModuleType) -> int:
    below = {
        getattr(value, "__module__", None) or getattr(value, "__name__", "")
        for value in vars(module).values()
        if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value)
    }
    names = {n for n in below if n and n.startswith("tessella.") and n != module.__name__}
    return 1 + max((_height(sys.modules[n]) for n in names), default=0)
