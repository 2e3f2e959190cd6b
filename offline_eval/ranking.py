"""Which of several candidates goes on: chosen by the log alone, among those that would change anything."""

from __future__ import annotations

from dataclasses import replace

from offline_eval.panel import Panel

# Words of the verdict, best first.
_ORDER = ("recommend", "caution", "this log cannot answer", "do not use")
# A difference that is none has an error of rounding, not exactly 0.
_ROUNDING = 1e-6
_ESTIMATOR = "SNIPS"


def same_as_incumbent(panel: Panel) -> tuple[str, ...]:
    """Candidates that show what the incumbent shows: their difference to it has no error at all."""
    return tuple(
        name
        for name in panel.verdicts
        if (off := panel.differences[name][_ESTIMATOR].standard_error) is not None
        and (own := panel.estimates[name][_ESTIMATOR].standard_error) is not None
        and off <= _ROUNDING * own
    )


def differing(panel: Panel) -> Panel:
    """The panel with verdicts on those only that show something else than the incumbent; as it is where nobody does.

    What shows the same earns the same, which the log knows without error: its verdict would beat that of every real candidate that
    the log is less sure of.
    """
    same = same_as_incumbent(panel)
    left = {name: verdict for name, verdict in panel.verdicts.items() if name not in same}
    return replace(panel, verdicts=left) if left else panel


def best(panel: Panel) -> str:
    """The candidate with the best verdict, among equals the largest estimated gain."""

    def rank(name: str) -> tuple[int, float]:
        gain = panel.differences[name][panel.headline].value
        return _ORDER.index(panel.verdicts[name].word), -(gain if gain is not None else -1e9)

    return min(panel.verdicts, key=rank)
