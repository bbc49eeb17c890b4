"""Print the Dice of every class or region that `nnUNetv2_evaluate_folder` has found, one line per folder of predictions.

    python docs/examples/region_dice.py /data/brats/teacher /data/brats/student

Each folder holds `summary.json`, and the `dataset.json` that `nnUNetv2_predict` leaves beside its predictions. A dash: no case has it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_ssl.cli.command import command
from nnunet_ssl.errors import InputError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="region_dice.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="folder of predictions that have been evaluated")
    return made


@command("region_dice.py")
def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    arguments = parser().parse_args(argv)
    from nnunet_ssl.nnunet_api.json_file import read_json
    from nnunet_ssl.nnunet_api.setup import NnunetSetup
    from nnunet_ssl.report.validation import foreground_keys, read_summary
    from nnunet_ssl.run.aligned_text import aligned, number

    label_manager = {"label_manager": "LabelManager"}  # nnU-Net's only one; all of the plans that is needed
    lines: list[tuple[str, ...]] = []
    for folder in arguments.folders:
        keys = foreground_keys(NnunetSetup("", "", "", label_manager, read_json(folder / "dataset.json")))
        header = ("predictions", "cases", *keys, "mean")
        if lines and header != lines[0]:
            raise InputError(f"{folder} has other classes than {arguments.folders[0]}; give folders of one dataset.")
        found = read_summary(folder / "summary.json", keys)
        dice = [*(figures.dice for figures in found.classes.values()), found.mean.dice]
        lines = lines or [header]
        lines.append((folder.name, str(found.num_cases), *(number(value, "{:.4f}") for value in dice)))
    print(aligned(lines))


if __name__ == "__main__":
    sys.exit(main())
