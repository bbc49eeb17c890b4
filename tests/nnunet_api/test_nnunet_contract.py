"""What we rely on in nnU-Net: parameters of everything that is called or overridden. A new version that changes one fails here by name.

The training layer has its own contract tests; these belong to `nnunet_api`, `data`, `pseudolabel` and `run`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.configuration import default_num_processes
from tiny_setup import CONFIGURATION, DATASET, PLANS, Project

from nnunet_ssl.nnunet_api.evidence_predictor import EvidencePredictor
from nnunet_ssl.nnunet_api.file_endings import readable_endings
from nnunet_ssl.nnunet_api.planner import TransASPPPlanner

SOURCES = Path(__file__).resolve().parents[2] / "nnunet_ssl"
PARTS = ("nnunet_api", "data", "pseudolabel", "run", "cli")

PREDICT = "nnunetv2.inference.predict_from_raw_data:nnUNetPredictor"
EXPORT = "nnunetv2.inference.export_prediction"
PREPROCESS = "nnunetv2.preprocessing.preprocessors.default_preprocessor:DefaultPreprocessor"
DATASETS = "nnunetv2.training.dataloading.nnunet_dataset"
LABELS = "nnunetv2.utilities.label_handling.label_handling"
PLAN = "nnunetv2.utilities.plans_handling.plans_handler"
TRAINER = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer:nnUNetTrainer"
PLANNERS = "nnunetv2.experiment_planning.experiment_planners"
PLANNER = f"{PLANNERS}.default_experiment_planner:ExperimentPlanner"
TORCH_PLANNER = f"{PLANNERS}.resampling.resample_with_torch:nnUNetPlannerResEncL_torchres_sepz"
READERS = "nnunetv2.imageio.reader_writer_registry:LIST_OF_IO_CLASSES"
RESAMPLING = "nnunetv2.preprocessing.resampling.default_resampling:resample_data_or_seg_to_shape"

SIGNATURES = {
    PREDICT: (
        "tile_step_size=0.5, use_gaussian=True, use_mirroring=True, perform_everything_on_device=True, device=cuda, verbose=False, "
        "verbose_preprocessing=False, allow_tqdm=True"
    ),
    f"{PREDICT}.manual_initialization": (
        "self, network, plans_manager, configuration_manager, parameters, dataset_json, trainer_name, inference_allowed_mirroring_axes"
    ),
    f"{PREDICT}.predict_sliding_window_return_logits": "self, input_image",
    f"{PREDICT}._internal_predict_sliding_window_return_logits": "self, data, slicers, do_on_device=True",
    "nnunetv2.inference.sliding_window_prediction:compute_gaussian": (
        "tile_size, sigma_scale=0.125, value_scaling_factor=1, dtype=torch.float16, device=cuda:0"
    ),
    "nnunetv2.utilities.helpers:empty_cache": "device",
    f"{EXPORT}:convert_predicted_logits_to_segmentation_with_correct_shape": (
        "predicted_logits, plans_manager, configuration_manager, label_manager, properties_dict, return_probabilities=False, "
        f"num_threads_torch={default_num_processes}"
    ),
    PREPROCESS: "verbose=True",
    f"{PREPROCESS}.run_case": "self, image_files, seg_file, plans_manager, configuration_manager, dataset_json",
    f"{PREPROCESS}.run_case_save": (
        "self, output_filename_truncated, image_files, seg_file, plans_manager, configuration_manager, dataset_json"
    ),
    f"{PREPROCESS}._sample_foreground_locations": (
        "seg, classes_or_regions, seed=1234, verbose=False, min_num_samples=10000, min_percent_coverage=0.01"
    ),
    RESAMPLING: (
        "data, new_shape, current_spacing, new_spacing, is_seg=False, order=3, order_z=0, force_separate_z=False, "
        "separate_z_anisotropy_threshold=3"
    ),
    f"{DATASETS}:nnUNetDatasetBlosc2": "folder, identifiers=None, folder_with_segs_from_previous_stage=None",
    f"{DATASETS}:nnUNetDatasetBlosc2.load_case": "self, identifier",
    f"{DATASETS}:comp_blosc2_params": (
        "image_size, patch_size, bytes_per_pixel=4, max_block_nbytes=131072, max_chunk_nbytes=6291456, "
        "max_chunk_to_patch_ratio_per_axis=1.5, grow_singleton_patch_axes=False"
    ),
    f"{DATASETS}:infer_dataset_class": "folder",
    "nnunetv2.utilities.crossval_split:generate_crossval_split": "train_identifiers, seed=12345, n_splits=5",
    "nnunetv2.utilities.dataset_name_id_conversion:find_candidate_datasets": "dataset_id",
    "nnunetv2.utilities.find_objects:recursive_find_trainer_class_by_name": "trainer_name",
    "nnunetv2.utilities.utils:get_filenames_of_train_images_and_targets": "raw_dataset_folder, dataset_json=None",
    f"{LABELS}:LabelManager": "label_dict, regions_class_order, force_use_labels=False, inference_nonlin=None",
    f"{LABELS}:LabelManager.convert_probabilities_to_segmentation": "self, predicted_probabilities",
    f"{LABELS}:determine_num_input_channels": "plans_manager, configuration_or_config_manager, dataset_json",
    f"{PLAN}:PlansManager": "plans_file_or_dict",
    f"{PLAN}:PlansManager.get_configuration": "self, configuration_name",
    f"{PLAN}:PlansManager.get_label_manager": "self, dataset_json, **kwargs",
    f"{PLAN}:ConfigurationManager": "configuration_dict",
    f"{TRAINER}.build_network_architecture": (
        "plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True"
    ),
    "nnunetv2.imageio.base_reader_writer:BaseReaderWriter.read_images": "self, image_fnames",
    "nnunetv2.imageio.base_reader_writer:BaseReaderWriter.write_seg": "self, seg, output_fname, properties",
    "nnunetv2.run.run_training:run_training_entry": "",
    PLANNER: (
        "dataset_name_or_id, gpu_memory_target_in_gb=8, preprocessor_name='DefaultPreprocessor', plans_name='nnUNetPlans', "
        "overwrite_target_spacing=None, suppress_transpose=False"
    ),
    f"{PLANNER}.static_estimate_VRAM_usage": (
        "patch_size, input_channels, output_channels, arch_class_name, arch_kwargs, arch_kwargs_req_import"
    ),
    f"{PLANNER}.get_plans_for_configuration": "self, spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache",
    f"{PLANNER}.determine_resampling": "self, *args, **kwargs",
    f"{PLANNER}.determine_segmentation_softmax_export_fn": "self, *args, **kwargs",
    f"{PLANNER}.save_plans": "self, plans",
    f"{PLANNER}.plan_experiment": "self",
    TORCH_PLANNER: (
        "dataset_name_or_id, gpu_memory_target_in_gb=24, preprocessor_name='DefaultPreprocessor', "
        "plans_name='nnUNetResEncUNetLPlans_torchres_sepz', overwrite_target_spacing=None, suppress_transpose=False"
    ),
    f"{TORCH_PLANNER}.determine_resampling": "self, *args, **kwargs",
    f"{TORCH_PLANNER}.determine_segmentation_softmax_export_fn": "self, *args, **kwargs",
    "acvl_utils.cropping_and_padding.bounding_boxes:bounding_box_to_slice": "bounding_box",
    "acvl_utils.cropping_and_padding.bounding_boxes:insert_crop_into_image": "image, crop, bbox",
    "batchgenerators.utilities.file_and_folder_operations:load_pickle": "file, mode='rb'",
    "batchgenerators.utilities.file_and_folder_operations:write_pickle": "obj, file, mode='wb'",
}


def look_up(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def parameters(function: Any) -> str:
    """Names and default values, without annotations, which are nnU-Net's to refine."""
    parts = []
    for parameter in inspect.signature(function).parameters.values():
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = parameter.default
        shown = str(default) if isinstance(default, torch.device | torch.dtype) else repr(default)
        parts.append(f"{star}{parameter.name}" + ("" if default is parameter.empty else f"={shown}"))
    return ", ".join(parts)


