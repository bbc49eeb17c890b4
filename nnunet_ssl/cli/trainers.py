"""`nnssl_trainers`: print the folder that nnU-Net's `nnUNet_extTrainer` has to name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_ssl.cli.command import command
from nnunet_ssl.locations import trainers_folder

_EXAMPLE = """\
example:
  export nnUNet_extTrainer="$(nnssl_trainers)"
  nnUNetv2_train 137 3d_fullres 0 -tr TransASPPTeacherTrainer

Training and inference both need the variable; it must name this very folder, not one above it.
"""


@command("nnssl_trainers")
def main(argv: Sequence[str] | None = None) -> None:
    """Print the trainers' folder and nothing else, so that the output can be assigned to a variable."""
    parser = argparse.ArgumentParser(
        prog="nnssl_trainers",
        description="Print the folder of nnunet-ssl's trainers, through which nnU-Net finds them.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    print(trainers_folder())
