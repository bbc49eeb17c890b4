"""Numbers of the report's tables, worked out by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_ssl.config import MethodConfig
from nnunet_ssl.data.ranking_file import read_ranking
from nnunet_ssl.errors import SetupError, StateError
from nnunet_ssl.locations import preprocessed_root
from nnunet_ssl.report import tables
from nnunet_ssl.report.collect import collect
from nnunet_ssl.report.table import MISSING, Column, table
from nnunet_ssl.report.validation import foreground_keys, read_validation

TEACHER = "TransASPPTeacherTrainer"


def rows_of(made: Any, path: Path) -> list[dict[str, str]]:
    """A table as it comes back from its CSV."""
    made.write(path)
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_stage_table_of_a_complete_run(complete_run: Any, tmp_path: Path) -> None:
    made = tables.stage_table(collect(complete_run.setup, 0, TEACHER))
    teacher, first, second = rows_of(made, tmp_path / "stages.csv")
    # pseudo Dice 0.2 0.5 0.4, validation loss 1 - Dice, three minutes
    assert teacher == {
        "model": "teacher",
        "fraction": "",
        "labelled_cases": "4",
        "pool_cases": "0",
        "total_cases": "4",
        "best_loss_val": "0.500000",
        "best_pseudo_dice_val": "0.500000",
        "gain": "",
        "final_dice": "0.400000",
        "final_dice_gain": "",
        "tau": "",
        "share_confident": "",
        "changed": "",
        "minutes": "3.000000",
        "state": "trained",
    }
    assert (first["fraction"], first["pool_cases"], first["total_cases"]) == ("0.400000", "2", "6")
    assert (first["best_loss_val"], first["best_pseudo_dice_val"], first["gain"]) == ("0.400000", "0.600000", "0.100000")
    assert (first["final_dice"], first["final_dice_gain"]) == ("0.500000", "0.100000")
    assert (second["total_cases"], second["best_pseudo_dice_val"], second["gain"]) == ("9", "0.700000", "0.100000")
    assert (second["final_dice"], second["final_dice_gain"]) == ("0.600000", "0.100000")
    assert (first["changed"], second["changed"], second["share_confident"]) == ("", "0.050000", "0.625000")
    assert second["minutes"] == "3.500000"  # two epochs of a minute and 90 s of labelling
    assert made.cells()[2][1] == "100%"


def test_thresholds_of_the_stages_are_shown_where_they_differ(complete_run: Any, tmp_path: Path) -> None:
    def headings_and_values() -> tuple[list[str], list[str]]:
        made = tables.stage_table(collect(complete_run.setup, 0, TEACHER))
        return [column.heading for column in made.shown], [row["tau"] for row in rows_of(made, tmp_path / "stages.csv")]

    headings, values = headings_and_values()
    assert "tau" not in headings
    assert values == ["", "0.7", "0.7"]
    complete_run.change_stage(2, tau=[0.5, 0.75, 1.0])
    headings, values = headings_and_values()
    assert headings[headings.index("tau") + 1] == "confident voxels"
    assert values == ["", "0.7", "0.5 0.75 1"]


def test_a_student_of_labelled_samples_alone_has_no_pseudo_labels(complete_run: Any) -> None:
    complete_run.learn_labels_alone(2)
    facts = collect(complete_run.setup, 0, TEACHER)
    _, first, second = tables.stage_table(facts).rows
    assert (first["pool_cases"], first["total_cases"]) == (2, 6)
    assert (second["pool_cases"], second["total_cases"], second["fraction"]) == (0, 4, 1.0)
    assert not facts.is_on_labels_alone


def test_a_stage_whose_plans_are_gone_has_the_settings_of_the_run(complete_run: Any) -> None:
    complete_run.change(method=MethodConfig().with_settings({"student.labelled_share": 1.0}).to_dict())
    (preprocessed_root() / complete_run.student(1).dataset / "nnUNetPlans.json").unlink()
    (preprocessed_root() / complete_run.student(2).dataset / "nnUNetPlans.json").write_text('{"configurations": []}')
    facts = collect(complete_run.setup, 0, TEACHER)
    assert [model.pool_cases for model in facts.models] == [0, 0, 0]
    assert facts.is_on_labels_alone


def test_final_mode_claims_no_validation(final_run: Any, tmp_path: Path) -> None:
    facts = collect(final_run.setup, "all", TEACHER)
    rows = rows_of(tables.stage_table(facts), tmp_path / "stages.csv")
    assert not {"final_dice", "best_loss_val", "best_pseudo_dice_val"} & set(rows[0])
    assert rows[2]["best_pseudo_dice_seen_labels"] == "0.700000"
    assert [row["labelled_cases"] for row in rows] == ["6", "6", "6"]
    assert all(model.validation is None for model in facts.models)
    assert tables.class_table(facts).rows == ()


def test_class_table(complete_run: Any, tmp_path: Path) -> None:
    rows = rows_of(tables.class_table(collect(complete_run.setup, 0, TEACHER)), tmp_path / "classes.csv")
    assert len(rows) == 3 * 3
    assert rows[0] == {"model": "teacher", "class": "rim", "dice": "0.500000", "iou": "0.250000", "validation_cases": "2"}
    assert rows[8] == {"model": "student 2", "class": "foreground mean", "dice": "0.600000", "iou": "0.300000", "validation_cases": "2"}


def test_class_comparison_has_the_models_side_by_side(complete_run: Any) -> None:
    cells = tables.class_comparison(collect(complete_run.setup, 0, TEACHER)).cells()
    assert cells[0] == ["Dice", "rim", "0.5000", "0.6000", "0.7500"]
    assert cells[2] == ["Dice", "mean of the classes", "0.4000", "0.5000", "0.6000"]
    assert cells[4] == ["IoU", "core", "0.1500", "0.2000", "0.2250"]


def test_a_class_in_no_case_has_no_figure(complete_run: Any) -> None:
    complete_run.validate(complete_run.teacher, 0.5, float("nan"))
    found = read_validation(complete_run.teacher, 0, foreground_keys(complete_run.setup))
    assert found is not None
    assert (found.classes["core"].dice, found.classes["rim"].dice, found.mean.dice) == (None, 0.5, None)


def test_a_foreign_summary_is_an_error(complete_run: Any) -> None:
    with pytest.raises(StateError, match=r"summary\.json is not a summary of whole"):
        read_validation(complete_run.teacher, 0, {"whole": "(1, 2)"})


def test_regions_have_the_keys_of_nnunets_summary(toy_run: Any) -> None:
    path = toy_run.setup.preprocessed_folder / "dataset.json"
    content = {
        **json.loads(path.read_text()),
        "labels": {"background": 0, "whole": [1, 2], "core": [2], "part": 1},
        "regions_class_order": [1, 2, 1],
    }
    path.write_text(json.dumps(content))
    assert foreground_keys(toy_run.setup) == {"whole": "(1, 2)", "core": "(2,)", "part": "1"}


def test_case_and_review_tables(complete_run: Any, tmp_path: Path) -> None:
    facts = collect(complete_run.setup, 0, TEACHER)
    rows = rows_of(tables.case_table(facts), tmp_path / "cases.csv")
    assert [(row["case"], row["stage"]) for row in rows] == [
        ("p_2", "1"),
        ("p_0", "1"),
        (complete_run.hostile, "2"),
        ("p_1", "2"),
        ("p_3", "2"),
    ]
    assert (rows[0]["pairwise_dice"], rows[0]["foreground"], rows[0]["mean"]) == ("0.900000", "0.850000", "0.989000")
    review = rows_of(tables.review_table(facts), tmp_path / "review.csv")
    assert review == [{"case": "p_3", "stratum": "none", "foreground_voxels": "0", "stage": "2"}]


def test_epoch_table_has_every_epoch_of_every_model(complete_run: Any, tmp_path: Path) -> None:
    rows = rows_of(tables.epoch_table(collect(complete_run.setup, 0, TEACHER)), tmp_path / "epochs.csv")
    assert [(row["model"], row["epoch"]) for row in rows][2:5] == [("teacher", "2"), ("student 1", "0"), ("student 1", "1")]
    assert (rows[1]["mean_fg_dice"], rows[1]["pseudo_dice_core"], rows[1]["loss_high"]) == ("0.500000", "0.600000", "")
    assert (rows[3]["loss_high"], rows[3]["loss_uncertainty"]) == ("0.200000", "")


def test_settings_mark_what_is_not_the_default(complete_run: Any) -> None:
    made = tables.settings_table(collect(complete_run.setup, 0, TEACHER))
    changed = {row["setting"]: row["value"] for row in made.rows if row["changed"]}
    assert changed == {"curriculum.fractions": "0.4 1.0", "student.cutmix": "0.25"}
    assert "schema" not in {row["setting"] for row in made.rows}


def test_a_run_under_way(toy_run: Any) -> None:
    toy_run.train(toy_run.teacher, dice=(0.2, 0.5, 0.4))
    toy_run.write_stage(1)
    toy_run.train(toy_run.student(1), dice=(0.6,), student=True, finished=False)
    facts = collect(toy_run.setup, 0, TEACHER)
    assert [model.state for model in facts.models] == ["trained", "in training, epoch 1"]
    assert [case.stage for case in facts.ranking] == [1, 1, None, None, None]


def test_nothing_to_report_names_the_command(toy_run: Any) -> None:
    with pytest.raises(SetupError, match="nnUNetv2_train 137 3d_fullres 0 -tr TransASPPTeacherTrainer"):
        collect(toy_run.setup, 0, TEACHER)


def test_nothing_to_report_of_all_labels_names_the_run(toy_run: Any) -> None:
    """Its teachers are those of the folds; one of all labels, trained by hand, would be taken in their place."""
    toy_run.train(toy_run.teacher, dice=(0.5,), finished=False)  # of fold 0
    with pytest.raises(SetupError, match=r"can be read; run: nnssl_run -d 137 -c 3d_fullres -f all -u FOLDER$"):
        collect(toy_run.setup, "all", TEACHER)
    checkpoint = toy_run.teacher.checkpoint("all")
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"")  # nnU-Net begins to write it
    with pytest.raises(SetupError, match=r"can be read; run: nnssl_run -d 137 -c 3d_fullres -f all --teacher-folds all -u FOLDER$"):
        collect(toy_run.setup, "all", TEACHER)


def test_a_checkpoint_that_cannot_be_read_is_warned_of(complete_run: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = complete_run.student(2).checkpoint(0)
    path.write_bytes(path.read_bytes()[:500])
    facts = collect(complete_run.setup, 0, TEACHER)
    assert facts.models[2].log is None
    assert "what the training of TransASPPStudentTrainer" in caplog.text


def test_a_teacher_of_other_folds_is_not_compared(final_run: Any) -> None:
    path = final_run.workspace / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "teacher_folds": [0, 1]}))
    teacher, first, _ = tables.stage_table(collect(final_run.setup, "all", TEACHER)).rows
    assert (teacher["best_pseudo_dice_seen_labels"], first["gain"]) == (None, None)


def test_curves_of_several_teachers_are_named_by_their_fold(final_run: Any, tmp_path: Path) -> None:
    for fold, dice, finished in ((0, (0.1, 0.2), True), (1, (0.7, 0.8, 0.9), False)):
        replace(final_run, fold=fold).train(final_run.teacher, dice=dice, finished=finished)
    final_run.change(teacher_folds=[0, 1])
    facts = collect(final_run.setup, "all", TEACHER)
    rows = rows_of(tables.epoch_table(facts), tmp_path / "epochs.csv")
    assert [row["model"] for row in rows] == ["teacher, fold 0 of 2"] * 2 + ["student 1"] * 2 + ["student 2"] * 2
    assert rows[0]["train_losses"] == "0.400000"
    teacher = tables.stage_table(facts).rows[0]
    assert (teacher["model"], teacher["minutes"], teacher["state"]) == ("2 teachers", 2.0 + 3.0, "1 of 2 trained")


def test_a_damaged_ranking_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "ranking_1.csv"
    path.write_text("rank,case\n1,a\n")
    with pytest.raises(StateError, match=r"ranking_1\.csv is not a ranking table"):
        read_ranking(path)


def test_cells_of_a_table() -> None:
    made = table([Column("a", "A", "{:.1f}"), Column("b", "B")], [{"a": 0.25}, {"a": None, "b": "x"}])
    assert made.cells() == [["0.2", MISSING], [MISSING, "x"]]
