"""Tasks: a recipe's kind decides what trains it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tessella import answering, captioning, classification, fusing, matching, reading, translation
from tessella.errors import InputError
from tessella.predict import opened
from tessella.recipes import answering as answers
from tessella.recipes import captioning as captions
from tessella.recipes import fusing as rows
from tessella.recipes import matching as pairs
from tessella.recipes import reading as texts
from tessella.recipes import vision
from tessella.recipes.named import changed, from_yaml, recipe
from tessella.recipes.recipe import Chosen
from tessella.runs import RunFolder
from tessella.spec import override

TRAINERS: dict[str, Callable[..., Any]] = {
    "translation": translation.train,
    "classification": classification.train,
    "matching": matching.train,
    "fusion": fusing.train,
    "answering": answering.train,
    "captioning": captioning.train,
    "language": reading.train,
}
"""Kind of recipe -> (recipe, data, out, resume, say) -> what was reached."""
CHOOSERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "classification": (vision.begun, vision.chosen),
    "matching": (pairs.begun, pairs.chosen),
    "fusion": (rows.begun, rows.chosen),
    "answering": (answers.begun, answers.chosen),
    "captioning": (captions.begun, captions.chosen),
    "language": (texts.begun, texts.chosen),
}
"""Kind of recipe -> what makes of it (and the recipe of a run to begin with) one that fits that run; and what (and
`Chosen`) one with these options."""


def train(
    name: str,
    data: Path,
    out: Path,
    changes: Sequence[str],
    say: Callable[[str], None],
    options: Chosen | None = None,
) -> Any:
    """Trains a recipe by name or file; see `named.recipe` for what may be changed, `Chosen` for models of images."""
    made = recipe(name)
    if options is not None and options != Chosen():
        if made.kind not in ("fusion", "answering") and (options.label or options.scheme or options.kinds):
            raise InputError(f"--label, --scheme and --column are for rows of mixed data (fuse), not for '{made.kind}'")
        if made.kind not in CHOOSERS:
            raise InputError(f"model, teacher, start and image size are chosen for images, not for '{made.kind}'")
        begun, chosen = CHOOSERS[made.kind]
        if options.start and not options.model:
            made = begun(made, opened(options.start)[1])
        made = chosen(made, options)
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
