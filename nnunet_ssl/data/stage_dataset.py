"""A stage's nnU-Net dataset: raw and preprocessed, written from links and pseudo-labels in seconds."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.accepted_labels import AcceptedFiles, accepted_files, link_label
from nnunet_ssl.data.files import copy_file, link, mark_in_use, remove_folder, remove_leftovers, temporary_folder, write_json
from nnunet_ssl.data.image_files import link_spacing
from nnunet_ssl.data.pool_images import refuse_labelled
from nnunet_ssl.data.pool_index import PoolIndex
from nnunet_ssl.data.pseudo_case import PseudoCase, preprocessed_files
from nnunet_ssl.data.stage_sidecar import StageSidecar, read_sidecar
from nnunet_ssl.data.whole_array import write_bytes
from nnunet_ssl.errors import SetupError, StateError
from nnunet_ssl.locations import STAGE_SIDECAR, dataset_number, preprocessed_root, raw_root, results_root, targets_folder
from nnunet_ssl.nnunet_api.geometry import map_ending, write_label, write_map
from nnunet_ssl.nnunet_api.json_file import read_json_or_none
from nnunet_ssl.nnunet_api.preprocessing import PARTS, load_properties
from nnunet_ssl.nnunet_api.setup import NnunetSetup


def check_stage_place(name: str, workspace: str, *, is_written: bool = False) -> None:
    """See that a stage may be written under a name: free, or the same run's already. The sidecar of one half speaks for both.

    Args:
        name: stage dataset name.
        workspace: of the run.
        is_written: whether the run's manifest has this stage, so that what has lost both sidecars is the run's all the same.

    Raises:
        StateError: if a dataset of another origin holds the id.
    """
    number, roots = name[:10], (raw_root(), preprocessed_root())
    owners = {(read_sidecar(root / name) or {}).get("workspace") for root in roots} - {None}
    is_ours = owners == {workspace} or (is_written and not owners)
    for root in roots:
        for found in sorted(root.glob(f"{number}*")):
            if found.name != name or not is_ours:
                raise StateError(
                    f"the dataset id {int(number[7:])} is already in use by {found}; move it away, or give the stages that are not written "
                    "other ids with --first-id."
                )


def stage_is_whole(name: str, setup: NnunetSetup, method: MethodConfig, sidecar: StageSidecar) -> bool:
    """Whether both halves of a stage are on disk and say that they are exactly this stage, written with these plans and settings."""
    wanted, plans = asdict(sidecar), preprocessed_root() / name / f"{setup.plans_name}.json"
    is_this_stage = all(read_sidecar(root / name) == wanted for root in (raw_root(), preprocessed_root()))
    return is_this_stage and read_json_or_none(plans) == _stage_plans(name, setup, method)


def write_stage(
    name: str,
    setup: NnunetSetup,
    pool: PoolIndex,
    method: MethodConfig,
    sidecar: StageSidecar,
    pseudo_cases: Iterable[PseudoCase],
    *,
    is_written: bool = False,
) -> None:
    """Write a stage dataset, raw and preprocessed; each half appears under its name only when it is whole.

    Args:
        name: stage dataset name.
        setup: the labelled dataset; its files are linked or copied, never changed.
        pool: where the pool's images are.
        method: settings, stored in the stage's plans.
        sidecar: provenance.
        pseudo_cases: one per pool case of the stage, made while they are written so that one case is in memory at a time.
        is_written: as `check_stage_place` takes it.

    Raises:
        StateError: if the id is in use by something else.
        InputError: if a case of the pool is a labelled case as well.
    """
    check_stage_place(name, sidecar.workspace, is_written=is_written)
    refuse_labelled(pool.images, setup)
    for root in (raw_root(), preprocessed_root()):
        remove_leftovers(root)
        if (root / name).is_symlink():
            (root / name).unlink()  # what it points to is not ours to remove
        elif (root / name).exists():
            remove_folder(root / name)
    with temporary_folder(raw_root()) as raw_tmp, temporary_folder(preprocessed_root()) as pre_tmp:
        raw, pre = raw_tmp / "stage", pre_tmp / "stage"
        writer = _StageWriter(name, setup, pool, method, sidecar, raw, pre)
        writer.write_frame()
        for case in pseudo_cases:
            writer.write_pseudo_case(case)
            mark_in_use(raw_tmp, pre_tmp)
        writer.write_heads()
        os.rename(pre, preprocessed_root() / name)
        os.rename(raw, raw_root() / name)


def _stage_plans(name: str, setup: NnunetSetup, method: MethodConfig) -> dict[str, Any]:
    """D's plans in the name of a stage, with its settings."""
    plans = copy.deepcopy(setup.plans)
    plans["dataset_name"] = name
    configuration = plans["configurations"][setup.configuration]
    configuration["nnssl"] = method.to_dict()
    if setup.configuration_manager.next_stage_names:  # of a cascade, whose data a stage does not have
        configuration["next_stage"] = None
    return plans


