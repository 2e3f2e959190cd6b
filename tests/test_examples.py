"""Notebooks run as they stand, files for deployment are sound, and the reference builds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from api.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path) -> None:
    """Every cell of a notebook runs, and what is printed in the file is what a reader gets: each code cell with an output has one."""
    import nbformat
    from nbclient import NotebookClient

    stored = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]  # its functions carry no types
    run = nbformat.from_dict({**stored})  # type: ignore[no-untyped-call]  # the same
    NotebookClient(run, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    has_output = [[bool(c.outputs) for c in n.cells if c.cell_type == "code"] for n in (stored, run)]
    assert has_output[0] == has_output[1]
    assert any(has_output[0])


def test_the_image_is_linted_and_finds_what_it_copies() -> None:
    """Hadolint has nothing to say about the Dockerfile, and every file and folder that it copies is there."""
    dockerfile = ROOT / "deploy" / "Dockerfile"
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("missing tool: hadolint")
    done = subprocess.run([hadolint, str(dockerfile)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    sources = [word for line in re.findall(r"^COPY (.+)$", dockerfile.read_text(), re.M) for word in line.split()[:-1]]
    assert [s for s in sources if not (ROOT / s).exists()] == []
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) <= let_in


def test_what_compose_starts_are_commands_of_ours() -> None:
    """Each service of ours runs a command that exists with options that it knows, on volumes and secrets that are declared."""
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    known = {command for command, _, _ in COMMANDS}
    for service in compose["services"].values():
        mounted = [v.split(":")[0] for v in service["volumes"]]
        assert {v for v in mounted if not v.startswith(".")} <= set(compose["volumes"])
        assert [v for v in mounted if v.startswith(".") and not (ROOT / "deploy" / v).exists()] == []
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
        if service.get("image") != "nextoffer":
            continue
        program, name, *options = service.get("command", ["nextoffer", "serve"])
        assert program == "nextoffer"
        assert name in known
        told = subprocess.run(
            [sys.executable, "-m", "api.cli", name, "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert [o for o in options if o.startswith("--") and o not in told] == []


@pytest.mark.slow
def test_the_reference_builds(tmp_path: Path) -> None:
    """A page of the reference names the public functions of its module."""
    command = [sys.executable, str(ROOT / "scripts" / "build_reference.py"), str(tmp_path), "policies"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    page = (tmp_path / "policies" / "sampling.html").read_text()
    assert "decide_one" in page
    assert "Mix a distribution with the uniform one" in page
