"""Recipes: what to train on what, and how, as data; each named one says what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from tessella.decode import Decoding
from tessella.errors import InputError, did_you_mean
from tessella.loop import LoopSpec
from tessella.models import Model
from tessella.objectives import Objective, Translate
from tessella.optimizers import AdamW, OptimizerSpec
from tessella.schedules import Cosine, InverseSqrt, Schedule
from tessella.spec import Part, Spec, from_dict, override, spec, to_dict
from tessella.text import CodecSpec
from tessella.zoo.seq2seq import seq2seq
from tessella.zoo.transformer import transformer

LARGEST_RECIPE = 2**20


class Recipe(Spec):
    """Role: everything that decides how a training goes, but where the data lies."""

    about: str = ""


@spec("parallel-text")
class ParallelText(Spec):
    """Where sentence pairs are found in the folder or file given as data.

    A folder holds files named ``{train}.{source}`` and ``{train}.{target}``, or tables (``train: pairs.tsv``) with
    columns `source` and `target`. A single table file is training data, of which a share is held out for validation.
    """

    source: str = "source"
    target: str = "target"
    domain: str | None = None
    train: str = "train"
    validation: str = "val"
    held_out: float = Field(0.05, gt=0, lt=0.5)
    max_words: int = Field(250, ge=1)
    bad_share: float = Field(0.1, ge=0, le=1)
    """The share of unusable pairs up to which a training goes on without them."""


@spec("translation")
class Translation(Recipe):
    """A translator. The vocabulary sizes and special ids in `model` are filled in from the codec."""

    data: ParallelText = ParallelText()
    codec: CodecSpec = CodecSpec()
    model: Part[Model]
    objective: Part[Objective] = Translate()
    optimizer: Part[OptimizerSpec] = AdamW()
    schedule: Part[Schedule] = InverseSqrt()
    loop: LoopSpec = LoopSpec(epochs=30)
    batch_tokens: int = Field(4096, ge=16)
    """The most tokens of a batch, padding included, source and target together."""
    decoding: Decoding = Decoding()
    """How answers are searched, unless asked otherwise; validation searches greedily."""


def translate() -> Translation:
    """A translator for one's own sentence pairs: small Transformer, joint BPE vocabulary."""
    return Translation(
        model=transformer("small", vocab=0, norm="pre", dropout=0.3),
        codec=CodecSpec(size=8000),
        schedule=InverseSqrt(peak=2e-3, warmup=800),
        loop=LoopSpec(epochs=30, patience=8, average=5),
    )


def multi30k_de_en() -> Translation:
    """German to English image descriptions (Multi30k) with a small Transformer."""
    model = transformer("small", vocab=0, norm="pre", dropout=0.3)
    return _by_steps("de", "en", model, steps=4500, peak=1.5e-3)


def multi30k_de_en_additive() -> Translation:
    """The same with a recurrent network and Bahdanau's attention."""
    return _recurrent(seq2seq(0, "additive", dim=256, hidden=256, dropout=0.35))


def multi30k_de_en_seq2seq() -> Translation:
    """The same with a recurrent network that squeezes the sentence into one fixed vector."""
    return _recurrent(seq2seq(0, "none", dim=256, hidden=256, dropout=0.35))


def multi30k_en_de() -> Translation:
    """English to German image descriptions (Multi30k) with the tiny Transformer of Wu et al. 2021."""
    model = transformer("tiny", vocab=0, norm="pre", dropout=0.2)
    return _by_steps("en", "de", model, steps=6000, peak=4e-3)


def ko_en() -> Translation:
    """Korean to English sentences (Tatoeba, Python documentation) with a small Transformer."""
    model = transformer("small", vocab=0, norm="pre", dropout=0.2)
    base = _by_steps("ko", "en", model, steps=1500, peak=2e-3)
    return base.replace(
        data=ParallelText(source="ko", target="en", validation="dev"), codec=CodecSpec(size=12000), batch_tokens=8192
    )


def _by_steps(source: str, target: str, model: Model, steps: int, peak: float) -> Translation:
    """A Transformer on a small set: a cosine down to zero gets more out of a short training than slow decay."""
    return Translation(
        data=ParallelText(source=source, target=target),
        codec=CodecSpec(size=8000),
        model=model,
        schedule=Cosine(peak=peak, warmup=steps // 10),
        loop=LoopSpec(steps=steps, validate_every=500, checkpoint_every=500, average=3),
    )


def _recurrent(model: Model) -> Translation:
    return Translation(
        data=ParallelText(source="de", target="en"),
        codec=CodecSpec(size=8000),
        model=model,
        schedule=InverseSqrt(peak=1.5e-3, warmup=500),
        loop=LoopSpec(epochs=8, average=3),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    make.__name__: make
    for make in (
        translate,
        multi30k_de_en,
        multi30k_de_en_additive,
        multi30k_de_en_seq2seq,
        multi30k_en_de,
        ko_en,
    )
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
