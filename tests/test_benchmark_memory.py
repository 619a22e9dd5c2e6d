"""The memory estimate is within a quarter of what a training takes, shape by shape."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.memory import SHAPES

pytestmark = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["merged, 32 rows", "paper, 32 rows by 4"])
def test_estimate_and_peak(shape: str) -> None:
    assert shape in SHAPES
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", shape],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    ratio = re.search(r"ratio (\d+\.\d+)", done.stdout)
    assert ratio is not None and 0.75 <= float(ratio[1]) <= 1.33, done.stdout
