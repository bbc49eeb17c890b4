"""An existing nnU-Net set-up: found, checked, and every thing that can be missing named together with the command that makes it."""

from __future__ import annotations

import copy
import json
import shutil
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from tiny_setup import CONFIGURATION, DATASET, IDENTIFIER, LABELLED, PLANS, Project

from nnunet_ssl.errors import ConfigError, InputError, SetupError
from nnunet_ssl.nnunet_api.json_file import read_json
from nnunet_ssl.nnunet_api.load_setup import load_setup
from nnunet_ssl.nnunet_api.setup import NnunetSetup
from nnunet_ssl.report.case_panels import label_names


def test_set_up_is_what_nnunet_planned(project: Project) -> None:
    setup = project.setup()
    assert (setup.dataset, setup.plans_name, setup.configuration) == (DATASET, PLANS, CONFIGURATION)
    assert setup.data_folder == project.preprocessed / DATASET / IDENTIFIER
    assert (setup.num_channels, setup.heads, setup.has_regions) == (1, 3, False)
    assert setup.class_names == ("background", "rim", "core")
    assert setup.file_ending == ".nii.gz"
    assert setup.method.curriculum.fractions == (0.5, 1.0)
    assert list(setup.labelled_cases) == LABELLED
    case = setup.labelled_cases["lab_3"]
    assert case.images == (str(project.raw / DATASET / "imagesTr" / "lab_3_0000.nii.gz"),)
    assert case.label == str(project.raw / DATASET / "labelsTr" / "lab_3.nii.gz")


@pytest.mark.parametrize("name", ["137", "0137", DATASET])
def test_dataset_is_found_by_id_and_by_name(project: Project, name: str) -> None:
    assert load_setup(name, CONFIGURATION, PLANS).dataset == DATASET


@pytest.mark.parametrize(("entry", "value"), [("plans_name", "nnUNetPlans"), ("dataset_name", "Dataset138_Other")])
def test_plans_that_name_another_folder(project: Project, entry: str, value: str) -> None:
    """As in a copy of a plans file: nnU-Net would train, and overwrite, what the entry names, and we look for what the file is called."""
    path = project.preprocessed / DATASET / f"{PLANS}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), entry: value}))
    with pytest.raises(InputError, match=rf"{PLANS}\.json has the {entry} '{value}', by which nnU-Net names .* and not '"):
        project.setup()


def test_classes_may_be_lists_of_one(project: Project) -> None:
    """nnU-Net takes such a dataset for one without regions."""
    for root in (project.raw, project.preprocessed):
        path = root / DATASET / "dataset.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "labels": {"core": [2], "background": 0, "rim": [1]}}))
    setup = project.setup()
    assert not setup.has_regions
    assert setup.class_names == ("background", "rim", "core")
    assert label_names(setup, [0, 2, 7]) == {0: "background", 2: "core", 7: "7"}


# ---- what can be missing


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_unset_variable_is_named(project: Project, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv(variable)
    with pytest.raises(SetupError, match=f"{variable} is not set.*export {variable}="):
        project.setup()


def test_dataset_that_does_not_exist(project: Project) -> None:
    with pytest.raises(SetupError, match=f"no dataset with id 7 in {project.raw}.*Dataset007_NAME"):
        project.setup(dataset="7")
    with pytest.raises(SetupError, match="no dataset 'Dataset007_Heart' in"):
        project.setup(dataset="Dataset007_Heart")
    with pytest.raises(SetupError, match="'heart' is neither a dataset id"):
        project.setup(dataset="heart")


def test_id_of_two_datasets(project: Project) -> None:
    (project.raw / "Dataset137_Other").mkdir()
    with pytest.raises(SetupError, match=f"id 137 names several datasets \\(Dataset137_Other, {DATASET}\\)"):
        project.setup()


def test_dataset_that_is_only_raw(project: Project) -> None:
    shutil.rmtree(project.preprocessed / DATASET)
    with pytest.raises(SetupError, match="nnUNetv2_plan_and_preprocess -d 137 -c 3d_fullres"):
        project.setup()


def test_dataset_that_is_only_preprocessed(project: Project) -> None:
    shutil.rmtree(project.raw / DATASET)
    with pytest.raises(SetupError, match=f"{project.raw / DATASET}"):
        _ = project.setup().labelled_cases


def test_unknown_configuration_lists_the_known(project: Project) -> None:
    with pytest.raises(SetupError, match="no configuration '3d_huge'; it has: 2d, 3d_fullres"):
        load_setup("137", "3d_huge", PLANS)


def test_configuration_that_is_planned_but_not_preprocessed(project: Project) -> None:
    with pytest.raises(SetupError, match=f"nnUNetv2_preprocess -d 137 -plans_name {PLANS} -c 2d"):
        load_setup("137", "2d", PLANS)


def test_data_of_another_format(project: Project) -> None:
    folder = project.preprocessed / DATASET / IDENTIFIER
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "lab_0.npz").touch()
    with pytest.raises(SetupError, match=r"no \.b2nd files.*nnUNetv2_preprocess -d 137"):
        project.setup()


