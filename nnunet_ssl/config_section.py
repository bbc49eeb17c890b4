"""From a JSON section to frozen dataclasses and back: the checks of values, and messages that name a setting by its dotted path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, cast

from nnunet_ssl.errors import ConfigError

_LARGEST = 10**18
"""No setting is larger; NaN and infinity are not smaller."""
_PLAIN: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "float | None": ((int, float, type(None)), "a number or null"),
}


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Refuse a value.

    Args:
        condition: whether it is as expected.
        name: dotted path of the setting, for instance `student.tau`.
        value: what was found.
        expected: in words.

    Raises:
        ConfigError: if the condition does not hold.
    """
    if not condition:
        raise ConfigError(f"nnssl setting '{name}' is {value!r}; expected {expected}.")


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices; see `require`."""
    require(value in choices, name, value, "one of " + ", ".join(choices))


def numbers(name: str, value: object, expected: str) -> tuple[float, ...]:
    """A list of numbers as a tuple; anything else is refused, see `require`."""
    is_list = isinstance(value, list | tuple) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    require(is_list, name, value, expected)
    return tuple(float(v) for v in cast(Iterable[float], value))


def json_ready(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Lists for tuples, so that settings equal the ones read back from JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in items}


def build(kind: type, values: Any, nested: Mapping[str, type], path: str = "") -> Any:
    """A dataclass from a JSON object.

    Args:
        kind: the dataclass, which checks its own ranges.
        values: what stands in the section.
        nested: dataclasses of the fields that are sections themselves, by field name.
        path: dotted path of the section; the outermost has none.

    Raises:
        ConfigError: on an unknown key, a value of another type or out of range; the message names the setting.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"nnssl setting '{path}' must be an object, found {values!r}.")
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"unknown nnssl setting '{_joined(path, unknown[0])}'; known: {', '.join(sorted(known))}.")
    _check_types(kind, values, path)
    built = {k: build(nested[k], v, nested, _joined(path, k)) if k in nested else v for k, v in values.items()}
    try:
        return kind(**built)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"nnssl setting '{path}' has a value of the wrong type: {error}.") from error


def _check_types(kind: type, values: dict[str, Any], path: str) -> None:
    """Refuse `--set student.ema=False`, a text that would count as true, and lengths that are no whole numbers."""
    for entry in fields(kind):
        if entry.name not in values or str(entry.type) not in _PLAIN:
            continue
        types, expected = _PLAIN[str(entry.type)]
        value: Any = values[entry.name]
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if isinstance(value, int | float):
            fits = fits and abs(value) <= _LARGEST
        require(fits, _joined(path, entry.name), value, expected)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
