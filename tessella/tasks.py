"""Tasks: a recipe's kind decides what trains it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tessella import classification, translation
from tessella.errors import InputError
from tessella.predict import opened
from tessella.recipes.named import changed, from_yaml, recipe
from tessella.recipes.vision import Classification, ClassifierOptions, chosen
from tessella.runs import RunFolder
from tessella.spec import override

TRAINERS: dict[str, Callable[..., Any]] = {"translation": translation.train, "classification": classification.train}
"""Kind of recipe -> (recipe, data, out, resume, say) -> what was reached."""


def train(
    name: str,
    data: Path,
    out: Path,
    changes: Sequence[str],
    say: Callable[[str], None],
    classifier: ClassifierOptions | None = None,
) -> Any:
    """Trains a recipe by name or file; see `named.recipe` for what may be changed, `vision.chosen` for classifiers."""
    made = recipe(name)
    if classifier is not None and classifier != ClassifierOptions():
        if not isinstance(made, Classification):
            raise InputError(f"model, teacher, start and image size are chosen for classifiers, not for '{made.kind}'")
        if classifier.start and not classifier.model:
            _, theirs = opened(classifier.start)
            if not isinstance(theirs, Classification):
                raise InputError(f"{classifier.start} is a '{theirs.kind}' run; a classifier begins with another one")
            made = made.replace(model=theirs.model, image=theirs.image)
        made = chosen(made, classifier)
    made = changed(made, changes)
    return TRAINERS[made.kind](made, data, out, False, say)


def resume(out: Path, data: Path | None, changes: Sequence[str], say: Callable[[str], None]) -> Any:
    """Goes on with a run: its own recipe, the data where it lay (or `data`); only loop settings may be changed."""
    run = RunFolder.resume(out)
    made = from_yaml(run.read_text("recipe.yaml"), str(out / "recipe.yaml"))
    for change in changes:
        path, _, value = change.partition("=")
        if not path.startswith("loop."):
            raise InputError(f"a run that goes on keeps its recipe; only loop settings may change, not '{path}'")
        made = override(made, path, value)
    if data is None:
        noted = run.manifest.get("data", {}).get("path")
        if not noted:
            raise InputError(f"{out} does not say where its data lies; give --data")
        data = Path(noted)
    return TRAINERS[made.kind](made, data, out, True, say)
