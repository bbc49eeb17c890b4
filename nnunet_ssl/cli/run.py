"""`nnssl_run`: the whole method by one command, continued by the same command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ssl.cli.arguments import (
    add_dask_argument,
    add_dataset_arguments,
    add_device_argument,
    add_groups_argument,
    add_label_arguments,
    add_leave_group_out_argument,
    add_method_arguments,
    add_run_arguments,
    check_accept,
    evidence_device,
    make_parser,
    method_assignments,
    use_device,
)
from nnunet_ssl.cli.command import command
from nnunet_ssl.cli.next_command import predict_line, print_export, print_next
from nnunet_ssl.cli.run_control import check_control, run_controls
from nnunet_ssl.cli.run_printing import print_fold, print_settings, print_table
from nnunet_ssl.controls import CONTROL_NAMES
from nnunet_ssl.locations import dataset_number, plans_flag

if TYPE_CHECKING:
    from nnunet_ssl.nnunet_api.setup import NnunetSetup
    from nnunet_ssl.run.run_request import RunRequest, Step

NAME = "nnssl_run"


def parser() -> argparse.ArgumentParser:
    """The command line of `nnssl_run`."""
    made = make_parser(
        NAME,
        "Prepare the pool, train the teacher, then label, rank, write and train stage by stage, and publish the last student as a model of "
        "the labelled dataset. Each training runs in its own process. The same command again continues and does nothing twice.",
        f"  {NAME} -d 137 -c 3d_fullres -f 0 -u /data/unlabelled",
    )
    add_dataset_arguments(made)
    add_run_arguments(made, several_folds=True)
    add_label_arguments(made)
    add_groups_argument(made)
    add_leave_group_out_argument(made)
    add_device_argument(made)
    made.add_argument(
        "-u", nargs="+", type=Path, default=(), metavar="FOLDER", help="folder(s) of unlabelled images (not needed once prepared)"
    )
    made.add_argument("--preset", metavar="NAME", help="lay this overlay over the plans -p first: default, paper, cpu, ...")
    made.add_argument("--skip-bad", action="store_true", help="leave bad pool cases out and list them, instead of stopping")
    made.add_argument("-np", type=int, default=2, metavar="N", help="worker processes for preprocessing (default: %(default)s)")
    add_dask_argument(made, "preprocess the pool and gather evidence; trainings stay here")
    made.add_argument(
        "--audit", action="store_true", help="train the teacher, say how far its labels can be trusted on cases it has not seen, and stop"
    )
    made.add_argument(
        "--control",
        choices=CONTROL_NAMES,
        help="repeat a finished run from the same teacher and evidence with one thing changed, under plans of its own, and compare; "
        "'supervised' says whether the pool helps at all: the same stages and steps on manual labels alone; 'from-scratch' is one "
        "supervised training with the steps of teacher and students together",
    )
    made.add_argument(
        "--npz",
        action="store_true",
        help="save the last student's probabilities of the fold's validation cases, too: nnUNetv2_find_best_configuration needs them to "
        "ensemble models",
    )
    made.add_argument("--only", metavar="STEP", help="do this one step, if those before it are done, and stop; --dry-run prints the names")
    made.add_argument("--dry-run", action="store_true", help="print the steps and the disk space they need, and stop")
    made.add_argument(
        "--status", action="store_true", help="print what is done, how far trainings under way are, and the table so far, and stop"
    )
    add_method_arguments(made)
    return made


@command(NAME)
def main(argv: Sequence[str] | None = None) -> None:
    """Run everything that is not done, fold by fold, print the tables and the next command."""
    arguments = parser().parse_args(argv)
    check_accept(arguments)
    from nnunet_ssl.machines.engine import engine_at

    assignments = method_assignments(arguments)
    _check_folds(arguments)
    check_control(arguments, assignments)
    engine_at(arguments.dask)  # an address that is none is said before anything is trained
    requests = _requests(arguments, assignments)
    from nnunet_ssl.pseudolabel.publish import refuse_taken_place
    from nnunet_ssl.run.pipeline import execute, pipeline

    if arguments.control is not None:
        use_device(arguments.device)
        run_controls(arguments.control, requests)
        return
    if arguments.status or arguments.dry_run:
        for request in requests:
            print_fold(request, requests)
            _print_steps(pipeline(request), shows_progress=arguments.status)
            if arguments.status:
                print_table(request)
        _print_missing(arguments, requests[0].setup)
        if arguments.dry_run:
            print_export(requests[0].student)
            _print_estimate(requests)
        return
    if arguments.only is not None:
        _execute_only(arguments, requests[0])
        return
    use_device(arguments.device)
    for request in requests:  # none is trained for days before another one stops
        _refuse_what_stops_later(request)
        if not arguments.audit:
            refuse_taken_place(request.published, request.fold, request.workspace)
    if arguments.audit:
        _audit(requests)
        return
    for request in requests:
        print_fold(request, requests)
        print_settings(request)
        execute(pipeline(request))
        print_table(request)
    _print_cross_validation(requests)
    _print_next(arguments, requests)


def _check_folds(arguments: argparse.Namespace) -> None:
    """Refuse folds that cannot stand beside each other.

    Raises:
        ConfigError: if a fold stands there twice, `all` beside a fold, or predictions are the teacher of several; or where one step is
            asked for, which is one fold's.
    """
    from nnunet_ssl.errors import ConfigError
    from nnunet_ssl.locations import PREDICTIONS

    folds = arguments.f
    given = " ".join(map(str, folds))
    if len(folds) > 1 and (arguments.from_predictions or arguments.tr == PREDICTIONS):
        raise ConfigError(f"-f {given}: predictions are the teacher of one fold at a time, since every fold holds out other cases.")
    if len(folds) > 1 and arguments.only is not None:
        raise ConfigError(f"-f {given}: --only is a step of one fold at a time.")
    if arguments.only is not None and (arguments.audit or arguments.status or arguments.dry_run):
        raise ConfigError("--only does one step; leave out --audit, --status and --dry-run.")
    if arguments.npz and "all" in folds:
        raise ConfigError("--npz: with -f all no case is held out, by which nnU-Net could choose between models; give folds.")
    if len(set(folds)) < len(folds):
        raise ConfigError(f"-f {given}: a fold is given twice.")
    if len(folds) > 1 and "all" in folds:
        raise ConfigError(f"-f {given}: 'all' trains on every label and has no figures to stand beside a fold's; give it alone.")


def _requests(arguments: argparse.Namespace, assignments: dict[str, object]) -> list[RunRequest]:
    """One run for every fold asked for."""
    from nnunet_ssl.data.groups import check_asked
    from nnunet_ssl.data.manifest import Manifest
    from nnunet_ssl.data.overlay import laid_before, lay_preset, overlaid
    from nnunet_ssl.data.pool_index import load_pool
    from nnunet_ssl.data.writable_roots import require_writable_roots
    from nnunet_ssl.nnunet_api.load_setup import load_setup
    from nnunet_ssl.pseudolabel.run_spec import settings_in_force
    from nnunet_ssl.pseudolabel.stage_ids import check_ids
    from nnunet_ssl.pseudolabel.start_run import refuse_idle_settings
    from nnunet_ssl.run.run_request import RunRequest

    check_asked(arguments.groups)
    only_looks = arguments.status or arguments.dry_run
    setup = load_setup(arguments.d, arguments.c, arguments.p, only_looks=only_looks)
    if arguments.preset:
        make = overlaid if only_looks else lay_preset
        setup = laid_before(setup, arguments.preset) or make(setup, arguments.preset)
    if not (arguments.u or only_looks or arguments.only or arguments.control):
        load_pool(setup)  # that it is missing is said before days of training; --only says so itself
    requests: list[RunRequest] = []
    first_id = arguments.first_id
    for fold in arguments.f:
        method = settings_in_force(setup, arguments.tr, fold, arguments.from_predictions).with_settings(assignments)
        request = RunRequest(
            setup=setup,
            fold=fold,
            unlabelled=tuple(arguments.u),
            teacher_trainer=arguments.tr,
            teacher_folds=tuple(arguments.teacher_folds) if arguments.teacher_folds else None,
            student_trainer=arguments.student_tr,
            method=method,
            device=arguments.device,
            skip_bad=arguments.skip_bad,
            num_processes=arguments.np,
            first_id=first_id,
            predictions=tuple(arguments.from_predictions),
            accept=arguments.accept,
            accept_unchanged=arguments.accept_unchanged,
            groups=arguments.groups,
            leave_group_out=arguments.leave_group_out,
            dask=arguments.dask,
            npz=arguments.npz,
        )
        if not arguments.audit:  # which acts on what is given
            refuse_idle_settings(request)
        if not only_looks and Manifest.load(request.workspace) is None:
            require_writable_roots(setup.dataset)
        check_ids(request.workspace, method.curriculum.num_stages, first_id)
        requests.append(request)
        first_id = None if first_id is None else first_id + method.curriculum.num_stages
    return requests


def _refuse_what_stops_later(request: RunRequest) -> None:
    """See that the fold exists, and that a run which has begun can go on, unless it is the pool's step that mends it."""
    from nnunet_ssl.data.pool import pool_is_current

    request.setup.fold_cases(request.fold)
    if not request.unlabelled or pool_is_current(request.setup, request.unlabelled):
        request.begun()


