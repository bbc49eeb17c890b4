"""`nnssl_prepare`: check and preprocess the pool; optionally lay an overlay over the plans."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ssl.cli.arguments import (
    add_dask_argument,
    add_dataset_arguments,
    add_groups_argument,
    add_part_arguments,
    make_parser,
    part_of,
)
from nnunet_ssl.cli.command import command
from nnunet_ssl.cli.next_command import print_next
from nnunet_ssl.locations import OUR_TEACHER, dataset_number, plans_flag

if TYPE_CHECKING:
    from nnunet_ssl.data.pool_index import PoolIndex
    from nnunet_ssl.machines.part import Part
    from nnunet_ssl.nnunet_api.setup import NnunetSetup

NAME = "nnssl_prepare"


def parser() -> argparse.ArgumentParser:
    """The command line of `nnssl_prepare`."""
    made = make_parser(
        NAME,
        "Check the unlabelled images and preprocess them once with the labelled dataset's plans. Nothing of the set-up is changed.",
        f"  {NAME} -d 137 -c 3d_fullres -u /data/unlabelled",
    )
    add_dataset_arguments(made)
    made.add_argument("-u", nargs="+", type=Path, metavar="FOLDER", help="folder(s) of unlabelled images named <case>_0000.nii.gz ...")
    made.add_argument(
        "--preset",
        metavar="NAME",
        help="lay this overlay over the plans, under a plans name of its own, if that has not been done: default, paper, cpu, 24G, ...",
    )
    made.add_argument("--skip-bad", action="store_true", help="leave bad cases out and list them, instead of stopping")
    made.add_argument("-np", type=int, default=2, metavar="N", help="worker processes (default: %(default)s)")
    add_groups_argument(made)
    made.add_argument(
        "--group-folds",
        action="store_true",
        help="write splits_final.json, where there is none, with one fold per group of labelled cases that holds out the whole group",
    )
    add_part_arguments(made, "preprocess those")
    add_dask_argument(made, "preprocess the cases, in place of -np processes")
    return made


@command(NAME)
def main(argv: Sequence[str] | None = None) -> None:
    """Prepare the pool and print the next command."""
    arguments = parser().parse_args(argv)
    part = _check(arguments)
    from nnunet_ssl.nnunet_api.load_setup import load_setup

    setup = load_setup(arguments.d, arguments.c, arguments.p)
    if arguments.preset:
        setup = _lay_preset(setup, arguments.preset)
    if part is not None:
        _prepare_part(setup, part, arguments)
        return
    _print_size(setup)
    if arguments.u or _asks_for_groups(arguments):
        pool = _pool(setup, arguments)
        print(f"{len(pool.images)} unlabelled cases are ready in {pool.folder}")
        _use_groups(setup, pool, arguments.groups, write_folds=arguments.group_folds)
        _print_next(setup)
    else:
        print_next(f"{NAME} -d {dataset_number(setup.dataset)} -c {arguments.c}{plans_flag(setup.plans_name)} -u FOLDER")


def _asks_for_groups(arguments: argparse.Namespace) -> bool:
    return arguments.groups is not None or arguments.group_folds


def _check(arguments: argparse.Namespace) -> Part | None:
    """The part that is asked for.

    Raises:
        ConfigError: if nothing is asked for, or what does not go together.
    """
    from nnunet_ssl.data.groups import check_asked
    from nnunet_ssl.errors import ConfigError

    if not arguments.u and not arguments.preset and not _asks_for_groups(arguments):
        raise ConfigError("nothing to do: give the folder of unlabelled images with -u, or an overlay with --preset.")
    check_asked(arguments.groups)
    part = part_of(arguments)
    if part is not None and not arguments.u:
        raise ConfigError("--num_parts shares out the unlabelled images: give their folder with -u.")
    if part is not None and _asks_for_groups(arguments):
        raise ConfigError("--num_parts prepares a part of the pool; give --groups and --group-folds with the last call, which has no part.")
    return part


def _lay_preset(setup: NnunetSetup, preset: str) -> NnunetSetup:
    """Lay an overlay over the plans, unless that has been done."""
    from nnunet_ssl.data.overlay import laid_before, lay_preset

    laid = laid_before(setup, preset) or lay_preset(setup, preset)
    print(f"plans: {laid.preprocessed_folder / laid.plans_name}.json")
    return laid


def _print_size(setup: NnunetSetup) -> None:
    """How large a training of our network with these plans will be."""
    from nnunet_ssl.data.gpu_estimate import describe_size

    if size := describe_size(setup):
        print(f"{setup.configuration} with TransASPPUNet: {size}")


def _prepare_part(setup: NnunetSetup, part: Part, arguments: argparse.Namespace) -> None:
    """Preprocess one machine's part of the pool."""
    from nnunet_ssl.data.pool import prepare_part
    from nnunet_ssl.machines.engine import engine_at

    with engine_at(arguments.dask) as engine:
        done = prepare_part(setup, arguments.u, part, skip_bad=arguments.skip_bad, num_processes=arguments.np, engine=engine)
    print(f"{part}: {len(done.ready)} of {done.num_cases} unlabelled cases are ready in {done.folder}, {len(done.new)} of them new")
    print("next, when every part is done: the same command without --num_parts and --part_id")


