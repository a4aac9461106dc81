"""Weights: public checkpoints' names as data, and one strict translator that reads and writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import EinopsError, rearrange
from torch import Tensor

from tessella.errors import InputError

SHOWN = 4
Binding = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Which tensors of theirs are which of ours.

    Names are patterns: ``{i}`` stands for one part of a dotted name, and for the same part on both sides.

        Rule("model.encoder.layers.{i}.fc1.{p}", "encoder.blocks.{i}.mlp.rise.{p}")      renamed
        Rule("layers.{i}.in_proj_{p}", ("q{i}.{p}", "k{i}.{p}", "v{i}.{p}"))             cut along the first axis
        Rule(("query.{p}", "key.{p}"), "qk.{p}")                                         joined along the first axis
        Rule("conv1d.{i}.weight", "linear.{i}.weight", layout="i o -> o i")              moved, an einops pattern
        Rule("embed_positions.weight", why="computed, not learned")                      dropped, if there at all
        Rule("lm_head.weight", copy_of="shared.weight")                                  must equal the other, if there
        Rule("shared.weight", "source.weight", tied=("head.weight",))                    one matrix under our two names
    """

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...] = ()
    layout: str = ""
    """einops pattern from their axes to ours, one letter an axis or 1, read backwards on the way back."""
    tied: tuple[str, ...] = ()
    """Other names of ours for the same parameter; nothing of theirs is written for them."""
    copy_of: str = ""
    """Their name for the same tensor: a tied copy, checked to be equal and then left out."""
    why: str = ""
    """Why a tensor is dropped."""
    absent: float | None = None
    """What ours is filled with where they leave the tensor out, as their own loader does; None: that is an error."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "theirs", _several(self.theirs))
        object.__setattr__(self, "ours", _several(self.ours))
        kinds = bool(self.ours) + bool(self.copy_of) + bool(self.why)
        assert kinds == 1, f"a rule moves, drops or checks a copy, one of them: {self}"
        assert len(self.theirs) == 1 or len(self.ours) <= 1, f"a rule cuts or joins, not both: {self}"
        holes = {frozenset(_holes(name)) for name in (*self.theirs, *self.ours, *self.tied, *_several(self.copy_of))}
        assert len(holes) == 1, f"every name in a rule has the same holes: {self}"


def translate(
    state: Mapping[str, Tensor], rules: Iterable[Rule], ours: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Their tensors under our names.

    state: theirs, by name. ours: every name we need and its shape (``{k: v.shape for k, v in model.state_dict()}``).
    Returns exactly the names in `ours`; tied names hold the same tensor. Raises InputError where a tensor of theirs
    has no rule, one of ours stays empty, or a shape differs: nothing is ever left at its random value.
    """
    rules, done, used = tuple(rules), {}, set()
    for rule in rules:
        for binding in _bindings(_several(rule.theirs), state, used):
            names = [_fill(name, binding) for name in rule.theirs]
            _need(names, state, "the checkpoint has no")
            used.update(names)
            if rule.copy_of:
                _check_copy(names[0], _fill(rule.copy_of, binding), state)
            elif rule.ours:
                targets = [_fill(name, binding) for name in rule.ours]
                _need(targets, ours, "the model has no place for")
                for target, part in zip(targets, _move(rule, names, state, targets, ours), strict=True):
                    done[target] = part
                for tied in rule.tied:
                    done[_fill(tied, binding)] = done[targets[0]]
        if rule.absent is not None and not set(rule.theirs) & used:
            for target in rule.ours:
                done[target] = torch.full(tuple(ours[target]), rule.absent)
    _refuse([name for name in state if name not in used], "no rule for the checkpoint's")
    _refuse([name for name in ours if name not in done], "the checkpoint has nothing for our")
    _refuse([name for name in done if name not in ours], "the model has no place for")
    _refuse(
        [
            f"{name} ({_size(done[name].shape)}, needs {_size(ours[name])})"
            for name in ours
            if tuple(done[name].shape) != tuple(ours[name])
        ],
        "the checkpoint does not fit the model:",
    )
    return done