def test_second_stage_of_a_cascade_is_refused(project: Project) -> None:
    def add_cascade(plans: dict[str, Any], configuration: dict[str, Any]) -> None:
        plans["configurations"]["3d_lowres"] = {"inherits_from": CONFIGURATION, "next_stage": "3d_cascade_fullres"}
        plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": CONFIGURATION, "previous_stage": "3d_lowres"}

    project.change_plans(add_cascade)
    with pytest.raises(SetupError, match=r"second stage of a cascade.*3d_lowres or 3d_fullres"):
        load_setup("137", "3d_cascade_fullres", PLANS)
    load_setup("137", "3d_lowres", PLANS)


def test_damaged_plans(project: Project) -> None:
    project.plans_file.write_text("{")
    with pytest.raises(InputError, match=f"{project.plans_file} cannot be read as JSON"):
        project.setup()
    project.plans_file.write_text("[1]")
    with pytest.raises(InputError, match="holds list where a JSON object is expected"):
        project.setup()


def test_damaged_settings_in_the_plans_are_named(project: Project) -> None:
    project.change_plans(lambda plans, configuration: configuration["nnssl"]["student"].update(cutmix=2))
    with pytest.raises(ConfigError) as raised:
        project.setup()
    assert str(raised.value) == f"{project.plans_file}, {CONFIGURATION}: nnssl setting 'student.cutmix' is 2; expected in [0, 1]."


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        read_json(tmp_path / "none.json")


# ---- what a set-up says


def with_labels(project: Project, labels: dict[str, Any], **more: Any) -> NnunetSetup:
    setup = project.setup()
    return NnunetSetup(setup.dataset, setup.plans_name, setup.configuration, setup.plans, {**setup.dataset_json, "labels": labels, **more})


def test_class_names_follow_the_network_outputs(project: Project) -> None:
    turned = with_labels(project, {"core": 2, "ignore": 3, "rim": 1, "background": 0})
    assert turned.class_names == ("background", "rim", "core")
    assert turned.heads == 3
    regions = with_labels(project, {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, regions_class_order=[1, 2])
    assert regions.has_regions
    assert regions.class_names == ("whole", "core")
    assert regions.heads == 2


def say_number_of_cases(project: Project, number: int) -> None:
    path = project.preprocessed / DATASET / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "numTraining": number}))


def test_labelled_cases_are_those_nnunet_lists(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)  # nnU-Net forks twelve processes to list a folder
    folder = project.raw / DATASET
    for name in ("lab_0_0001.nii.gz", "lab_10_0000.nii.gz", "lab_10_0001.nii.gz"):
        shutil.copy(folder / "imagesTr" / "lab_1_0000.nii.gz", folder / "imagesTr" / name)
    say_number_of_cases(project, 7)
    found = project.setup().labelled_cases
    listed = get_filenames_of_train_images_and_targets(str(folder))
    assert list(found) == sorted(listed)
    for case, files in listed.items():
        assert list(found[case].images) == files["images"]
        assert found[case].label == files["label"]


