"""HTTP of the Personalizer contract: its paths, statuses and error shape over our decisions, rewards and placements.

v1.0 and v1.1-preview live under ``/personalizer/<version>/``, 2022-09-01-preview under ``/personalizer/`` with
``?api-version=``. What has no counterpart here answers 501 with a sentence that says where to look instead.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.auth import ApiKey, Scope
from api.call import Call, Parts, first_headers, request_id_of
from api.edge import endpoint, headers_of, json_response, known_key, shown_key
from api.errors import MalformedError, answer_for
from api.personalizer.repository import DEFAULT_PLACEMENT, DEFAULT_POLICY, REWARD_KIND, Loop, Loops, role_in
from api.personalizer.schemas import (
    MultiSlotRankRequest,
    MultiSlotReward,
    PolicyConfiguration,
    RankRequest,
    RewardValue,
    ServiceConfiguration,
)
from api.visitors import Visitor, is_said_machine
from engine.decisions.pages import slot_decision_id
from engine.decisions.requests import DecisionAnswer, DecisionRequest, PageRequest, RewardRequest, Role
from engine.decisions.requests import Slot as PageSlot
from policies.errors import (
    ConflictError,
    DuplicateOfferError,
    InvalidInputError,
    NextofferError,
    NoEligibleOfferError,
    UnknownDecisionError,
    UnknownNameError,
)
from policies.nested_features import flatten
from policies.records import Features, Offer, OfferId

KEY_HEADER = b"ocp-apim-subscription-key"
CLIENT_REQUEST_HEADERS = ("x-ms-client-request-id", "repeatability-request-id")


class _Version(Convertor[str]):
    """A version in the address, so that ``/personalizer/multislot/rank`` is not taken for one."""

    regex = r"v1\.[01](?:-preview\.[0-9]+)?"

    def convert(self, value: str) -> str:
        """Leave it as it is."""
        return value

    def to_string(self, value: str) -> str:
        """Leave it as it is."""
        return value


register_url_convertor("personalizer_version", _Version())


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """One request at this door."""

    call: Call
    key: ApiKey

    @property
    def parts(self) -> Parts:
        """What every request works with."""
        return self.call.parts

    @property
    def placement(self) -> str:
        """The loop: the first placement that the key is bound to."""
        return self.key.placements[0] if self.key.placements else DEFAULT_PLACEMENT

    @property
    def event(self) -> str:
        """Event id of the path."""
        event_id = str(self.call.params["event"])
        if len(event_id) > 256:
            raise InvalidInputError(f"the event id has {len(event_id)} characters; at most 256")
        return event_id

    def role(self, context: Features) -> Role:
        """How the loop decides for this context; how often a visitor asks is not known, since the contract names events only."""
        if is_said_machine(Visitor.of("", context)):
            return "bot"
        return role_in(self.parts.service.live_placement(self.placement))

    async def ensure_loop(self) -> None:
        """Make the loop's placement on its first request; later ones find it in memory."""
        if self.placement not in self.parts.service.placements():
            await self.loop()

    async def loop(self) -> Loop:
        """Configuration of the loop."""
        return await run_in_threadpool(Loops(self.parts.service).find, self.placement, actor=self.call.actor)


async def rank(ask: Ask) -> Response:
    """Which action first: 201 with the ranking."""
    body = await ask.call.parsed(RankRequest)
    await ask.ensure_loop()
    excluded = tuple(body.excluded_actions or ())
    event_id = body.event_id or uuid.uuid4().hex
    context = flatten(body.context_features or (), where="contextFeatures")
    answer = await ask.parts.service.adecide(
        DecisionRequest(
            placement=ask.placement,
            subject=event_id,  # the contract knows events only, not who they belong to
            features=context,
            id=event_id,
            offers=tuple(Offer(OfferId(a.id), flatten(a.features, where=f"action {a.id!r}")) for a in body.actions),
            exclude=tuple(e for e in excluded if any(e == a.id for a in body.actions)),
            is_activated=not body.defer_activation,
            waited_s=ask.parts.pulse.lag_s,
            role=ask.role(context),
        )
    )
    content = {
        "ranking": ranking([a.id for a in body.actions], excluded=frozenset(excluded), answer=answer),
        "eventId": answer.decision.id,
        "rewardActionId": answer.decision.offer,
    }
    return json_response(content, status=201)


