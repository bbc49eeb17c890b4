"""Settings that plans give once for all, or one by one: per stage of the network, per axis of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunet_ssl.errors import ConfigError


def one_each(value: int | Sequence[Any], count: int, name: str) -> list[Any]:
    """One entry per stage.

    Args:
        value: a number for all stages, or one entry per stage.
        count: number of entries expected.
        name: the setting's name in the plans, for the error.

    Raises:
        ConfigError: if there are more or fewer entries.
    """
    values = [value] * count if isinstance(value, int) else list(value)
    if len(values) != count:
        raise ConfigError(f"{name} has {len(values)} entries, expected {count}: {values}.")
    return values


def per_axis(value: int | Sequence[int], dim: int, name: str) -> tuple[int, ...]:
    """One number per axis; arguments and error as in `one_each`."""
    values = (value,) * dim if isinstance(value, int) else tuple(int(number) for number in value)
    if len(values) != dim:
        raise ConfigError(f"{name} has the entry {value!r}, expected one number per axis ({dim}).")
    return values
