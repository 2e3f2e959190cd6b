"""The ``nextoffer`` command: exit codes, help without frameworks, keys, shadowed packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from api.cli.main import COMMANDS, run
from api.serving import prepare_sandbox
from api.settings import Settings
from api.shadow import shadowed_packages
from policies.artifact import save_artifact
from policies.fixed import FixedOrder

HEAVY = ("torch", "tensorflow", "ray", "pyspark", "pandas", "lightgbm", "sklearn", "keras", "onnxruntime", "fastapi")
SERVING = ("torch", "tensorflow", "ray", "pyspark", "pandas", "lightgbm", "sklearn", "keras", "jax", "duckdb")


def _python(code: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=cwd
    )


def test_help_of_every_command_loads_no_framework() -> None:
    """``--help`` of each command, its subcommands listed, imports neither a training framework nor the web framework."""
    code = (
        "import sys\nfrom api.cli.main import run\n"
        "for name in sys.argv[2:]:\n    assert run([name, '--help']) == 0, name\n"
        "assert run(['--help']) == 0\n"
        "loaded = [m for m in sys.argv[1].split(',') if m in sys.modules]\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)\n"
    )
    done = _python(code, ",".join(HEAVY), *(name for name, _, _ in COMMANDS))
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name, _, _ in COMMANDS)


def test_importing_the_application_loads_no_training_framework() -> None:
    """A serving process carries neither Spark nor a training framework nor pandas."""
    code = "import sys, api.app, api.serving\nprint([m for m in sys.argv[1].split(',') if m in sys.modules])"
    done = _python(code, ",".join(SERVING))
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["srve"], 2, "did you mean 'serve'"),
        (["serve", "--prot", "1"], 2, "--prot"),
        (["serve", "--port", "many"], 2, "port"),
        (["benchmark", "nothing"], 2, "benchmark"),
        (["keys", "revoke", "nobody", "--home", "/nonexistent-home"], 2, "unknown key 'nobody'"),
        (["keys", "create", "shop", "--scope", "decide", "--days", "-3", "--home", "/nonexistent-home"], 2, "is -3"),
        (["db", "backup", "copy", "--home", "/nonexistent-home"], 2, "there is no store at"),
        (["db", "export", "offer_page", "out", "--home", "/nonexistent-home"], 2, "there is no store at"),
        (["db", "erase", "u1", "--yes", "--home", "/nonexistent-home"], 2, "there is no store at"),
        (["db", "retention", "--events-days", "9", "--home", "/nonexistent-home"], 2, "there is no store at"),
        (["db", "move", "sqlite:///x.db", "--home", "/nonexistent-home"], 2, "there is no store at"),
        (["replay", "--audit", "--home", "/nonexistent-home"], 2, "there is no store at"),
        (["replay", "--rederive", "--home", "/nonexistent-home"], 2, "there is no store at"),
        (["learn", "--all", "--home", "/nonexistent-home"], 2, "there is no store at"),
        (["policies", "list", "--home", "/nonexistent-home"], 2, "there is no store at"),
        (["experiment", "list", "--home", "/nonexistent-home"], 2, "there is no store at"),
        (["evaluate", "--placement", "p", "--policy", "a@1", "--home", "/nonexistent-home"], 2, "there is no store at"),
        (
            ["keys", "create", "k", "--scope", "decide", "--placement", "p", "--home", "/nonexistent-home"],
            2,
            "there is no store at",
        ),
        (["serve", "--home", "/dev/null/home", "--port", "0"], 2, "cannot make the home folder"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_sentence(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage ends with 2, words on stderr and nothing on stdout."""
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert words in err
    assert "Traceback" not in err
    assert out == ""
    assert not Path("/nonexistent-home").exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [("postgresql://db/x", "pip install 'nextoffer[postgres]'"), ("nonsense", "expected sqlite:///file.db")],
)
def test_a_store_that_cannot_be_opened_says_what_is_missing(
    tmp_path: Path, url: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database without its driver, or an address that is none, is one sentence with what to do."""
    home = ["--home", str(tmp_path)]
    assert run(["db", "upgrade", *home]) == 0
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert run(["db", "move", url, *home]) == 2
    assert words in capsys.readouterr().err


def test_keys_are_made_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The key is the only thing on stdout; a second one of the name needs --rotate."""
    home = ["--home", str(tmp_path)]
    assert run(["keys", "create", "shop", "--scope", "decide", "--scope", "reward", *home]) == 0
    assert capsys.readouterr().out.startswith("nxo_")
    assert run(["keys", "create", "shop", "--scope", "decide", *home]) == 1
    assert "exists already" in capsys.readouterr().err
    assert run(["keys", "create", "shop", "--scope", "decide", "--rotate", *home]) == 0
    assert run(["keys", "create", "shop2", "--scope", "decode", *home]) == 2
    capsys.readouterr()
    assert run(["keys", "list", "--json", *home]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["scopes"] for row in rows] == [["decide", "reward"], ["decide"]]
    assert run(["keys", "revoke", "shop", "--digest-start", rows[0]["digest_start"], *home]) == 0
    assert run(["keys", "list", *home]) == 0
    assert capsys.readouterr().out.count("shop") == 1


def test_a_key_is_bound_to_placements_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped placement is refused with the known ones; one that is made later has to be announced."""
    home = ["--home", str(tmp_path)]
    prepare_sandbox(Settings(home=tmp_path, mode="sandbox"))
    create = ["keys", "create", "shop", "--scope", "decide", "--placement"]
    assert run([*create, "offer_pag", *home]) == 2
    assert "there is no placement 'offer_pag'; known: offer_page;" in capsys.readouterr().err
    assert run([*create, "offer_page", *home]) == 0
    assert run([*create, "menu", "--new-placement", "--rotate", *home]) == 0


def test_policies_experiments_and_the_schema_from_a_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Register, create, start, widen, read, stop; go back and forward a schema: each with its data on stdout."""
    home = ["--home", str(tmp_path / "home")]
    assert run(["db", "status", *home]) == 1
    assert run(["db", "upgrade", *home]) == 0
    assert run(["db", "status", *home]) == 0
    prepare_sandbox(Settings(home=tmp_path / "home", mode="sandbox"))
    folder = save_artifact(FixedOrder(("annual",)).to_artifact(), tmp_path / "artefact")
    capsys.readouterr()
    assert run(["policies", "register", str(folder), "--name", "annual-first", *home]) == 0
    ref = capsys.readouterr().out.strip()
    arguments = [
        "--placement",
        "offer_page",
        "--variant",
        "control=baseline",
        "--variant",
        f"b={ref}",
        "--coverage",
        "0.5",
    ]
    assert run(["experiment", "create", "first", *arguments, *home]) == 0
    assert json.loads(capsys.readouterr().out)["variants"][1] == {
        "key": "b",
        "weight_bp": 5000,
        "policy": ref,
        "value": "",
    }
    for action in (["start", "first"], ["ramp", "first", "1.0"], ["results", "first"], ["stop", "first"]):
        assert run(["experiment", *action, *home]) == 0
    capsys.readouterr()
    assert run(["experiment", "list", "--json", *home]) == 0
    assert [e["state"] for e in json.loads(capsys.readouterr().out)] == ["stopped"]
    assert run(["experiment", "stop", "first", *home]) == 1
    assert run(["experiment", "create", "x", "--placement", "offer_page", "--variant", "a", *home]) == 2
    assert run(["db", "downgrade", "base", *home]) == 1
    assert run(["db", "downgrade", "base", "--yes", *home]) == 0
    assert run(["db", "upgrade", *home]) == 0


def test_a_shadowed_package_is_named(tmp_path: Path) -> None:
    """A file of another project that hides one of our packages ends the start with its path."""
    (tmp_path / "policies.py").write_text("x = 1\n")
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport api.cli.main"
    done = _python(code)
    assert done.returncode == 1
    assert str(tmp_path / "policies.py") in done.stderr
    assert "Traceback" not in done.stderr
    assert shadowed_packages(Path(__file__).parents[2]) == {}
