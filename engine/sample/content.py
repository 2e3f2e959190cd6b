"""What the sample is made of: offers as visitors see them, experiments and who comes to them, in two languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote

from engine.experiments.records import Plan
from engine.offers.placement import CatalogueOffer
from policies.records import Offer
from simulator.scenarios.car_subscription import OFFERS

Language = Literal["en", "ru"]
HOME, PRICING, LETTER = "home_page", "pricing_page", "newsletter"
PLACES = (HOME, PRICING, LETTER)

_TITLES: dict[str, tuple[str, str]] = {
    "no_offer": ("Find your car", "Найдите свою машину"),
    "city_flex": ("City car, cancel any month", "Городская машина, отмена в любой месяц"),
    "city_deal": ("City car, 20 % off for six months", "Городская машина, −20 % на полгода"),
    "compact_year": ("Compact, one year", "Компактная, на год"),
    "compact_deal": ("Compact, 25 % off for six months", "Компактная, −25 % на полгода"),
    "suv_care": ("SUV with service included", "Внедорожник с обслуживанием"),
    "suv_deal": ("SUV, 15 % off", "Внедорожник, −15 %"),
    "loyal_care": ("A free wash and check for you", "Мойка и осмотр бесплатно"),
}
_WORDS: dict[str, tuple[str, str]] = {
    "month": ("€{price:.0f} a month", "{price:.0f} € в месяц"),
    "personal": ("Visitors who get an offer that fits them subscribe more often.", "Посетители, которым предложение подходит, подписываются чаще."),
    "suv": ("The SUV with service first brings more margin than the present order.", "Внедорожник с обслуживанием на первом месте приносит больше маржи, чем нынешний порядок."),
    "same": ("Both sides see the same: this only tests the split of the traffic.", "Обе стороны видят одно и то же: проверяется только деление трафика."),
    "back": ("Visitors who left before come back when they see an offer made for them.", "Ушедшие посетители возвращаются, увидев предложение для себя."),
    "price": ("A lower first price brings subscribers who stay.", "Более низкая первая цена приводит подписчиков, которые остаются."),
    "campaign": ("The television campaign began: more visitors, fewer of them decided.", "Началась телереклама: посетителей больше, решившихся меньше."),
    "holiday": ("A long weekend, the call centre was closed.", "Длинные выходные, колл-центр не работал."),
    "careful": ("first a fifth of the visitors, to be careful", "сначала пятая часть посетителей, из осторожности"),
    "halves": ("nothing is worse: equal shares answer sooner", "ничего не ухудшилось: равные доли дадут ответ раньше"),
    "enough": ("the plan is through", "план выполнен"),
}  # fmt: skip


def say(key: str, language: Language, **values: Any) -> str:
    """A text of the sample."""
    return _WORDS[key][0 if language == "en" else 1].format(**values)


def catalogue(language: Language) -> tuple[CatalogueOffer, ...]:
    """The offers of the simulated site, each with a title and a picture."""
    return tuple(CatalogueOffer(replace(o, payload=_payload(o, language))) for o in OFFERS)


def _payload(offer: Offer, language: Language) -> Mapping[str, Any]:
    price = float(offer.features["monthly_price_eur"] or 0.0) * (1 - float(offer.features["discount_pct"] or 0.0) / 100)
    shown = {"price": say("month", language, price=price)} if price else {}
    return {
        **offer.payload,
        "title": _TITLES[offer.id][0 if language == "en" else 1],
        "image": picture(str(offer.features["car_class"]), is_deal=bool(offer.features["discount_pct"])),
        **shown,
    } | ({} if price else {"price": ""})


def picture(car_class: str, *, is_deal: bool) -> str:
    """A drawing of a car as an address that needs no other file."""
    sky, ground = ("#f6d9c4", "#e8b796") if is_deal else ("#cfe3f1", "#a9c8dd")
    roof, length = {"city": (46, 92), "compact": (50, 124), "suv": (38, 128)}.get(car_class, (0, 0))
    left = 150 - length // 2
    car = (
        f"<path d='M{left} 86 v-12 q0 -8 9 -10 l14 -2 l11 -{60 - roof} q2 -3 7 -3 h{length - 82} q5 0 7 3 l12 {60 - roof} l14 3 q8 3 8 11 v10 z' fill='#2f4858'/>"
        f"<circle cx='{left + 24}' cy='86' r='10' fill='#1b2a33'/><circle cx='{left + length - 24}' cy='86' r='10' fill='#1b2a33'/>"
        if length
        else "<circle cx='150' cy='54' r='26' fill='#2f4858'/><path d='M139 54 l8 8 l15 -17' stroke='#fff' stroke-width='6' fill='none'/>"
    )
    drawing = (
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 300 110' preserveAspectRatio='xMidYMid slice'>"
        f"<rect width='300' height='110' fill='{sky}'/><rect y='90' width='300' height='20' fill='{ground}'/>{car}</svg>"
    )
    return f"data:image/svg+xml,{quote(drawing)}"


@dataclass(frozen=True, slots=True)
class Trial:
    """One experiment of the sample and the visitors it met.

    Parameters
    ----------
    control, treatment
        Names of registered policies.
    n_days
        Days it has run for; visitors come over ``visit_days`` of them.
    weights_bp
        Share of the treatment in basis points from a day on.
    notes
        Key of a text by day.
    """

    id: str
    placement: str
    hypothesis: str
    control: str
    treatment: str
    n_subjects: int
    n_days: int
    visit_days: int
    plan: Plan
    weights_bp: tuple[tuple[int, int, str], ...] = ((0, 5_000, ""),)
    notes: tuple[tuple[int, str], ...] = ()
    stops_on_day: int | None = None
    segments: tuple[str, ...] = ()


TRIALS = (
    Trial(
        "personal-offers", HOME, "personal", "incumbent", "personal", n_subjects=7_500, n_days=72, visit_days=72,
        plan=Plan(planned_subjects=5_500, effect=0.025, visitors_per_day=104.0, visitors_per_month=3_100.0),
        weights_bp=((0, 2_000, "careful"), (6, 5_000, "halves")), notes=((24, "campaign"), (45, "holiday")), segments=("device", "channel"),
    ),
    Trial(
        "suv-first", PRICING, "suv", "incumbent", "suv_first", n_subjects=1_200, n_days=16, visit_days=16,
        plan=Plan(planned_subjects=6_000, effect=0.025, visitors_per_day=75.0, visitors_per_month=2_250.0), segments=("device",),
    ),
    Trial(
        "same-for-both", LETTER, "same", "incumbent", "incumbent_again", n_subjects=1_500, n_days=58, visit_days=40,
        plan=Plan(planned_subjects=1_200, effect=0.06, visitors_per_day=37.0, visitors_per_month=1_120.0), stops_on_day=50,
    ),
)  # fmt: skip
