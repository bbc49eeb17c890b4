"""Where nnU-Net looks for the spacing of a TIFF file, which has none of its own."""

from __future__ import annotations

from pathlib import Path

_TIFF = (".tif", ".tiff")
_CHANNEL = "_0000"


def spacing_of_image(image: str) -> Path | None:
    """`<case>.json` beside the TIFF image `<case>_0000.tif`, whether it is there or not; None for other images."""
    path = Path(image)
    return path.with_name(f"{path.stem[: -len(_CHANNEL)]}.json") if path.suffix.lower() in _TIFF else None


def spacing_of_label(label: Path) -> Path | None:
    """`<case>.json` beside the TIFF label `<case>.tif`, whether it is there or not; None for other labels."""
    return label.with_suffix(".json") if label.suffix.lower() in _TIFF else None
