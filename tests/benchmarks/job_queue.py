"""A queue of trainings and evaluations that lives in files: several lanes drain it at once, and any of them can be stopped at any time.

A job is done when the files that it makes are there, so that nothing but the work itself has to be remembered. A lane is a process that
calls `drain` with the same jobs and folder; on two cores, two of them:

    taskset -c 0 python my_benchmark.py --out /data/benchmark &
    taskset -c 1 python my_benchmark.py --out /data/benchmark &

Below `<out>/queue/` each job has a claim (`<job>.claim`, locked by whoever works on it, with the lane's process number), a log and,
after a failure, a note of it. `<out>/job_times.csv` gets a row for every attempt. The operating system gives a dead process's locks back,
so a claim is never stale; the command inherits the lock, so a lane that is killed outright leaves the job claimed until its training has
ended, too. Lanes must share one machine.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from job_process import Stop, run_command, stop_on_signals
from job_times import append_row, attempt_row, git_commit

from nnunet_ssl.data.files import write_json

State = Literal["done", "running", "failed", "blocked", "waiting", "ready"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command, and the files by which it is known to be done."""

    name: str
    """Names files: letters, digits and `_.,=+-`."""
    command: tuple[str, ...]
    makes: tuple[Path, ...]
    """All there means done; name what is written last."""
    needs: tuple[str, ...] = ()
    """Names of jobs that must be done before."""
    checkpoints: Path | None = None
    """nnU-Net's output folder of a training; where it holds a checkpoint, the command goes on with `--c`."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def is_done(self) -> bool:
        """Whether everything is there."""
        return all(path.exists() for path in self.makes)

    def command_now(self) -> list[str]:
        """The command, which continues a training that was stopped."""
        begun = self.checkpoints is not None and any(self.checkpoints.glob("checkpoint_*.pth"))
        return [*self.command, "--c"] if begun else [*self.command]


@dataclass(frozen=True, kw_only=True)
class Drained:
    """How a lane ended."""

    states: Mapping[str, State]
    signal: int | None

    @property
    def exit_code(self) -> int:
        """0 if no job failed, 1 if one did, as shells have it after a signal."""
        if self.signal is not None:
            return 128 + self.signal
        return int("failed" in self.states.values())


class JobQueue:
    """Jobs in order of urgency, and what their files say about them.

    Args:
        jobs: each after those that it needs.
        out: folder of the benchmark.

    Raises:
        ValueError: if a name is used twice or cannot name a file, a job makes nothing, or needs one that does not stand before it.
    """

    def __init__(self, jobs: Sequence[Job], out: Path) -> None:
        known: set[str] = set()
        for job in jobs:
            if not re.fullmatch(r"[\w.,=+-]+", job.name) or job.name in known:
                raise ValueError(f"job {job.name!r}: names must differ and consist of letters, digits and _.,=+-")
            if not job.makes or not job.command:
                raise ValueError(f"job {job.name!r} has no command, or makes no file by which it is known to be done")
            if missing := set(job.needs) - known:
                raise ValueError(f"job {job.name!r} needs {sorted(missing)}, which must stand before it")
            known.add(job.name)
        self.jobs, self.out, self.folder = list(jobs), out, out / "queue"
        self.folder.mkdir(parents=True, exist_ok=True)

    def states(self, *, since: float) -> dict[str, State]:
        """What can be said about every job; failures before `since` (seconds since the epoch) are forgotten, so each lane tries once."""
        states: dict[str, State] = {}
        for job in self.jobs:
            before = {states[name] for name in job.needs}
            # claimed comes before done: nnU-Net goes on for a while after the file that says so
            if self._is_claimed(job):
                states[job.name] = "running"
            elif job.is_done():
                states[job.name] = "done"
            elif self.has_failed(job, since=since):
                states[job.name] = "failed"
            elif before & {"failed", "blocked"}:
                states[job.name] = "blocked"
            else:
                states[job.name] = "ready" if before <= {"done"} else "waiting"
        return states

    @contextmanager
    def claimed(self, job: Job) -> Iterator[int | None]:
        """Hold a job; the locked file's descriptor, or None if another process holds it."""
        descriptor = os.open(self._file(job, "claim"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield descriptor
        finally:
            # closing gives the lock back; the file stays, since removing it would let two processes lock two files of one name
            os.close(descriptor)

    def _is_claimed(self, job: Job) -> bool:
        try:
            descriptor = os.open(self._file(job, "claim"), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def has_failed(self, job: Job, *, since: float) -> bool:
        """Whether the job has failed since then, and has not been begun again."""
        with suppress(FileNotFoundError):
            return bool(json.loads(self._file(job, "failed").read_text())["time"] >= since)
        return False

    def run(self, job: Job, claim: int, stop: Stop, *, grace_seconds: float) -> None:
        """Run a claimed job and write down how it ended."""
        begun, commit = time.time(), git_commit()
        self._file(job, "failed").unlink(missing_ok=True)
        log = self._file(job, "log")
        logger.info("%s  (log: %s)", job.name, log)
        code = run_command(job.command_now(), log=log, environment=job.environment, keep_open=claim, stop=stop, grace_seconds=grace_seconds)
        ended = "done" if code == 0 and job.is_done() else "failed" if stop.signal is None else "stopped"
        if ended == "failed":
            missing = [str(path) for path in job.makes if not path.exists()]
            write_json(self._file(job, "failed"), {"time": time.time(), "exit_code": code, "missing": missing})
            logger.error("%s failed with exit code %d, missing %s; log: %s", job.name, code, missing or "nothing", log)
        append_row(self.out / "job_times.csv", attempt_row(job.name, begun=begun, ended=ended, commit=commit))

    def _file(self, job: Job, kind: str) -> Path:
        return self.folder / f"{job.name}.{kind}"


def drain(
    jobs: Sequence[Job],
    out: Path,
    *,
    poll_seconds: float = 10.0,
    grace_seconds: float = 60.0,
    before_each: Callable[[], None] | None = None,
) -> Drained:
    """Run jobs until nothing is left that this lane could do or wait for, or a signal comes.

    A job that fails does not stop those that do not need it; the next lane that starts tries it again, once. On SIGTERM, SIGINT or SIGHUP
    the command gets SIGTERM, and the lane returns when it has ended; its training goes on from its last checkpoint next time.

    Args:
        jobs: in order of urgency, each after those that it needs.
        out: folder of the benchmark.
        poll_seconds: how often to look again while other lanes work on what this one waits for.
        grace_seconds: how long a stopped command has before it is killed.
        before_each: called before every job; what it raises ends the lane.
    """
    queue, since = JobQueue(jobs, out), time.time()
    with stop_on_signals() as stop:
        while stop.signal is None:
            states = queue.states(since=since)
            ready = [job for job in queue.jobs if states[job.name] == "ready"]
            if not ready and not {"waiting", "running"} <= set(states.values()):
                break
            if before_each is not None and ready:
                before_each()
            if not any(_run_if_free(queue, job, since, stop, grace_seconds) for job in ready):
                stop.sleep(poll_seconds)
        return Drained(states=queue.states(since=since), signal=stop.signal)


def _run_if_free(queue: JobQueue, job: Job, since: float, stop: Stop, grace_seconds: float) -> bool:
    with queue.claimed(job) as claim:
        # another lane may have run it since the states were read
        if claim is None or job.is_done() or queue.has_failed(job, since=since):
            return False
        queue.run(job, claim, stop, grace_seconds=grace_seconds)
        return True
