"""Everything that is to be made for a draw of labelled cases, as jobs of a queue."""

from __future__ import annotations

import json
from pathlib import Path

from arms import ARMS, Arm, Lengths, overlay_of
from draw import CEILING, CONFIGURATION, DATASET, Draw, console, dataset_name, plans_name
from job_queue import Job

from nnunet_ssl.data.files import write_json

FIRST_ID, IDS_PER_ARM = 601, 10
"""Every arm has a block of stage datasets of its own, so that two lanes never take the same ids."""


def jobs_of(draw: Draw, arms: list[Arm], lengths: Lengths) -> list[Job]:
    """The jobs of a draw, each after those that it needs; nothing for arms whose result is written down already, on whatever machine.

    Arms that start from the draw's teachers come first, since their comparison needs the same ones.
    """
    open_arms = [arm for arm in arms if not draw.row(arm).exists()]
    if not open_arms:
        return []
    jobs = [Job(name=f"{draw.name}.prepare", command=draw.script("prepare"), makes=(draw.root / "ready.json",))]
    if any(arm.kind != "supervised" for arm in open_arms):
        jobs += teacher_jobs(draw, lengths)
    for arm in sorted(open_arms, key=lambda arm: arm.kind == "supervised"):
        if arm.kind == "teacher":
            jobs.append(evaluate_job(draw, arm, f"{draw.name}.teacher.audit"))
        else:
            jobs += supervised_jobs(draw, arm, lengths) if arm.kind == "supervised" else run_jobs(draw, arm, lengths)
    return [Job(**{**vars(job), "environment": draw.environment}) for job in jobs]


def plans_job(draw: Draw, name: str, arm: Arm, lengths: Lengths) -> Job:
    """Lay an arm's overlay over nnU-Net's plans.

    Raises:
        ValueError: if another overlay was laid before under this name: what was trained with it must not count for this one.
    """
    shared = {**json.loads(Path(draw.arguments.overlay).read_text()), "network": draw.network}
    overlay = overlay_of(arm, shared, lengths, len(draw.folds))
    if draw.teachers == "members":  # which have seen what nnU-Net's folds hold out
        overlay["nnssl"]["evidence"] = {**overlay["nnssl"].get("evidence", {}), "confidence": "paper"}
    path = draw.overlay(name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, overlay)
    elif json.loads(path.read_text()) != overlay:
        raise ValueError(f"{path} has other settings than '{name}' has now; give the same flags as before, or another --out")
    number = CEILING if arm.all_labels else DATASET
    command = (console("nnssl_prepare"), "-d", str(number), "-c", CONFIGURATION, "--preset", str(path))
    makes = draw.root / "nnUNet_preprocessed" / dataset_name(number) / f"{plans_name(name)}.json"
    return Job(name=f"{draw.name}.{name}.plans", command=command, makes=(makes,), needs=(f"{draw.name}.prepare",))


def teacher_jobs(draw: Draw, lengths: Lengths) -> list[Job]:
    """The teachers, and their evidence on pool and held-out cases with the audit."""
    plans = plans_job(draw, "teacher", ARMS["teacher"], lengths)
    model, jobs = draw.model("teacher", draw.teacher_trainer), [plans]
    for fold in draw.folds:
        trainer = ("-tr", draw.teacher_trainer, "-p", plans_name("teacher"))
        command = (console("nnUNetv2_train"), str(DATASET), CONFIGURATION, str(fold), *trainer)
        folder = model / f"fold_{fold}"
        makes = (folder / "checkpoint_final.pth", folder / "validation" / "summary.json")
        device = ("-device", draw.arguments.device)
        name = f"{draw.name}.teacher.f{fold}"
        jobs.append(Job(name=name, command=(*command, *device), makes=makes, needs=(plans.name,), checkpoints=folder))
    command = (console("nnssl_run"), *run_flags(draw, "teacher"), "--audit")
    needs = tuple(job.name for job in jobs[1:])
    return [*jobs, Job(name=f"{draw.name}.teacher.audit", command=command, makes=(model / "fold_all/nnssl/audit.json",), needs=needs)]


def run_flags(draw: Draw, arm: str) -> tuple[str, ...]:
    """Flags of `nnssl_run` on the shared teachers."""
    block = FIRST_ID + IDS_PER_ARM * (list(ARMS).index(arm) if arm in ARMS else len(ARMS))
    folds = ("--teacher-folds", *map(str, draw.folds))
    teacher = ("-tr", draw.teacher_trainer, "-p", plans_name(arm))
    flags = ("-d", str(DATASET), "-c", CONFIGURATION, "-f", "all", *teacher, "-device", draw.arguments.device)
    return (*flags, *folds, "--first-id", str(block))


def run_jobs(draw: Draw, arm: Arm, lengths: Lengths) -> list[Job]:
    """An arm that starts from the shared teachers."""
    plans = plans_job(draw, arm.name, arm, lengths)
    copied = draw.model(arm.name, draw.teacher_trainer) / "copied.json"
    needs = (plans.name, f"{draw.name}.teacher.audit")
    copy = Job(name=f"{draw.name}.{arm.name}.copy", command=draw.script("copy-teacher", "--arms", arm.name), makes=(copied,), needs=needs)
    student = draw.student_trainer(arm)
    command = (console("nnssl_run"), *run_flags(draw, arm.name), "--student-tr", student)
    published = draw.model(arm.name, student) / "fold_all" / "checkpoint_final.pth"
    run = Job(name=f"{draw.name}.{arm.name}", command=command, makes=(published,), needs=(copy.name,))
    return [plans, copy, run, evaluate_job(draw, arm, run.name)]


def supervised_jobs(draw: Draw, arm: Arm, lengths: Lengths) -> list[Job]:
    """An arm of manual labels alone."""
    plans, number = plans_job(draw, arm.name, arm, lengths), CEILING if arm.all_labels else DATASET
    folder = draw.model(arm.name, draw.teacher_trainer, number) / "fold_all"
    trainer = ("-tr", draw.teacher_trainer, "-p", plans_name(arm.name))
    flags = (str(number), CONFIGURATION, "all", *trainer, "-device", draw.arguments.device)
    train = Job(
        name=f"{draw.name}.{arm.name}",
        command=(console("nnUNetv2_train"), *flags),
        makes=(folder / "checkpoint_final.pth",),
        needs=(plans.name,),
        checkpoints=folder,
    )
    return [plans, train, evaluate_job(draw, arm, train.name)]


def evaluate_job(draw: Draw, arm: Arm, trained: str) -> Job:
    """Stock prediction and all metrics of an arm, after the job that makes its model."""
    command = draw.script("evaluate", "--arms", arm.name)
    return Job(name=f"{draw.name}.{arm.name}.evaluate", command=command, makes=(draw.row(arm),), needs=(trained,))
