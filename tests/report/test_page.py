"""The page: whole, self-contained, safe against any name, for runs in every state; and the command that writes it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure

from nnunet_ssl.cli.report import main
from nnunet_ssl.data.manifest import Manifest
from nnunet_ssl.locations import PUBLISHED_MARKER, STAGE_SIDECAR, preprocessed_root, raw_root, results_root
from nnunet_ssl.report.collect import collect
from nnunet_ssl.report.figure_style import figure_style, inline_svg, plain
from nnunet_ssl.report.figures import case_scores, training_curves
from nnunet_ssl.report.write_report import write_report

TEACHER = "TransASPPTeacherTrainer"
VOID = {"meta", "img", "br", "path", "use", "rect", "circle", "line"}


class Reader(HTMLParser):
    """Collects a page's tags, attributes and text; notices tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def written(run: Any, folder: Path) -> tuple[str, Reader]:
    text = write_report(run.setup, run.fold, TEACHER, folder)[1].read_text(encoding="utf-8")
    return text, Reader(text)


def visible(reader: Reader) -> str:
    return " ".join(" ".join(reader.text).split())


def test_complete_run(complete_run: Any, tmp_path: Path) -> None:
    _, reader = written(complete_run, tmp_path / "report")
    assert reader.open == []
    assert reader.tags.count("svg") == 2
    assert reader.tags.count("img") == 3 * 4
    assert "Student 2: mean foreground Dice 0.6000 on 2 labelled validation cases" in visible(reader)
    assert "the teacher alone has 0.4000 (+0.2000), but the student has more optimiser steps behind it." in visible(reader)
    assert "labelling that was done before that command (by --audit, by --num_parts, until an interruption) is left out" in visible(reader)
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == [
        "cases.csv",
        "classes.csv",
        "epochs.csv",
        "report.html",
        "review.csv",
        "stages.csv",
    ]


def test_a_class_of_no_case_is_said(complete_run: Any, tmp_path: Path) -> None:
    """nnU-Net then has no mean, which is not for lack of a validation."""
    complete_run.validate(complete_run.student(2), 0.75, float("nan"))
    text = visible(written(complete_run, tmp_path)[1])
    assert (
        "Student 2 is validated on 2 labelled validation cases that neither teacher nor student saw; there is no mean foreground Dice, "
        "since no validation case has or predicts the class core. The Dice of each class is below."
    ) in text
    assert "has been validated yet" not in text
    assert "and then there is no mean of the classes." in text


def test_settings_that_changed_are_named(complete_run: Any) -> None:
    page = complete_run.workspace / "report" / "report.html"
    assert main(["-d", "137", "-c", "3d_fullres", "-f", "0"]) == 0
    assert "Changed on the way" not in page.read_text()
    complete_run.change_stage(2, tau=0.5)
    complete_run.set_student(2, targets="hard")
    for folder in complete_run.setup.preprocessed_folder.glob("*__pool_*"):
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    assert main(["-d", "137", "-c", "3d_fullres", "-f", "0"]) == 0
    assert "Changed on the way of the run: student.targets, student.tau. The stages differ in that" in visible(Reader(page.read_text()))


def test_nothing_comes_from_outside(complete_run: Any, tmp_path: Path) -> None:
    text, reader = written(complete_run, tmp_path)
    assert not re.search(r"https?:|file:|//\w|@import|javascript:", text)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "a"} & set(reader.tags)
    for name, value in reader.attributes:
        if name == "src":
            assert value.startswith("data:image/png;base64,")
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
        assert not name.startswith("on")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_ids_of_the_page_are_unique_and_found(complete_run: Any, tmp_path: Path) -> None:
    text, reader = written(complete_run, tmp_path)
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', text)) <= set(ids)


def test_a_hostile_case_name_is_text(complete_run: Any, tmp_path: Path) -> None:
    text, reader = written(complete_run, tmp_path)
    assert "onerror=alert(1)>" not in text
    assert complete_run.hostile in visible(reader)


