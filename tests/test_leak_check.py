"""No label of a pool case is ever opened, even when it lies beside the image, unless it was given for that: `make leak-check`.

The pool is prepared, evidence gathered, a stage written and the report made in processes of their own, worker processes included, in which
an audit hook ends the process that opens a label. What Python does not see, such as SimpleITK's reader, the kernel reports (inotify, where
there is Linux). Controls prove that both would notice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from file_watch import watching
from given_labels import write_labels, write_predictions
from tiny_setup import CONFIGURATION, PLANS, POOL, Project, label_files, phantom

TESTS = Path(__file__).resolve().parent
LEAKED = 77
"""Exit code of a process that opened a label."""

RUN = f"""
import torch
torch.set_num_threads(1)
torch.set_num_threads = lambda number: None
from nnunet_ssl.cli import prepare, pseudolabel, report

set_up = ["-d", "137", "-c", "{CONFIGURATION}", "-p", "{PLANS}"]
if __name__ == "__main__":
    assert prepare.main([*set_up, "-u", UNLABELLED, "-np", "2"]) == 0
    assert pseudolabel.main([*set_up, "-f", "0", "-device", "cpu"]) == 0
    assert report.main([*set_up, "-f", "0"]) == 0
"""
"""Everything that reads the pool's images, as a user would type it."""
GIVEN = f"""
import torch
torch.set_num_threads(1)
torch.set_num_threads = lambda number: None
from nnunet_ssl.cli import prepare, pseudolabel, report

run = ["-d", "137", "-c", "{CONFIGURATION}", "-p", "{PLANS}", "-f", "0"]
assert prepare.main([*run[:-2], "-u", UNLABELLED, "-np", "1"]) == 0
assert pseudolabel.main([*run, "-device", "cpu", "--accept", CORRECTED]) == 0
assert report.main(run) == 0
assert pseudolabel.main([*run, "-device", "cpu", "--from-predictions", PREDICTED]) == 0
"""
"""The same where labels come from elsewhere."""


@dataclass(frozen=True)
class Watched:
    """Runs scripts under the hook, and tells which labels were opened meanwhile by whatever means."""

    project: Project
    labels: list[Path]
    run: Callable[[str], subprocess.CompletedProcess[str]]
    opened: Callable[[], set[Path]]


