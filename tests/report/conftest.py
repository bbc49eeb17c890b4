"""A small run on disk, as preparation, training and labelling would leave it, with numbers to be checked by hand; nothing is trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from nnunetv2.evaluation.evaluate_predictions import save_summary_json
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from nnunet_ssl.confidence.curriculum import RankedCase
from nnunet_ssl.confidence.evidence import Evidence
from nnunet_ssl.config import SCHEMA, MethodConfig
from nnunet_ssl.data.evidence_store import EvidenceStore
from nnunet_ssl.data.files import write_json
from nnunet_ssl.data.manifest import Manifest, StageRecord
from nnunet_ssl.data.pool_index import PoolIndex
from nnunet_ssl.data.pseudo_case import PseudoCase
from nnunet_ssl.data.ranking_file import write_ranking
from nnunet_ssl.data.stage_dataset import write_stage
from nnunet_ssl.data.stage_sidecar import StageSidecar
from nnunet_ssl.locations import (
    PUBLISHED_MARKER,
    ModelLocation,
    pool_folder,
    pool_index,
    preprocessed_root,
    raw_root,
    results_root,
    stage_dataset_name,
)
from nnunet_ssl.nnunet_api.checkpoints import fingerprint
from nnunet_ssl.nnunet_api.load_setup import load_setup
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.pseudolabel.ranking import PoolCaseScores, ranking_lines

DATASET, CONFIGURATION, PLANS = "Dataset137_Toy", "3d_fullres", "nnUNetPlans"
TEACHER, STUDENT = "TransASPPTeacherTrainer", "TransASPPStudentTrainer"
LABELLED = [f"lab_{i}" for i in range(6)]
VALIDATION = ["lab_0", "lab_1"]
HOSTILE = "<img src=x onerror=alert(1)>&\"'$x_0$"
LABELS = {"background": 0, "rim": 1, "core": 2}
POOL = sorted(["p_0", "p_1", "p_2", "p_3", HOSTILE])
RANKED = ["p_2", "p_0", HOSTILE, "p_1", "p_3"]
"""Best first; p_3 has no score."""
SHAPE = (6, 8, 10)
SPACING_MM = [2.0, 1.0, 0.5]
FINGERPRINT = "0123456789ab"
METHOD = MethodConfig().with_settings({"curriculum.fractions": [0.4, 1.0], "student.cutmix": 0.25})


@dataclass(frozen=True)
class ToyRun:
    """Where things are, and the parts that a test may add."""

    fold: int | str
    teacher: ModelLocation
    hostile: str = HOSTILE
    """Name of a pool case."""

    @property
    def workspace(self) -> Path:
        return self.teacher.workspace(self.fold)

    @property
    def setup(self) -> NnunetSetup:
        return load_setup("137", CONFIGURATION, PLANS)

    def student(self, stage: int) -> ModelLocation:
        dataset = stage_dataset_name(600 + stage, DATASET, self.fold, stage)
        return ModelLocation(dataset=dataset, trainer=STUDENT, plans=PLANS, configuration=CONFIGURATION)

    def begin(self) -> Manifest:
        """The manifest of a run without stages."""
        manifest = Manifest(
            dataset=DATASET,
            configuration=CONFIGURATION,
            plans=PLANS,
            fold=self.fold,
            teacher_trainer=TEACHER,
            teacher_folds=[self.fold],
            teacher_fingerprint=FINGERPRINT,
            student_trainer=STUDENT,
            pool=POOL,
            dataset_ids=[601, 602],
            method=METHOD,
        )
        manifest.save(self.workspace)
        return manifest

    def write_stage(self, stage: int) -> None:
        """Evidence, ranking, stage dataset and manifest of a stage; the second one's labels come from teacher and student 1 together."""
        manifest = Manifest.load(self.workspace) or self.begin()
        chosen, weight = RANKED[: (2, 5)[stage - 1]], 0.5 * (stage - 1)
        self.write_evidence(EvidenceStore(self.workspace / "evidence" / "teacher", source=FINGERPRINT), variance=0.01)
        if stage == 2:
            source = f"{fingerprint(self.student(1).checkpoint(self.fold))}-k8"
            self.write_evidence(EvidenceStore(self.workspace / "evidence" / "student_s1", source=source), variance=0.03)
        record = StageRecord(
            stage=stage,
            dataset=self.student(stage).dataset,
            fraction=METHOD.curriculum.fractions[stage - 1],
            cases=chosen,
            is_last=stage == 2,
            num_epochs=2,
            case_score="pairwise_dice",
            order="ranked",
            tau=0.7,
            calibration=None,
            agreement_weight=weight,
            label_stage=None if stage == 1 else 1,
            kept_previous=False,
            score_range=(0.5, 0.9),
            share_confident=(0.75, 0.625)[stage - 1],
            change=None if stage == 1 else {"rim": 0.02, "core": 0.05},
            seconds=90.0,
        )
        self._write_dataset(record)
        manifest.stages.append(record)
        entered = {case: s.stage for s in reversed(manifest.stages) for case in s.cases}
        self._write_ranking(self.workspace / f"ranking_{stage}.csv", entered)
        manifest.save(self.workspace)

    def write_evidence(self, store: EvidenceStore, *, variance: float) -> None:
        """The rim of every pool case with probability 0.8 and one variance for every class."""
        mean = np.where(ball()[None] == np.arange(3)[:, None, None, None], np.float32(0.8), np.float32(0.1))
        constant = np.full_like(mean, variance)
        for case in POOL:
            store.write(case, Evidence(mean=mean, variance=constant, votes=mean, num_samples=8, has_regions=False))

    def _write_dataset(self, record: StageRecord) -> None:
        setup = self.setup
        train, validation = setup.fold_cases(self.fold)
        sidecar = StageSidecar(
            schema=SCHEMA,
            base_dataset=DATASET,
            workspace="workspace",
            teacher=self.teacher.name,
            teacher_fingerprint=FINGERPRINT,
            stage=record.stage,
            num_stages=2,
            blind_heads=[],
            num_epochs=record.num_epochs,
            fold=self.fold,
            labelled_cases=train,
            validation_cases=validation,
            pool_cases=record.cases,
            num_confidence_channels=1,
            num_probability_channels=0,
            agreement_weight=record.agreement_weight,
            label_stage=record.label_stage,
            init="scratch",
            init_checkpoint=None,
        )
        folder = pool_folder(DATASET, f"{PLANS}_{CONFIGURATION}", setup.data_hash())
        pool = PoolIndex(folder, {case: (f"/images/{case}_0000.nii.gz",) for case in POOL})
        write_stage(record.dataset, setup, pool, METHOD, sidecar, map(pseudo_case, record.cases))

    def _write_ranking(self, path: Path, entered: dict[str, int]) -> None:
        ranking, scored = [], []
        for rank, case in enumerate(RANKED, start=1):
            score = None if case == "p_3" else 1 - 0.1 * rank
            predicted, voxels = ((), 0) if score is None else (("rim", "core"), 24)
            scores = {"pairwise_dice": score, "foreground": score and score - 0.05, "mean": 0.99 - 0.001 * rank}
            scored.append(PoolCaseScores(case, scores, predicted, voxels, None if score is None else 0.5))
            stratum = scored[-1].stratum
            ranking.append(RankedCase(case=case, rank=rank, score=score, stratum=stratum, listed_for_review=score is None))
        write_ranking(path, ranking_lines(ranking, scored, entered))

    def train(self, model: ModelLocation, *, dice: tuple[float, ...], finished: bool = True, student: bool = False) -> None:
        """A checkpoint with the log of a training of one minute an epoch; validation loss is 1 minus the pseudo Dice."""
        log = LocalLogger()
        terms = ("loss_supervised", "loss_high", "loss_low", "confident_share", "loss_uncertainty") if student else ("loss_uncertainty",)
        log.my_fantastic_logging.update({term: [] for term in terms})
        for epoch, value in enumerate(dice):
            entries: dict[str, Any] = {
                "mean_fg_dice": value,
                "ema_fg_dice": value,
                "dice_per_class_or_region": [value - 0.1, value + 0.1],
                "train_losses": np.float32(0.5 - value),
                "val_losses": np.float64(1 - value),
                "lrs": 0.01,
                "epoch_start_timestamps": 1000.0 * epoch,
                "epoch_end_timestamps": 1000.0 * epoch + 60,
                **{term: (float("nan") if term == "loss_uncertainty" else 0.1 + 0.1 * k) for k, term in enumerate(terms)},
            }
            for key, entry in entries.items():
                log.log(key, entry, epoch)
        path = model.checkpoint(self.fold).with_name("checkpoint_final.pth" if finished else "checkpoint_latest.pth")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"network_weights": {}, "logging": log.get_checkpoint(), "current_epoch": len(dice)}, path)

    def validate(self, model: ModelLocation, rim: float, core: float) -> None:
        """`validation/summary.json` as nnU-Net writes it, for two cases."""
        classes = {1: {"Dice": rim, "IoU": rim / 2}, 2: {"Dice": core, "IoU": core / 2}}
        mean = {metric: (classes[1][metric] + classes[2][metric]) / 2 for metric in ("Dice", "IoU")}
        cases = [{"metrics": classes, "reference_file": f"{case}.nii.gz"} for case in VALIDATION]
        path = model.fold_folder(self.fold) / "validation" / "summary.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_summary_json({"metric_per_case": cases, "mean": classes, "foreground_mean": mean}, str(path))

    def change(self, **entries: Any) -> None:
        """Entries of the manifest; those that a stage has, of every stage."""
        path = self.workspace / "manifest.json"
        content = json.loads(path.read_text())
        for name, value in entries.items():
            for part in [content] if name in content else content["stages"]:
                part[name] = value
        path.write_text(json.dumps(content))

    def change_stage(self, stage: int, **entries: Any) -> None:
        """Entries that the manifest has of one stage."""
        path = self.workspace / "manifest.json"
        content = json.loads(path.read_text())
        content["stages"][stage - 1].update(entries)
        path.write_text(json.dumps(content))

    def learn_labels_alone(self, *stages: int) -> None:
        """Only labelled samples in the plans of these stages, by which their students train."""
        self.set_student(*stages, labelled_share=1.0)

    def set_student(self, *stages: int, **settings: Any) -> None:
        """Settings of the student in the plans of these stages."""
        for stage in stages:
            path = preprocessed_root() / self.student(stage).dataset / f"{PLANS}.json"
            content = json.loads(path.read_text())
            content["configurations"][CONFIGURATION]["nnssl"]["student"].update(settings)
            path.write_text(json.dumps(content))

    def publish(self) -> Path:
        """The second student as a model of the labelled dataset; returns its fold."""
        fold = replace(self.student(2), dataset=DATASET).fold_folder(self.fold)
        shutil.copytree(self.student(2).fold_folder(self.fold), fold)
        write_json(fold / PUBLISHED_MARKER, {"workspace": self.workspace.relative_to(results_root()).as_posix()})
        self.change(published=True)
        return fold

    def complete(self) -> None:
        """Teacher and both stages, everything trained and, in report mode, validated."""
        self.train(self.teacher, dice=(0.2, 0.5, 0.4))
        self.write_stage(1)
        self.train(self.student(1), dice=(0.6, 0.55), student=True)
        self.write_stage(2)
        self.train(self.student(2), dice=(0.62, 0.7), student=True)
        if self.fold != "all":
            for model, rim, core in ((self.teacher, 0.5, 0.3), (self.student(1), 0.6, 0.4), (self.student(2), 0.75, 0.45)):
                self.validate(model, rim, core)