def test_hostile_class_names_are_text(complete_run: Any, tmp_path: Path) -> None:
    for path in complete_run.setup.preprocessed_folder.glob("dataset.json"):
        path.write_text(path.read_text().replace('"rim"', '"_$<b>rim$"'))
    text, reader = written(complete_run, tmp_path)
    assert "<b>" not in text
    assert "_$<b>rim$" in visible(reader)


def test_final_mode_says_so(final_run: Any, tmp_path: Path) -> None:
    _, reader = written(final_run, tmp_path)
    assert "no validation figure is claimed" in visible(reader)
    assert "0.9800" not in visible(reader)  # what nnU-Net measured on training cases
    assert not (tmp_path / "classes.csv").exists()


def test_a_control_on_labels_alone(complete_run: Any, tmp_path: Path) -> None:
    complete_run.change(control="supervised")
    complete_run.learn_labels_alone(1, 2)
    _, reader = written(complete_run, tmp_path)
    text = visible(reader)
    assert "Control: supervised" in text
    assert "emi-supervised" not in text
    assert "Unlabelled pool 5 cases, of which no student learns" in text
    assert "Left out: the student of this stage learns from manual labels alone." in text
    assert "holds the pool's terms" not in text
    assert reader.tags.count("img") == 0


def test_another_control_learns_from_the_pool(complete_run: Any, tmp_path: Path) -> None:
    complete_run.change(control="no-unlearning")
    text, reader = written(complete_run, tmp_path)
    assert "<title>Dataset137_Toy, fold 0: Control: no-unlearning</title>" in text
    assert "Unlabelled pool 5 cases Published" in visible(reader)
    assert reader.tags.count("img") == 3 * 4


def test_a_run_on_labels_alone_is_not_semi_supervised(complete_run: Any, tmp_path: Path) -> None:
    assert "Semi-supervised nnU-Net run" in visible(written(complete_run, tmp_path)[1])
    complete_run.learn_labels_alone(1, 2)
    text = visible(written(complete_run, tmp_path)[1])
    assert "nnU-Net run on manual labels alone" in text
    assert "emi-supervised" not in text


def test_slices_are_named_by_score_and_place(complete_run: Any, tmp_path: Path) -> None:
    complete_run.change(cases=["p_3", "p_1", complete_run.hostile, "p_2", "p_0"])
    text = visible(written(complete_run, tmp_path)[1])
    assert "p_2 best, number 4 of the stage, score 0.9000" in text
    assert "p_3 worst, number 1 of the stage, no score" in text


def test_a_damaged_sidecar_is_said(complete_run: Any, tmp_path: Path) -> None:
    (preprocessed_root() / complete_run.student(2).dataset / STAGE_SIDECAR).write_text("{}")
    assert "The images are no longer there." in visible(written(complete_run, tmp_path)[1])


def test_curves_of_several_teachers_say_whose_they_are(final_run: Any, tmp_path: Path) -> None:
    for fold in (0, 1):
        replace(final_run, fold=fold).train(final_run.teacher, dice=(0.1 + fold / 2,) * 10)
    final_run.change(teacher_folds=[0, 1])
    _, reader = written(final_run, tmp_path)
    assert "Of the 2 teachers the one of fold 0 is shown." in visible(reader)
    axes = training_curves(collect(final_run.setup, "all", TEACHER)).axes[0]
    assert [note.get_text() for note in axes.texts] == ["teacher, fold 0 of 2", "stage 1", "stage 2"]


def test_a_teacher_alone(toy_run: Any, tmp_path: Path) -> None:
    toy_run.train(toy_run.teacher, dice=(0.2, 0.5, 0.4))
    _, reader = written(toy_run, tmp_path)
    assert "this page shows the teacher alone (trained)" in visible(reader)
    assert "The pool has not been ranked yet." in visible(reader)
    assert reader.tags.count("svg") == 1


