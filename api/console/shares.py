"""Variants and their shares as a form sends them."""

from __future__ import annotations

from api.console.ask import Ask
from policies.allocation import WEIGHT_TOTAL_BP, equal_weights
from policies.errors import InvalidInputError


def typed_variants(ask: Ask) -> list[tuple[str, str, float]]:
    """Key, policy and percent of each variant that was filled in."""
    keys, policies, weights = ask.texts("variant"), ask.texts("policy"), ask.texts("weight")
    out = []
    for key, policy, weight in zip(keys, policies, weights, strict=False):
        if not key:
            continue
        try:
            percent = float(weight.replace(",", ".") or "0")
            if not 0 <= percent <= 100:
                raise ValueError(weight)
        except ValueError as error:
            raise InvalidInputError(ask.words("The share of {key} is {text}; expected a number of percent", key=repr(key), text=repr(weight[:20]))) from error  # fmt: skip
        out.append((key, policy, percent))
    return out


def basis_points(ask: Ask, percents: list[float]) -> list[int]:
    """Percents as basis points that sum to 10,000; what was typed for equal shares is made exactly equal."""
    weights = [round(p * 100) for p in percents]
    equal = equal_weights(max(1, len(weights)))
    # Thirds typed as 33.33 mean an equal split.
    if percents and max(percents) - min(percents) < 0.02 and abs(sum(weights) - WEIGHT_TOTAL_BP) <= 2 * len(weights):
        return list(equal)
    if sum(weights) != WEIGHT_TOTAL_BP:
        raise InvalidInputError(
            ask.words("The shares sum to {sum} %; they have to make 100 %", sum=f"{sum(percents):g}")
        )
    return weights


def typed_weights(ask: Ask) -> dict[str, int]:
    """Basis points by variant."""
    typed = typed_variants(ask)
    weights = basis_points(ask, [w for _, _, w in typed])
    return {key: weight for (key, _, _), weight in zip(typed, weights, strict=True)}