def ranking(action_ids: list[str], *, excluded: frozenset[str], answer: DecisionAnswer) -> list[dict[str, Any]]:
    """Chosen action first, the others by falling probability; excluded ones keep their place with probability 0."""
    decision = answer.decision
    probability = dict(zip(decision.offers, decision.probabilities, strict=True))
    free = [a for a in action_ids if a not in excluded]
    free.sort(key=lambda a: (a != decision.offer, -probability.get(OfferId(a), 0.0)))
    waiting = iter(free)
    return [
        {"id": a, "probability": 0.0}
        if a in excluded
        else {"id": (chosen := next(waiting)), "probability": probability.get(OfferId(chosen), 0.0)}
        for a in action_ids
    ]


async def reward(ask: Ask) -> Response:
    """What came of an event: 204 whether or not the event is known, as the contract has it."""
    body = await ask.call.parsed(RewardValue)
    await _reward(ask, ask.event, body.value)
    return Response(status_code=204)


async def activate(ask: Ask) -> Response:
    """The action of a deferred event has been shown."""
    await ask.parts.service.aactivate(ask.event)
    return Response(status_code=204)


async def multi_slot_rank(ask: Ask) -> Response:
    """Which action in which slot: a page, each slot among the actions that the slots before it have left."""
    body = await ask.call.parsed(MultiSlotRankRequest)
    await ask.ensure_loop()
    if len({s.id for s in body.slots}) < len(body.slots):
        raise InvalidInputError(f"slot ids {[s.id for s in body.slots]} repeat; give each slot one of its own")
    event_id = body.event_id or uuid.uuid4().hex
    context = flatten(body.context_features or (), where="contextFeatures")
    actions = {a.id: flatten(a.features, where=f"action {a.id!r}") for a in body.actions}
    if len(actions) < len(body.actions):
        raise DuplicateOfferError(
            next(a.id for i, a in enumerate(body.actions) if a.id in [b.id for b in body.actions[:i]])
        )
    for slot in body.slots:
        if slot.baseline_action not in actions:
            raise UnknownNameError(f"baseline action of slot {slot.id!r}:", slot.baseline_action, actions)
    page = await ask.parts.service.adecide_page(
        PageRequest(
            DecisionRequest(
                placement=ask.placement,
                subject=event_id,
                features=context,
                id=event_id,
                offers=tuple(Offer(OfferId(a), features) for a, features in actions.items()),
                is_activated=not body.defer_activation,
                waited_s=ask.parts.pulse.lag_s,
                role=ask.role(context),
            ),
            tuple(
                PageSlot(
                    slot.id,
                    flatten(slot.features or (), where=f"slot {slot.id!r}"),
                    exclude=slot.excluded_actions or (),
                    first=slot.baseline_action,
                )
                for slot in body.slots
            ),
        )
    )
    slots = [{"id": slot, "rewardActionId": answer.decision.offer} for slot, answer in page.slots]
    return json_response({"slots": slots, "eventId": event_id}, status=201)


async def multi_slot_reward(ask: Ask) -> Response:
    """What came of slots of an event."""
    body = await ask.call.parsed(MultiSlotReward)
    for entry in body.reward:
        await _reward(ask, slot_decision_id(ask.event, entry.slot_id), entry.value)
    return Response(status_code=204)


async def multi_slot_activate(ask: Ask) -> Response:
    """All slots of a deferred event have been shown."""
    decisions = await run_in_threadpool(Loops(ask.parts.service).slot_decisions, ask.event)
    if not decisions:
        raise UnknownDecisionError(ask.event)
    for decision in decisions:
        await ask.parts.service.aactivate(decision)
    return Response(status_code=204)


async def get_service(ask: Ask) -> Response:
    """The loop's configuration in the contract's words."""
    return json_response((await ask.loop()).service.model_dump(mode="json", by_alias=True))


