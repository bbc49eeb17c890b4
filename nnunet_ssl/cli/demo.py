"""`nnssl_demo`: see the whole method work on a synthetic dataset, without data or a GPU."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_ssl.cli.arguments import make_parser, use_device
from nnunet_ssl.cli.command import command

NAME = "nnssl_demo"


def parser() -> argparse.ArgumentParser:
    """The command line of `nnssl_demo`."""
    made = make_parser(
        NAME,
        "Make a synthetic dataset, train a teacher, let students learn from the unlabelled images stage by stage, and compare them on a "
        "test set with a supervised control of as many optimiser steps. Takes minutes on two CPU cores; nothing outside the folder is "
        "touched. The same command again continues.",
        f"  {NAME} -o nnssl_demo",
    )
    made.add_argument("-o", type=Path, default=Path("nnssl_demo"), metavar="FOLDER", help="where to work (default: ./%(default)s)")
    made.add_argument("--seed", type=int, default=0, help="seed of the synthetic images (default: %(default)s)")
    made.add_argument(
        "-device", "--device", default="cpu", choices=("cuda", "cpu", "mps"), help="where networks run (default: %(default)s)"
    )
    made.add_argument("--skip-report", action="store_true", help="leave the HTML report out")
    return made


@command(NAME)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo, print its table, where the report is and what to type next."""
    arguments = parser().parse_args(argv)
    from nnunet_ssl.demo.demo_folders import demo_folders

    # entered before nnU-Net is imported, because it reads only once how many processes it may start
    with demo_folders(arguments.o.absolute()):
        from nnunet_ssl.demo.run_demo import CONFIGURATION, DemoRequest, run_demo

        device = use_device(arguments.device)
        result = run_demo(DemoRequest(folder=arguments.o, seed=arguments.seed, device=device, with_report=not arguments.skip_report))
    print("\nDice on the test set, against the true labels (one small draw: it shows that all works, not how much it helps):")
    print(result.true_dice)
    print(f"written: {result.true_dice_file}")
    if result.page is not None:
        print(f"report: {result.page}")
    print(f"next, on data of your own: nnssl_run -d DATASET -c {CONFIGURATION} -f 0 -u FOLDER_OF_UNLABELLED_IMAGES")