def _pool(setup: NnunetSetup, arguments: argparse.Namespace) -> PoolIndex:
    """The pool of the images that are given, or the one that is prepared."""
    from nnunet_ssl.data.pool import prepare_pool
    from nnunet_ssl.data.pool_index import load_pool
    from nnunet_ssl.machines.engine import engine_at

    if not arguments.u:
        return load_pool(setup)
    with engine_at(arguments.dask) as engine:
        return prepare_pool(setup, arguments.u, skip_bad=arguments.skip_bad, num_processes=arguments.np, engine=engine)


def _print_next(setup: NnunetSetup) -> None:
    """The commands that train a teacher, or use one that is trained already."""
    number, configuration, flags = dataset_number(setup.dataset), setup.configuration, plans_flag(setup.plans_name)
    run_line = f"nnssl_run -d {number} -c {configuration} -f FOLD"
    there = [
        f"{run_line} {model}  # its teacher is trained already, fold {', '.join(map(str, folds))}"
        for model, folds in _trained_models(setup).items()
    ]
    train = f"nnUNetv2_train {number} {configuration} FOLD -tr {OUR_TEACHER}{flags}"
    print_next(train, f"{run_line}{flags}", *there, trainer=OUR_TEACHER)


def _trained_models(setup: NnunetSetup) -> dict[str, list[int | str]]:
    """Flags of models of the dataset that could be the teacher, with their trained folds."""
    from nnunet_ssl.run.models_there import flags_of_trained_models

    ours = setup.model(OUR_TEACHER)
    return flags_of_trained_models(ours, *range(5), "all")


def _use_groups(setup: NnunetSetup, pool: PoolIndex, asked: str | None, *, write_folds: bool) -> None:
    """Keep groups that are asked for, say which there are, and write folds by them."""
    from nnunet_ssl.data.group_folds import write_group_folds
    from nnunet_ssl.data.groups import asked_groups, describe_groups, keep_groups, kept_groups

    if asked is not None:
        keep_groups(pool, asked_groups(asked, setup, pool))
    if groups := kept_groups(pool.folder):
        print(f"groups of the pool: {describe_groups(groups, pool.case_ids)}")
        print(f"groups of labelled cases: {describe_groups(groups, list(setup.labelled_cases)) or 'none'}")
    if write_folds:
        for number, (group, fold) in enumerate(write_group_folds(setup, groups).items()):
            print(f"fold {number} holds out {group}: {len(fold['train'])} training cases, {len(fold['val'])} validation cases")
