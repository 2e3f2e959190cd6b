"""The template of a plug-in works as it stands, through the door that anyone's policy comes in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from policies.errors import UnknownNameError
from policies.registry import load_policy

TEMPLATE = Path(__file__).parents[2] / "examples" / "policy_plugin"
_CODE = """
import sys
from policies.registry import known_kinds
assert "sticky" in known_kinds()
sys.path.insert(0, "tests")
from test_sticky import test_it_keeps_the_contract
test_it_keeps_the_contract()
print("kept")
"""


@pytest.mark.slow
def test_the_template_keeps_the_contract_once_installed(tmp_path: Path) -> None:
    """With the entry point of its pyproject registered, its own test passes, saving through the registry included."""
    import tomllib

    project = tomllib.loads((TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = tmp_path / "nextoffer_sticky_policy-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["nextoffer.policies"]
    lines = "\n".join(f"{kind} = {where}" for kind, where in points.items())
    (info / "entry_points.txt").write_text(f"[nextoffer.policies]\n{lines}\n")
    path = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(TEMPLATE)!r}]\n"
    done = subprocess.run(
        [sys.executable, "-c", path + _CODE], capture_output=True, text=True, check=False, cwd=TEMPLATE
    )
    assert done.stdout.strip() == "kept", done.stderr[-2000:]


def test_without_it_the_kind_is_unknown() -> None:
    """What is not installed cannot be loaded, and says which kinds can."""
    from policies.artifact import Artifact

    with pytest.raises(UnknownNameError, match="sticky"):
        load_policy(Artifact("sticky"))
