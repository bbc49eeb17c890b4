"""Which names of cases can be used, and how a name that cannot be used is shown."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection

LONGEST_BYTES = 150
"""Of a case id. File systems allow 255 bytes; ours are temporary names with host and process, and endings such as `_uncertainty.nii.gz`."""
_CONTROL = ("Cc", "Zl", "Zp")
_LABEL_WORDS = ("seg", "segmentation", "label", "labels", "mask", "gt", "groundtruth", "annotation")


def shown(name: str) -> str:
    """A name that fits into one line and can be printed anywhere."""
    return "".join(c if _is_printable(c) else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def same_name(case: str) -> str:
    """Equal for names that some file systems cannot tell apart: macOS and Windows ignore case and how an accent is stored."""
    return unicodedata.normalize("NFC", case).casefold()


def name_problem(case: str) -> str | None:
    """Why a case id cannot be used, in a clause; None where it can."""
    if any("\ud800" <= c <= "\udfff" for c in case):
        return "its name is not UTF-8"
    if not all(map(_is_printable, case)):
        return "its name has control characters"
    if case.startswith("."):
        return "it is a hidden file (macOS leaves such files beside copies)"
    if (length := len(os.fsencode(case))) > LONGEST_BYTES:
        return f"its name has {length} bytes, more than {LONGEST_BYTES}"
    return None


def labelled_by_name(case: str, cases: Collection[str]) -> str | None:
    """The case whose label a name announces, as `scan_seg` does beside `scan`; None where it is a name like any other."""
    for word in _LABEL_WORDS:
        for separator in "_-.":
            if case.lower().endswith(separator + word) and (other := case[: -len(word) - 1]) in cases:
                return other
    return None


def _is_printable(character: str) -> bool:
    return unicodedata.category(character) not in (*_CONTROL, "Cs")
