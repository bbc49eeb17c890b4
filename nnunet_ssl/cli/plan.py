"""`nnssl_plan`: plan a dataset afresh, with patch and batch that fit TransASPPUNet and a GPU."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_ssl.cli.arguments import make_parser
from nnunet_ssl.cli.command import command
from nnunet_ssl.locations import dataset_number

NAME = "nnssl_plan"


def parser() -> argparse.ArgumentParser:
    """The command line of `nnssl_plan`."""
    made = make_parser(
        NAME,
        "Plan a dataset for TransASPPUNet and a GPU, by nnU-Net's rules and under a plans name of its own. Plans and preprocessed data "
        "that exist are left alone, and shared where they fit. For plans that exist: nnssl_prepare --preset 24G.",
        f"  {NAME} -d 137 -gpu_memory_target 24",
    )
    made.add_argument("-d", required=True, metavar="DATASET", help="dataset: id or name; nnUNetv2_extract_fingerprint must have run")
    made.add_argument(
        "-gpu_memory_target",
        required=True,
        type=float,
        metavar="GB",
        help="memory of the GPU that is to train, for instance 8, 11, 24, 40, 80",
    )
    made.add_argument("-overwrite_target_spacing", nargs=3, type=float, metavar="MM", help="spacing of 3d_fullres, as for nnU-Net")
    made.add_argument(
        "-overwrite_plans_name",
        metavar="NAME",
        help="plans name (default: nnUNetTransASPPPlans_<GB>G, with --torch-resampling _torchres behind it)",
    )
    made.add_argument(
        "--torch-resampling",
        choices=("cpu", "cuda"),
        help="resample images, labels and probabilities with PyTorch on this device; such data are preprocessed anew",
    )
    return made


@command(NAME)
def main(argv: Sequence[str] | None = None) -> None:
    """Plan, say what came out, and print the next command."""
    arguments = parser().parse_args(argv)
    from nnunet_ssl.data.fresh_plans import plan_afresh
    from nnunet_ssl.data.gpu_estimate import describe_size

    fresh = plan_afresh(
        arguments.d,
        gpu_memory_target=arguments.gpu_memory_target,
        plans_name=arguments.overwrite_plans_name,
        target_spacing=arguments.overwrite_target_spacing,
        torch_resampling=arguments.torch_resampling,
    )
    print(f"plans: {fresh.path}" + ("" if fresh.is_new else " (there already, the same)"))
    for setup in fresh.configurations:
        print(f"{setup.configuration}: {describe_size(setup)}")
        print(f"    data: {setup.data_folder}" + (" (to be preprocessed)" if setup.configuration in fresh.without_data else ""))
    number, plans = dataset_number(fresh.configurations[0].dataset), fresh.path.stem
    if missing := fresh.without_data:
        print(f"next: nnUNetv2_preprocess -d {number} -plans_name {plans} -c {' '.join(missing)}")
    print(f"{'then' if missing else 'next'}: nnssl_prepare -d {number} -c CONFIGURATION -p {plans} -u FOLDER")
