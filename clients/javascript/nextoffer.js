// Nextoffer's client for Node 18 and later: one file, no dependencies, safe on the hottest page.
//
//   import { Nextoffer } from "./nextoffer.js";
//   const client = new Nextoffer("http://127.0.0.1:8000", {
//     key: "nxo_…",
//     fallback: { offer_page: [{ id: "monthly", payload: { title: "Monthly" } }] },
//   });
//   const choice = await client.decide("offer_page", { subject: "visitor-1", features: { visits: 3 } });
//   show(choice.offerId, choice.payload);
//   await client.reward(choice, "subscribed");
//
// decide() never rejects and never takes longer than its timeout (80 ms by default). If the service does not answer in
// time, the first offer of your own list is shown and the choice says so (source === "fallback"): it is no exposure, and
// its rewards are not sent.
//
// Retry rule: a request is sent a second time, with the same id, only if the first was refused by the network or answered
// 502, 503 or 504, and only within the timeout: the service gives the same answer to the same id. After five failures in
// a row the service is left alone for two seconds and the fallback is shown at once.
//
// The secret key belongs on a server. In a browser use nextoffer-beacon.js with a public key.

const RETRIED = new Set([502, 503, 504]);
const FAILURES_TO_OPEN = 5;
const OPEN_MS = 2000;

export class Problem extends Error {
  constructor(message, { status = null, code = "network" } = {}) {
    super(message);
    this.name = "Problem";
    this.status = status;
    this.code = code;
  }
}

export class Nextoffer {
  /**
   * @param {string} url where the service listens
   * @param {{key: string, fallback?: Object<string, Array<{id: string, payload?: object}>>, timeoutMs?: number,
   *          reportTimeoutMs?: number, onProblem?: (problem: Problem) => void, headers?: Object<string, string>}} options
   */
  constructor(url, { key, fallback = {}, timeoutMs = 80, reportTimeoutMs = 2000, onProblem = () => {}, headers = {} }) {
    this._base = new URL(url).href.replace(/\/+$/, "");
    this._headers = { ...headers, authorization: `Bearer ${key}`, "content-type": "application/json" };
    this._fallback = fallback;
    this._timeoutMs = timeoutMs;
    this._reportTimeoutMs = reportTimeoutMs;
    this._onProblem = onProblem;
    this._failures = 0;
    this._closedUntil = 0;
  }

  /**
   * Which offer to show; in time, whatever happens.
   * With ttlS a reload within so many seconds gets the same offer and is no second exposure; the service then makes the id.
   * @param {string} placement
   * @param {{subject: string, features?: object, id?: string, exclude?: string[], activated?: boolean, ttlS?: number,
   *          userAgent?: string}} request userAgent is the visitor's own, so that machines are recognised
   */
  async decide(placement, request) {
    try {
      return choiceOf(placement, request.subject, await this._ask(placement, request, {}));
    } catch (error) {
      return this._local(placement, request.subject, request.exclude ?? [], this._report(error));
    }
  }

  /**
   * An offer for each of several places, none twice: {place: choice}; in time, whatever happens.
   * @param {string} placement
   * @param {{subject: string, slots: string[]}} request places best first; the rest as for decide()
   */
  async decidePage(placement, request) {
    try {
      const answer = await this._ask(placement, request, { slots: request.slots.map((id) => ({ id })) });
      return Object.fromEntries(
        answer.slots.map((entry) => [entry.slot, choiceOf(placement, request.subject, entry.decision)]),
      );
    } catch (error) {
      const reason = this._report(error);
      const page = {};
      for (const slot of request.slots ?? []) {
        const shown = Object.values(page).map((choice) => choice.offerId);
        page[slot] = this._local(placement, request.subject, [...(request.exclude ?? []), ...shown], reason);
      }
      return page;
    }
  }

  /** Report what came of a decision; null if it was not taken in (call again: the same reward counts once). */
  async reward(decision, kind, value = 1, { id } = {}) {
    if (decision.source === "fallback") return { decision: decision.id, status: "ignored", joined: false };
    return this._send("/v1/rewards", { decision: decision.id ?? decision, kind, value, ...(id ? { id } : {}) });
  }

  /** Report what became known of a subject; give it an id, or each call counts. */
  async outcome(subject, kind, value = 1, { id = crypto.randomUUID(), at } = {}) {
    return this._send("/v1/outcomes", { subject, kind, value, id, ...(at ? { at } : {}) });
  }

