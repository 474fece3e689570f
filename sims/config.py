"""Configs from the command line: ``--set field=text`` against the fields of a frozen dataclass.

A field may be an int, float, bool, str or Literal, a tuple of these, or any of them ``| None``.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A user's mistake in a field's name or value; the message says what would have been right."""


class Field(NamedTuple):
    """One line of help: ``override(config, {name: default})`` changes nothing."""

    name: str
    type: str
    default: str


def override(config: Config, texts: Mapping[str, str]) -> Config:
    """The same config with some fields replaced by what a user typed.

    Numbers as Python or JSON writes them (``1e3``, ``inf``), ``true``/``false``, ``none`` for an
    optional field, tuples as ``1,2,3`` or JSON ``[1, 2, 3]``. NaN is no value of any field.
    Raises ``ConfigError`` for an unknown field or a bad value, and with the same text where the
    config's own ``__post_init__`` raises ``ValueError``.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Example:
    ...     seeds: int = 8
    ...     gains: tuple[float, ...] = (1.0,)
    >>> override(Example(), {"seeds": "16", "gains": "0.5, 1"})
    Example(seeds=16, gains=(0.5, 1.0))
    """
    hints = _hints(config)
    values = {}
    for name, text in texts.items():
        if name not in hints:
            raise ConfigError(
                f"{type(config).__name__} has no field {name!r}{_listing(config, name)}"
            )
        try:
            values[name] = _parse(text, hints[name])
        except ValueError as error:
            expected = f"{name} must be {_type_text(hints[name])}, got {text!r}"
            raise ConfigError(expected + _listing(config)) from error
    try:
        return dataclasses.replace(config, **values)  # type: ignore[type-var]
    except ValueError as error:
        raise ConfigError(str(error)) from error


def describe(config: Any) -> tuple[Field, ...]:
    """Name, type and present value of every field, as the texts ``override`` understands."""
    return tuple(
        Field(name, _type_text(hint), as_text(getattr(config, name)))
        for name, hint in _hints(config).items()
    )


def as_text(value: Any) -> str:
    """A field's value as a user would type it; ``override`` reads back exactly this value.

    >>> as_text((1, 2.5)), as_text(None), as_text(True)
    ('1,2.5', 'none', 'true')
    """
    if value is None:
        return "none"
    if isinstance(value, tuple):
        if all(isinstance(item, (int, float)) for item in value):
            return ",".join(map(as_text, value)) or "[]"
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _hints(config: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(type(config))
    return {field.name: hints[field.name] for field in dataclasses.fields(config) if field.init}


def _parse(text: str, hint: Any) -> Any:
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    if type(None) in options and text.strip().lower() in ("none", "null"):
        return None
    alternatives = tuple(option for option in options if option is not type(None))
    value: Any = text if str in alternatives else text.strip()
    if any(typing.get_origin(option) is tuple for option in alternatives):
        value = _items(value)
    value = msgspec.convert(value, typing.Union[alternatives], strict=False)  # noqa: UP007
    if any(isinstance(x, float) and math.isnan(x) for x in (value, *_as_tuple(value))):
        raise ValueError("NaN")
    return value


def _items(text: str) -> list[Any]:
    """The elements of a tuple: JSON if it is JSON, otherwise whatever the commas separate."""
    if text.startswith("["):
        try:
            return msgspec.json.decode(text, type=list)
        except msgspec.DecodeError:  # such as [1, inf]
            pass
    bare = text.strip("[]()").rstrip(", ")
    return [item.strip() for item in bare.split(",")] if bare.strip() else []


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else ()


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _type_text(hint: Any) -> str:
    plain = isinstance(hint, type) and not typing.get_args(hint)
    return hint.__name__ if plain else str(hint).replace("typing.", "")


def _listing(config: Any, unknown: str | None = None) -> str:
    rows = describe(config)
    near = difflib.get_close_matches(unknown, [row.name for row in rows], 1, 0.5) if unknown else []
    hint = f"; did you mean {near[0]!r}?" if near else "."
    width = max((len(row.name) for row in rows), default=0)
    kinds = max((len(row.type) for row in rows), default=0)
    lines = (f"  {name:<{width}}  {kind:<{kinds}}  {default}" for name, kind, default in rows)
    return f"{hint}\nFields (type, present value):\n" + "\n".join(lines)
