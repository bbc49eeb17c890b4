"""`nnssl_demo` without its trainings: stock commands, what counts as done, the command line."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from nnunet_ssl.cli.demo import main, parser
from nnunet_ssl.demo import run_demo as demo
from nnunet_ssl.demo import stock_command
from nnunet_ssl.demo.synthetic import DATASET_NAME
from nnunet_ssl.errors import StateError


@pytest.mark.parametrize("name", sorted(stock_command._ENTRIES))
def test_nnunet_has_the_function_behind_each_command(name: str) -> None:
    module, function = stock_command._ENTRIES[name]
    assert callable(getattr(importlib.import_module(module), function))


def test_a_stock_command_that_fails_names_its_last_line_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stock_command._ENTRIES, "nnUNetv2_x", ("json.no_such_module", "main"))
    log = tmp_path / "logs" / "x.txt"
    with pytest.raises(StateError, match=rf"nnUNetv2_x failed: ModuleNotFoundError.*no_such_module.*\(whole output: {log}\)"):
        stock_command.run_stock_command("nnUNetv2_x", "-d", 3, log=log)


def test_a_stock_command_gets_its_arguments_and_our_trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tell.py").write_text("import os, sys\ndef tell():\n    print(sys.argv[1:], os.environ['nnUNet_extTrainer'])\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(stock_command._ENTRIES, "nnUNetv2_x", ("tell", "tell"))
    log = tmp_path / "x.txt"
    stock_command.run_stock_command("nnUNetv2_x", "-d", 3, log=log)
    assert log.read_text().startswith("['-d', '3'] ")
    assert log.read_text().strip().endswith("trainers")


def test_last_line(tmp_path: Path) -> None:
    log = tmp_path / "x.txt"
    log.write_text("a\n b \n\n")
    assert stock_command.last_line(log) == "b"
    log.write_text("")
    assert stock_command.last_line(log) == ""


def test_a_prediction_is_done_unless_its_model_is_newer(tmp_path: Path) -> None:
    product, source = tmp_path / "summary.json", tmp_path / "checkpoint_final.pth"
    is_done = demo.is_newer(product, source)
    assert not is_done()
    for path, time in ((source, 10), (product, 20)):
        path.touch()
        os.utime(path, (time, time))
    assert is_done()
    os.utime(source, (30, 30))
    assert not is_done()


def test_preprocessing_is_done_when_every_case_is_whole(nnunet_environment: Any) -> None:
    folder = nnunet_environment.preprocessed / DATASET_NAME
    cases = folder / "nnUNetPlans_3d_fullres"
    cases.mkdir(parents=True)
    (folder / "nnUNetPlans.json").touch()
    for index in range(demo.LABELLED):
        assert not demo.is_preprocessed()
        (cases / f"case_{index}.pkl").touch()
    assert demo.is_preprocessed()


def test_command_line() -> None:
    assert vars(parser().parse_args([])) == {"o": Path("nnssl_demo"), "seed": 0, "device": "cpu", "skip_report": False}
    assert parser().parse_args(["--device", "cuda"]).device == "cuda"
    assert parser().parse_args(["-device", "cuda", "--skip-report"]).skip_report is True


def test_command_prints_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[demo.DemoRequest] = []

    def run(request: demo.DemoRequest) -> demo.DemoResult:
        seen.append(request)
        return demo.DemoResult(true_dice="the table", true_dice_file=tmp_path / "true_dice.csv", page=None)

    monkeypatch.setattr(demo, "run_demo", run)
    monkeypatch.setattr("nnunet_ssl.cli.demo.use_device", lambda name: name)
    assert main(["-o", str(tmp_path), "--seed", "3", "--skip-report"]) == 0
    assert seen == [demo.DemoRequest(folder=tmp_path, seed=3, device="cpu", with_report=False)]
    lines = capsys.readouterr().out.splitlines()
    assert "the table" in lines
    assert not any(line.startswith("report:") for line in lines)
    assert lines[-1].startswith("next, on data of your own: nnssl_run ")


def test_another_seed_in_the_same_folder_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "LABELLED", 1)
    monkeypatch.setattr(demo, "POOL", 0)
    monkeypatch.setattr(demo, "TEST", 0)
    monkeypatch.setattr("nnunet_ssl.cli.demo.use_device", lambda name: name)
    demo.write_synthetic_dataset(tmp_path, labelled=1, pool=0, test=0, seed=0)
    assert main(["-o", str(tmp_path), "--seed", "1"]) == 2
    assert capsys.readouterr().err.startswith("nnssl_demo: error: ")
