"""What `nnssl_run` prints of a run, and of its control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_ssl.run.run_request import RunRequest


def print_fold(request: RunRequest, requests: Sequence[RunRequest]) -> None:
    """A heading, where there are several runs."""
    if len(requests) > 1:
        print(f"fold {request.fold}:")


def print_settings(request: RunRequest) -> None:
    """What is in force, where the work begins."""
    from nnunet_ssl.run.settings_text import settings_lines

    print("\n".join(settings_lines(request)), flush=True)


def print_table(request: RunRequest) -> None:
    """The stages, if the run has begun."""
    from nnunet_ssl.run.stage_table import accepted_line, format_table, stage_rows

    if (run := request.begun()) is not None:
        print(format_table(stage_rows(run)))
        if (line := accepted_line(run)) is not None:
            print(line)
