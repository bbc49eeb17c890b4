"""One machine's share of a list of cases, as nnU-Net's `-num_parts` and `-part_id` have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from nnunet_ssl.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which cases are this process's: of a sorted list, the i-th belongs to part i modulo `num_parts`."""

    num_parts: int
    """Parts in all."""
    part_id: int
    """This one, from 0."""

    def __post_init__(self) -> None:
        if self.num_parts < 1:
            raise ConfigError(f"--num_parts {self.num_parts}: there is at least one part.")
        if not 0 <= self.part_id < self.num_parts:
            raise ConfigError(f"--part_id {self.part_id}: the {self.num_parts} parts are numbered from 0 to {self.num_parts - 1}.")

    def share(self, cases: Sequence[T]) -> list[T]:
        """The cases of this part, in their order."""
        return list(cases[self.part_id :: self.num_parts])

    def __str__(self) -> str:
        return f"part {self.part_id} of {self.num_parts}"


WHOLE = Part(num_parts=1, part_id=0)
"""Every case."""
