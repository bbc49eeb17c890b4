"""The kernel's report of opened files: who opens one is seen, who asks about one is not, and what cannot be watched is an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from file_watch import watching


def test_files_that_another_process_opens_are_seen(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.touch()
    with watching(files) as opened:
        assert files[0].stat().st_size == 0
        assert opened() == set()
        subprocess.run([sys.executable, "-c", f"open({str(files[1])!r})"], check=True)
        assert opened() == {files[1]}
        assert opened() == set()


def test_what_cannot_be_watched_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with pytest.raises(OSError, match="inotify does not watch all of 2 files"), watching([tmp_path / "there", tmp_path / "gone"]):
        pass
