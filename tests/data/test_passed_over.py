"""Files of the pool's folders that look like images and are not used."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tiny_setup import POOL, Project

from nnunet_ssl.data.passed_over import describe_passed_over, passed_over


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    "missed",
    ["b.nii.gz", "b_0000.nii", "b_0000.nrrd", "b_0001.mha", "b_t1.nii.gz", "site/b_0000.nii.gz", "b_00.nii.gz"],
)
def test_what_might_be_an_image(tmp_path: Path, missed: str) -> None:
    assert passed_over(folder_of(tmp_path, "a_0000.nii.gz", missed), ".nii.gz") == [missed]


@pytest.mark.parametrize(
    "other",
    [
        "a.nii.gz",
        "a_seg.nii.gz",
        "a_0001.nii.gz",
        "a.json",
        "readme.txt",
        "b_0000.json",
        "b_0000.nii.gz.part",
        ".b.nii.gz",
        ".site/b_0000.nii.gz",
        "site/b.nii.gz",
        "site/.b_0000.nii.gz",
        "site/deep/b_0000.nii.gz",
    ],
)
def test_what_is_none(tmp_path: Path, other: str) -> None:
    """Images and their labels, other files, and folders of folders, which are not looked through."""
    assert passed_over(folder_of(tmp_path, "a_0000.nii.gz", other), ".nii.gz") == []


def test_three_are_named(tmp_path: Path) -> None:
    said = describe_passed_over(tmp_path, ".nii.gz", ["a", "b", "c", "d"])
    assert said.startswith(f"{tmp_path} holds 4 more file(s) that look like images and are not used: a, b, c, ...; ")
    assert "a, b; an image" in describe_passed_over(tmp_path, ".nii.gz", ["a", "b"])


def test_preparation_says_so(fresh_project: Project, caplog: pytest.LogCaptureFixture) -> None:
    folder_of(fresh_project.unlabelled, "without\nchannel.nii.gz", "site_b/x_0000.nii.gz")
    with caplog.at_level(logging.WARNING, "nnunet_ssl"):
        assert fresh_project.prepare_pool().case_ids == POOL
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == describe_passed_over(fresh_project.unlabelled, ".nii.gz", ["site_b/x_0000.nii.gz", "without\\nchannel.nii.gz"])
