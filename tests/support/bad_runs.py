"""Runs whose files are broken: manifest, pool, evidence, checkpoints, predictions, labels that are given back, findings, tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
from bad_image_files import packed
from bad_input import BadInput, edited, text, without
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    IDENTIFIER,
    OUR_TEACHER,
    PLANS,
    Project,
    evidence_of,
    open_tiny_run,
    phantom,
    teacher_store,
    write_image,
)


def workspace(project: Project) -> Path:
    return project.results / DATASET / f"{OUR_TEACHER}__{PLANS}__{CONFIGURATION}" / "fold_0" / "nnssl"


def in_workspace(name: str) -> Callable[[Project], Path]:
    return lambda project: workspace(project) / name


def in_model(name: str) -> Callable[[Project], Path]:
    return lambda project: workspace(project).parents[1] / name


def in_pool(name: str) -> Callable[[Project], Path]:
    return lambda project: next((project.preprocessed / DATASET).glob("*__pool_*[0-9a-f]")) / name


def in_data(name: str) -> Callable[[Project], Path]:
    return lambda project: project.preprocessed / DATASET / IDENTIFIER / name


def pool_index(project: Project) -> Path:
    return next((project.preprocessed / DATASET).glob("*__pool_*.json"))


manifest, evidence, checkpoint = (
    in_workspace("manifest.json"),
    in_workspace("evidence/teacher/pool_2.b2nd"),
    in_model("fold_0/checkpoint_final.pth"),
)


def cut(path: Callable[[Project], Path]) -> Callable[[Project], Path]:
    return lambda project: packed(path(project), lambda content: content[: len(content) // 2])


def emptied(path: Callable[[Project], Path]) -> Callable[[Project], Path]:
    return text(path, b"")


def gone(path: Callable[[Project], Path]) -> Callable[[Project], Path]:
    def make(project: Project) -> Path:
        path(project).unlink()
        return path(project)

    return make


def evidence_like(**options: Any) -> Callable[[Project], Path]:
    """Evidence of the right source that does not fit."""

    def make(project: Project) -> Path:
        store = teacher_store(open_tiny_run(project))
        label = options.pop("label", phantom("pool_2")[1])
        store.write("pool_2", evidence_of(label, doubt=0.1, **options))
        return store.path("pool_2")

    return make


def evidence_with(meta: Callable[[dict[str, Any]], Any], shape: tuple[int, ...] = (9, 18, 22, 20)) -> Callable[[Project], Path]:
    """A file of evidence with other metadata."""

    def make(project: Project) -> Path:
        path = evidence(project)
        before = blosc2.open(str(path), mode="r")
        content = dict(before.schunk.vlmeta["nnssl"])
        changed = meta(content)
        path.unlink()
        made = blosc2.asarray(np.zeros(shape, dtype=np.uint16), urlpath=str(path))
        made.schunk.vlmeta["nnssl"] = content if changed is None else changed
        return path

    return make


def weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Project], Path]:
    """Change a checkpoint."""

    def make(project: Project) -> Path:
        path = checkpoint(project)
        content = torch.load(path, weights_only=False)
        changed = change(content)
        torch.save(content if changed is None else changed, path)
        return path

    return make


def other_classes(content: dict[str, Any]) -> None:
    for name, value in content["network_weights"].items():
        if "seg" in name and value.shape[0] == 3:
            content["network_weights"][name] = torch.cat([value, value[:1]])


def forgotten(make: Callable[[Project], Path]) -> Callable[[Project], Path]:
    """As if no run had begun."""

    def change(project: Project) -> Path:
        shutil.rmtree(workspace(project))
        return make(project)

    return change


def given(change: Callable[[Path], object], *, name: str = "pool_1.nii.gz") -> Callable[[Project], Path]:
    """A folder of labels to accept, one of them bad."""

    def make(project: Project) -> Path:
        folder = project.raw.parent / "given"
        write_image(phantom("pool_0")[1], folder / "pool_0.nii.gz")
        write_image(phantom("pool_1")[1], folder / name)
        change(folder / name)
        return folder / name

    return make


def predicted(change: Callable[[Path], object]) -> Callable[[Project], Path]:
    """Predictions of the whole pool, one of them bad."""

    def make(project: Project) -> Path:
        folder = project.raw.parent / "predicted"
        folder.mkdir()
        for number in range(6):
            label = phantom(f"pool_{number}")[1]
            np.savez(folder / f"pool_{number}.npz", probabilities=np.stack([label == k for k in range(3)]).astype(np.float16))
        path = folder / "pool_1.npz"
        change(path)
        return path

    return make


def probabilities(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        found = np.load(path)["probabilities"]
        np.savez(path, probabilities=change(found))

    return rewrite


LABEL = "nnssl_pseudolabel"
MANIFESTS = [
    BadInput(what=f"a manifest {what}", command=LABEL, make=make, says=says)
    for what, make, says in (
        ("that is empty", emptied(manifest), "cannot be read as JSON"),
        ("that was cut off", cut(manifest), "cannot be read as JSON"),
        ("that is a list", text(manifest, "[]"), "where a JSON object is expected"),
        ("of another tool", text(manifest, '{"version": 1}'), "schema"),
        ("of a newer version", edited(manifest, lambda m: m.update(schema=99)), "schema"),
        ("that lacks an entry", edited(manifest, without("teacher_folds")), "teacher_folds"),
        ("of another dataset", edited(manifest, lambda m: m.update(dataset="Dataset138_Other")), "Dataset138_Other"),
        ("of another fold", edited(manifest, lambda m: m.update(fold=1)), "fold"),
        ("whose pool is text", edited(manifest, lambda m: m.update(pool="pool_0")), "pool"),
        ("whose ids are text", edited(manifest, lambda m: m.update(dataset_ids=["601", "602"])), "dataset id"),
        ("whose stages are text", edited(manifest, lambda m: m.update(stages="none")), "stage"),
        ("whose stage lacks an entry", edited(manifest, lambda m: m.update(stages=[{"stage": 1}])), "stage"),
        ("whose settings are a list", edited(manifest, lambda m: m.update(method=[])), "method"),
        ("whose settings are out of range", edited(manifest, lambda m: m["method"]["student"].update(cutmix=7)), "student.cutmix"),
        ("whose folds are a number", edited(manifest, lambda m: m.update(teacher_folds=0)), "teacher_folds"),
    )
]

POOLS = [
    BadInput(what=what, command=LABEL, make=make, says=says)
    for what, make, says in (
        ("a pool that is not prepared", lambda p: (pool_index(p).unlink(), "nnssl_prepare -d 137")[1], "no pool is prepared"),
        ("a pool index that was cut off", cut(pool_index), "cannot be read as JSON"),
        ("a pool index without cases", edited(pool_index, without("cases")), "run nnssl_prepare again"),
        ("a pool index whose cases are a list", edited(pool_index, lambda i: i.update(cases=["pool_0"])), "run nnssl_prepare again"),
        (
            "a pool index whose case has no images",
            edited(pool_index, lambda i: without("images")(i["cases"]["pool_0"])),
            "run nnssl_prepare again",
        ),
        (
            "a pool index with a case that leaves the folder",
            edited(pool_index, lambda i: i["cases"].update({"../x": i["cases"]["pool_0"]})),
            "case id",
        ),
        (
            "a pool of other cases than the run's",
            lambda p: (edited(pool_index, lambda i: without("pool_0")(i["cases"]))(p), workspace(p))[1],
            "which the prepared pool lacks",
        ),
        (
            "a pool index whose skipped cases have no reason",
            edited(pool_index, lambda i: i.update(skipped={"x": 1})),
            "run nnssl_prepare again",
        ),
        (
            "a pool index whose cases set aside are a list",
            edited(pool_index, lambda i: i.update(set_aside=["x"])),
            "run nnssl_prepare again",
        ),
        ("a preprocessed pool image that is missing", gone(in_pool("pool_2.b2nd")), "run nnssl_prepare again"),
        ("a preprocessed pool segmentation that was cut off", cut(in_pool("pool_2_seg.b2nd")), "preprocess the case again"),
        ("preprocessed properties that were cut off", cut(in_pool("pool_2.pkl")), "preprocess the case again"),
        ("preprocessed properties that are empty", emptied(in_pool("pool_2.pkl")), "preprocess the case again"),
    )
]
POOLS += [
    BadInput(
        what="a preprocessed pool image that was cut off",
        command=LABEL,
        make=lambda p: (evidence(p).unlink(), cut(in_pool("pool_2.b2nd"))(p))[1],
        says="preprocess the case again",
    ),
    BadInput(
        what="a preprocessed pool image of another shape",
        command=LABEL,
        make=lambda p: evidence_like(label=phantom("pool_2")[1][1:])(p),
        says="has the shape",
    ),
]

EVIDENCE = [
    BadInput(what=f"evidence {what}", command=LABEL, flags=flags, make=make, says=says)
    for what, flags, make, says in (
        ("that was cut off", ("--rescore",), cut(evidence), "is damaged"),
        ("that is empty", ("--rescore",), emptied(evidence), "is damaged"),
        ("that is text", ("--rescore",), text(evidence, "evidence"), "is damaged"),
        ("that is missing, with `--rescore`", ("--rescore",), gone(evidence), "is missing"),
        ("of another shape", ("--rescore",), evidence_like(label=phantom("pool_2")[1][1:]), "has the shape"),
        ("of another number of classes", ("--rescore",), evidence_like(heads=4), "has the shape"),
        ("of another model, with `--rescore`", ("--rescore",), evidence_with(lambda m: m.update(source="other")), "another model"),
        ("of a newer version", ("--rescore",), evidence_with(lambda m: m.update(schema=99)), "version"),
        ("without the number of samples", ("--rescore",), evidence_with(without("num_samples")), "is damaged"),
        ("whose metadata are a list", ("--rescore",), evidence_with(lambda m: [1]), "is damaged"),
        ("with fewer channels than it says", ("--rescore",), evidence_with(lambda m: None, (5, 18, 22, 20)), "is damaged"),
    )
]

LABELLED_DATA = [
    BadInput(what=what, command=LABEL, flags=flags, make=make, says=says)
    for what, flags, make, says in (
        (
            "a preprocessed labelled image that was cut off",
            ("--confidence", "calibrated"),
            cut(in_data("lab_0.b2nd")),
            "preprocess the case again",
        ),
        (
            "a preprocessed label that was cut off",
            ("--confidence", "calibrated"),
            cut(in_data("lab_0_seg.b2nd")),
            "preprocess the case again",
        ),
        (
            "a preprocessed label that is missing",
            ("--confidence", "calibrated"),
            gone(in_data("lab_0_seg.b2nd")),
            "preprocess the case again",
        ),
        ("a preprocessed file of a training case that is missing", (), gone(in_data("lab_3.pkl")), "nnUNetv2_preprocess"),
        ("a label that is missing", (), gone(lambda p: p.raw / DATASET / "labelsTr" / "lab_3.nii.gz"), "put it back"),
        (
            "a label that is a link to itself",
            (),
            lambda p: (
                gone(lambda p: p.raw / DATASET / "labelsTr" / "lab_3.nii.gz")(p).symlink_to("lab_3.nii.gz"),
                p.raw / DATASET / "labelsTr" / "lab_3.nii.gz",
            )[1],
            "put it back",
        ),
    )
]

CHECKPOINTS = [
    BadInput(what=f"a checkpoint {what}", command="nnssl_predict", make=make, says=says)
    for what, make, says in (
        ("that was cut off", cut(checkpoint), "is damaged"),
        ("that is empty", emptied(checkpoint), "is damaged"),
        ("that is text", text(checkpoint, "weights"), "was not opened"),
        ("of another tool", weights(lambda c: {"state_dict": c["network_weights"]}), "is not a checkpoint of nnU-Net"),
        ("without its settings", weights(without("init_args")), "init_args"),
        (
            "of another architecture",
            weights(lambda c: c.update(network_weights={f"x.{k}": v for k, v in c["network_weights"].items()})),
            "do not fit",
        ),
        ("of other classes", weights(other_classes), "do not fit"),
        ("whose weights are a list", weights(lambda c: c.update(network_weights=[1])), "network_weights"),
        ("of a trainer that nobody has", weights(lambda c: c.update(trainer_name="Nobody")), "Nobody"),
        ("of a configuration that the plans lack", weights(lambda c: c["init_args"].update(configuration="3d_gone")), "3d_gone"),
    )
]
CHECKPOINTS += [
    BadInput(
        what="a second fold's checkpoint of other classes",
        command="nnssl_predict",
        flags=("-f", "1", "0"),
        make=weights(other_classes),
        says="do not fit",
    ),
    BadInput(
        what="a teacher of other classes, before anything is swept",
        command=LABEL,
        make=forgotten(weights(other_classes)),
        says="do not fit",
    ),
    BadInput(
        what="a model folder without plans",
        command="nnssl_predict",
        make=lambda p: (gone(in_model("plans.json"))(p), f"{OUR_TEACHER}__{PLANS}__{CONFIGURATION}")[1],
        says="there is no trained model",
    ),
    BadInput(
        what="a model's plans that were cut off", command="nnssl_predict", make=cut(in_model("plans.json")), says="cannot be read as JSON"
    ),
    BadInput(
        what="a model's plans without its configuration",
        command="nnssl_predict",
        make=edited(in_model("plans.json"), lambda p: p.update(configurations={})),
        says=CONFIGURATION,
    ),
    BadInput(
        what="a model's dataset.json without labels",
        command="nnssl_predict",
        make=edited(in_model("dataset.json"), without("labels")),
        says="'labels'",
    ),
]

PREDICTIONS = [
    BadInput(what=f"predictions {what}", command=LABEL, flags=("--from-predictions", "{root}/predicted"), make=predicted(change), says=says)
    for what, change, says in (
        ("that were cut off", lambda p: packed(p, lambda c: c[: len(c) // 2]), "cannot be read"),
        ("that are empty", lambda p: p.write_bytes(b""), "cannot be read"),
        ("of a missing case", lambda p: p.unlink(), "is missing"),
        ("of another shape", probabilities(lambda a: a[:, 1:]), "has maps of shape"),
        ("of other classes", probabilities(lambda a: a[:2]), "one map for each"),
        ("with NaN", probabilities(lambda a: np.where(np.arange(a.size).reshape(a.shape) == 9, np.float16("nan"), a)), "NaN"),
        ("that are logits", probabilities(lambda a: 9 * a), "not logits"),
        ("of whole numbers", probabilities(lambda a: a.astype(np.int16)), "floating-point"),
    )
]

GIVEN = [
    BadInput(what=f"a label to accept {what}", command=LABEL, flags=("--accept", "{root}/given"), make=given(change, **options), says=says)
    for what, change, says, options in (
        ("that was cut off", lambda p: packed(p, lambda c: c[: len(c) // 2]), "cannot be read", {}),
        ("that is empty", lambda p: p.write_bytes(b""), "cannot be read", {}),
        ("of another shape", lambda p: write_image(phantom("pool_1")[1][1:], p), "save the label on the image's grid", {}),
        ("on another grid", lambda p: write_image(phantom("pool_1")[1], p, spacing=(2, 1, 1)), "save the label on the image's grid", {}),
        ("with an unknown value", lambda p: write_image(phantom("pool_1")[1] * 3, p), "has the value", {}),
        ("with fractions", lambda p: write_image(phantom("pool_1")[1] * np.float32(0.5), p), "has the value", {}),
        ("of no case of the pool", lambda p: None, "no case of the pool", {"name": "POOL_1.nii.gz"}),
        ("of a labelled case", lambda p: None, "a labelled case of", {"name": "lab_1.nii.gz"}),
    )
]

FINDINGS = [
    BadInput(
        what="findings that are no study",
        command="nnssl_predict",
        make=lambda p: text(in_workspace("held_out.json"), '{"cases": 3}')(p),
        says="is no study of held-out cases",
    ),
    BadInput(
        what="findings that were cut off",
        command="nnssl_predict",
        make=text(in_workspace("held_out.json"), '{"cases": ['),
        says="cannot be read as JSON",
    ),
    BadInput(
        what="an audit that is no study",
        command="nnssl_predict",
        make=text(in_workspace("audit.json"), '{"study": [1]}'),
        says="is no study of held-out cases",
    ),
    BadInput(
        what="a ranking that is no table",
        command="nnssl_report",
        make=text(in_workspace("ranking_0.csv"), "rank,case\nfirst,pool_0\n"),
        says="is not a ranking table",
    ),
    BadInput(
        what="a ranking that is no text",
        command="nnssl_report",
        make=text(in_workspace("ranking_0.csv"), b"rank,case\n\xff\xfe\x00"),
        says="is not a ranking table",
    ),
    BadInput(
        what="nnU-Net's summary of the validation that was cut off",
        command="nnssl_report",
        make=lambda p: ((in_model("fold_0/validation")(p)).mkdir(), text(in_model("fold_0/validation/summary.json"), "{")(p))[1],
        says="cannot be read as JSON",
    ),
    BadInput(
        what="nnU-Net's summary of the validation of other classes",
        command="nnssl_report",
        make=lambda p: ((in_model("fold_0/validation")(p)).mkdir(), text(in_model("fold_0/validation/summary.json"), '{"mean": {}}')(p))[1],
        says="is not a summary",
    ),
    BadInput(
        what="nnU-Net's summary of the validation, in the table",
        command="nnssl_run",
        flags=("--status",),
        make=lambda p: ((in_model("fold_0/validation")(p)).mkdir(), text(in_model("fold_0/validation/summary.json"), "{")(p))[1],
        says="cannot be read as JSON",
    ),
]

OUTPUTS = [
    BadInput(
        what="`-i` is a file",
        command="nnssl_predict",
        make=lambda p: (shutil.rmtree(p.raw.parent / "new"), text(lambda p: p.raw.parent / "new", "")(p))[1],
        says="is not a folder; -i takes",
    ),
    BadInput(
        what="`-i` is empty",
        command="nnssl_predict",
        make=lambda p: (shutil.rmtree(p.raw.parent / "new"), (p.raw.parent / "new").mkdir(), p.raw.parent / "new")[2],
        says="holds no image named",
    ),
    BadInput(
        what="`-o` is a file",
        command="nnssl_predict",
        make=text(lambda p: p.raw.parent / "out", ""),
        says="a file stands where a folder is expected",
    ),
    BadInput(
        what="`-o` of the report is a file",
        command="nnssl_report",
        flags=("-o", "{root}/page"),
        make=text(lambda p: p.raw.parent / "page", ""),
        says="a file stands where a folder is expected",
    ),
]