@pytest.fixture
def watched(fresh_project: Project, built_teacher: Path, tmp_path: Path, nnunet_environment: object) -> Iterator[Watched]:
    shutil.copytree(built_teacher, fresh_project.results, dirs_exist_ok=True)
    labels = label_files(fresh_project.unlabelled)
    (tmp_path / "protected.txt").write_text("\n".join(map(str, labels)))
    paths = [TESTS / "support" / "leak_hook", TESTS.parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "NNSSL_PROTECTED": str(tmp_path / "protected.txt")}
    environment["OMP_NUM_THREADS"] = "1"

    def run(source: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "script.py"  # a file, since worker processes import the main module
        places = {"UNLABELLED": fresh_project.unlabelled, "LABEL": labels[0], "CORRECTED": tmp_path / "c", "PREDICTED": tmp_path / "p"}
        script.write_text("".join(f"{name} = {str(place)!r}\n" for name, place in places.items()) + source)
        command = [sys.executable, str(script)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False, start_new_session=True)

    with watching(labels) as opened:
        yield Watched(fresh_project, labels, run, opened)


@pytest.mark.slow
def test_no_label_of_a_pool_case_is_opened(watched: Watched) -> None:
    assert len(watched.labels) == 3 * len(POOL)
    done = watched.run(RUN)
    assert done.returncode == 0, done.stderr
    assert "6 unlabelled cases are ready" in done.stdout
    assert "stage 1: 3 of 6 pool cases in Dataset601_Tiny_f0s1" in done.stdout
    assert "report: " in done.stdout
    assert len(list((watched.project.raw / "Dataset601_Tiny_f0s1" / "labelsTr").iterdir())) == 9
    assert watched.opened() == set()


@pytest.mark.slow
def test_a_label_that_is_accepted_opens_no_other(watched: Watched, tmp_path: Path) -> None:
    """Neither other cases' labels nor those of the same case that lie beside the image; nor the label maps beside predictions."""
    write_labels(tmp_path / "c", {"pool_1": phantom("pool_1")[1]})
    write_predictions(tmp_path / "p")
    predicted = [tmp_path / "p" / f"{case}.nii.gz" for case in POOL]
    write_labels(tmp_path / "p", {case: phantom(case)[1] for case in POOL})
    with (tmp_path / "protected.txt").open("a") as file:
        file.writelines(f"\n{path}" for path in predicted)
    with watching(predicted) as opened:
        done = watched.run(GIVEN)
        assert done.returncode == 0, done.stderr
        assert opened() == set()
    assert watched.opened() == set()
    assert "accepted labels: 1 new, 1 in all" in done.stdout
    assert "stage 1: 2 of 5 pool cases in Dataset601_Tiny_f0s1" in done.stdout
    assert "stage 1: 3 of 6 pool cases in Dataset603_Tiny_f0s1" in done.stdout


# ---- controls


WAYS = {
    "open": "open(LABEL, 'rb')",
    "os": "import os; os.open(LABEL, os.O_RDONLY)",
    "pathlib": "import pathlib; pathlib.Path(LABEL).read_bytes()",
    "nibabel": "import nibabel; nibabel.load(LABEL).get_fdata()",
    "copy": "import shutil; shutil.copyfile(LABEL, UNLABELLED + '/copy')",
    "hard link": "import os; os.link(LABEL, UNLABELLED + '/alias'); open(UNLABELLED + '/alias', 'rb')",
    "symbolic link": "import os; os.symlink(LABEL, UNLABELLED + '/alias'); open(UNLABELLED + '/alias', 'rb')",
    "relative path": "import os; os.chdir(UNLABELLED); open('./' + os.path.relpath(LABEL, UNLABELLED), 'rb')",
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_control_the_hook_fires_when_a_label_is_opened(watched: Watched, way: str) -> None:
    done = watched.run(f"{way}\nprint('went on')")
    assert done.returncode == LEAKED
    assert "a label of a pool case was opened: " in done.stderr
    assert "went on" not in done.stdout


def test_control_the_hook_names_the_file(watched: Watched) -> None:
    assert str(watched.labels[0]) in watched.run("open(LABEL)").stderr


def test_control_the_hook_lets_images_pass(watched: Watched) -> None:
    image = watched.project.unlabelled / f"{POOL[0]}_0000.nii.gz"
    assert watched.run(f"open({str(image)!r}, 'rb').read()\nprint('went on')").stdout == "went on\n"
    assert watched.opened() == set()


def test_control_the_hook_fires_in_worker_processes(watched: Watched) -> None:
    source = """
import multiprocessing

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(open, (LABEL,))
    print("went on")
"""
    done = watched.run(source)
    assert done.returncode != 0
    assert str(watched.labels[0]) in done.stderr
    assert "went on" not in done.stdout


def test_control_the_kernel_sees_what_python_does_not(watched: Watched) -> None:
    done = watched.run("import SimpleITK\nSimpleITK.ReadImage(LABEL)\nprint('went on')")
    assert done.stdout == "went on\n"
    assert watched.opened() == {watched.labels[0]}


@pytest.mark.slow
def test_control_a_pool_that_took_a_label_for_an_image_would_be_caught(watched: Watched) -> None:
    """The very run of the proof, with a defect planted: one label is taken for an image."""
    planted = """
from nnunet_ssl.data import pool_images
sound = pool_images.find_images
pool_images.find_images = lambda *a: (lambda found, bad: ({**found, "pool_0": (LABEL,)}, bad))(*sound(*a))
"""
    done = watched.run(planted + RUN)
    assert done.returncode != 0
    assert str(watched.labels[0]) in done.stderr
    # the hook ends the process before the file is opened, so that the kernel has nothing to report
    assert "a label of a pool case was opened: " in done.stderr