@pytest.mark.parametrize("name", SIGNATURES)
def test_parameters_are_as_pinned(name: str) -> None:
    assert parameters(look_up(name)) == SIGNATURES[name]


@pytest.mark.parametrize(
    ("name", "properties"),
    [
        (
            f"{PLAN}:PlansManager",
            "available_configurations dataset_name plans_name transpose_forward transpose_backward image_reader_writer_class "
            "foreground_intensity_properties_per_channel",
        ),
        (
            f"{PLAN}:ConfigurationManager",
            "data_identifier patch_size spacing median_image_size_in_voxels preprocessor_class previous_stage_name "
            "resampling_fn_probabilities network_arch_class_name",
        ),
        (
            f"{LABELS}:LabelManager",
            "has_regions has_ignore_label foreground_regions foreground_labels all_labels num_segmentation_heads",
        ),
    ],
)
def test_managers_have_the_properties_we_read(name: str, properties: str) -> None:
    missing = [p for p in properties.split() if not isinstance(inspect.getattr_static(look_up(name), p), property)]
    assert missing == []


def test_overridden_method_has_nnunets_parameters() -> None:
    name = "_internal_predict_sliding_window_return_logits"
    ours = getattr(EvidencePredictor, name)
    assert parameters(ours) == SIGNATURES[f"{PREDICT}.{name}"]
    added = {n for n in vars(EvidencePredictor) if not n.startswith("__")} & set(dir(look_up(PREDICT)))
    assert added == {name}


