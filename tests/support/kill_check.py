"""Kills `nnssl_run` and `nnssl_report`, with all they started, at seeded moments, and compares the end with an undisturbed run's.

    python kill_check.py FOLDER --kills 60 --seed 0

FOLDER is made, with the set-up of `tiny_setup`; fold 0 has four validation cases, so that held-out cases calibrate. Every attempt is a
forked process with a group of its own, so that PyTorch is imported once; trainings are forked likewise. A quarter of the kills come at
moments of time. The moments of the others are drawn from the events of an undisturbed run, spread evenly over its kinds of steps, since
moments of time alone hit the same long steps again and again. Up to five kills hit one run, one after another, before it is left to end.
One line of JSON a run tells what was found; the last one sums up.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from moments import Moment, watch
from tiny_setup import (
    CONFIGURATION,
    DATASET,
    LABELLED,
    OUR_TEACHER,
    OVERLAY,
    PLANS,
    environment,
    folders,
    plan_and_preprocess,
    write_raw,
    write_unlabelled,
)

KILLS_PER_RUN = 5
TIMED_SHARE = 0.25
"""Share of the kills that come at moments of time."""
PATCH = [20, 24, 24]
"""One window holds an image, which saves time."""
COMMON = ["-d", "137", "-c", CONFIGURATION, "-f", "0"]
_TIMES = ("epoch_start_timestamps", "epoch_end_timestamps", "seconds")


@dataclass
class Attempt:
    """One process from its start to its end."""

    code: int
    """Exit code; negative for a signal."""
    seconds: float
    entries: list[dict[str, Any]] = field(default_factory=list)
    """Its journal."""
    again: list[str] = field(default_factory=list)
    """Work that stood on disk before, and was begun all the same."""

    @property
    def moments(self) -> list[tuple[str, str, int]]:
        return [tuple(entry["moment"]) for entry in self.entries if "moment" in entry]


def build(folder: Path) -> None:
    """The set-up before `nnssl_run`: planned and preprocessed by nnU-Net, without a pool."""
    project = folders(folder)
    write_raw(project.raw)
    write_unlabelled(project.unlabelled)
    with environment(project):
        plan_and_preprocess(project)
    plans = project.preprocessed / DATASET / "nnUNetPlans.json"
    content = json.loads(plans.read_text())
    content["configurations"][CONFIGURATION]["patch_size"] = PATCH
    plans.write_text(json.dumps(content))
    splits = project.preprocessed / DATASET / "splits_final.json"
    split = {"train": LABELLED[4:], "val": LABELLED[:4]}
    splits.write_text(json.dumps([split, *json.loads(splits.read_text())[1:]]))
    (folder / "tiny.json").write_text(json.dumps(OVERLAY))


class Bench:
    """The place where runs happen, always the same one, since files name their absolute paths."""

    def __init__(self, folder: Path) -> None:
        self.pristine, self.root, self.journal = folder / "pristine", folder / "work", folder / "journal"
        names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        os.environ.update({name: str(self.root / name) for name in names})
        os.environ.update({"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "nnUNet_compile": "0"})

    def clear(self) -> None:
        """Put everything back to where a run begins."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.pristine, self.root)

    def attempt(self, deadly: Moment | None = None, *, seconds: float | None = None) -> Attempt:
        """Give the commands once.

        Args:
            deadly: moment at which the process kills its group.
            seconds: time after which it is killed from outside.
        """
        self.journal.unlink(missing_ok=True)
        before, begun = standing(self.root), time.monotonic()
        child = os.fork()
        if child == 0:
            os.setsid()
            self._run(deadly)
        code = _wait(child, begun, seconds)
        _reap(child)
        lines = self.journal.read_text().splitlines() if self.journal.is_file() else []
        entries = [json.loads(line) for line in lines]
        again = [entry["begin"] for entry in entries if entry.get("begin") in before]
        return Attempt(code, time.monotonic() - begun, entries, again)

    def _run(self, deadly: Moment | None) -> None:
        code = 70
        try:
            output = os.open(self.journal.with_name("output"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            watch(self.root, self.journal, deadly)
            from nnunet_ssl.cli import report, run

            flags = ["-u", str(self.root / "unlabelled"), "--preset", str(self.root / "tiny.json"), "-device", "cpu", "-np", "1"]
            code = run.main([*COMMON, *flags, "--confidence", "calibrated"]) or report.main([*COMMON, "-p", PLANS])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _wait(child: int, begun: float, seconds: float | None) -> int:
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if seconds is not None and time.monotonic() - begun >= seconds:
            os.killpg(child, signal.SIGKILL)
            seconds = None
        time.sleep(0.002)


def _reap(group: int) -> None:
    """Wait until nothing of a process group is left; this process adopts its orphans where the kernel lets it (`adopt_orphans`)."""
    for _ in range(2000):
        try:
            os.waitpid(-group, 0)
        except ChildProcessError:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            time.sleep(0.002)
    raise RuntimeError(f"processes of group {group} are still there.")


def adopt_orphans() -> None:
    """Let orphans become children of this process, so that a killed run is known to have ended with all that it started (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


# ---- what stands on disk


def standing(root: Path) -> set[str]:
    """Work that is done for good, named as `moments` names it when it begins."""
    import torch

    done: set[str] = set()
    preprocessed, results = root / "nnUNet_preprocessed", root / "nnUNet_results"
    for file in (preprocessed / DATASET).glob("*__pool_*.progress/[!.]*.json"):
        done.add(f"preprocess {file.stem}")
    for file in (preprocessed / DATASET).glob("*__pool_*.json"):
        done |= {f"preprocess {case}" for case in json.loads(file.read_text())["cases"]}
    for file in results.glob("*/*/fold_0/nnssl/evidence/*/*.b2nd"):
        if not file.name.startswith("."):
            done.add(f"sweep {file.parent.name} {file.stem}")
    for file in results.glob("*/*/fold_0/checkpoint_*.pth"):
        if file.name != "checkpoint_best.pth":
            # `checkpoint_final` and the marker of what is published name the labelled dataset, whose own training is the teacher's
            dataset = file.parts[-4] if OUR_TEACHER in file.parts[-3] or file.parts[-4] != DATASET else ""
            epochs = torch.load(file, weights_only=False)["current_epoch"] if dataset else 0
            done |= {f"epoch {dataset} {epoch}" for epoch in range(epochs)}
    for file in results.glob("*/*/fold_0/validation/summary.json"):
        if _is_json(file) and (OUR_TEACHER in file.parts[-4] or file.parts[-5] != DATASET):
            done.add(f"validate {file.parts[-5]}")
    for folder in preprocessed.glob("Dataset6*"):
        if (root / "nnUNet_raw" / folder.name).is_dir():
            done.add(f"write {folder.name}")
    manifest = results / DATASET / f"{OUR_TEACHER}__{PLANS}__{CONFIGURATION}" / "fold_0" / "nnssl" / "manifest.json"
    if manifest.is_file() and json.loads(manifest.read_text())["published"]:
        done.add("publish")
    return done


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text())
    except ValueError:
        return False
    return True


def contents(root: Path) -> dict[str, str]:
    """Every file and folder with a digest of what is in it, and with its number of links; what holds times is compared without them.

    Logs, which a continued training has two of, are left out.
    """
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_dir():
            found[name] = "folder"
        elif not re.search(r"training_log_.*\.txt$|/logs/.*\.txt$", name):
            found[name] = f"{_digest(path)} {path.stat().st_nlink} links"
    return found


def _digest(path: Path) -> str:
    if path.name in ("debug.json", "report.html", "stages.csv", "epochs.csv") or path.suffix == ".png":
        return "there"
    if path.parent.name.endswith("__nnssl_fingerprints"):
        return json.loads(path.read_text())["fingerprint"]  # beside it stands when the image was written
    if re.search(r"/nnUNetPlans_[^/]*/[a-z]+_\d\.b2nd$", str(path)):
        import blosc2  # nnU-Net compresses images by several threads, whose blocks lie in any order

        return hashlib.sha256(blosc2.open(str(path), mode="r")[:].tobytes()).hexdigest()
    if path.suffix == ".pth":
        import torch

        return hashlib.sha256(_canonical(torch.load(path, weights_only=False)).encode()).hexdigest()
    if path.name == "manifest.json":
        return hashlib.sha256(_canonical(json.loads(path.read_text())).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _canonical(value: Any) -> str:
    """Text of nested content, without times; tensors by their bytes."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{_canonical(v)}" for k, v in value.items() if k not in _TIMES) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if hasattr(value, "numpy"):
        value = value.cpu().numpy()
    if hasattr(value, "tobytes") and getattr(value, "ndim", 0):
        return hashlib.sha256(value.tobytes()).hexdigest()
    return repr(float(value)) if hasattr(value, "tobytes") or isinstance(value, float) else repr(value)


# ---- what is drawn


def kind_of(step: str) -> str:
    """Kind of a step: its name without stage and dataset; teacher and student train in steps of their own."""
    if step.startswith("train"):
        return "train the teacher" if OUR_TEACHER in step else "train a student"
    return re.sub(r" (\d.*|Dataset.*)$", "", step)


def draw(moments: Sequence[tuple[str, str, int]], count: int, rng: random.Random) -> list[Moment]:
    """Moments of an undisturbed run, the kinds of steps in turn, each with any of its events, in the order in which they come."""
    of_kind: dict[str, dict[str, list[tuple[str, str, int]]]] = defaultdict(lambda: defaultdict(list))
    for moment in moments:
        of_kind[kind_of(moment[0])][moment[1]].append(moment)
    kinds = list(of_kind)
    turns = [kind for _ in range(-(-count // len(kinds))) for kind in rng.sample(kinds, len(kinds))][:count]
    drawn: list[Moment] = []
    for kind in turns:
        event = rng.choice(sorted(of_kind[kind]))
        how = rng.choice({"open": ["before", "empty"], "rename": ["before", "half"]}.get(event, ["before"]))
        drawn.append(Moment(*rng.choice(of_kind[kind][event]), how))
    return drawn


def in_runs(drawn: Sequence[Moment], moments: Sequence[tuple[str, str, int]]) -> list[list[Moment]]:
    """The moments in groups that one run can meet: each in a later step than the one before, which no attempt has seen."""
    order = {step: place for place, step in enumerate(dict.fromkeys(step for step, _, _ in moments))}
    runs: list[list[Moment]] = []
    for moment in sorted(drawn, key=lambda m: order[m.step]):
        fitting = [r for r in runs if len(r) < KILLS_PER_RUN and order[r[-1].step] < order[moment.step]]
        (min(fitting, key=len) if fitting else runs.append([]) or runs[-1]).append(moment)  # type: ignore[func-returns-value]
    return runs


# ---- the check


def check_run(bench: Bench, kills: Sequence[Moment | float], expected: dict[str, str]) -> dict[str, Any]:
    """Kill a run at moments, or after times, let it end, and say what is not as it should be."""
    bench.clear()
    made, problems, again = [], [], []
    for kill in [*kills, None]:
        timed = isinstance(kill, float)
        found = bench.attempt(None if timed else kill, seconds=kill if timed else None)  # type: ignore[arg-type]
        again += found.again
        if kill is not None and found.code == -signal.SIGKILL:
            last = next((e["moment"] for e in reversed(found.entries) if "moment" in e), None)
            made.append({"after": found.seconds, "last": last} if timed else asdict(kill))  # type: ignore[call-overload]
        elif kill is not None and not timed:
            problems.append(f"{kill} was never reached (exit code {found.code})")
        if kill is None and found.code != 0:
            problems.append(f"the last attempt ended with exit code {found.code}")
    now = contents(bench.root)
    differences = sorted(name for name in expected.keys() | now.keys() if expected.get(name) != now.get(name))
    return {"kills": made, "problems": problems, "done_twice": sorted(set(again)), "differences": differences}


def is_good(result: dict[str, Any]) -> bool:
    return not (result["problems"] or result["done_twice"] or result["differences"])


def imports() -> None:
    """Import all that attempts need, in a process without threads, so that it can be forked."""
    import blosc2
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(1)
    torch.set_num_threads = lambda number: None
    blosc2.set_nthreads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    from multiprocessing.pool import ThreadPool

    import nnunetv2.run.run_training
    import nnunetv2.utilities.utils
    from forked_training import ForkedTraining

    from nnunet_ssl.nnunet_api import checkpoints
    from nnunet_ssl.nnunet_api.external_trainers import find_trainer
    from nnunet_ssl.run import training_process

    training_process.subprocess = SimpleNamespace(Popen=ForkedTraining, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)  # type: ignore[assignment]
    nnunetv2.utilities.utils.Pool = ThreadPool  # nnU-Net forks processes to list a folder
    find_trainer(OUR_TEACHER)  # nnU-Net imports every trainer that it has
    # a checkpoint holds times, and the name that it was written under; evidence carries a digest of it, which here is of its weights
    by_bytes = checkpoints._fingerprint
    checkpoints._fingerprint = lambda path, *state: _weights(path) if path.suffix == ".pth" else by_bytes(path, *state)  # type: ignore[assignment]


def _weights(path: Path) -> str:
    import torch

    return hashlib.sha256(_canonical(torch.load(path, weights_only=False)["network_weights"]).encode()).hexdigest()[:12]


def main() -> int:
    """Draw, kill, compare, and sum up."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timed", type=int, help="how many of them come at moments of time (default: a quarter)")
    parser.add_argument("--build", action="store_true", help="only make the set-up that every run starts from, in FOLDER")
    given = parser.parse_args()
    if given.build:
        build(given.folder)
        return 0
    adopt_orphans()
    # in a process of its own: threads that SimpleITK and Blosc2 leave behind would not survive in the forks of this one
    subprocess.run([sys.executable, __file__, str(given.folder / "pristine"), "--build"], check=True)
    bench, rng, begun = Bench(given.folder.absolute()), random.Random(given.seed), time.monotonic()
    imports()
    bench.clear()
    undisturbed = bench.attempt()
    if undisturbed.code != 0:
        raise RuntimeError(f"the undisturbed run ended with exit code {undisturbed.code}; see {bench.journal.with_name('output')}")
    expected = contents(bench.root)
    timed = round(given.kills * TIMED_SHARE) if given.timed is None else given.timed
    runs: list[list[Any]] = [*in_runs(draw(undisturbed.moments, given.kills - timed, rng), undisturbed.moments)]
    results: list[dict[str, Any]] = []

    def say(result: dict[str, Any]) -> None:
        results.append(result)
        print(json.dumps({"good": is_good(result), **result}), flush=True)

    for run in runs:
        say(check_run(bench, run, expected))
    while timed > 0:
        ends = sorted(rng.uniform(0, undisturbed.seconds) for _ in range(min(timed, KILLS_PER_RUN)))
        say(check_run(bench, [b - a for a, b in zip([0.0, *ends[:-1]], ends, strict=True)], expected))
        timed -= max(1, len(results[-1]["kills"]))
    kills = [kill for result in results for kill in result["kills"]]
    summary = {
        "kills": len(kills),
        "runs": len(results),
        "good": sum(map(is_good, results)),
        "kinds": sorted({kind_of(kill["step"]) for kill in kills if "step" in kill}),
        "seconds_undisturbed": round(undisturbed.seconds, 1),
        "seconds": round(time.monotonic() - begun),
    }
    print(json.dumps(summary), flush=True)
    return 0 if summary["good"] == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
