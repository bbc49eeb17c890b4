"""The queue: order, what is done and what failed, lanes side by side, and lanes that are stopped or killed."""

from __future__ import annotations

import csv
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from job_queue import Job, JobQueue, State, drain
from job_times import append_row, git_commit, total_seconds

FOLDER = Path(__file__).parent


def job(out: Path, name: str, script: str = "true", *, needs: tuple[str, ...] = (), checkpoints: Path | None = None) -> Job:
    """A shell script that notes its name and its further arguments in `order`, then makes a file of its name."""
    line = f'{script} && echo "$0 $*" >> order && touch {name}'
    return Job(
        name=name,
        command=("sh", "-c", f"cd '{out}' && {line}", name),
        makes=(out / name,),
        needs=needs,
        checkpoints=checkpoints,
    )


def order(out: Path) -> list[str]:
    return [line.strip() for line in (out / "order").read_text().splitlines()]


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "job_times.csv").open() as file:
        return list(csv.DictReader(file))


def states(jobs: list[Job], out: Path) -> dict[str, State]:
    return JobQueue(jobs, out).states(since=0)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.02)


def runs(process: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def heed_signals() -> None:
    """Let no signal be ignored."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def lane(out: Path, jobs: str, *, grace: float = 30) -> Iterator[subprocess.Popen[bytes]]:
    """A process that drains `jobs`, an expression; killed at the end if it is still there."""
    lines = [
        "import sys",
        "from pathlib import Path",
        "from test_job_queue import job",
        "from job_queue import Job, drain",
        f"out = Path({str(out)!r})",
        f"sys.exit(drain({jobs}, out, poll_seconds=0.05, grace_seconds={grace}).exit_code)",
    ]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER)}
    # a shell's background processes and `nohup` hand ignored signals down, which a lane leaves ignored
    process = subprocess.Popen([sys.executable, "-c", "\n".join(lines)], env=environment, preexec_fn=heed_signals)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_jobs_run_in_order_after_what_they_need_and_only_once(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "train"), job(tmp_path, "other"), job(tmp_path, "predict", needs=("train",))]
    assert states(jobs, tmp_path) == {"train": "ready", "other": "ready", "predict": "waiting"}
    for _ in range(2):
        drained = drain(jobs, tmp_path)
        assert (drained.exit_code, set(drained.states.values())) == (0, {"done"})
    assert order(tmp_path) == ["train", "other", "predict"]
    assert [row["job"] for row in rows(tmp_path)] == ["train", "other", "predict"]


def test_what_is_asked_before_every_job_can_end_a_lane(tmp_path: Path) -> None:
    asked: list[int] = []

    def stop_at_the_second() -> None:
        asked.append(1)
        if len(asked) == 2:
            sys.exit("not as in the frozen commit")

    jobs = [job(tmp_path, "train"), job(tmp_path, "predict", needs=("train",))]
    with pytest.raises(SystemExit, match="not as in the frozen commit"):
        drain(jobs, tmp_path, before_each=stop_at_the_second)
    assert order(tmp_path) == ["train"]


def test_what_is_there_already_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "train").touch()
    drain([job(tmp_path, "train"), job(tmp_path, "predict", needs=("train",))], tmp_path)
    assert order(tmp_path) == ["predict"]


def test_a_row_tells_time_cores_and_commit(tmp_path: Path) -> None:
    begun = time.time()
    drain([job(tmp_path, "train", "sleep 0.3")], tmp_path)
    (row,) = rows(tmp_path)
    assert list(row) == ["job", "start", "seconds", "ended", "host_cores", "lane_cores", "commit"]
    assert 0.3 <= float(row["seconds"]) <= time.time() - begun + 0.1
    assert (row["ended"], row["host_cores"], row["lane_cores"]) == ("done", str(os.cpu_count()), str(len(os.sched_getaffinity(0))))
    assert row["commit"] == git_commit()


def test_output_goes_to_the_log_and_the_environment_to_the_command(tmp_path: Path) -> None:
    made = tmp_path / "made"
    drain(
        [Job(name="say", command=("sh", "-c", f"echo $WORD; echo oh >&2; touch {made}"), makes=(made,), environment={"WORD": "hello"})],
        tmp_path,
    )
    assert (tmp_path / "queue" / "say.log").read_text().splitlines()[1:] == ["hello", "oh"]


def test_a_training_with_a_checkpoint_is_continued(tmp_path: Path) -> None:
    folder = tmp_path / "fold_all"
    jobs = [job(tmp_path, "train", checkpoints=folder)]
    assert jobs[0].command_now() == list(jobs[0].command)
    folder.mkdir()
    (folder / "checkpoint_latest.pth").touch()
    drain(jobs, tmp_path)
    assert order(tmp_path) == ["train --c"]


def test_a_failure_blocks_only_what_needs_it_and_is_tried_again_by_the_next_lane(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "bad", "test -e cure"), job(tmp_path, "after", needs=("bad",)), job(tmp_path, "good")]
    drained = drain(jobs, tmp_path)
    assert drained.exit_code == 1
    assert drained.states == {"bad": "failed", "after": "blocked", "good": "done"}
    (tmp_path / "cure").touch()
    assert drain(jobs, tmp_path).exit_code == 0
    assert order(tmp_path) == ["good", "bad", "after"]
    assert [(row["job"], row["ended"]) for row in rows(tmp_path)] == [
        *(("bad", "failed"), ("good", "done")),
        *(("bad", "done"), ("after", "done")),
    ]


@pytest.mark.parametrize("command", [("true",), ("no-such-command",)])
def test_success_without_its_file_and_a_missing_command_are_failures(tmp_path: Path, command: tuple[str, ...]) -> None:
    jobs = [Job(name="empty", command=command, makes=(tmp_path / "never",))]
    assert drain(jobs, tmp_path).states == {"empty": "failed"}
    assert "never" in (tmp_path / "queue" / "empty.failed").read_text()


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([("a", ()), ("a", ())], "names must differ"),
        ([("a/b", ())], "names must differ"),
        ([("a", ("b",)), ("b", ())], "needs \\['b'\\], which must stand before"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, jobs: list[tuple[str, tuple[str, ...]]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JobQueue([Job(name=name, command=("true",), makes=(tmp_path,), needs=needs) for name, needs in jobs], tmp_path)


def test_a_job_by_which_nothing_is_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="makes no file"):
        JobQueue([Job(name="a", command=("true",), makes=())], tmp_path)


def test_a_claim_excludes_others_until_it_is_given_back(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "train"), job(tmp_path, "predict", needs=("train",))]
    mine, theirs = JobQueue(jobs, tmp_path), JobQueue(jobs, tmp_path)
    with mine.claimed(jobs[0]) as claim:
        assert claim is not None
        assert (tmp_path / "queue" / "train.claim").read_text() == f"{os.getpid()}\n"
        # even when its file is there: nnU-Net still validates after the final checkpoint
        (tmp_path / "train").touch()
        assert theirs.states(since=0) == {"train": "running", "predict": "waiting"}
        with theirs.claimed(jobs[0]) as second:
            assert second is None
    assert theirs.states(since=0) == {"train": "done", "predict": "ready"}


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "queue").mkdir()
    (tmp_path / "queue" / "train.claim").write_text(f"{dead.pid}\n")
    assert drain([job(tmp_path, "train")], tmp_path).states == {"train": "done"}
    assert (tmp_path / "queue" / "train.claim").read_text() == f"{os.getpid()}\n"


def test_what_another_lane_has_done_in_the_meantime_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = JobQueue.states

    def states_then_a_rival(queue: JobQueue, *, since: float) -> dict[str, State]:
        found = read(queue, since=since)
        (tmp_path / "train").touch()
        return found

    monkeypatch.setattr(JobQueue, "states", states_then_a_rival)
    assert drain([job(tmp_path, "train")], tmp_path, poll_seconds=0.01).states == {"train": "done"}
    assert not (tmp_path / "order").exists()


def test_a_lane_waits_for_what_another_one_is_working_on(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "train"), job(tmp_path, "first"), job(tmp_path, "predict", needs=("train",))]
    source = """[job(out, "train"), job(out, "first"), job(out, "predict", needs=("train",))]"""
    with JobQueue(jobs, tmp_path).claimed(jobs[0]) as claim, lane(tmp_path, source) as process:
        assert claim is not None
        wait_for((tmp_path / "job_times.csv").exists)
        time.sleep(0.3)
        assert process.poll() is None
        (tmp_path / "train").touch()
        fcntl.flock(claim, fcntl.LOCK_UN)
        assert process.wait(60) == 0
    assert order(tmp_path) == ["first", "predict"]


def test_lanes_share_the_work_and_wait_for_each_other(tmp_path: Path) -> None:
    jobs = """[*(job(out, f"train_{i}", "sleep 0.2") for i in range(6)), job(out, "table", needs=tuple(f"train_{i}" for i in range(6)))]"""
    with lane(tmp_path, jobs) as one, lane(tmp_path, jobs) as two, lane(tmp_path, jobs) as three:
        assert [process.wait(120) for process in (one, two, three)] == [0, 0, 0]
    assert sorted(order(tmp_path)) == ["table", *(f"train_{i}" for i in range(6))]
    assert order(tmp_path)[-1] == "table"
    assert sorted(row["job"] for row in rows(tmp_path)) == sorted(order(tmp_path))


SLEEPER = """[
    job(out, "train", "echo $$ > leader && (sleep 90 & echo $! > follower; wait) && false", checkpoints=out / "fold"),
    job(out, "later"),
]"""
"""A training that has started a process of its own."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_lane_stops_all_that_it_has_started_and_begins_nothing_new(tmp_path: Path, number: signal.Signals) -> None:
    with lane(tmp_path, SLEEPER) as process:
        wait_for(lambda: (tmp_path / "follower").exists() and (tmp_path / "follower").read_text().endswith("\n"))
        started = [int((tmp_path / name).read_text()) for name in ("leader", "follower")]
        assert all(map(runs, started))
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    wait_for(lambda: not any(map(runs, started)))
    assert [(row["job"], row["ended"]) for row in rows(tmp_path)] == [("train", "stopped")]
    # next time it goes on, and nothing says that it has failed
    (tmp_path / "fold").mkdir()
    (tmp_path / "fold" / "checkpoint_latest.pth").touch()
    jobs = [job(tmp_path, "train", checkpoints=tmp_path / "fold"), job(tmp_path, "later")]
    assert states(jobs, tmp_path) == {"train": "ready", "later": "ready"}
    assert drain(jobs, tmp_path).exit_code == 0
    assert order(tmp_path) == ["train --c", "later"]


def test_a_command_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    stubborn = """[job(out, "train", "trap '' TERM && echo $$ > leader && for i in $(seq 600); do sleep 0.1; done")]"""
    with lane(tmp_path, stubborn, grace=0.2) as process:
        wait_for(lambda: (tmp_path / "leader").exists() and (tmp_path / "leader").read_text().endswith("\n"))
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not runs(int((tmp_path / "leader").read_text()))


def test_a_training_that_outlives_its_killed_lane_keeps_its_claim(tmp_path: Path) -> None:
    jobs = """[Job(name="train", command=("sleep", "90"), makes=(out / "train",))]"""
    mine = [job(tmp_path, "train")]
    with lane(tmp_path, jobs) as process:
        log = tmp_path / "queue" / "train.log"
        wait_for(lambda: log.exists() and child_of(process.pid) is not None)
        training = child_of(process.pid)
        assert training is not None
        process.kill()
        process.wait()
    try:
        assert states(mine, tmp_path) == {"train": "running"}
    finally:
        os.kill(training, signal.SIGKILL)
    wait_for(lambda: states(mine, tmp_path) == {"train": "ready"})


def child_of(process: int) -> int | None:
    """The one command that a lane runs, once it has become that command."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    sleeping = [int(child) for child in found if Path(f"/proc/{child}/comm").read_text() == "sleep\n"]
    return sleeping[0] if sleeping else None


def test_signal_handlers_are_as_before(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    drain([job(tmp_path, "train")], tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_rows_of_one_table_have_the_same_columns(tmp_path: Path) -> None:
    path = tmp_path / "made" / "runs.csv"
    append_row(path, {"draw": 0, "dice": 84.5})
    append_row(path, {"draw": 1, "dice": "a, b"})
    assert path.read_text() == 'draw,dice\n0,84.5\n1,"a, b"\n'
    with pytest.raises(ValueError, match="has the columns"):
        append_row(path, {"draw": 1, "hd95": 2})


def test_time_counts_over_all_attempts(tmp_path: Path) -> None:
    path = tmp_path / "job_times.csv"
    for name, seconds in (("a", 1.5), ("b", 4.0), ("a", 2.0)):
        append_row(path, {"job": name, "seconds": seconds})
    assert total_seconds(path) == {"a": 3.5, "b": 4.0}