def test_planner_overrides_hooks_of_nnunet_alone() -> None:
    base, ours = look_up(PLANNER), set(vars(TransASPPPlanner))
    overridden = {name for name in ours & set(vars(base)) if not name.startswith("__")}
    hooks = ("static_estimate_VRAM_usage", "get_plans_for_configuration", "determine_resampling", "save_plans")
    assert overridden == {*hooks, "determine_segmentation_softmax_export_fn"}
    for name in overridden:
        assert parameters(getattr(TransASPPPlanner, name)) == SIGNATURES[f"{PLANNER}.{name}"], name


def test_planner_holds_the_estimate_against_the_reference_as_we_expect() -> None:
    """Estimate / reference batch * 2 against reference * target / reference GB, in the loop that shrinks the patch."""
    source = inspect.getsource(look_up(f"{PLANNER}.get_plans_for_configuration"))
    assert "while (estimate / ref_bs * 2) > reference:" in source
    assert "(self.UNet_vram_target_GB / self.UNet_reference_val_corresp_GB)" in source
    for attribute in ("UNet_reference_val_2d", "UNet_reference_val_3d", "UNet_base_num_features", "UNet_max_features_2d"):
        assert f"self.{attribute}" in source


def test_everything_imported_from_nnunet_is_pinned() -> None:
    imported = set()
    for path in (p for part in PARTS for p in (SOURCES / part).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"nnunetv2", "acvl_utils", "batchgenerators"}:
                imported |= {f"{node.module}:{alias.name}" for alias in node.names}
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "nnunetv2" for alias in node.names), path
    assert len(imported) > 10
    assert imported - set(SIGNATURES) == {READERS}


def test_readers_say_which_files_they_read() -> None:
    assert {".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff"} <= readable_endings()
    assert all(ending.startswith(".") for ending in readable_endings())
    assert ".json" not in readable_endings()  # beside TIFF images


def test_checkpoint_names_and_fold_folders(project: Project) -> None:
    """The names under which `nnUNetv2_train` leaves a model, which `ModelLocation` writes down."""
    from nnunetv2.run.run_training import get_trainer_from_args

    from nnunet_ssl.locations import ModelLocation

    trainer = get_trainer_from_args(DATASET, CONFIGURATION, 3, "nnUNetTrainer", PLANS, device=torch.device("cpu"))
    model = ModelLocation(dataset=DATASET, trainer="nnUNetTrainer", plans=PLANS, configuration=CONFIGURATION)
    assert trainer.output_folder == str(model.fold_folder(3))
    assert trainer.output_folder_base == str(model.folder)
    source = inspect.getsource(importlib.import_module("nnunetv2.run.run_training"))
    for name in ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth", '"--c"', '"--val"', "-device", "-tr", "-p"):
        assert name in source.replace("'", '"')


def test_probabilities_become_labels_as_we_expect(project: Project) -> None:
    """Argmax without a second softmax; regions by 0.5 in the order of the dataset."""
    labels = look_up(f"{LABELS}:LabelManager")
    p = np.zeros((3, 1, 1, 2), np.float32)
    p[:, 0, 0, 0], p[:, 0, 0, 1] = [0.4, 0.5, 0.1], [0.34, 0.33, 0.33]
    plain = labels({"background": 0, "rim": 1, "core": 2}, None)
    assert np.asarray(plain.convert_probabilities_to_segmentation(p)).ravel().tolist() == [1, 0]
    regions = labels({"background": 0, "whole": (1, 2), "core": (2,)}, [1, 2])
    q = np.zeros((2, 1, 1, 3), np.float32)
    q[:, 0, 0] = [[0.6, 0.6, 0.5], [0.4, 0.6, 0.5]]
    assert np.asarray(regions.convert_probabilities_to_segmentation(q)).ravel().tolist() == [1, 2, 0]
