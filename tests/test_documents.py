"""Documents run: the README's Python snippets, and its links and commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.ru.md")


@pytest.mark.slow
@pytest.mark.parametrize("name", READMES)
def test_python_snippets_run(name: str) -> None:
    """Every python block of a README runs as it stands."""
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name: str) -> None:
    """Relative links and pictures of a README exist."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text())
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_decision_records_are_numbered_one_by_one() -> None:
    """No two records have one number, none is missing, and each is headed by its own."""
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(r.name[:4]) for r in records] == list(range(1, len(records) + 1))
    headings = [re.match(r"# (\d+)\.? ", r.read_text(encoding="utf-8")) for r in records]
    assert [h and int(h[1]) for h in headings] == list(range(1, len(records) + 1))


@pytest.mark.parametrize("name", READMES)
def test_commands_exist(name: str) -> None:
    """Every ``nextoffer`` and ``make`` command a README names is there."""
    from api.cli.main import COMMANDS

    text = (ROOT / name).read_text()
    known = {command for command, _, _ in COMMANDS}
    assert set(re.findall(r"nextoffer ([a-z]+) --", text)) <= known
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_both_languages_name_the_same_commands() -> None:
    """The Russian README shows the same code blocks as the English one."""
    blocks = [re.findall(r"```[a-z]+\n(.*?)```", (ROOT / n).read_text(), flags=re.DOTALL) for n in READMES]
    without_comments = [[re.sub(r"#.*", "", b) for b in found] for found in blocks]
    assert [b.split() for b in without_comments[0]] == [b.split() for b in without_comments[1]]


def test_every_setting_is_documented() -> None:
    """The page on security names each setting, and none that does not exist."""
    from api.settings import Settings

    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").split("## Settings")[1].split("##")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)} == set(Settings.model_fields)