def test_labelled_cases_of_a_dataset_that_lists_them(project: Project) -> None:
    """nnU-Net's `dataset` key: images and labels anywhere, relative paths from the dataset's folder."""
    path = project.preprocessed / DATASET / "dataset.json"
    listed = {
        "b": {"images": ["/x/b_0000.nii.gz"], "label": "labelsTr/b.nii.gz"},
        "a": {"images": ["imagesTr/a.nii.gz"], "label": "/y/a.nii.gz"},
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": listed, "numTraining": 2}))
    setup = project.setup()
    before = copy.deepcopy(setup.dataset_json)
    found = setup.labelled_cases
    assert list(found) == ["a", "b"]
    assert (found["a"].images, found["a"].label) == ((str(project.raw / DATASET / "imagesTr" / "a.nii.gz"),), "/y/a.nii.gz")
    assert (found["b"].images, found["b"].label) == (("/x/b_0000.nii.gz",), str(project.raw / DATASET / "labelsTr" / "b.nii.gz"))
    assert setup.dataset_json == before  # nnU-Net's function changes what it is given


def test_method_of_plans_without_section_is_the_default(project: Project) -> None:
    assert project.setup("nnUNetPlans").method.curriculum.fractions == (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def test_channels_of_old_datasets(project: Project) -> None:
    setup = project.setup()
    content = {k: v for k, v in setup.dataset_json.items() if k != "channel_names"} | {"modality": {"0": "T1", "1": "T2"}}
    assert NnunetSetup(setup.dataset, setup.plans_name, setup.configuration, setup.plans, content).num_channels == 2


# ---- the hash over what shapes the data


def hash_after(project: Project, change: Any) -> str:
    setup = project.setup()
    plans = copy.deepcopy(setup.plans)
    change(plans, plans["configurations"][CONFIGURATION])
    return NnunetSetup(setup.dataset, setup.plans_name, setup.configuration, plans, setup.dataset_json).data_hash()


@pytest.mark.parametrize(
    "change",
    [
        lambda plans, c: c.update(spacing=[1.0, 1.0, 2.0]),
        lambda plans, c: c.update(normalization_schemes=["CTNormalization"]),
        lambda plans, c: c.update(use_mask_for_norm=[True]),
        lambda plans, c: c.update(preprocessor_name="OtherPreprocessor"),
        lambda plans, c: c.update(data_identifier="other"),
        lambda plans, c: c.update(resampling_fn_data="resample_torch_fornnunet"),
        lambda plans, c: c["resampling_fn_data_kwargs"].update(order=1),
        lambda plans, c: c["resampling_fn_seg_kwargs"].update(order=0),
        lambda plans, c: plans.update(transpose_forward=[1, 0, 2]),
        lambda plans, c: plans.update(image_reader_writer="NibabelIO"),
        lambda plans, c: plans["foreground_intensity_properties_per_channel"]["0"].update(mean=-1.0),
    ],
)
def test_data_hash_follows_what_shapes_the_data(project: Project, change: Any) -> None:
    assert hash_after(project, change) != project.setup().data_hash()


@pytest.mark.parametrize(
    "change",
    [
        lambda plans, c: c.update(batch_size=99),
        lambda plans, c: c.update(patch_size=[8, 8, 8]),
        lambda plans, c: c.pop("nnssl"),
        lambda plans, c: c["architecture"].clear(),
        lambda plans, c: c["resampling_fn_probabilities_kwargs"].update(order=0),
        lambda plans, c: plans.update(plans_name="another", dataset_name="Dataset001_Other"),
    ],
)
def test_data_hash_ignores_the_rest(project: Project, change: Any) -> None:
    assert hash_after(project, change) == project.setup().data_hash()


def test_overlay_shares_the_data_of_its_base(project: Project) -> None:
    assert project.setup().data_hash() == project.setup("nnUNetPlans").data_hash()
    assert len(project.setup().data_hash()) == 8


# ---- splits


def test_splits_are_the_datasets_own(project: Project) -> None:
    path = project.preprocessed / DATASET / "splits_final.json"
    assert project.setup().splits() == json.loads(path.read_text())
    assert project.setup().fold_cases(1) == (["lab_0", "lab_2", "lab_3", "lab_4", "lab_5"], ["lab_1"])
    assert project.setup().fold_cases("all") == (LABELLED, [])


def test_fold_outside_the_splits(project: Project) -> None:
    with pytest.raises(SetupError, match=r"fold 5 is not in the 5 splits.*-f 0 to 4 or -f all"):
        project.setup().fold_cases(5)


def test_splits_that_nnunet_would_create_are_not_written(project: Project) -> None:
    path = project.preprocessed / DATASET / "splits_final.json"
    path.unlink()
    splits = project.setup().splits()
    assert not path.exists()
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args(DATASET, CONFIGURATION, 2, "nnUNetTrainer", "nnUNetPlans", device=torch.device("cpu"))
    train, validation = trainer.do_split()
    assert (splits[2]["train"], splits[2]["val"]) == (list(train), list(validation))
    assert splits == json.loads(path.read_text())


def test_too_few_cases_for_five_folds(project: Project) -> None:
    (project.preprocessed / DATASET / "splits_final.json").unlink()
    for case in LABELLED[4:]:
        (project.raw / DATASET / "imagesTr" / f"{case}_0000.nii.gz").unlink()
    say_number_of_cases(project, 4)
    with pytest.raises(SetupError, match=r"4 labelled cases.*splits_final\.json with folds of your own .*, or use -f all"):
        project.setup().fold_cases(0)


def test_damaged_splits(project: Project) -> None:
    (project.preprocessed / DATASET / "splits_final.json").write_text("[")
    with pytest.raises(InputError, match=r"splits_final\.json"):
        project.setup().splits()
