"""`nnssl_pseudolabel`: grow the dataset by one stage."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_ssl.cli.arguments import (
    add_dask_argument,
    add_dataset_arguments,
    add_device_argument,
    add_groups_argument,
    add_label_arguments,
    add_leave_group_out_argument,
    add_method_arguments,
    add_part_arguments,
    add_run_arguments,
    check_accept,
    evidence_device,
    make_parser,
    method_assignments,
    part_of,
)
from nnunet_ssl.cli.command import command
from nnunet_ssl.cli.next_command import predict_line, print_next

if TYPE_CHECKING:
    from nnunet_ssl.machines.part import Part
    from nnunet_ssl.pseudolabel.run import Run

NAME = "nnssl_pseudolabel"


def parser() -> argparse.ArgumentParser:
    """The command line of `nnssl_pseudolabel`."""
    made = make_parser(
        NAME,
        "Label the pool with the teacher (and, from stage 2 on, with the previous student), rank the cases by confidence and write "
        "the next stage's nnU-Net dataset. After the last student it publishes that student as a model of the labelled dataset.",
        f"  {NAME} -d 137 -c 3d_fullres -f 0",
    )
    add_dataset_arguments(made)
    add_run_arguments(made)
    add_label_arguments(made)
    add_groups_argument(made)
    add_leave_group_out_argument(made)
    add_device_argument(made)
    made.add_argument(
        "--withdraw",
        nargs="+",
        default=(),
        metavar="CASE",
        help="take accepted labels back: from the next stage on these cases are pool cases like any other",
    )
    made.add_argument("--rescore", action="store_true", help="rank from stored evidence, predict nothing")
    made.add_argument(
        "--stage",
        type=int,
        metavar="T",
        help="write stage T, which was written before, again: its files are lost or damaged, or it is to have other settings",
    )
    add_part_arguments(made, "gather the evidence")
    add_dask_argument(made, "gather the evidence")
    add_method_arguments(made)
    return made


@command(NAME)
def main(argv: Sequence[str] | None = None) -> None:
    """Write the next stage and print the next command."""
    arguments = parser().parse_args(argv)
    check_accept(arguments)
    assignments, part = method_assignments(arguments), _part(arguments)
    from nnunet_ssl.data.groups import check_asked, keep_groups
    from nnunet_ssl.nnunet_api.load_setup import load_setup
    from nnunet_ssl.pseudolabel.accept import accept
    from nnunet_ssl.pseudolabel.run_spec import RunSpec, settings_in_force
    from nnunet_ssl.pseudolabel.start_run import open_run, refuse_idle_settings
    from nnunet_ssl.pseudolabel.withdraw import withdraw

    check_asked(arguments.groups)
    setup = load_setup(arguments.d, arguments.c, arguments.p)
    spec = RunSpec(
        setup=setup,
        fold=arguments.f,
        teacher_trainer=arguments.tr,
        predictions=tuple(arguments.from_predictions),
        teacher_folds=tuple(arguments.teacher_folds) if arguments.teacher_folds else None,
        student_trainer=arguments.student_tr,
        method=settings_in_force(setup, arguments.tr, arguments.f, arguments.from_predictions).with_settings(assignments),
        first_id=arguments.first_id,
        groups=arguments.groups,
        leave_group_out=arguments.leave_group_out,
    )
    run = open_run(spec)
    if arguments.stage is None:
        refuse_idle_settings(spec)
    if arguments.groups is not None:
        keep_groups(run.pool, run.manifest.groups)
    if part is not None:
        _gather_part(run, part, arguments)
        return
    if arguments.withdraw:
        withdraw(run, arguments.withdraw)
        print(f"accepted labels: {len(set(arguments.withdraw))} withdrawn, {len(run.accepted)} are left")
    if arguments.accept is not None:
        new = accept(run, arguments.accept, takes_unchanged=arguments.accept_unchanged)
        print(f"accepted labels: {len(new)} new, {len(run.accepted)} in all")
    if arguments.stage is not None:
        _write_again(run, arguments)
    elif run.manifest.stages and not run.is_trained(len(run.manifest.stages)):
        _name_the_training(run, arguments)
    elif run.next_stage is None:
        _publish(run, arguments)
    else:
        _grow(run, arguments)


def _part(arguments: argparse.Namespace) -> Part | None:
    """The part that is asked for.

    Raises:
        ConfigError: if more is asked for than its evidence.
    """
    from nnunet_ssl.errors import ConfigError

    part = part_of(arguments)
    others = {
        "--accept": arguments.accept,
        "--withdraw": arguments.withdraw or None,
        "--stage": arguments.stage,
        "--rescore": arguments.rescore or None,
    }
    if part is not None and (given := [flag for flag, value in others.items() if value is not None]):
        raise ConfigError(f"--num_parts gathers evidence and does no more; {given[0]} is for the command without it.")
    return part


def _gather_part(run: Run, part: Part, arguments: argparse.Namespace) -> None:
    """Gather the evidence of a part and say what is missing."""
    import torch

    from nnunet_ssl.machines.engine import engine_at
    from nnunet_ssl.pseudolabel.gather_part import gather_part

    with engine_at(arguments.dask) as engine:
        found = gather_part(run, part, device=torch.device(evidence_device(arguments)), engine=engine)
    if found is None:
        print(f"{part}: no evidence is asked for now; see the command without --num_parts and --part_id")
        return
    print(f"{part}: evidence of {found.num_cases} of {len(run.pseudo_cases)} pool cases is there for stage {found.stage}")
    print(f"missing in other parts: {len(found.missing)} cases")
    print("next, when every part is done: the same command without --num_parts and --part_id")


def _write_again(run: Run, arguments: argparse.Namespace) -> None:
    """Write the stage that is asked for again, and say that its student learns the new files only if it is trained anew."""
    import torch

    from nnunet_ssl.machines.engine import engine_at
    from nnunet_ssl.nnunet_api.training_state import checkpoint_to_open
    from nnunet_ssl.pseudolabel.rewrite_stage import rewrite_stage

    with engine_at(arguments.dask) as engine:
        record = rewrite_stage(run, arguments.stage, device=torch.device(evidence_device(arguments)), engine=engine)
    print(f"stage {record.stage}: {len(record.cases)} pool cases written again in {record.dataset}")
    student = run.student(record.stage)
    _print_training(run, record.stage, arguments, anew=True)
    if checkpoint_to_open(student, run.fold) is not None:
        kept = student.fold_folder(run.fold)
        print(f"a student of the files before is there: this trains it anew; nnssl_run keeps it, unless {kept} is removed")


def _print_training(run: Run, stage: int, arguments: argparse.Namespace, *, anew: bool = False) -> None:
    """The command that trains the student of a stage."""
    from nnunet_ssl.nnunet_api.training_state import training_command

    student = run.student(stage)
    print_next(training_command(student, run.fold, anew=anew, device=arguments.device), trainer=student.trainer)


def _name_the_training(run: Run, arguments: argparse.Namespace) -> None:
    """Say that the stage written last waits for its student."""
    written = len(run.manifest.stages)
    print(f"stage {written} is written ({run.stage_name(written)}); its student is not trained yet")
    _print_training(run, written, arguments)


def _publish(run: Run, arguments: argparse.Namespace) -> None:
    """Publish the last student."""
    from nnunet_ssl.pseudolabel.publish import publish

    model = publish(run)
    print(f"the curriculum is complete; the last student is published as {model.folder}")
    print_next(predict_line(model, run.fold, device=arguments.device), trainer=model.trainer)


def _grow(run: Run, arguments: argparse.Namespace) -> None:
    """Write the next stage."""
    import torch

    from nnunet_ssl.data.ranking_file import ranking_file
    from nnunet_ssl.machines.engine import engine_at
    from nnunet_ssl.pseudolabel.grow import grow

    with engine_at(arguments.dask) as engine:
        record = grow(run, device=torch.device(evidence_device(arguments)), rescore=arguments.rescore, engine=engine)
    print(f"stage {record.stage}: {len(record.cases)} of {len(run.pseudo_cases)} pool cases in {record.dataset}")
    if record.accepted:
        print(f"  and {len(record.accepted)} with accepted labels, as labelled cases")
    print(f"ranking: {ranking_file(run.workspace, record.stage)}")
    _print_training(run, record.stage, arguments)