class _StageWriter:
    def __init__(
        self, name: str, setup: NnunetSetup, pool: PoolIndex, method: MethodConfig, sidecar: StageSidecar, raw: Path, pre: Path
    ) -> None:
        self.name, self.setup, self.pool, self.method, self.sidecar = name, setup, pool, method, sidecar
        self.raw, self.pre = raw, pre
        identifier = setup.configuration_manager.data_identifier
        self.data, self.targets = pre / identifier, pre / targets_folder(name, identifier).name
        self.ending, self.map_ending = setup.file_ending, map_ending(setup)

    def write_frame(self) -> None:
        """Folders, and links to everything of D and to accepted labels."""
        for folder in (self.raw / "labelsTr", self.raw / "confidenceTr", self.raw / "uncertaintyTr"):
            folder.mkdir(parents=True)
        for folder in (self.data, self.targets, self.pre / "gt_segmentations"):
            folder.mkdir(parents=True)
        for case, files in self.setup.labelled_cases.items():
            label, place = Path(files.label), self.raw / "labelsTr" / f"{case}{self.ending}"
            self._link_labelled(label, place)
            link_spacing(label, place)
            self._link_labelled(label, self.pre / "gt_segmentations" / place.name)
            for part in PARTS:
                self._link_labelled(self.setup.data_folder / f"{case}{part}", self.data / f"{case}{part}")
        for case, label_fingerprint in self.sidecar.accepted.items():
            self._link_accepted(case, label_fingerprint)

    def _link_labelled(self, source: Path, place: Path) -> None:
        try:
            link(source, place)
        except FileNotFoundError as error:
            number, plans = dataset_number(self.setup.dataset), self.setup.plans_name
            raise SetupError(
                f"{source} of the labelled dataset is missing; put it back, or if it is a preprocessed file run: "
                f"nnUNetv2_preprocess -d {number} -plans_name {plans} -c {self.setup.configuration}"
            ) from error

    def _link_accepted(self, case: str, label_fingerprint: str) -> None:
        """A pool case that is labelled now: image and manual label as of a case of D."""
        label = f"{case}{self.ending}"
        kept = accepted_files(results_root() / self.sidecar.workspace, case, label_fingerprint, self.ending)
        load_properties(kept.properties.parent, case)  # nnU-Net's loader would run code that the file might carry
        link_label(kept, AcceptedFiles(self.raw / "labelsTr" / label, self.data / f"{case}{PARTS[1]}", self.data / f"{case}{PARTS[2]}"))
        self._link_ground_truth(label)
        link(self.pool.folder / f"{case}{PARTS[0]}", self.data / f"{case}{PARTS[0]}")

    def _link_ground_truth(self, label: str) -> None:
        lasting = raw_root() / self.name / "labelsTr" / label
        link(self.raw / "labelsTr" / label, self.pre / "gt_segmentations" / label, lasting=lasting)

    def write_pseudo_case(self, pseudo: PseudoCase) -> None:
        """Images of label, confidence and uncertainty; preprocessed segmentation, properties and targets."""
        case, properties = pseudo.case, load_properties(self.pool.folder, pseudo.case)
        self._refuse_links(case)
        write_label(pseudo.labels_image, self.raw / "labelsTr" / f"{case}{self.ending}", self.setup, properties)
        write_map(pseudo.confidence_image, self.raw / "confidenceTr" / f"{case}{self.map_ending}", properties)
        write_map(pseudo.uncertainty_image, self.raw / "uncertaintyTr" / f"{case}{self.map_ending}", properties)
        self._link_ground_truth(f"{case}{self.ending}")
        link(self.pool.folder / f"{case}.b2nd", self.data / f"{case}.b2nd")
        if not self.sidecar.num_probability_channels:
            pseudo = replace(pseudo, probabilities=None)
        files = preprocessed_files(pseudo, self.setup, properties)
        write_bytes(self.data / f"{case}_seg.b2nd", files.segmentation)
        write_bytes(self.data / f"{case}.pkl", files.properties)
        write_bytes(self.targets / f"{case}.b2nd", files.targets)

    def _refuse_links(self, case: str) -> None:
        """See that nothing is written through a link, which would change what it points to."""
        label = self.raw / "labelsTr" / f"{case}{self.ending}"
        for place in (label, *(self.data / f"{case}{part}" for part in PARTS)):
            if os.path.lexists(place):
                raise StateError(f"case '{case}' is in {self.name} twice: {place.name} is a file of {self.setup.dataset} already.")

    def write_heads(self) -> None:
        """JSON files that make the folders a dataset; the sidecar is among the last."""
        self._write_dataset_json()
        self._write_plans()
        splits = self._splits()
        write_json(self.pre / "splits_final.json", splits)
        fingerprint = self.setup.preprocessed_folder / "dataset_fingerprint.json"
        if fingerprint.is_file():  # moved plans come without
            copy_file(fingerprint, self.pre / fingerprint.name)  # nnU-Net's extractor, called for the stage, would write through a link
        for folder in (self.raw, self.pre):
            write_json(folder / STAGE_SIDECAR, asdict(self.sidecar))

    def _write_dataset_json(self) -> None:
        content = {k: v for k, v in self.setup.dataset_json.items() if k not in ("dataset", "training", "test", "numTest")}
        images = {case: list(files.images) for case, files in self.setup.labelled_cases.items()}
        images |= {case: list(self.pool.images[case]) for case in (*self.sidecar.accepted, *self.sidecar.pool_cases)}
        listed = {case: {"images": images[case], "label": f"labelsTr/{case}{self.ending}"} for case in sorted(images)}
        content |= {"name": self.name, "numTraining": len(listed), "dataset": listed}
        for folder in (self.raw, self.pre):
            write_json(folder / "dataset.json", content)

    def _write_plans(self) -> None:
        write_json(self.pre / f"{self.setup.plans_name}.json", _stage_plans(self.name, self.setup, self.method))

    def _splits(self) -> list[dict[str, list[str]]]:
        """D's splits with the pool's cases in the train list of this fold alone."""
        if self.sidecar.fold == "all":
            everything = {"train": self.sidecar.labelled_cases + self.sidecar.pool_cases, "val": self.sidecar.validation_cases}
            is_split = (self.setup.preprocessed_folder / "splits_final.json").is_file()
            return self.setup.splits() if is_split else [everything] * 5
        splits = copy.deepcopy(self.setup.splits())
        splits[int(self.sidecar.fold)]["train"] = sorted(self.sidecar.labelled_cases) + list(self.sidecar.pool_cases)
        return splits
