"""Specs: plain validated data that says what to build, by kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializeAsAny,
    ValidationError,
    model_serializer,
    model_validator,
)

from tessella.errors import InputError, did_you_mean

S = TypeVar("S", bound="Spec")


class Spec(BaseModel):
    """Frozen data that mirrors a tree of parts. Its JSON names each part by its *kind*, never by a class or module.

    A subclass is registered with ``@spec("kind")``; parts that become modules add a ``build()``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    kind: ClassVar[str] = ""

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: Any) -> dict[str, Any]:
        return {"kind": self.kind, **handler(self)}

    @model_validator(mode="before")
    @classmethod
    def _known_fields_only(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        kind = data.pop("kind", cls.kind)
        if kind != cls.kind:
            raise InputError(f"expected a '{cls.kind}', got a '{kind}'")
        for name in data:
            if name not in cls.model_fields:
                raise InputError(f"no field of '{cls.kind}' called '{name}'{did_you_mean(name, cls.model_fields)}")
        return data

    def replace(self: S, **changes: Any) -> S:
        """A copy with some fields changed, validated again."""
        data = {**{n: getattr(self, n) for n in type(self).model_fields}, **changes}
        try:
            return type(self).model_validate(data)
        except ValidationError as error:
            raise InputError(explain(error)) from None


KINDS: dict[str, type[Spec]] = {}


def spec(kind: str):
    """Class decorator: give a Spec the name under which files know it."""

    def register(cls: type[S]) -> type[S]:
        assert KINDS.get(kind, cls).__qualname__ == cls.__qualname__, f"two specs called '{kind}'"
        cls.kind = kind
        KINDS[kind] = cls
        return cls

    return register


def revive(data: Any) -> Any:
    """A mapping with a ``kind`` becomes the Spec of that kind; anything else passes (the field's type decides)."""
    if not isinstance(data, Mapping):
        return data
    if "kind" not in data:
        raise InputError(f"a part needs a 'kind', got the fields {sorted(data)}")
    kind = str(data["kind"])
    if kind not in KINDS:
        raise InputError(f"no spec called '{kind}'{did_you_mean(kind, KINDS)}")
    return KINDS[kind].model_validate(data)


Part = Annotated[SerializeAsAny[S], BeforeValidator(revive)]
"""A field that holds any Spec of a role: ``trunk: Part[Trunk]``."""


def from_dict(data: Mapping[str, Any], expected: type[S] | None = None) -> S:
    """Plain data to a Spec. Raises InputError in one line: what is wrong, where, and what instead."""
    try:
        if "kind" not in data and expected is not None and expected.kind:
            return expected.model_validate(data)
        made = revive(data)
    except ValidationError as error:
        raise InputError(explain(error)) from None
    if expected is not None and not isinstance(made, expected):
        raise InputError(f"'{made.kind}' is not usable here; expected {_role(expected)}")
    return made  # pyright: ignore[reportReturnType]  # `expected` was checked above


def to_dict(made: Spec) -> dict[str, Any]:
    """A Spec as plain JSON data; ``from_dict(to_dict(s)) == s``."""
    return made.model_dump(mode="json")


def override(made: S, path: str, value: Any) -> S:
    """A copy with the field at a dotted path changed: ``override(recipe, "model.trunk.depth", "6")``.

    Strings are read as JSON where they are JSON (numbers, lists, true, null), else taken as they are. A part becomes
    one of another kind, as that is by itself, by its kind alone: "objective.loss" or "objective.loss.kind", "sigmoid".
    """
    data = to_dict(made)
    *parents, last = path.split(".")
    here: Any = data
    walked: list[str] = []
    for name in [*parents, last]:
        if not isinstance(here, dict) or name not in here:
            known = [k for k in here if k != "kind"] if isinstance(here, dict) else []
            where = (
                f"of '{here.get('kind', '.'.join(walked))}'" if isinstance(here, dict) else f"in '{'.'.join(walked)}'"
            )
            raise InputError(f"no field {where} called '{name}'{did_you_mean(name, known)}")
        walked.append(name)
        if len(walked) <= len(parents):
            here = here[name]
    old = here[last]
    new = _literal(value) if isinstance(value, str) else value
    if isinstance(old, dict) and "kind" in old and isinstance(new, str):
        new = old if new == old["kind"] else {"kind": new}
    if last == "kind" and parents and new != old:
        here.clear()
    here[last] = new
    try:
        return type(made).model_validate(data)
    except ValidationError as error:
        listed = """; a list is written '["a", "b"]'""" if isinstance(old, list) else ""
        told = f"{path} is {old!r} ({type(old).__name__}); {value!r} is not usable there"
        own = [item["msg"].removeprefix("Value error, ") for item in error.errors() if item["type"] == "value_error"]
        raise InputError(f"{told}{listed}{': ' if own else ''}{'; '.join(own)}") from None


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def explain(error: ValidationError) -> str:
    """What is wrong, where, and with what value, in one line."""
    lines = []
    for item in error.errors():
        where = ".".join(str(p) for p in item["loc"]) or error.title
        message = item["msg"].removeprefix("Value error, ")
        got = "" if item["type"] in ("missing", "value_error") else f", got {item['input']!r}"
        lines.append(message if item["type"] == "value_error" and not item["loc"] else f"{where}: {message}{got}")
    return "; ".join(lines)


def _role(cls: type[Spec]) -> str:
    return f"a '{cls.kind}'" if cls.kind else f"a {cls.__name__.lower()}"
