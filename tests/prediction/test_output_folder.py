"""What the folder of `-o` keeps of cases that fail: nothing of an earlier image, nothing that is not ours less, and the failure itself."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prediction_kinds import KINDS, network_of, prepared, setup_of, write_case

from nnunet_ssl.prediction.output_folder import OutputFolder
from nnunet_ssl.prediction.predict import PredictSummary, predict_folder
from nnunet_ssl.prediction.prepared_model import PreparedModel

KIND = KINDS["regions"]
IMAGES = (
    "{case}.nii.gz",
    "confidence/{case}_confidence.nii.gz",
    "uncertainty/{case}_uncertainty.nii.gz",
    *(f"probabilities/{{case}}_{head:04d}.nii.gz" for head in range(2)),
)
"""Of a case with `--save_probabilities`, below the folder of `-o`."""


@pytest.fixture
def made(nnunet_environment: Any) -> PreparedModel:
    """A network of one convolution, whose checkpoint is a file of any content."""
    setup = setup_of(KIND)
    model = prepared(setup, network_of(setup))
    model.model.fold_folder("all").mkdir(parents=True)
    model.model.checkpoint("all").write_bytes(b"weights")
    return model


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two new cases, `a` and `b`."""
    for seed, case in enumerate("ab"):
        write_case(KIND, tmp_path / "in", case, seed)
    return tmp_path / "in"


def predict(made: PreparedModel, images: Path, *, with_probabilities: bool = True) -> PredictSummary:
    return predict_folder(made, images, images.parent / "out", with_probabilities=with_probabilities)


def spoil(images: Path, case: str = "a") -> Path:
    """Let the image of a case be no image any more."""
    (images / f"{case}_0000.nii.gz").write_bytes(b"no image")
    return images.parent / "out"


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "cases.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def left_of(out: Path, case: str) -> list[str]:
    """Every file that has to do with a case, but what is remembered of its failure."""
    found = (path.relative_to(out).as_posix() for path in sorted(out.rglob(f"{case}[._]*")))
    return [name for name in found if name != f"nnssl_predict/failed/{case}.json"]


def files_of(case: str) -> list[str]:
    return sorted([*(name.format(case=case) for name in IMAGES), f"nnssl_predict/cases/{case}.json"])


def is_failure(row: dict[str, str], reason: str) -> bool:
    return row["review"] == "yes" and reason in row["reason"] and row["score"] == ""


def test_a_case_that_fails_leaves_nothing_of_its_earlier_image(made: PreparedModel, images: Path) -> None:
    predict(made, images)
    out = spoil(images)
    assert (left_of(out, "a"), left_of(out, "b")) == (files_of("a"), files_of("b"))
    rows = table(out)
    done = predict(made, images)
    assert (list(done.failed), done.failed_before, done.predicted) == (["a"], {}, 0)
    assert (left_of(out, "a"), left_of(out, "b")) == ([], files_of("b"))
    assert is_failure(table(out)["a"], "cannot be read")
    assert table(out)["b"] == rows["b"]
    # once more, and then the image is taken away, as the message asks for
    assert list(predict(made, images).failed) == ["a"]
    (images / "a_0000.nii.gz").unlink()
    done = predict(made, images)
    assert (done.failed, done.failed_before) == ({}, {})
    assert table(out) == {"b": rows["b"]}
    assert not list((out / "nnssl_predict" / "failed").iterdir())


def test_a_failure_is_in_the_table_until_the_case_is_predicted(made: PreparedModel, images: Path) -> None:
    out = spoil(images)
    predict(made, images)
    write_case(KIND, images.parent / "others", "c")
    done = predict(made, images.parent / "others")
    assert (done.failed, list(done.failed_before)) == ({}, ["a"])
    assert sorted(table(out)) == ["a", "b", "c"]
    assert is_failure(table(out)["a"], "cannot be read")
    write_case(KIND, images.parent / "others", "a")  # the whole image, elsewhere
    done = predict(made, images.parent / "others")
    assert (done.predicted, done.failed, done.failed_before) == (1, {}, {})
    assert float(table(out)["a"]["score"]) > 0
    assert left_of(out, "a") == files_of("a")
    assert not list((out / "nnssl_predict" / "failed").iterdir())


def test_a_case_that_is_not_whole_any_more_fails(made: PreparedModel, images: Path) -> None:
    predict(made, images)
    write_case(KIND, images, "a")
    (images / "a_0000.nii.gz").rename(images / "a_0001.nii.gz")
    assert "a_0000.nii.gz is missing" in predict(made, images).failed["a"]
    assert left_of(images.parent / "out", "a") == []


@pytest.mark.parametrize("name", [".hidden", "x" * 151])
def test_names_that_cannot_be_used_are_remembered(made: PreparedModel, images: Path, name: str) -> None:
    write_case(KIND, images, name)
    assert list(predict(made, images).failed) == [name]
    write_case(KIND, images.parent / "others", "c")
    assert list(predict(made, images.parent / "others").failed_before) == [name]
    assert is_failure(table(images.parent / "out")[name], "rename or remove")
    (images / f"{name}_0000.nii.gz").unlink()
    predict(made, images)
    assert sorted(table(images.parent / "out")) == ["a", "b", "c"]