def untranslate(state: Mapping[str, Tensor], rules: Iterable[Rule]) -> dict[str, Tensor]:
    """Our tensors under their names, by the same rules read backwards.

    Dropped tensors and tied copies are left out; their own loader makes them. Raises InputError where one of ours has
    no rule, or is needed and not there.
    """
    done: dict[str, Tensor] = {}
    used: set[str] = set()
    for rule in rules:
        for binding in _bindings(_several(rule.ours), state, used) if rule.ours else ():
            names = [_fill(name, binding) for name in rule.ours]
            _need(names, state, "the model has no")
            used.update(names)
            for tied in (_fill(name, binding) for name in rule.tied):
                used.add(tied)
                if tied in state and not torch.equal(state[tied], state[names[0]]):
                    raise InputError(f"'{tied}' and '{names[0]}' must be one matrix in this layout, but they differ")
            whole = torch.cat([state[name] for name in names]) if len(names) > 1 else state[names[0]]
            if rule.layout:
                left, right = rule.layout.split("->")
                whole = _rearranged(whole, f"{right.strip()} -> {left.strip()}", names[0])
            theirs = [_fill(name, binding) for name in rule.theirs]
            parts = whole.chunk(len(theirs)) if len(theirs) > 1 else [whole]  # a lone one may have no axis to cut
            done.update(zip(theirs, parts, strict=True))
    _refuse([name for name in state if name not in used], "that layout has no place for")
    return done


def _move(
    rule: Rule, names: list[str], state: Mapping[str, Tensor], targets: list[str], ours: Mapping[str, Sequence[int]]
) -> list[Tensor]:
    """Join, change the layout, cut: as many tensors as targets."""
    whole = torch.cat([state[name] for name in names]) if len(names) > 1 else state[names[0]]
    if rule.layout:
        whole = _rearranged(whole, rule.layout, names[0])
    if len(targets) == 1:
        return [whole]
    sizes = [next(iter(ours[target])) for target in targets]
    if whole.shape[0] != sum(sizes):
        raise InputError(
            f"'{names[0]}' is {_size(whole.shape)}; cut into {', '.join(targets)} it needs {sum(sizes)} rows"
        )
    return list(whole.split(sizes))


def _rearranged(tensor: Tensor, layout: str, name: str) -> Tensor:
    try:
        return rearrange(tensor, layout)
    except EinopsError:
        raise InputError(f"'{name}' is {_size(tensor.shape)}, which is not of the form '{layout}'") from None


def _check_copy(name: str, other: str, state: Mapping[str, Tensor]) -> None:
    _need([other], state, f"'{name}' is a copy, but the checkpoint has no")
    if not torch.equal(state[name], state[other]):
        raise InputError(f"'{name}' and '{other}' should be one matrix, but the checkpoint holds two different ones")


def _bindings(patterns: tuple[str, ...], names: Mapping[str, Tensor], used: set[str]) -> Iterator[Binding]:
    """What the holes stand for, wherever one of the patterns matches a name that no earlier rule took."""
    found: dict[Binding, None] = {}
    for pattern in patterns:
        expression = re.compile("".join(_as_expression(part) for part in re.split(r"(\{\w+\})", pattern)))
        for name in names:
            match = expression.fullmatch(name) if name not in used else None
            if match:
                found[tuple(sorted(match.groupdict().items()))] = None
    yield from found


def _as_expression(part: str) -> str:
    return rf"(?P<{part[1:-1]}>[^.]+)" if part.startswith("{") else re.escape(part)


def _fill(pattern: str, binding: Binding) -> str:
    return pattern.format_map(dict(binding))


def _holes(pattern: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", pattern)


def _several(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return names if isinstance(names, tuple) else (names,) if names else ()


def _need(names: list[str], there: Mapping[str, object], complaint: str) -> None:
    _refuse([name for name in names if name not in there], complaint)


def _refuse(names: list[str], complaint: str) -> None:
    if names:
        rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise InputError(f"{complaint} {', '.join(names[:SHOWN])}{rest}")


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape) or "a number"