async def put_service(ask: Ask) -> Response:
    """Change the loop's configuration; it counts from the next decision on."""
    body = await ask.call.parsed(ServiceConfiguration)
    if body.is_auto_optimization_enabled or body.log_mirror_enabled:
        what = "isAutoOptimizationEnabled" if body.is_auto_optimization_enabled else "logMirrorEnabled"
        return _not_implemented(f"{what} is not part of this service; {_INSTEAD[what]}")
    await _change(ask, service=body)
    return await get_service(ask)


async def get_policy(ask: Ask) -> Response:
    """The learner's arguments, as they were last put."""
    return json_response((await ask.loop()).policy.model_dump(by_alias=True))


async def put_policy(ask: Ask) -> Response:
    """Keep the learner's arguments."""
    body = await ask.call.parsed(PolicyConfiguration)
    await _change(ask, policy=body)
    return json_response(body.model_dump(by_alias=True))


async def delete_policy(ask: Ask) -> Response:
    """Go back to the default arguments."""
    await _change(ask, policy=DEFAULT_POLICY)
    return json_response(DEFAULT_POLICY.model_dump(by_alias=True))


async def _change(ask: Ask, **changed: Any) -> None:
    loop = await ask.loop()
    await run_in_threadpool(Loops(ask.parts.service).change, loop, actor=ask.call.actor, **changed)


async def _reward(ask: Ask, decision: str, value: float) -> None:
    """Take in a reward once, however often a client's retry sends it.

    With the client's request id, repeats of one call are one reward and two calls are two; without it, the same value for
    the same event counts once.
    """
    call_id = next((v for h in CLIENT_REQUEST_HEADERS if (v := ask.call.request.headers.get(h))), None)
    reward_id = f"{decision}:{call_id}" if call_id else f"{decision}:{value!r}"
    receipt = await ask.parts.service.areward(
        RewardRequest(decision, REWARD_KIND, value, id=reward_id[:256], must_join=False)
    )
    if not receipt.joined:
        ask.parts.metrics.observe("personalizer_reward_unjoined", 204, 0.0)


_INSTEAD = {
    "evaluations": "evaluate a policy on the log with 'nextoffer evaluate'",
    "featureImportances": "evaluate a policy on the log with 'nextoffer evaluate'",
    "logs": "the log is yours: read it in the store, or export it",
    "model": "register a policy with POST /v1/policies",
    "status": "see GET /v1/placements/{placement}/status",
    "configurations": "register a policy with POST /v1/policies and put its name into configurations/policy",
    "isAutoOptimizationEnabled": "compare policies on the log with 'nextoffer evaluate', then in an experiment",
    "logMirrorEnabled": "the log is yours: read it in the store, or export it",
}


async def not_here(ask: Ask) -> Response:
    """Say in a sentence what to use instead."""
    rest = ask.call.request.url.path.split("/personalizer/", 1)[-1]
    noun = next((n for n in _INSTEAD if f"/{n}" in f"/{rest}"), "model")
    message = f"{ask.call.request.method} {rest[:100]} is not part of this service; {_INSTEAD[noun]}"
    return _not_implemented(message)


def _not_implemented(message: str) -> Response:
    return json_response({"error": {"code": "NotImplemented", "message": message}}, status=501)


async def nowhere(request: Request) -> Response:
    """Answer an address that the contract does not have in the contract's form."""
    message = f"there is nothing at {request.method} {request.url.path[:200]}; versions v1.0, v1.1-preview.N and 2022-09-01-preview are served"
    content = {"error": {"code": "ResourceNotFound", "message": message}}
    return json_response(content, status=404, headers={"apim-request-id": request_id_of(first_headers(request.scope))})


