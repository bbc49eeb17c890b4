"""Set-ups that are broken: folders, plans, dataset.json, splits and settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad_input import BadInput, dataset_json, edited, plans_file, splits_file, text, without
from tiny_setup import CONFIGURATION, DATASET, IDENTIFIER, LABELLED, Project


def configuration(change: Callable[[dict[str, Any]], Any]) -> Callable[[Project], Path]:
    """Edit one configuration of the plans."""
    return edited(plans_file, lambda plans: change(plans["configurations"][CONFIGURATION]))


def overlay(content: Any) -> Callable[[Project], Path]:
    """An overlay, given by its path."""

    def make(project: Project) -> Path:
        path = project.raw.parent / "overlay.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return make


def in_place_of(folder: Callable[[Project], Path]) -> Callable[[Project], Path]:
    """A file where a folder is expected."""

    def make(project: Project) -> Path:
        path = folder(project)
        if path.is_dir():
            shutil.rmtree(path)
        path.write_text("a file")
        return path

    return make


def unlabelled(change: Callable[[Path], object]) -> Callable[[Project], Path]:
    def make(project: Project) -> Path:
        shutil.rmtree(project.unlabelled)
        change(project.unlabelled)
        return project.unlabelled

    return make


def nothing(named: str) -> Callable[[Project], str]:
    return lambda project: named


def raw_file(name: str) -> Callable[[Project], Path]:
    return lambda project: project.raw / DATASET / name


def preprocessed_file(name: str) -> Callable[[Project], Path]:
    return lambda project: project.preprocessed / DATASET / name


def relabelled(labels: Any, **more: Any) -> Callable[[Project], Path]:
    return edited(dataset_json, lambda content: {**content, "labels": labels, **more})


OVERLAY = ("--preset", "{root}/overlay.json")

FOLDERS = [
    BadInput(what="`-u` is a file", make=unlabelled(lambda p: p.write_text("")), says="is not a folder; -u takes"),
    BadInput(what="`-u` is a link that leads to itself", make=unlabelled(lambda p: p.symlink_to(p)), says="is not a folder; -u takes"),
    BadInput(what="`-u` is empty", make=unlabelled(Path.mkdir), says="holds no image named <case>_0000.nii.gz"),
    BadInput(
        what="`-u` holds images of another file ending alone",
        make=unlabelled(lambda p: (p.mkdir(), (p / "a_0000.mha").touch())),
        says="holds no image named <case>_0000.nii.gz",
    ),
    BadInput(
        what="`-u` holds labels alone",
        make=unlabelled(lambda p: (p.mkdir(), (p / "a.nii.gz").touch(), (p / "a_seg.nii.gz").touch())),
        says="holds no image named <case>_0000.nii.gz",
    ),
    BadInput(
        what="a file in place of the pool's folder",
        make=in_place_of(lambda p: next((p.preprocessed / DATASET).glob("*__pool_*[0-9a-f]"))),
        says="a file stands where a folder is expected",
    ),
    BadInput(what="a file in place of the raw dataset", make=in_place_of(raw_file("")), says="put the raw dataset back"),
    BadInput(
        what="a file in place of the preprocessed data",
        make=in_place_of(preprocessed_file(IDENTIFIER)),
        says="is missing; run: nnUNetv2_preprocess",
    ),
    BadInput(
        what="a file in place of the workspace",
        make=in_place_of(lambda p: next(p.results.rglob("nnssl"))),
        command="nnssl_pseudolabel",
        says="a file stands where a folder is expected",
    ),
    BadInput(
        what="`-d` is no dataset",
        make=nothing("Dataset137_Tiny/imagesTr"),
        flags=("-d", "Dataset137_Tiny/imagesTr"),
        says="is no dataset of nnU-Net",
    ),
    BadInput(what="`-d` is a power of ten in small print", make=nothing("1³"), flags=("-d", "1³"), says="is neither a dataset id"),
    BadInput(
        what="a dataset folder without a number",
        make=lambda p: ((p.raw / "DatasetTiny_x").mkdir(), "DatasetTiny_x")[1],
        flags=("-d", "DatasetTiny_x"),
        says="is no dataset of nnU-Net",
    ),
]

PLANS = [
    BadInput(what="plans that are no JSON", make=text(plans_file, "{'a': 1}"), says="cannot be read as JSON"),
    BadInput(
        what="plans that were cut off",
        make=lambda p: (p.plans_file.write_text(p.plans_file.read_text()[:500]), p.plans_file)[1],
        says="cannot be read as JSON",
    ),
    BadInput(what="empty plans", make=text(plans_file, ""), says="cannot be read as JSON"),
    BadInput(
        what="plans in UTF-16",
        make=lambda p: (p.plans_file.write_bytes(p.plans_file.read_text().encode("utf-16")), p.plans_file)[1],
        says="cannot be read as JSON",
    ),
    BadInput(
        what="plans with a byte order mark",
        make=lambda p: (p.plans_file.write_bytes(p.plans_file.read_text().encode("utf-8-sig")), p.plans_file)[1],
        says="cannot be read as JSON",
    ),
    BadInput(what="plans of brackets a million deep", make=text(plans_file, "[" * 1000000), says="cannot be read as JSON"),
    BadInput(what="plans that are a list", make=text(plans_file, "[]"), says="where a JSON object is expected"),
    BadInput(what="plans without configurations", make=edited(plans_file, without("configurations")), says="configurations"),
    BadInput(
        what="configurations that are a list",
        make=edited(plans_file, lambda c: {**c, "configurations": [CONFIGURATION]}),
        says="configurations",
    ),
    BadInput(
        what="a configuration that is text",
        make=edited(plans_file, lambda c: c["configurations"].update({CONFIGURATION: "small"})),
        says=CONFIGURATION,
    ),
    *(
        BadInput(what=f"plans without `{key}`", make=edited(plans_file, without(key)), says=f"'{key}'")
        for key in ("image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel", "dataset_name")
    ),
    *(
        BadInput(what=f"a configuration without `{key}`", make=configuration(without(key)), says=f"'{key}'")
        for key in (
            "data_identifier",
            "spacing",
            "patch_size",
            "batch_size",
            "architecture",
            "preprocessor_name",
            "normalization_schemes",
            "resampling_fn_probabilities",
        )
    ),
    BadInput(
        what="a configuration that inherits from itself",
        make=configuration(lambda c: c.update(inherits_from=CONFIGURATION)),
        says="inherit",
    ),
    BadInput(
        what="a configuration that inherits from nothing", make=configuration(lambda c: c.update(inherits_from="3d_gone")), says="3d_gone"
    ),
    BadInput(what="a spacing of text in the plans", make=configuration(lambda c: c.update(spacing=["1", "1", "1"])), says="'spacing'"),
    BadInput(what="a spacing of 0 in the plans", make=configuration(lambda c: c.update(spacing=[0, 1, 1])), says="'spacing'"),
    BadInput(what="a patch size of one number", make=configuration(lambda c: c.update(patch_size=16)), says="'patch_size'"),
    BadInput(
        what="a data identifier that leaves its folder",
        make=configuration(lambda c: c.update(data_identifier="../../x")),
        says="data_identifier",
    ),
    BadInput(
        what="a reader that nnU-Net does not have", make=edited(plans_file, lambda c: c.update(image_reader_writer="MyIO")), says="MyIO"
    ),
    BadInput(
        what="a preprocessor that nnU-Net does not have", make=configuration(lambda c: c.update(preprocessor_name="Mine")), says="Mine"
    ),
    BadInput(
        what="a resampling that nnU-Net does not have",
        make=configuration(lambda c: c.update(resampling_fn_probabilities="mine")),
        says="mine",
    ),
    BadInput(
        what="axes that are no permutation",
        make=edited(plans_file, lambda c: c.update(transpose_forward=[0, 0, 2])),
        says="'transpose_forward'",
    ),
    BadInput(what="an `nnssl` section that is a list", make=configuration(lambda c: c.update(nnssl=[1])), says="'nnssl'"),
    BadInput(
        what="an unknown setting in the plans",
        make=lambda p: (p.change_plans(lambda _, c: c["nnssl"]["student"].update(cut_mix=1)), "student.cut_mix")[1],
        says="unknown nnssl setting",
    ),
    BadInput(
        what="a setting of the wrong type in the plans",
        make=lambda p: (p.change_plans(lambda _, c: c["nnssl"]["curriculum"].update(fractions="many")), "curriculum.fractions")[1],
        says="expected increasing numbers",
    ),
]

DATASETS = [
    BadInput(what="no dataset.json", make=lambda p: (dataset_json(p).unlink(), dataset_json(p))[1], says="cannot be read as JSON"),
    BadInput(what="a dataset.json that is no JSON", make=text(dataset_json, "labels: 3"), says="cannot be read as JSON"),
    *(
        BadInput(what=f"a dataset.json without `{key}`", make=edited(dataset_json, without(key)), says=f"'{key}'")
        for key in ("labels", "file_ending", "channel_names", "numTraining")
    ),
    BadInput(what="labels that are a list", make=relabelled(["background", "rim"]), says="'labels'"),
    BadInput(what="labels without background", make=relabelled({"rim": 1, "core": 2}), says="Background label not declared"),
    BadInput(what="labels that are not consecutive", make=relabelled({"background": 0, "rim": 1, "core": 3}), says="consecutive"),
    BadInput(what="two labels of one value", make=relabelled({"background": 0, "rim": 1, "core": 1}), says="consecutive"),
    BadInput(what="an ignore label in between", make=relabelled({"background": 0, "rim": 1, "ignore": 2, "core": 3}), says="ignore"),
    BadInput(what="a label value of text", make=relabelled({"background": 0, "rim": "one", "core": 2}), says="'labels'"),
    BadInput(
        what="regions without their order", make=relabelled({"background": 0, "whole": [1, 2], "core": 2}), says="regions_class_order"
    ),
    BadInput(what="a file ending that is a number", make=edited(dataset_json, lambda c: c.update(file_ending=3)), says="'file_ending'"),
    BadInput(
        what="more channel names than the plans have channels",
        make=edited(dataset_json, lambda c: c.update(channel_names={"0": "T1", "1": "T2"})),
        says="channel",
    ),
    BadInput(
        what="another number of cases than `numTraining` says",
        make=edited(dataset_json, lambda c: c.update(numTraining=7)),
        says="numTraining",
    ),
    BadInput(
        what="a list of cases without their files",
        make=edited(dataset_json, lambda c: c.update(dataset={"lab_0": {"label": "x"}})),
        says="'dataset'",
    ),
    BadInput(
        what="a raw dataset that is gone",
        make=lambda p: (shutil.rmtree(p.raw / DATASET), p.raw / DATASET)[1],
        says="put the raw dataset back",
    ),
]

SPLITS = [
    BadInput(what=f"splits {what}", command=command, make=make, says=says)
    for command in ("nnssl_pseudolabel",)
    for what, make, says in (
        ("that are no JSON", text(splits_file, "train, val"), "cannot be read as JSON"),
        ("that are an object", text(splits_file, '{"train": [], "val": []}'), "list"),
        ("that are empty", text(splits_file, "[]"), "list"),
        ("that are lists of names", text(splits_file, '[["lab_0"], ["lab_1"]]'), "'train'"),
        ("without `val`", edited(splits_file, lambda s: [{"train": f["train"]} for f in s]), "'val'"),
        ("with numbers for cases", edited(splits_file, lambda s: [{**s[0], "val": [0]}, *s[1:]]), "'val'"),
        ("with a case that does not exist", edited(splits_file, lambda s: s[0]["train"].append("lab_99")), "lab_99"),
        ("with a training case in validation", edited(splits_file, lambda s: s[0]["val"].append(s[0]["train"][0])), LABELLED[1]),
        ("without training cases", edited(splits_file, lambda s: s[0].update(train=[])), "'train'"),
    )
]

OVERLAYS = [
    BadInput(what=f"an overlay {what}", make=overlay(content), flags=OVERLAY, says=says)
    for what, content, says in (
        ("that is no JSON", "{", "cannot be read as JSON"),
        ("that is a list", [], "where a JSON object is expected"),
        ("with a batch size of text", {"batch_size": "two"}, "batch_size"),
        ("with a batch size of 0", {"batch_size": 0}, "batch_size"),
        ("with widths of text", {"features": {"base": "x", "max": 8}}, "features"),
        ("with widths of 0", {"features": {"base": 0, "max": 0}}, "features"),
        ("with widths that are a list", {"features": [4, 8]}, "features"),
        ("with settings that are a list", {"nnssl": [1]}, "nnssl"),
        ("with a network that is a list", {"network": ["TransASPPUNet"]}, "network"),
        ("with a resampling that is a list", {"resampling_fn_probabilities": ["x"]}, "resampling_fn_probabilities"),
        ("with a memory of NaN", '{"network": "TransASPPUNet", "gpu_memory_target": NaN}', "gpu_memory_target"),
    )
]

SETTINGS = [
    BadInput(
        what=f"`--set {setting}`",
        command="nnssl_pseudolabel",
        flags=("--set", setting),
        make=nothing(setting.partition("=")[0].replace("student.length.", "length.")),
        says=says,
    )
    for setting, says in (
        ("student.cutmix", "NAME=VALUE"),
        ("student.cut_mix=0", "there is no setting"),
        ("student.cutmix=much", "a number"),
        ("student.lambda_low=NaN", "expected"),
        ("student.lambda_low=Infinity", "expected"),
        ("student.warm_lr=1e999", "expected"),
        ('student.tau=["a"]', "expected"),
        ("student.tau={}", "expected"),
        ("student.unlearning_gradient_ratio=x", "expected"),
        ("curriculum.seed=-1", "expected"),
        ("curriculum.fractions=5", "expected"),
        ('curriculum.fractions=["a"]', "expected"),
        ('curriculum.order=["ranked"]', "expected"),
        ("student.length.num_epochs=0", "expected"),
        ("student.length=5", "there is no setting"),
    )
]

PLANNING = [
    BadInput(
        what="no fingerprint to plan from",
        command="nnssl_plan",
        make=lambda p: (preprocessed_file("dataset_fingerprint.json")(p).unlink(), preprocessed_file("dataset_fingerprint.json")(p))[1],
        says="nnUNetv2_extract_fingerprint",
    ),
    BadInput(
        what="a fingerprint that was cut off",
        command="nnssl_plan",
        make=text(preprocessed_file("dataset_fingerprint.json"), '{"spacings": ['),
        says="cannot be read as JSON",
    ),
    BadInput(
        what="a fingerprint without spacings",
        command="nnssl_plan",
        make=text(preprocessed_file("dataset_fingerprint.json"), "{}"),
        says="'spacings'",
    ),
    BadInput(
        what="a raw dataset.json that was cut off",
        command="nnssl_plan",
        make=text(raw_file("dataset.json"), '{"labels": '),
        says="cannot be read as JSON",
    ),
    BadInput(
        what="a raw dataset.json without labels",
        command="nnssl_plan",
        make=edited(raw_file("dataset.json"), without("labels")),
        says="'labels'",
    ),
    BadInput(
        what="a target spacing of 0",
        command="nnssl_plan",
        make=nothing("-overwrite_target_spacing"),
        flags=("-overwrite_target_spacing", "0", "1", "1"),
        says="expected millimetres above 0",
    ),
]