def _audit(requests: Sequence[RunRequest]) -> None:
    """Of every fold the steps before the first stage, then the audit."""
    import torch

    from nnunet_ssl.machines.engine import engine_at
    from nnunet_ssl.pseudolabel.audit import audit
    from nnunet_ssl.run.audit_text import audit_lines, line_after
    from nnunet_ssl.run.pipeline import execute, pipeline

    audits = []
    for request in requests:
        print_fold(request, requests)
        print_settings(request)
        execute([step for step in pipeline(request) if step.is_before_stages])
        run = request.open()
        with engine_at(request.dask, device=request.device) as engine:
            audits.append(audit(run, device=torch.device(request.device), engine=engine))
        print("\n".join(audit_lines(audits[-1], run)))
    if not all(request.open(only_looks=True).is_complete for request in requests):
        print(line_after(audits))


def _execute_only(arguments: argparse.Namespace, request: RunRequest) -> None:
    """One step, and the name of the next."""
    from nnunet_ssl.run.one_step import execute_only, find_step, next_step
    from nnunet_ssl.run.pipeline import pipeline

    steps = pipeline(request)
    step = find_step(steps, arguments.only)
    print_settings(request)
    check = evidence_device if step.key.startswith("stage-") else lambda given: use_device(given.device)
    execute_only(steps, step, request.setup, lambda: check(arguments) if step.uses_device else None)
    if (following := next_step(steps)) is not None:
        print(f"next: the same command with --only {following.key}")
    else:
        _print_next(arguments, [request])