def test_a_case_without_its_labels_has_no_row(made: PreparedModel, images: Path) -> None:
    predict(made, images)
    out = images.parent / "out"
    (out / "a.nii.gz").unlink()
    (images / "a_0000.nii.gz").rename(images.parent / "a_0000.nii.gz")
    predict(made, images)
    assert list(table(out)) == ["b"]
    (images.parent / "a_0000.nii.gz").rename(images / "a_0000.nii.gz")
    assert predict(made, images).predicted == 1
    assert list(table(out)) == ["a", "b"]


def test_what_others_have_written_stays(made: PreparedModel, images: Path) -> None:
    """A label that was there before, one that was corrected, and one that is put there after the failure."""
    out = images.parent / "out"
    out.mkdir()
    (out / "foreign.nii.gz").write_bytes(b"mine")
    spoil(images, "foreign")
    predict(made, images)
    assert left_of(out, "foreign") == ["foreign.nii.gz"]
    (out / "a.nii.gz").write_bytes(b"corrected")
    spoil(images, "a")
    spoil(images, "b")
    predict(made, images)
    assert (left_of(out, "a"), left_of(out, "b")) == (["a.nii.gz"], [])
    (out / "b.nii.gz").write_bytes(b"by hand")
    predict(made, images)
    assert {name: (out / f"{name}.nii.gz").read_bytes() for name in ("foreign", "a", "b")} == {
        "foreign": b"mine",
        "a": b"corrected",
        "b": b"by hand",
    }
    assert all(is_failure(row, "cannot be read") for row in table(out).values())


@pytest.mark.parametrize("number", range(len(IMAGES) + 1))
def test_a_removal_that_is_interrupted_is_finished(made: PreparedModel, images: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Killed before each file goes: the table has the failure at once, and the next command, of other images, removes the rest."""
    predict(made, images)
    out = spoil(images)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dying_at(number, out))
        with pytest.raises(KeyboardInterrupt):
            predict(made, images)
    assert len(left_of(out, "a")) == len(IMAGES) + 1 - number
    assert ("a.nii.gz" in left_of(out, "a")) == (number == 0)  # what evaluations count goes first
    assert is_failure(table(out)["a"], "cannot be read")
    write_case(KIND, images.parent / "others", "c")
    predict(made, images.parent / "others")
    assert left_of(out, "a") == []
    assert is_failure(table(out)["a"], "cannot be read")


def dying_at(number: int, out: Path) -> Callable[..., None]:
    """`Path.unlink` that is interrupted before the n-th file of case `a`, and from then on."""
    unlink, calls = Path.unlink, 0

    def die(self: Path, missing_ok: bool = False) -> None:
        nonlocal calls
        if self.relative_to(out).as_posix() in files_of("a"):
            calls += 1
            if calls > number:
                raise KeyboardInterrupt
        unlink(self, missing_ok)

    return die


def test_another_image_leaves_no_probabilities_of_the_first(made: PreparedModel, images: Path) -> None:
    predict(made, images)
    before = table(images.parent / "out")["a"]
    write_case(KIND, images, "a", seed=7)
    assert predict(made, images, with_probabilities=False).predicted == 1
    out = images.parent / "out"
    assert left_of(out, "a") == [name for name in files_of("a") if not name.startswith("probabilities")]
    assert table(out)["a"]["score"] != before["score"]
    # a map of the same image that is made again is none of another image
    (out / "confidence" / "b_confidence.nii.gz").unlink()
    assert predict(made, images, with_probabilities=False).predicted == 1
    assert left_of(out, "b") == files_of("b")
    spoil(images, "b")
    predict(made, images)
    assert left_of(out, "b") == []


@pytest.mark.parametrize("case", ["../../a", "../a", "sub/a"])
def test_records_lead_nowhere_else(made: PreparedModel, images: Path, case: str) -> None:
    """Those of a folder from elsewhere: no file outside is removed, whatever they say."""
    predict(made, images)
    out = images.parent / "out"
    outside = out / f"{case}.nii.gz"
    outside.parent.mkdir(exist_ok=True)
    outside.write_bytes((out / "a.nii.gz").read_bytes())
    record = json.loads((out / "nnssl_predict" / "cases" / "a.json").read_text())
    record["row"]["case"], record["files"][f"{case}.nii.gz"] = case, record["files"]["a.nii.gz"]
    for place in ("a", case):
        path = out / "nnssl_predict" / "cases" / f"{place}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record))
    output = OutputFolder(out, made.setup)
    output.failures.folder.mkdir(exist_ok=True)
    planted = json.dumps({"case": case, "reason": "planted", "images": "x"})
    for name in ("planted", output.failures._file(case).stem):
        (output.failures.folder / f"{name}.json").write_text(planted)
    predict(made, images)
    assert outside.is_file()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"stamp": [], "row": {"case": "a"}}',
        '{"stamp": [], "row": 3, "files": {}}',
        '{"case": "c", "reason": 3, "images": "x"}',
        r'{"case": "\ud800", "reason": "", "images": ""}',
    ],
)
def test_damaged_records_are_none(made: PreparedModel, images: Path, content: str) -> None:
    predict(made, images)
    out = images.parent / "out"
    (out / "nnssl_predict" / "cases" / "a.json").write_text(content)
    (out / "nnssl_predict" / "failed").mkdir()
    (out / "nnssl_predict" / "failed" / "c.json").write_text(content)
    done = predict(made, images)
    assert (done.predicted, sorted(table(out))) == (1, ["a", "b"])
