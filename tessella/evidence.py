"""Evidence: which places of a picture a classifier's answer came from: attention, its rollout, activation maps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from tessella.attention import watch
from tessella.classifier import Classifier
from tessella.data.pixels import fitted
from tessella.errors import InputError
from tessella.positions import Grid
from tessella.tokens import Tokens
from tessella.windows import Tiling, tiling

if TYPE_CHECKING:
    from PIL import Image

TOP = 5
STAGED = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")
"""Stage and layer, in the name of an attention."""
SPECIAL = ("class token", "distillation token")


@dataclass(frozen=True)
class Layer:
    """One attention layer while it read one picture. Tokens in front of the raster are called special."""

    name: str
    weights: Tensor
    """b h n m: of one picture, or with a tiling of its windows one after the other."""
    grid: Grid
    """Of its queries."""
    tiling: Tiling | None = None

    @property
    def special(self) -> int:
        """How many tokens stand in front of its raster."""
        return 0 if self.tiling else self.weights.shape[2] - self.grid[0] * self.grid[1]

    def looked(self, mass: Tensor) -> Tensor:
        """Where tokens that hold a mass look: n (special + raster) -> h n, of the same total in every head."""
        if self.tiling:
            inside = rearrange(self.tiling.cut(rearrange(mass, "n -> 1 n 1")), "b n 1 -> b n")
            seen = self.tiling.paste(torch.einsum("b n, b h n m -> b m h", inside, self.weights))
            return rearrange(seen, "1 n h -> h n")
        seen, cut = torch.einsum("n, h n m -> h m", mass, self.weights[0]), self.special
        keys = rearrange(seen[:, cut:], "h (r c) -> h r c", r=self._rows(seen.shape[1] - cut))
        return torch.cat([seen[:, :cut], rearrange(spread(keys, self.grid), "h r c -> h (r c)")], dim=1)

    def _rows(self, keys: int) -> int:
        """Rows of the raster of keys: its own, or that of every second, third ... row and column."""
        rows, cols = self.grid
        for step in range(1, max(rows, cols) + 1):
            if -(-rows // step) * -(-cols // step) == keys:
                return -(-rows // step)
        raise AssertionError(f"{keys} keys are no coarser raster of {rows} x {cols}")


def spread(mass: Tensor, grid: Grid) -> Tensor:
    """h r c on a finer raster: every cell shares its mass evenly among those that take its place."""
    rows, cols = (torch.arange(fine) * coarse // fine for fine, coarse in zip(grid, mass.shape[1:], strict=True))
    return mass[:, rows][:, :, cols] / (rows.bincount()[rows, None] * cols.bincount()[cols])


def rollout(layers: Sequence[Layer], mass: Tensor) -> Tensor:
    """Attention through all layers, back to the raster of the first (Abnar and Zuidema 2020, sec. 3): r c.

    layers: from first to last. mass: n, on the tokens of the last, such as 1 on the class token. Half of what a token
    holds stays there, for the residual; half goes where it looks, by the mean of the heads. What ends at special tokens
    that the layer before does not have is lost, for they stand for no place. Only the row of the paper's matrix that
    is asked for is ever computed, so that a raster may be large.
    """
    after = layers[-1]
    for layer in reversed(layers):
        if (layer.grid, layer.special) != (after.grid, after.special):
            mass = rearrange(spread(on_picture(mass, after.grid)[None], layer.grid), "1 r c -> (r c)")
        mass = (mass + layer.looked(mass).mean(dim=0)) / 2
        after = layer
    return on_picture(mass, after.grid)


def on_picture(mass: Tensor, grid: Grid) -> Tensor:
    """... n -> ... r c: without what lies on special tokens."""
    rows, cols = grid
    return rearrange(mass[..., mass.shape[-1] - rows * cols :], "... (r c) -> ... r c", r=rows)


def activation_maps(head: nn.Module, features: Tokens) -> Tensor:
    """What each place adds to each class (Zhou et al. 2016, eq. 2): k r c, whose mean is the logits without the bias.

    Of a head that is linear in the mean of a raster (b = 1): it reads every place alone and, for its bias, nothing.
    """
    assert features.grid is not None
    rows, cols = features.grid
    alone = rearrange(features.x[:, -rows * cols :], "1 n d -> n 1 d")
    logits = head(Tokens(alone, grid=(1, 1))) - head(Tokens(torch.zeros_like(alone[:1]), grid=(1, 1)))
    return rearrange(logits.float().cpu(), "(r c) k -> k r c", r=rows)


@dataclass(frozen=True)
class Looked:
    """A picture, what a classifier said of it, and where it looked."""

    image: np.ndarray
    """uint8 r c v, as the model read it."""
    answers: tuple[tuple[str, float], ...]
    layers: list[Layer]
    """From first to last; none for a convnet."""
    readers: dict[str, Tensor]
    """What the head reads of the last layer: name -> n, with a sum of 1: the class token, or the mean of all."""
    activations: dict[str, Tensor]
    """Class -> r c, its activation map, the likeliest first; none where the head does not read the mean of a raster."""

    def last(self, reader: str) -> Tensor:
        """h r c: where a reader looks in the last layer."""
        return on_picture(self.layers[-1].looked(self.readers[reader]), self.layers[-1].grid)

    def rolled(self, reader: str) -> Tensor:
        """r c: the same through all layers."""
        return rollout(self.layers, self.readers[reader])


@torch.inference_mode()
def look(classifier: Classifier, picture: Image.Image) -> Looked:
    """Classifies a picture and watches. Raises InputError where neither attention nor activation maps tell places."""
    image, model = fitted(picture, classifier.image), classifier.model
    with watch(model) as maps, noted_grids(model.trunk) as grids:
        features = model.features(classifier.prepared(torch.from_numpy(image)[None]))
        assert features.grid is not None
        layers = _layers(maps, grids, list(getattr(model.trunk, "stages", ())), features.grid)
    answers = classifier.likeliest(model.head(features)[0].float().cpu(), TOP)
    mean = getattr(model.head, "pool", None) == "mean"
    activations = {}
    if mean and min(features.grid) > 1:
        every = activation_maps(model.head, features)
        activations = {name: every[classifier.classes.index(name)] for name, _ in answers}
    if not layers and not activations:
        raise InputError(
            "this model has no attention, and its head does not read the mean of a raster: no place can be made out"
        )
    readers = _readers(layers[-1], mean) if layers else {}
    return Looked(rearrange(image, "v r c -> r c v"), answers, layers, readers, activations)


@contextmanager
def noted_grids(trunk: nn.Module) -> Iterator[dict[int, Grid]]:
    """What raster every stage of a trunk gives out while it computes: the stage's number -> grid."""
    grids: dict[int, Grid] = {}

    def noting(number: int) -> Callable[[nn.Module, object, object], None]:
        def note(stage: nn.Module, given: object, out: object) -> None:
            if isinstance(out, Tokens) and out.grid is not None:
                grids[number] = out.grid
            elif isinstance(out, tuple):
                grids[number] = out[1]

        return note

    stages = enumerate(getattr(trunk, "stages", ()))
    hooks = [stage.register_forward_hook(noting(number)) for number, stage in stages]
    try:
        yield grids
    finally:
        for hook in hooks:
            hook.remove()


def _layers(maps: Mapping[str, Tensor], grids: dict[int, Grid], stages: list[nn.Module], last: Grid) -> list[Layer]:
    """The layers in the order in which a picture goes through them; `last` is the raster of a trunk without stages."""
    made = []
    for name, weights in maps.items():
        grid, windows, told = last, None, f"layer {len(made) + 1}"
        if place := STAGED.search(name):
            stage, block = int(place[1]), int(place[2])
            grid, told = grids[stage], f"stage {stage + 1}, layer {block + 1}"
            window = getattr(stages[stage], "window", None)
            windows = tiling(grid, window, block % 2 == 1, torch.device("cpu")) if window else None
        made.append(Layer(told, weights.float().cpu(), grid, windows))
    return made


def _readers(layer: Layer, mean: bool) -> dict[str, Tensor]:
    """Every special token by itself, or the mean of the raster."""
    n = layer.special + layer.grid[0] * layer.grid[1]
    if mean or not layer.special:
        raster = torch.arange(n) >= layer.special
        return {"mean of all places": raster / raster.sum()}
    names = [SPECIAL[i] if i < len(SPECIAL) else f"token {i}" for i in range(layer.special)]
    return {name: torch.eye(n)[i] for i, name in enumerate(names)}
