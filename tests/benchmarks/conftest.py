"""The benchmark's scripts run from this folder and import each other by name; so do their tests."""

from __future__ import annotations

import sys
from pathlib import Path

# at the end: nothing here may hide another module
sys.path.append(str(Path(__file__).parent))