def test_a_run_without_a_trained_student(toy_run: Any, tmp_path: Path) -> None:
    toy_run.train(toy_run.teacher, dice=(0.2, 0.5, 0.4), finished=False)
    toy_run.write_stage(1)
    _, reader = written(toy_run, tmp_path)
    assert "No student has been validated yet" in visible(reader)
    assert "1 of 2 stages is not written yet." in visible(reader)
    assert "not trained" in visible(reader)
    assert "No model of this run has been validated yet." in visible(reader)


def test_a_curriculum_that_ended_early(toy_run: Any, tmp_path: Path) -> None:
    """An adaptive schedule of two stages whose first was the last waits for nothing; the score that ranked is the record's."""
    toy_run.train(toy_run.teacher, dice=(0.2, 0.5, 0.4))
    toy_run.write_stage(1)
    toy_run.train(toy_run.student(1), dice=(0.6, 0.55), student=True)
    manifest = Manifest.load(toy_run.workspace)
    assert manifest is not None
    manifest.stages[0].is_last, manifest.stages[0].case_score = True, "foreground"
    manifest.save(toy_run.workspace)
    _, reader = written(toy_run, tmp_path)
    assert "1 of 1 students trained" in visible(reader)
    assert "not written yet" not in visible(reader)
    assert "The newest ranking; foreground ranks" in visible(reader)


def test_a_run_whose_pool_is_gone(complete_run: Any, tmp_path: Path) -> None:
    for folder in complete_run.setup.preprocessed_folder.glob("*__pool_*"):
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    _, reader = written(complete_run, tmp_path)
    assert "The images are no longer there." in visible(reader)


