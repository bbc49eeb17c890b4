"""`nnssl_report`: tables and figures of a run, finished or not, as one HTML page and CSV files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ssl.cli.arguments import add_dataset_arguments, fold_argument, make_parser
from nnunet_ssl.cli.command import command
from nnunet_ssl.cli.next_command import predict_line, print_next
from nnunet_ssl.locations import OUR_TEACHER, ModelLocation

if TYPE_CHECKING:
    from nnunet_ssl.report.collect import RunFacts

NAME = "nnssl_report"


def parser() -> argparse.ArgumentParser:
    """The command line of `nnssl_report`."""
    made = make_parser(
        NAME,
        "Write the tables and figures of a run, finished or not: one HTML page that needs no other file, and CSV tables.",
        f"  {NAME} -d 137 -c 3d_fullres -f 0",
    )
    add_dataset_arguments(made)
    made.add_argument(
        "-f",
        required=True,
        nargs="+",
        type=fold_argument,
        metavar="FOLD",
        help="0, 1, ... or 'all': the run's fold; several folds are several runs",
    )
    made.add_argument("-tr", default=OUR_TEACHER, metavar="TRAINER", help="the teacher's trainer (default: %(default)s)")
    made.add_argument("-o", type=Path, metavar="FOLDER", help="where to write (one run; default: the folder 'report' in its workspace)")
    return made


@command(NAME)
def main(argv: Sequence[str] | None = None) -> None:
    """Write the report and print where it is and what comes next."""
    arguments = parser().parse_args(argv)
    from nnunet_ssl.errors import ConfigError
    from nnunet_ssl.nnunet_api.load_setup import load_setup
    from nnunet_ssl.report.write_report import write_report

    if len(arguments.f) > 1 and arguments.o is not None:
        raise ConfigError("-o takes the report of one run; leave it out for several folds, or give them one at a time.")
    setup = load_setup(arguments.d, arguments.c, arguments.p, only_looks=True)
    for fold in dict.fromkeys(arguments.f):
        facts, page, tables = write_report(setup, fold, arguments.tr, arguments.o)
        print(f"report: {page}")
        print(f"tables: {', '.join(tables)} in {page.parent}")
        print_next(_next_line(facts), trainer=facts.student_trainer if facts.is_published else None)


def _next_line(facts: RunFacts) -> str:
    """The command that continues an unfinished run, or that uses the published student."""
    from nnunet_ssl.report.run_command import run_command

    if facts.is_published and facts.student_trainer is not None:
        published = ModelLocation(
            dataset=facts.dataset, trainer=facts.student_trainer, plans=facts.plans, configuration=facts.configuration
        )
        return predict_line(published, facts.fold)
    return run_command(facts.teacher, facts.fold, has_begun=facts.pool_cases is not None)
