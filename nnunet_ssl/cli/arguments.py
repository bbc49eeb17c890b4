"""Flags that several commands share; names and meanings are nnU-Net's own where it has them. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ssl.config import CASE_SCORES, CONFIDENCES, ORDERS, SCHEDULES, STUDENT_INITS, TARGET_KINDS, UNLEARNING_MODES
from nnunet_ssl.errors import ConfigError
from nnunet_ssl.locations import DEFAULT_DEVICE, DEFAULT_PLANS, OUR_TEACHER
from nnunet_ssl.machines.local_cluster import is_local

if TYPE_CHECKING:
    from nnunet_ssl.machines.part import Part


def make_parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose `--help` ends with an example."""
    return argparse.ArgumentParser(
        prog=name, description=description, epilog=f"example:\n{example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )


def fold_argument(text: str) -> int | str:
    """`all`, or the number of a fold."""
    if text == "all":
        return "all"
    if text.isdigit():
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is neither a fold number nor 'all'")


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """`-d -c -p`: which set-up."""
    parser.add_argument("-d", required=True, metavar="DATASET", help="labelled dataset: id or name, as for nnUNetv2_train")
    parser.add_argument("-c", required=True, metavar="CONFIGURATION", help="configuration, for instance 3d_fullres")
    parser.add_argument("-p", default=DEFAULT_PLANS, metavar="PLANS", help="plans name (default: %(default)s)")


def add_run_arguments(parser: argparse.ArgumentParser, *, several_folds: bool = False) -> None:
    """`-f -tr` and alike: which run, or with `several_folds` which runs (`-f` is a list then)."""
    more = "; several, as in -f 0 1 2 3 4, run one after another" if several_folds else ""
    parser.add_argument(
        "-f",
        required=True,
        type=fold_argument,
        metavar="FOLD",
        nargs="+" if several_folds else None,
        help="fold: 0, 1, ... (its validation cases stay unseen, so its figures are honest) or 'all' (every label trains)" + more,
    )
    parser.add_argument(
        "-tr",
        default=OUR_TEACHER,
        metavar="TRAINER",
        help="the teacher's trainer; any trained nnU-Net model will do (%(default)s)",
    )
    parser.add_argument(
        "--teacher-folds",
        nargs="+",
        type=fold_argument,
        metavar="FOLD",
        help="with -f all: folds of the teacher whose evidence is averaged (default: every fold of the splits, so that one has not seen "
        "each label); 'all' is a single teacher of all labels, which leaves nothing to calibrate on",
    )
    parser.add_argument("--student-tr", metavar="TRAINER", help="the student's trainer (default: the one with the teacher's network)")
    parser.add_argument(
        "--first-id",
        type=int,
        metavar="ID",
        help="first id of the block of stage datasets; a stage that is written keeps its own (default: first free from 601)",
    )


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """`--from-predictions --accept --accept-unchanged`: labels that come from elsewhere."""
    parser.add_argument(
        "--from-predictions",
        nargs="+",
        type=Path,
        default=(),
        metavar="FOLDER",
        help="folder(s) of .npz probabilities of the pool, as nnUNetv2_predict --save_probabilities and nnUNetv2_ensemble --save_npz write "
        "them: they are the teacher, several folders its samples",
    )
    parser.add_argument(
        "--accept",
        type=Path,
        metavar="FOLDER",
        help="folder of corrected labels, named like pool cases: they count as manual from the next stage on",
    )
    parser.add_argument(
        "--accept-unchanged",
        action="store_true",
        help="labels to accept may be pseudo-labels of the run: they were found right",
    )


def check_accept(arguments: argparse.Namespace) -> None:
    """See that `--accept-unchanged` has something to act on.

    Raises:
        ConfigError: if it has not.
    """
    if arguments.accept_unchanged and arguments.accept is None:
        raise ConfigError("--accept-unchanged is about the labels of --accept; give their folder, too.")


def add_part_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """`--num_parts --part_id`, in nnU-Net's spelling or ours: one machine's share of the cases.

    Args:
        parser: of the command.
        what: what a part does before it stops.
    """
    parser.add_argument(
        "-num_parts",
        "--num_parts",
        type=int,
        metavar="N",
        help=f"several machines share the cases: {what} of one of N parts, and stop. Afterwards the same command without parts goes on",
    )
    parser.add_argument("-part_id", "--part_id", type=int, metavar="I", help="which part, from 0 to N - 1")


def part_of(arguments: argparse.Namespace) -> Part | None:
    """The part that is asked for; None for the ordinary command.

    Raises:
        ConfigError: if one of the two flags is missing, or the part does not exist.
    """
    from nnunet_ssl.machines.part import Part

    if arguments.num_parts is None and arguments.part_id is None:
        return None
    if arguments.num_parts is None or arguments.part_id is None:
        raise ConfigError("--num_parts and --part_id go together: how many parts there are, and which one this is.")
    return Part(num_parts=arguments.num_parts, part_id=arguments.part_id)


def add_groups_argument(parser: argparse.ArgumentParser) -> None:
    """`--groups`."""
    parser.add_argument(
        "--groups",
        metavar="CSV",
        help="table with the columns case,group (scanner, site): of every pool case, and of labelled cases if you like; 'folders': every "
        "folder of -u is a group; 'none': there are none. Kept with the pool",
    )


def add_leave_group_out_argument(parser: argparse.ArgumentParser) -> None:
    """`--leave-group-out`."""
    parser.add_argument(
        "--leave-group-out",
        action="store_true",
        help="the fold's validation cases are whole groups: pool cases of these groups stay out, so that nothing has seen them",
    )


def add_dask_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """`--dask`: workers that share the cases.

    Args:
        parser: of the command.
        what: they do with them.
    """
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help=f"Dask workers {what}: those of the scheduler at this address, or of this machine, 'local' (one per GPU) or 'local:N'",
    )


