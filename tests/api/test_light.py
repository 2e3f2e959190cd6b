"""What a server loads before it needs it: memory is paid by every worker."""

from __future__ import annotations

import subprocess
import sys

HEAVY = "ray torch tensorflow pyspark pandas lightgbm sklearn scipy pyarrow altair statsmodels gymnasium onnxruntime"


def test_a_server_loads_no_framework_and_no_statistics() -> None:
    """Arrow, scipy and the frameworks come with the first request or policy that needs them, if any does."""
    code = f"import sys, api.serving; print([m for m in {HEAVY.split()!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
