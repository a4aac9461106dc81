"""Export: a run in another library's format, complete and with a page that says how to use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tessella.errors import InputError, did_you_mean
from tessella.exporting import clip, language, translation, vision
from tessella.predict import opened
from tessella.runs import RunFolder

Format = Callable[[RunFolder, Any, Path], list[str]]
"""(run, recipe, out) -> remarks, a line each, having written `out` whole."""

FORMATS: dict[str, Mapping[str, Format]] = {
    "translation": translation.FORMATS,
    "classification": vision.FORMATS,
    "matching": clip.FORMATS,
    "language": language.FORMATS,
}
"""Kind of recipe -> name of the format -> what writes it."""


def export_run(run: str | Path, to: str, out: str | Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """Writes a run (or hf://owner/name) to the new folder or file `out` and returns it.

    to: of a translation run, "ctranslate2" or "hf" (also "safetensors"), the layout of transformers' MarianMTModel; of
    a classification run, "hf", "timm", "torchvision" or "microsoft", a folder in the layout of that library, or "onnx",
    a file with images' preparation and class names inside; of a matching run, "hf", "openai" or "onnx", a folder each;
    of a language run, "hf", the layout of transformers' BERT or GPT-2.
    say: gets a line for all that is not computed there as here.
    Raises InputError where the format cannot hold the model, its package is missing, or `out` is there already.
    """
    folder, recipe = opened(run)
    out = Path(out)
    if recipe.kind not in FORMATS:
        raise InputError(f"{folder.path} is a '{recipe.kind}' run, for which there is no export format")
    formats = FORMATS[recipe.kind]
    if to not in formats:
        raise InputError(f"no export format '{to}' for a {recipe.kind} run{did_you_mean(to, formats)}")
    if out.exists():
        raise InputError(f"{out} is there already; choose another place")
    for remark in formats[to](folder, recipe, out):
        say(remark)
    return out