Handler = Callable[[Ask], Awaitable[Response]]
_ROUTES: tuple[tuple[str, str, Scope, Handler, str], ...] = (
    ("POST", "/rank", "decide", rank, "InvalidRankRequest"),
    ("POST", "/events/{event}/reward", "reward", reward, "InvalidRewardRequest"),
    ("POST", "/events/{event}/activate", "reward", activate, "InvalidEventIdToActivate"),
    ("POST", "/multislot/rank", "decide", multi_slot_rank, "InvalidRankRequest"),
    ("POST", "/multislot/events/{event}/reward", "reward", multi_slot_reward, "InvalidRewardRequest"),
    ("POST", "/multislot/events/{event}/activate", "reward", multi_slot_activate, "InvalidEventIdToActivate"),
    ("GET", "/configurations/service", "read", get_service, "BadRequest"),
    ("PUT", "/configurations/service", "admin", put_service, "BadRequest"),
    ("GET", "/configurations/policy", "read", get_policy, "BadRequest"),
    ("PUT", "/configurations/policy", "admin", put_policy, "BadRequest"),
    ("DELETE", "/configurations/policy", "admin", delete_policy, "BadRequest"),
    *(
        (method, path, "read", not_here, "BadRequest")
        for method, path in (
            ("GET", "/evaluations"),
            ("GET", "/evaluations/{id}"),
            ("PUT", "/evaluations/{id}"),
            ("POST", "/evaluations"),
            ("DELETE", "/evaluations/{id}"),
            ("GET", "/featureImportances"),
            ("GET", "/featureImportances/{id}"),
            ("PUT", "/featureImportances/{id}"),
            ("DELETE", "/featureImportances/{id}"),
            ("POST", "/configurations/applyFromEvaluation"),
            ("GET", "/logs/properties"),
            ("DELETE", "/logs"),
            ("GET", "/model"),
            ("PUT", "/model"),
            ("DELETE", "/model"),
            ("GET", "/model/properties"),
            ("GET", "/status"),
        )
    ),
)


def routes() -> list[Route]:
    """All routes of the contract, under both forms of address."""
    made: list[Route] = []
    for prefix in ("/personalizer/{version:personalizer_version}", "/personalizer"):
        for method, path, scope, handler, code in _ROUTES:
            made.append(
                Route(
                    prefix + path,
                    _endpoint(scope, handler, code),
                    methods=[method],
                    name=f"personalizer_{handler.__name__}",
                    include_in_schema=False,
                )
            )
    every_method = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    made.append(Route("/personalizer/{rest:path}", nowhere, methods=every_method, include_in_schema=False))
    return made


def _endpoint(scope: Scope, handler: Handler, code: str) -> Callable[[Request], Awaitable[Response]]:
    async def asked(call: Call) -> Response:
        shown = call.headers.get(KEY_HEADER, b"").decode("latin-1") or shown_key(call.headers)
        hint = f"send it in the header {KEY_HEADER.decode()}, where your SDK puts it"
        call.key = known_key(shown, call.parts.keys, hint=hint)
        call.key.allow(scope)
        return await handler(Ask(call, call.key))

    return endpoint(
        f"personalizer_{handler.__name__}",
        asked,
        on_error=partial(_error, code),
        on_fault=lambda _, message: {"error": {"code": "InternalServerError", "message": message}},
        id_header="apim-request-id",
    )


# What a status of ours is in the contract; where it stands for nothing else, the error is the request's.
_STATUSES = {
    401: (403, "InvalidApiAccess"),
    403: (403, "InvalidApiAccess"),
    413: (413, "BadRequest"),
    429: (429, "TooManyRequests"),
    503: (503, "ServiceUnavailable"),
}
_OF_THE_REQUEST = (ConflictError, NoEligibleOfferError, InvalidInputError, UnknownNameError, UnknownDecisionError)


def _error(code: str, _: Call, error: NextofferError) -> Response:
    other = (400, code) if isinstance(error, _OF_THE_REQUEST) else (500, "InternalServerError")
    status, code = _STATUSES.get(answer_for(error).status, other)
    content: dict[str, Any] = {"code": code, "message": str(error)}
    if isinstance(error, MalformedError) and error.details:
        content["details"] = [{"code": code, "message": d["problem"], "target": d["place"]} for d in error.details]
    return json_response({"error": content}, status=status, headers=headers_of(error))