def ball() -> np.ndarray[Any, np.dtype[np.int16]]:
    """(6, 8, 10): rim in slices 2 to 4, core in slice 3."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[2:5, 2:6, 3:8] = 1
    labels[3, 3:5, 4:7] = 2
    return labels


def pseudo_case(case: str) -> PseudoCase:
    """Pseudo-labels of a case: confidence 0.9, nothing learned in one corner, outside the mask in another."""
    labels = ball()
    labels[:, 0, 0] = -1
    valid = np.ones(SHAPE, dtype=bool)
    valid[:, 7, 9] = False
    confidence = np.full((1, *SHAPE), 0.9, dtype=np.float32)
    uncertainty = np.full(SHAPE, 0.01, dtype=np.float32)
    return PseudoCase(case, labels, confidence, valid, None, labels > 0, np.maximum(labels, 0), confidence[0], uncertainty)


def plans_file() -> dict[str, Any]:
    """As much of nnU-Net's plans as reading a set-up and writing a stage need."""
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"{PLANS}_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(SHAPE),
        "median_image_size_in_voxels": list(SHAPE),
        "spacing": SPACING_MM,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        **{f"resampling_fn_{part}": "resample_data_or_seg_to_shape" for part in ("data", "seg", "probabilities")},
        **{f"resampling_fn_{part}_kwargs": resampling for part in ("data", "seg", "probabilities")},
        "batch_dice": False,
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
    }
    return {
        "dataset_name": DATASET,
        "plans_name": PLANS,
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {CONFIGURATION: configuration},
    }