def evidence_device(arguments: argparse.Namespace) -> str:
    """`-device` for gathering evidence, checked where networks run on this machine.

    Raises:
        ConfigError: if the device is not there.
    """
    is_elsewhere = arguments.dask is not None and not is_local(arguments.dask)
    return str(arguments.device) if is_elsewhere else use_device(arguments.device)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """`-device`."""
    parser.add_argument("-device", default=DEFAULT_DEVICE, choices=("cuda", "cpu", "mps"), help="where networks run (default: %(default)s)")


def add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that replace single settings of the plans' `nnssl` section."""
    group = parser.add_argument_group(
        "method",
        "settings of this run; without a flag a run keeps those it has, and a run that begins takes them from the plans' nnssl section "
        "(docs/reference/plans.md)",
    )
    group.add_argument("--stages", nargs="+", type=float, metavar="K", help="fractions of the pool per stage, increasing, e.g. 0.2 0.5 1.0")
    group.add_argument("--schedule", choices=SCHEDULES, help="fractions as given, or faster the less the labels still change")
    group.add_argument("--order", choices=ORDERS, help="order in which cases enter")
    group.add_argument(
        "--confidence",
        choices=CONFIDENCES,
        help="voxel confidence: calibrated on held-out cases, or the paper's; auto: calibrated with -f all",
    )
    group.add_argument("--case-score", choices=CASE_SCORES, help="score that ranks the cases")
    group.add_argument("--num-samples", type=int, metavar="K", help="stochastic samples per case")
    group.add_argument("--unlearning", choices=UNLEARNING_MODES, help="form of the unlearning term")
    group.add_argument("--targets", choices=TARGET_KINDS, help="labels or class probabilities as targets")
    group.add_argument("--student-init", choices=STUDENT_INITS, help="weights that each stage's student starts from")
    group.add_argument("--agreement", type=float, metavar="A", help="the student's share in refined labels; 0 turns refinement off")
    group.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting, e.g. --set student.cutmix=0 (repeatable)"
    )


_FLAGS = {
    "stages": "curriculum.fractions",
    "schedule": "curriculum.schedule",
    "order": "curriculum.order",
    "confidence": "evidence.confidence",
    "case_score": "evidence.case_score",
    "num_samples": "evidence.num_samples",
    "unlearning": "student.unlearning",
    "targets": "student.targets",
    "student_init": "student.init",
    "agreement": "agreement.weight",
}


def method_assignments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings given on the command line, by dotted path.

    Raises:
        ConfigError: for a `--set` that is not NAME=VALUE, or one of the teacher's, which its trainer reads from the plans alone.
    """
    given = {path: getattr(arguments, flag) for flag, path in _FLAGS.items() if getattr(arguments, flag) is not None}
    for assignment in arguments.set:
        name, separator, value = assignment.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set {assignment} is not of the form NAME=VALUE, for instance student.cutmix=0.")
        if name.startswith("teacher."):
            raise ConfigError(f"--set {name}: the teacher's trainer reads its settings from the plans; use nnssl_prepare --preset.")
        given[name] = _value(value)
    return given


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def use_device(name: str) -> str:
    """Check the device, and on a CPU use every core that this process may use.

    Raises:
        ConfigError: if the device is not there.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("-device cuda: PyTorch finds no CUDA device; use -device cpu.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("-device mps: PyTorch finds no Apple GPU; use -device cpu.")
    torch.set_num_threads(_usable_cores() if name == "cpu" else 1)
    return name


def _usable_cores() -> int:
    """Cores that a scheduler, container or `taskset` has left to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
