"""The ``nextoffer`` command: subcommands by import string, so that ``--help`` loads no framework.

A command is a plain function in ``api/cli/<command>.py`` (or a cyclopts ``App`` where it has subcommands) that
imports heavy things inside. It prints data on stdout, words on stderr and returns 0 (done), 1 (an honest no) or 2.
"""

# ruff: noqa: E402 - the check has to come before the imports that a shadowed package would break
from __future__ import annotations

from api.shadow import refuse_shadowed_packages

refuse_shadowed_packages()

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from rich.console import Console

from policies.errors import (
    ArtifactError,
    InvalidInputError,
    MissingExtraError,
    NextofferError,
    ProbabilityError,
    SupportError,
    UnknownNameError,
)

# name, import string, help shown by `nextoffer --help` (so that listing commands imports none of them)
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("demo", "api.cli.demo:demo", "The whole story on real input, to a live A/B result in simulation"),
    (
        "prove",
        "api.cli.prove:prove",
        "What the system gains in sealed worlds, and where it gains nothing, in simulation",
    ),
    ("serve", "api.cli.serve:serve", "Run the decision service"),
    ("learn", "api.cli.learn:learn", "Learn from the log and publish snapshots that servers pick up"),
    ("monitor", "api.cli.monitor:monitor", "Read the health of the log: alarms, once an episode, and metrics"),
    (
        "retrain",
        "api.cli.retrain:retrain",
        "Learn from the log anew, judge it at the gate, register it; once or on a schedule",
    ),
    ("replay", "api.cli.replay:replay", "Recompute the log: every draw and snapshot, or states from raw events"),
    ("policies", "api.cli.policies:app", "Policy versions: register, judge, promote, take back"),
    ("experiment", "api.cli.experiment:app", "Create, start, widen, reweight, stop and read experiments"),
    ("db", "api.cli.db:app", "The store: schema, backup, export, move, erasure, retention"),
    ("console", "api.cli.console:app", "Serve the pages for people; fix an experiment's plan"),
    ("keys", "api.cli.keys:app", "Make, list and revoke API keys"),
    ("data", "api.cli.data:app", "Export public data to raw files; import a log of Azure Personalizer"),
    ("sequences", "api.cli.sequences:app", "Build decision points with event sequences in Spark"),
    ("train", "api.cli.train:app", "Train, compare and audit propensity models"),
    ("evaluate", "api.cli.evaluate:evaluate", "Judge policies on a log in which another one acted"),
    ("simulate", "api.cli.simulate:app", "Policies in simulated worlds; logs of them; sites fitted on logs"),
    ("benchmark", "api.cli.benchmark:benchmark", "Measure against baselines in the same run; needs a checkout"),
)

DONE, HONEST_NO, WRONG_USAGE = 0, 1, 2
BROKEN_PIPE = 141  # as the shell says it of a program that was told to stop writing
# What was passed is not what it should be: a file, a name, a log, a saved policy.
_USAGE = (InvalidInputError, UnknownNameError, MissingExtraError, SupportError, ProbabilityError, ArtifactError)


def build_app() -> App:
    """Make the command with all subcommands registered and none of them imported."""
    app = App(
        name="nextoffer",
        help="A self-hosted decision service and research bench for the next best subscription offer.",
        version=_version,
        console=Console(),
        error_console=Console(stderr=True),
        result_action="return_value",
    )
    for name, target, help_text in COMMANDS:
        app.command(target, name=name, help=help_text)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors raised on purpose become one sentence on stderr."""
    known = [name for name, _, _ in COMMANDS]
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in known:
            raise UnknownNameError("command", arguments[0], known)
        result = build_app()(list(arguments), exit_on_error=False, print_error=True)
    except CycloptsError:
        return WRONG_USAGE
    except NextofferError as error:
        print(f"nextoffer: {error}", file=sys.stderr)  # noqa: T201 - words on stderr
        return WRONG_USAGE if isinstance(error, _USAGE) else HONEST_NO
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough (``| head``)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except ModuleNotFoundError as error:
        missing = _extra_of(error)
        if missing is None:
            raise
        print(f"nextoffer: {missing}", file=sys.stderr)  # noqa: T201 - words on stderr
        return WRONG_USAGE
    return result if isinstance(result, int) and not isinstance(result, bool) else DONE


def _extra_of(error: ModuleNotFoundError) -> MissingExtraError | None:
    """What to install where a command needs an optional dependency; None where the module is none of ours."""
    import re
    from importlib.metadata import requires

    module = (error.name or "").partition(".")[0].lower().replace("_", "-")
    module = {"sklearn": "scikit-learn"}.get(module, module)
    found: list[str] = []
    for requirement in requires("nextoffer") or ():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        extra = re.search(r"extra == ['\"]([\w-]+)", requirement)
        if module and extra and (name == module or name.startswith(f"{module}-")):
            found.append(extra[1])
    own = [extra for extra in found if extra not in ("all", "bench", "test")] or found
    return MissingExtraError(str(error.name), own[0]) if own else None


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))


def _version() -> str:
    from importlib.metadata import version

    return version("nextoffer")