  /** Report what a subject did; the next decision knows it. */
  async event(subject, kind, item = "", value = 0, { id = crypto.randomUUID() } = {}) {
    return this._send("/v1/events", { subject, kind, item, value, id });
  }

  /** Say that a visitor has logged in: both ids are one person from now on. */
  async identify(subject, identifiedAs) {
    return this._send(`/v1/subjects/${encodeURIComponent(subject)}/identify`, { identified_as: identifiedAs });
  }

  /** Say that the offer of a decision made with activated: false has been seen, and (shown) which offer the page has really shown. */
  async activate(decision, { shown } = {}) {
    if (decision.source === "fallback") return { decision: decision.id, activated: false, first: false };
    return this._send(`/v1/decisions/${encodeURIComponent(decision.id ?? decision)}/activation`, shown === undefined ? null : { shown });
  }

  _ask(placement, { subject, features = {}, id, exclude = [], activated = true, ttlS, userAgent }, more) {
    const body = { subject, features, exclude, activated, ...more };
    if (userAgent !== undefined) body.user_agent = String(userAgent).slice(0, 1024);
    if (ttlS === undefined) body.id = id ?? crypto.randomUUID();
    else body.ttl_s = ttlS;
    return this._call(`/v1/placements/${encodeURIComponent(placement)}/decisions`, body, this._timeoutMs);
  }

  _local(placement, subject, exclude, reason) {
    const offer = (this._fallback[placement] ?? []).find((o) => !exclude.includes(o.id));
    return {
      id: `fallback-${crypto.randomUUID()}`,
      placement,
      subject,
      offerId: offer?.id ?? null,
      payload: offer?.payload ?? {},
      probability: null,
      variant: null,
      recorded: false,
      source: "fallback",
      reason,
    };
  }

  async _send(path, body) {
    try {
      return await this._call(path, body, this._reportTimeoutMs);
    } catch (error) {
      this._report(error);
      return null;
    }
  }

  _report(error) {
    const problem = error instanceof Problem ? error : new Problem(`unexpected: ${error}`, { code: "bad_answer" });
    try {
      this._onProblem(problem);
    } catch {
      // The page must not break because a metrics hook does.
    }
    return problem.message;
  }

  async _call(path, body, timeoutMs) {
    if (performance.now() < this._closedUntil) {
      throw new Problem("the service failed repeatedly and is left alone for a moment", { code: "circuit_open" });
    }
    const content = body === null ? undefined : serialise(body);
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), timeoutMs);
    let problem = null;
    try {
      for (let attempt = 0; attempt < 2; attempt += 1) {
        try {
          const response = await fetch(this._base + path, {
            method: "POST",
            headers: this._headers,
            body: content,
            signal: abort.signal,
          });
          const text = await response.text();
          if (!RETRIED.has(response.status)) {
            this._failures = 0;
            if (response.status >= 400) throw problemOf(response.status, text);
            return JSON.parse(text);
          }
          problem = problemOf(response.status, text);
        } catch (error) {
          if (error instanceof Problem || error instanceof SyntaxError) throw error;
          if (abort.signal.aborted) {
            problem = new Problem(`no answer within ${timeoutMs} ms`, { code: "timeout" });
            break;
          }
          problem = new Problem(`the service cannot be reached: ${error.cause ?? error}`);
        }
      }
    } finally {
      clearTimeout(timer);
    }
    this._failures += 1;
    if (this._failures >= FAILURES_TO_OPEN) {
      this._closedUntil = performance.now() + OPEN_MS;
      this._failures = FAILURES_TO_OPEN - 1; // one more failure after the pause opens it again
    }
    throw problem;
  }
}

function choiceOf(placement, subject, answer) {
  return {
    id: answer.id,
    placement,
    subject,
    offerId: answer.offer.id,
    payload: answer.offer.payload,
    probability: answer.probability,
    variant: answer.variant,
    recorded: answer.recorded,
    source: "service",
    reason: "",
  };
}

// JSON.stringify turns NaN into null without a word; a feature that is not a number is a fault worth hearing of.
function serialise(body) {
  return JSON.stringify(body, (name, value) => {
    if (typeof value === "number" && !Number.isFinite(value)) {
      throw new Problem(`${name} is ${value}; leave it out where it is unknown`, { code: "invalid_input" });
    }
    return value;
  });
}

function problemOf(status, text) {
  try {
    const { message, code } = JSON.parse(text).error;
    return new Problem(message, { status, code });
  } catch {
    return new Problem(`the service answered ${status}`, { status, code: "http_error" });
  }
}
