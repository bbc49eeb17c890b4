"""What every command shares: exit codes, one-line errors, where messages go; and `nnssl_trainers`, the smallest command."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from nnunet_ssl.cli.command import command, run_command
from nnunet_ssl.cli.trainers import main as trainers_main
from nnunet_ssl.errors import InputError, NnsslError


def failing(error: BaseException) -> int:
    def body() -> None:
        raise error

    return run_command("nnssl_x", body)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_exit_code_is_the_bodys_own(returned: int | None, code: int) -> None:
    assert run_command("nnssl_x", lambda: returned) == code


@pytest.mark.parametrize("error", [NnsslError("no pool at /x;\n  give one with -u."), InputError("no pool at /x; give one with -u.")])
def test_expected_error_is_one_line_and_code_2(error: NnsslError, capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(error) == 2
    assert capsys.readouterr() == ("", "nnssl_x: error: no pool at /x; give one with -u.\n")


def test_a_full_gpu_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.18 GiB is free."
    assert failing(torch.OutOfMemoryError(said)) == 2
    err = capsys.readouterr().err
    assert err.startswith("nnssl_x: error: the GPU has too little memory (CUDA out of memory); end what else runs on that GPU, or use")
    assert err.count("\n") == 1
    with pytest.raises(RuntimeError, match="of ours"):
        failing(RuntimeError("a defect of ours"))


def test_interrupt_is_one_line_and_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(KeyboardInterrupt()) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nnssl_x: interrupted")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("how", ["print('line')", "logging.getLogger('nnunet_ssl.x').info('line')"])
def test_output_that_nobody_reads_ends_the_command_quietly(how: str) -> None:
    """As `nnssl_x | head -1`: the reader goes while the command still writes."""
    body = f"import logging\ndef body():\n    while True:\n        {how}"
    code = f"{body}\nfrom nnunet_ssl.cli.command import run_command\nraise SystemExit(run_command('nnssl_x', body))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_broken_pipe_of_our_own_is_a_defect() -> None:
    code = "def body():\n    raise BrokenPipeError(32, 'a worker has gone')\n"
    code += "from nnunet_ssl.cli.command import run_command\nrun_command('nnssl_x', body)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "BrokenPipeError: [Errno 32] a worker has gone" in done.stderr


def test_a_defect_keeps_its_traceback_and_leaves_logging_as_it_was() -> None:
    logger = logging.getLogger("nnunet_ssl")
    before = (list(logger.handlers), logger.level)
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())
    assert (list(logger.handlers), logger.level) == before


def test_messages_go_to_stdout_and_warnings_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        logger = logging.getLogger("nnunet_ssl.data.pool")
        logger.debug("hidden")
        logger.info("12 cases")
        logger.warning("case a is empty")

    run_command("nnssl_x", body)
    assert capsys.readouterr() == ("12 cases\n", "nnssl_x: warning: case a is empty\n")


def test_decorated_main_takes_arguments_and_returns_the_code() -> None:
    seen: list[Sequence[str] | None] = []

    @command("nnssl_x")
    def main(argv: Sequence[str] | None = None) -> None:
        seen.append(argv)

    assert main(["-d", "1"]) == 0
    assert main() == 0
    assert seen == [["-d", "1"], None]


def test_trainers_prints_the_folder_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert trainers_main([]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("\n") == 1
    folder = Path(captured.out.rstrip("\n"))
    assert folder.is_absolute()
    assert folder.name == "trainers"
    assert folder.is_dir()


def test_trainers_refuses_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        trainers_main(["-d", "137"])
    assert stop.value.code == 2
    assert "-d" in capsys.readouterr().err
