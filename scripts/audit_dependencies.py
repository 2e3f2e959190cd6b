"""What is installed is what was tested: every distribution at its pin, every pin sound, nothing at odds.

Runs without the network, as part of ``make check``. Known vulnerabilities are a question to a database on the network:
``make audit`` asks it (PyPI's advisory service through pip-audit) about the same pins.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What builds environments, and ourselves.
NOT_PINNED = {"nextoffer", "pip", "wheel", "setuptools", "hatchling", "trove-classifiers", "tomlkit"}
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)")


def main() -> int:
    """Print each fault and return 1 if there is one."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    faults = [*faults_of_pins(text), *faults_of_installed(text)]
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    if checked.returncode:
        faults.append(f"pip check: {(checked.stdout or checked.stderr).strip()}")
    for fault in faults:
        print(fault)  # noqa: T201
    return 1 if faults else 0


def pins_of(text: str) -> dict[str, str]:
    """Version of each pinned distribution by its normalised name."""
    found = (_PIN.match(line.strip()) for line in text.splitlines())
    return {_normalised(m["name"]): m["version"] for m in found if m is not None}


def faults_of_pins(text: str) -> list[str]:
    """Lines of the constraints that pin nothing exactly, or pin twice."""
    faults: list[str] = []
    seen: set[str] = set()
    for line in text.splitlines():
        content = line.split("#")[0].strip()
        if not content:
            continue
        match = _PIN.match(content)
        if match is None:
            faults.append(f"constraints.txt: {content!r} is no exact pin; write name==version")
            continue
        name = _normalised(match["name"])
        if name in seen:
            faults.append(f"constraints.txt: {name} is pinned twice; keep one line")
        seen.add(name)
    return faults


def faults_of_installed(text: str) -> list[str]:
    """Distributions of this environment that are not at their pin, or have none."""
    pins = pins_of(text)
    faults = []
    for distribution in distributions():
        name, version = _normalised(distribution.metadata["Name"]), distribution.version
        if name in NOT_PINNED:
            continue
        if name not in pins:
            faults.append(f"{name} {version} is installed and not pinned; add {name}=={version} to constraints.txt")
        elif pins[name].split("+")[0] != version.split("+")[0]:
            faults.append(f"{name} is installed as {version}, pinned as {pins[name]}; make the environment anew")
    return sorted(set(faults))


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
