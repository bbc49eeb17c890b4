"""Every overlay that a how-to shows is one: its keys, settings and values pass the checks of `--preset`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nnunet_ssl.data.overlay import _KEYS, _read_overlay
from nnunet_ssl.errors import ConfigError


def shown(text: str) -> Iterator[dict[str, Any]]:
    """Overlays in JSON blocks, and in running text where they fit on a line."""
    blocks = re.findall(r"^```json\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    for body in [*blocks, *re.findall(r'(?<!`)`(\{".*?\})`(?!`)', text)]:
        content = json.loads(body)
        if isinstance(content, dict) and _KEYS & set(content):
            yield content


def read(overlays: Iterable[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Overlays as `--preset` takes them."""
    found, path = [], folder / "shown.json"
    for overlay in overlays:
        path.write_text(json.dumps(overlay), encoding="utf-8")
        found.append(_read_overlay(str(path))[0])
    return found


def test_overlays_of_the_how_tos_are_read(pages: dict[Path, str], tmp_path: Path) -> None:
    found = {path.name: list(shown(text)) for path, text in pages.items() if path.parent.name == "how-to"}
    assert {name: len(overlays) for name, overlays in found.items() if overlays} == {"brats.md": 1, "choose-settings.md": 2}
    for overlays in found.values():
        assert read(overlays, tmp_path) == overlays


def test_a_wrong_name_is_seen(pages: dict[Path, str], project: Path, tmp_path: Path) -> None:
    text = pages[project / "docs/how-to/choose-settings.md"]
    for right, wrong in (('"fractions"', '"fraction"'), ('{"order"', '{"orders"'), ('"gpu_memory_target"', '"gpu_memory"')):
        assert right in text
        with pytest.raises(ConfigError):
            read(shown(text.replace(right, wrong)), tmp_path)