def _print_steps(steps: Sequence[Step], *, shows_progress: bool) -> None:
    """What is to be done, with the command for it alone, and what there is of it."""
    width = max(len(step.key) for step in steps)
    for number, step in enumerate(steps, start=1):
        is_done = step.is_done()
        print(f"{number:3d}. [{'done' if is_done else ' to do'}] {step.key:{width}}  {step.name}: {step.command}")
        if shows_progress and not is_done and (progress := step.progress()) is not None:
            print(f"{'':14}{progress}")


def _print_missing(arguments: argparse.Namespace, setup: NnunetSetup) -> None:
    """What the steps need and do not make themselves, when they are typed one by one: plans of a preset, and a pool that no `-u` names."""
    from nnunet_ssl.data.overlay import is_laid
    from nnunet_ssl.data.pool_index import load_pool
    from nnunet_ssl.errors import SetupError

    if arguments.preset and not is_laid(setup):
        prepare = f"nnssl_prepare -d {dataset_number(setup.dataset)} -c {arguments.c}{plans_flag(arguments.p)} --preset {arguments.preset}"
        print(f"the plans {setup.plans_name} are not laid yet; before a step that is typed alone: {prepare}")
    if arguments.status and not arguments.u:  # a dry run stops for it
        try:
            load_pool(setup)
        except SetupError as error:
            print(error)


def _print_cross_validation(requests: Sequence[RunRequest]) -> None:
    """The folds beside each other."""
    if len(requests) > 1:
        from nnunet_ssl.run.cross_validation import fold_figures, format_cross_validation

        print(format_cross_validation([fold_figures(request.open()) for request in requests]))


def _print_next(arguments: argparse.Namespace, requests: Sequence[RunRequest]) -> None:
    setup, published, folds = requests[0].setup, requests[0].published, [request.fold for request in requests]
    model = f"-d {dataset_number(setup.dataset)} -c {arguments.c} -f {' '.join(map(str, folds))}{plans_flag(setup.plans_name)}"
    report = f"nnssl_report {model} -tr {requests[0].teacher.trainer}"
    print_next(predict_line(published, *folds, device=arguments.device), report, trainer=published.trainer)


def _print_estimate(requests: Sequence[RunRequest]) -> None:
    """Disk for all runs together; they share the pool."""
    from nnunet_ssl.data.pool_images import find_images
    from nnunet_ssl.data.pool_index import load_pool
    from nnunet_ssl.run.estimate import estimate_disk, of_all_folds

    first = requests[0]
    if first.unlabelled:
        found = [find_images(folder, first.setup.file_ending, first.setup.num_files)[0] for folder in first.unlabelled]
        count = sum(map(len, found))
    else:
        count = len(load_pool(first.setup).images)
    needed = of_all_folds([estimate_disk(request, count) for request in requests])
    print(
        f"disk for {count} pool cases: about {needed.total:.0f} MB (pool {needed.pool:.0f}, evidence {needed.evidence:.0f}, "
        f"stages {needed.stages:.0f}, trainings {needed.trainings:.0f})"
    )
