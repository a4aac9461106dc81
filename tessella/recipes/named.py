"""Named recipes: every recipe that has a name, and recipes as YAML."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from tessella.errors import InputError, did_you_mean
from tessella.recipes import answering, captioning, fusing, matching, reading, translation, vision
from tessella.recipes.recipe import Recipe
from tessella.spec import from_dict, override, to_dict

LARGEST_RECIPE = 2**20

RECIPES: dict[str, Callable[[], Recipe]] = {
    make.__name__: make
    for page in (translation, vision, matching, captioning, fusing, answering, reading)
    for make in page.RECIPES
}


def recipe(name: str, changes: Iterable[str] = ()) -> Recipe:
    """A named recipe or a YAML file's, with changes such as ``model.encoder.depth=4``.

    A YAML file holds a whole recipe (with its kind), or ``base: NAME`` and dotted paths to change.
    """
    if name in RECIPES:
        made = RECIPES[name]().replace(about=about(name))
    elif Path(name).suffix in (".yaml", ".yml"):
        made = _from_file(Path(name))
    else:
        near = did_you_mean(name, RECIPES)
        raise InputError(f"no recipe called '{name}'{near} (a file of your own ends in .yaml)")
    return changed(made, changes)


def changed(made: Recipe, changes: Iterable[str]) -> Recipe:
    """A recipe with changes such as ``loop.epochs=10``."""
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"'{change}' is no change; write PATH=VALUE, such as loop.epochs=10")
        made = override(made, path.strip(), value.strip())
    return made


def about(name: str) -> str:
    """One line on a named recipe."""
    return (RECIPES[name].__doc__ or "").splitlines()[0]


def to_yaml(made: Recipe) -> str:
    """The text of recipe.yaml; ``from_yaml(to_yaml(r)) == r``."""
    return yaml.safe_dump(to_dict(made), sort_keys=False, allow_unicode=True, width=100)


def from_yaml(text: str, where: str) -> Recipe:
    """A recipe from YAML text. Raises InputError in one line, beginning with `where`."""
    data = _mapping(text, where)
    try:
        return from_dict(data, Recipe)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _from_file(path: Path) -> Recipe:
    if not path.is_file():
        raise InputError(f"no recipe file {path}; `tessella recipes` lists the ones that have names")
    if path.stat().st_size > LARGEST_RECIPE:
        raise InputError(f"{path} is larger than the {LARGEST_RECIPE} bytes of a recipe")
    text = path.read_bytes().decode("utf-8", "replace")
    data = _mapping(text, str(path))
    if "base" not in data:
        return from_yaml(text, str(path))
    made = recipe(str(data.pop("base")))
    for dotted, value in data.items():
        made = override(made, str(dotted), value)
    return made


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        raise InputError(f"{where} holds no recipe: expected fields such as 'kind: translation' or 'base: translate'")
    return data