def write_base() -> None:
    """The labelled dataset (whose images nobody opens here) and the prepared pool."""
    raw, pre = raw_root() / DATASET, preprocessed_root() / DATASET
    content: dict[str, Any] = {"channel_names": {"0": "T1"}, "labels": LABELS, "numTraining": len(LABELLED), "file_ending": ".nii.gz"}
    # without the list nnU-Net would look for the cases with a pool of processes
    content["dataset"] = {c: {"images": [f"imagesTr/{c}_0000.nii.gz"], "label": f"labelsTr/{c}.nii.gz"} for c in LABELLED}
    for folder in (raw, pre):
        write_json(folder / "dataset.json", content)
    write_json(pre / f"{PLANS}.json", plans_file())
    write_json(pre / "dataset_fingerprint.json", {})
    splits = [{"train": [c for c in LABELLED if c not in VALIDATION], "val": VALIDATION}] * 5
    (pre / "splits_final.json").write_text(json.dumps(splits))
    places = [raw / "imagesTr" / "{}_0000.nii.gz", raw / "labelsTr" / "{}.nii.gz"]
    places += [pre / f"{PLANS}_{CONFIGURATION}" / f"{{}}{part}" for part in (".b2nd", "_seg.b2nd", ".pkl")]
    for place in places:
        place.parent.mkdir(exist_ok=True)
        for case in LABELLED:
            Path(str(place).format(case)).write_bytes(b"labelled")
    write_pool(load_setup("137", CONFIGURATION, PLANS))


