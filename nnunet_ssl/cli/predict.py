"""`nnssl_predict`: labels of new cases as nnU-Net gives them, and how far they can be trusted."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from nnunet_ssl.cli.arguments import (
    add_dataset_arguments,
    add_device_argument,
    fold_argument,
    make_parser,
    use_device,
)
from nnunet_ssl.cli.command import EXIT_ERROR, command
from nnunet_ssl.locations import OUR_STUDENT

NAME = "nnssl_predict"


def parser() -> argparse.ArgumentParser:
    """The command line of `nnssl_predict`."""
    made = make_parser(
        NAME,
        "Predict new cases: labels that are those of nnUNetv2_predict, maps of confidence and uncertainty, and a table with case score, "
        "predicted Dice, review flag and volumes. The same command again continues.",
        f"  {NAME} -d 137 -c 3d_fullres -f all -i /data/new -o /data/segmented",
    )
    add_dataset_arguments(made)
    made.add_argument(
        "-f", required=True, nargs="+", type=fold_argument, metavar="FOLD", help="fold(s) of the model: 'all', or one or more of 0, 1, ..."
    )
    made.add_argument(
        "-tr",
        default=OUR_STUDENT,
        metavar="TRAINER",
        help="trainer of the model; any trained nnU-Net model will do (%(default)s)",
    )
    made.add_argument("-i", required=True, type=Path, metavar="FOLDER", help="folder of images named <case>_0000.nii.gz ...")
    made.add_argument("-o", required=True, type=Path, metavar="FOLDER", help="where everything is written")
    add_device_argument(made)
    made.add_argument("--num-samples", type=int, metavar="K", help="stochastic samples per case and fold (default: as in the model's run)")
    made.add_argument("--fast", action="store_true", help="one pass, with the uncertainty head in place of samples; never calibrated")
    made.add_argument(
        "--save_probabilities", "--save-probabilities", action="store_true", help="write one probability image per class, too"
    )
    return made


@command(NAME)
def main(argv: Sequence[str] | None = None) -> int:
    """Predict, print what the table says and the next command; exit code 2 if a case could not be predicted."""
    arguments = parser().parse_args(argv)
    from nnunet_ssl.nnunet_api.model_folder import find_model
    from nnunet_ssl.prediction.audit_command import audit_clause
    from nnunet_ssl.prediction.predict import predict_folder
    from nnunet_ssl.prediction.prepared_model import prepare_model

    model = find_model(arguments.d, arguments.tr, arguments.p, arguments.c)
    device = use_device(arguments.device)
    prepared = prepare_model(model, arguments.f, device=device, num_samples=arguments.num_samples, is_fast=arguments.fast)
    done = predict_folder(prepared, arguments.i, arguments.o, with_probabilities=arguments.save_probabilities)
    review = [row["case"] for row in done.rows if row["review"] == "yes"]
    in_all = len(done.rows) - len(done.failed) - len(done.failed_before)
    print(f"predicted now: {done.predicted}; in {arguments.o} in all: {in_all}; failed: {len(done.failed)}")
    if done.failed_before:
        print(f"failed before, in another folder of images: {', '.join(done.failed_before)}")
    print(f"table: {arguments.o / 'cases.csv'}")
    if prepared.findings.limit is None:
        audit = audit_clause(prepared, device=device, num_samples=arguments.num_samples)
        print(f"no threshold for review: {prepared.findings.ranking}{audit}")
    print(f"review: {', '.join(review) or 'no case is marked'}")
    files = shlex.join(map(str, (arguments.o, "-djfile", arguments.o / "dataset.json", "-pfile", arguments.o / "plans.json")))
    print(f"next, where there are reference labels: nnUNetv2_evaluate_folder REFERENCE_FOLDER {files}")
    return EXIT_ERROR if done.failed else 0