def test_the_same_run_gives_the_same_bytes(complete_run: Any, tmp_path: Path) -> None:
    written(complete_run, tmp_path / "a")
    written(complete_run, tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_figures_leave_matplotlib_as_it_was(complete_run: Any, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    written(complete_run, tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_of_many_classes_five_have_a_colour(complete_run: Any) -> None:
    facts = collect(complete_run.setup, 0, TEACHER)
    teacher = facts.models[0]
    assert teacher.log is not None
    log = replace(teacher.log, class_dice=tuple((0.01 * i, 0.02 * i, 0.03 * i) for i in range(13)))
    names = tuple(f"class_{i}" for i in range(13))
    with figure_style():
        axes = training_curves(replace(facts, class_names=names, models=(replace(teacher, log=log),))).axes[0]
    legend = axes.get_legend()
    assert legend is not None
    shown = {text.get_text(): line.get_color() for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert list(shown) == [*names[:5], "8 more classes: epochs.csv", "mean"]
    assert len(set(shown.values())) == 7
    curves = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(curves) == 13 + 1
    unnamed = [line for line in curves if line.get_color() == shown["8 more classes: epochs.csv"]]
    assert len(unnamed) == 8
    assert max(line.get_linewidth() for line in unnamed) < min(line.get_linewidth() for line in curves if line not in unnamed)


def test_the_legend_has_the_pages_ground(complete_run: Any) -> None:
    facts = collect(complete_run.setup, 0, TEACHER)
    svg = inline_svg(lambda: training_curves(facts), name="x", description="curves")
    assert "fill: var(--ground)" in svg
    assert not re.search(r"#fff(fff)?\b|\bwhite\b|#fefdfe", svg, flags=re.IGNORECASE)


def test_svg_takes_the_pages_text_colour() -> None:
    def draw() -> Figure:
        figure = Figure(figsize=(2, 2))
        figure.add_subplot().set_title(plain("_a$b$"))
        return figure

    svg = inline_svg(draw, name="x", description='a "b" <c>')
    assert svg.startswith('<svg role="img" aria-label="a &quot;b&quot; &lt;c&gt;"')
    assert "currentColor" in svg
    assert "#0b0c0d" not in svg
    assert "xmlns" not in svg


def test_command_writes_into_the_workspace(complete_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-d", "137", "-c", "3d_fullres", "-f", "0"]) == 0
    page = complete_run.workspace / "report" / "report.html"
    assert page.is_file()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"report: {page}"
    assert lines[-1] == "next: nnssl_run -d 137 -c 3d_fullres -f 0"


def test_reports_of_both_modes_in_one_folder(final_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace(final_run, fold=0).train(final_run.teacher, dice=(0.5,))
    (tmp_path / "mine.csv").write_text("a,b\n")
    tables = {"0": "cases.csv, classes.csv, epochs.csv, review.csv, stages.csv", "all": "cases.csv, epochs.csv, review.csv, stages.csv"}
    for fold, expected in tables.items():
        assert main(["-d", "137", "-c", "3d_fullres", "-f", fold, "-o", str(tmp_path)]) == 0
        assert capsys.readouterr().out.splitlines()[1] == f"tables: {expected} in {tmp_path}"
        assert (tmp_path / "classes.csv").exists() == (fold == "0")
    assert (tmp_path / "mine.csv").read_text() == "a,b\n"


def test_a_table_of_somebody_else_stays(final_run: Any, tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("id,name\n1,rim\n")
    written(final_run, tmp_path)
    assert (tmp_path / "classes.csv").read_text() == "id,name\n1,rim\n"


def test_command_with_a_folder_of_its_own(toy_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_run.train(toy_run.teacher, dice=(0.5,))
    assert main(["-d", "137", "-c", "3d_fullres", "-f", "0", "-o", str(tmp_path / "x" / "y")]) == 0
    assert (tmp_path / "x" / "y" / "report.html").is_file()
    assert capsys.readouterr().out.splitlines()[-1] == "next: nnssl_run -d 137 -c 3d_fullres -f 0 -u FOLDER"


def test_command_with_several_folds(toy_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a report of its own, and a place that is named would hold the last one's."""
    other = replace(toy_run, fold=1)
    for run in (toy_run, other):
        run.train(run.teacher, dice=(0.5,))
    call = ["-d", "137", "-c", "3d_fullres", "-f", "0", "1"]
    assert main([*call, "-o", str(tmp_path / "x")]) == 2
    assert "-o takes the report of one run" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert main(call) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("next")] == [f"next: nnssl_run -d 137 -c 3d_fullres -f {k} -u FOLDER" for k in (0, 1)]
    assert [line for line in lines if line.startswith("report: ")] == [
        f"report: {r.workspace / 'report' / 'report.html'}" for r in (toy_run, other)
    ]


def test_command_after_publication_names_prediction(complete_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    complete_run.publish()
    assert main(["-d", "137", "-c", "3d_fullres", "-f", "0"]) == 0
    expected = "next: nnUNetv2_predict -d 137 -c 3d_fullres -f 0 -tr TransASPPStudentTrainer -i INPUT_FOLDER -o OUTPUT_FOLDER"
    assert capsys.readouterr().out.splitlines()[-1] == expected


def test_command_without_a_run_keeps_the_teacher_of_all_labels(final_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """By default `-f all` would train a teacher for every fold."""
    (final_run.workspace / "manifest.json").unlink()
    final_run.train(final_run.teacher, dice=(0.2,), finished=False)
    final_run.teacher.checkpoint("all").unlink()
    assert main(["-d", "137", "-c", "3d_fullres", "-f", "all"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "next: nnssl_run -d 137 -c 3d_fullres -f all --teacher-folds all -u FOLDER"


@pytest.mark.parametrize("folds", [["all"], [0, 1]])
def test_a_run_remembers_the_folds_of_its_teacher(final_run: Any, capsys: pytest.CaptureFixture[str], folds: list[int | str]) -> None:
    final_run.change(teacher_folds=folds)
    assert main(["-d", "137", "-c", "3d_fullres", "-f", "all"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "next: nnssl_run -d 137 -c 3d_fullres -f all"


@pytest.mark.parametrize("gone", [(1,), (2,), (1, 2)])
def test_a_finished_run_whose_students_are_gone_keeps_its_report(
    complete_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: tuple[int, ...]
) -> None:
    """The clean-up that the documentation describes; a report of what is left would call the students untrained."""
    complete_run.publish()
    assert main(["-d", "137", "-c", "3d_fullres", "-f", "0"]) == 0
    report = complete_run.workspace / "report"
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    for stage in gone:
        for root in (raw_root(), preprocessed_root(), results_root()):
            shutil.rmtree(root / complete_run.student(stage).dataset)
    shutil.rmtree(complete_run.workspace / "evidence")
    capsys.readouterr()
    for options in ([], ["-o", str(tmp_path / "new")]):
        assert main(["-d", "137", "-c", "3d_fullres", "-f", "0", *options]) == 2
        captured = capsys.readouterr()
        folder = complete_run.student(gone[0]).fold_folder(0)
        assert captured.out == ""
        assert captured.err == (
            f"nnssl_report: error: the student of stage {gone[0]} is gone ({folder} holds no checkpoint), and the run has been published: "
            "its report cannot be made anew. Put that folder back, or keep the report that was made before; it stays as it is.\n"
        )
    assert {path.name: path.read_bytes() for path in report.iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_stage_datasets_without_their_students_may_go(complete_run: Any, tmp_path: Path) -> None:
    complete_run.publish()
    for stage in (1, 2):
        for root in (raw_root(), preprocessed_root()):
            shutil.rmtree(root / complete_run.student(stage).dataset)
    text = visible(written(complete_run, tmp_path)[1])
    assert "2 of 2 students trained" in text
    assert "The images are no longer there." in text


def test_another_students_place_is_not_publication(complete_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fold was moved away, and another run has published its student there."""
    marker = complete_run.publish() / PUBLISHED_MARKER
    assert "Published for nnUNetv2_predict yes" in visible(written(complete_run, tmp_path)[1])
    marker.write_text(json.dumps({"workspace": "Dataset137_Toy/other/fold_0/nnssl"}))
    assert "Published for nnUNetv2_predict no" in visible(written(complete_run, tmp_path)[1])
    assert main(["-d", "137", "-c", "3d_fullres", "-f", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "next: nnssl_run -d 137 -c 3d_fullres -f 0"


def test_a_student_that_is_trained_anew_is_not_published_yet(complete_run: Any, tmp_path: Path) -> None:
    complete_run.publish()
    complete_run.train(complete_run.student(2), dice=(0.1, 0.2), student=True)
    assert "Published for nnUNetv2_predict no" in visible(written(complete_run, tmp_path)[1])


def test_a_random_order_is_ranked_by_no_score(complete_run: Any, tmp_path: Path) -> None:
    assert [title for title in score_titles(complete_run) if "ranks" in title] == ["pairwise_dice (ranks the pool)"]
    complete_run.change(order="random", tau=[0.5, 0.75])
    text = visible(written(complete_run, tmp_path)[1])
    assert "The newest order is random: no score ranks, all are for comparison." in text
    assert "pairwise_dice ranks" not in text
    assert [title for title in score_titles(complete_run) if "ranks" in title] == []
    assert "In force at stage 2: evidence.case_score = pairwise_dice; curriculum.order = random; student.tau = 0.5 0.75." in text


def score_titles(run: Any) -> list[str]:
    return [axes.get_title() for axes in case_scores(collect(run.setup, run.fold, TEACHER)).axes]


def test_command_without_anything_to_report(toy_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-d", "137", "-c", "3d_fullres", "-f", "0"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nnssl_report: error: there is nothing to report yet")
    assert captured.err.count("\n") == 1