def write_pool(setup: NnunetSetup) -> None:
    """Preprocessed files of the pool and its index."""
    folder = pool_folder(DATASET, f"{PLANS}_{CONFIGURATION}", setup.data_hash())
    folder.mkdir(parents=True)
    stuff = {"spacing": SPACING_MM[::-1], "origin": (0.0, 0.0, 0.0), "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)}
    for number, case in enumerate(POOL):
        noise = np.random.default_rng(number).normal(0, 0.3, SHAPE)
        blosc2.asarray((ball() + noise)[None].astype(np.float32), urlpath=str(folder / f"{case}.b2nd"))
        blosc2.asarray(np.zeros((1, *SHAPE), dtype=np.int16), urlpath=str(folder / f"{case}_seg.b2nd"))
        write_pickle({"sitk_stuff": stuff, "spacing": SPACING_MM}, str(folder / f"{case}.pkl"))
    cases = {case: {"images": [f"/images/{case}_0000.nii.gz"], "stamp": [[0, 0]]} for case in POOL}
    index = pool_index(DATASET, f"{PLANS}_{CONFIGURATION}", setup.data_hash())
    write_json(index, {"schema": 1, "folders": [], "cases": cases, "skipped": {}})


@pytest.fixture
def toy_run(nnunet_environment: Any) -> ToyRun:
    """A prepared pool in report mode; nothing is trained yet."""
    write_base()
    return ToyRun(0, ModelLocation(dataset=DATASET, trainer=TEACHER, plans=PLANS, configuration=CONFIGURATION))


@pytest.fixture
def complete_run(toy_run: ToyRun) -> ToyRun:
    """A run of two stages that has ended, in report mode."""
    toy_run.complete()
    return toy_run


@pytest.fixture
def final_run(toy_run: ToyRun) -> ToyRun:
    """The same with `-f all`, where nnU-Net has validated on training cases."""
    run = replace(toy_run, fold="all")
    run.complete()
    run.validate(run.student(2), 0.99, 0.97)
    return run
