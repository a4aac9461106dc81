"""Pretrained: what a language model's run gives others to begin with: its parts, their weights, its way to read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tessella.data.ids import Reading
from tessella.errors import InputError
from tessella.predict import opened
from tessella.recipes.reading import Pretraining
from tessella.stems.words import Words
from tessella.text import Codec
from tessella.trunks.plain import Trunk


@dataclass(frozen=True)
class Pretrained:
    """The stem and trunk of a language model as specs, and their weights: "stem.…" and "trunk.…".

    codec: its tokenizer is `codec.source`. begin: the id in front of every text, or None. length: ids of a row it was
    trained with; `places` is how many it can have, None for any.
    """

    stem: Words
    trunk: Trunk
    weights: Mapping[str, Tensor]
    codec: Codec
    begin: int | None
    length: int

    @property
    def places(self) -> int | None:
        """Learned positions, if they are learned."""
        return getattr(self.stem.positions, "length", None)

    def reading(self, length: int) -> Reading:
        """How it reads a text, in up to so many ids."""
        return Reading(self.codec.source, length if self.places is None else min(length, self.places), self.begin)

    def named(self, stem: str | None = "stem.", trunk: str | None = "trunk.") -> dict[str, Tensor]:
        """The weights with other beginnings of their names, such as "target."; None leaves a part out."""
        places = {"stem.": stem, "trunk.": trunk}
        made = {}
        for name, tensor in self.weights.items():
            old = next(place for place in places if name.startswith(place))
            if places[old] is not None:
                made[f"{places[old]}{name.removeprefix(old)}"] = tensor
        return made


def language_weights(run: str | Path) -> Pretrained:
    """What a run of `masked_words`, `next_words` or an imported BERT or GPT-2 gives: see `Pretrained`, `fill`.

    A text stream of a fusion is `Encoded(dim=…, stem=p.stem, trunk=p.trunk)`, its module filled by
    ``fill(module, p.named())``. A decoder of the same measures is filled by
    ``fill(model.target, p.named("", None))`` and ``fill(model.decoder, p.named(None, ""))``; its cross-attention stays
    fresh. Raises InputError for a run of another kind.
    """
    folder, recipe = opened(run)
    if not isinstance(recipe, Pretraining):
        raise InputError(f"{folder.path} is a '{recipe.kind}' run; words are learned by masked_words or next_words")
    parts: Any = recipe.model
    kept = {name: tensor for name, tensor in folder.weights().items() if name.startswith(("stem.", "trunk."))}
    codec = Codec.load(folder.path / "codec.json")
    return Pretrained(parts.stem, parts.trunk, kept, codec, recipe.begin, recipe.length)


FRESH = ("cross", "cross_residual", "fit")
"""Parts that a language model has not: a decoder's look at something else, and what fits one width to another."""


def fill(module: nn.Module, weights: Mapping[str, Tensor], fresh: Collection[str] = FRESH) -> list[str]:
    """Puts weights into a module and returns the names of what stays as it was: parts called as one of `fresh`.

    Raises InputError where anything else of the module is not among them, or one of them has no place or does not fit.
    """
    own = module.state_dict()
    for name, tensor in weights.items():
        if name not in own:
            raise InputError(f"only the run to start from has '{name}'; its parts are others than the new model's")
        if own[name].shape != tensor.shape:
            theirs, mine = (" x ".join(map(str, shape)) for shape in (tensor.shape, own[name].shape))
            raise InputError(f"'{name}' is {theirs} in the run to start from, {mine} in the new model")
    left = [name for name in own if name not in weights]
    odd = [name for name in left if not set(name.split(".")) & set(fresh)]
    if odd:
        raise InputError(f"only the new model has '{odd[0]}' ({len(odd)} such names); its parts are others")
    module.load_state_dict(dict(weights), strict=False)
    return left
