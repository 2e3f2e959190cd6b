// Nextoffer's browser beacon: reports views and clicks of an offer that your server decided on.
//
//   <div data-nextoffer-decision="DECISION-ID"> … <a data-nextoffer-click>Take it</a></div>
//   <script src="nextoffer-beacon.js" data-url="https://offers.example.org" data-key="nxo_pub_…" data-consent="yes"></script>
//
// data-nextoffer-offer="OFFER-ID" beside the decision says which offer the page has really shown: the service notices where it is
// not the one that was chosen.
// A view counts when half of the element has been visible for a second: it activates the decision (make it with
// activated: false). A click on anything marked data-nextoffer-click is the reward "clicked". Nothing is stored on the
// visitor's device, and nothing is sent without consent: set data-consent="yes" or call nextofferBeacon.consent(true).
(function () {
  "use strict";
  const script = document.currentScript;
  const base = script.dataset.url.replace(/\/+$/, "");
  const key = encodeURIComponent(script.dataset.key);
  const seen = new Set();
  const waiting = [];
  let consented = script.dataset.consent === "yes";

  function send(path, body) {
    if (!consented) {
      if (waiting.length < 100) waiting.push([path, body]);
      return;
    }
    const url = `${base}${path}?key=${key}`;
    const text = body === null ? "" : JSON.stringify(body);
    // A text/plain beacon needs no preflight and survives the page being closed.
    if (navigator.sendBeacon && navigator.sendBeacon(url, text)) return;
    fetch(url, { method: "POST", body: text, keepalive: true, mode: "cors", credentials: "omit" }).catch(() => {});
  }

  function view(decision, shown) {
    if (seen.has(decision)) return;
    seen.add(decision);
    send(`/v1/decisions/${encodeURIComponent(decision)}/activation`, shown === undefined ? null : { shown });
  }

  function click(decision) {
    send("/v1/rewards", { decision, kind: "clicked" });
  }

  const timers = new WeakMap();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, intersectionRatio } of entries) {
        clearTimeout(timers.get(target));
        if (intersectionRatio >= 0.5) {
          timers.set(target, setTimeout(() => view(target.dataset.nextofferDecision, target.dataset.nextofferOffer), 1000));
        }
      }
    },
    { threshold: [0, 0.5] },
  );
  const watch = () => document.querySelectorAll("[data-nextoffer-decision]").forEach((e) => observer.observe(e));
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", watch);
  else watch();

  document.addEventListener(
    "click",
    (event) => {
      const element = event.target.closest("[data-nextoffer-click]");
      const owner = element && element.closest("[data-nextoffer-decision]");
      if (owner) click(owner.dataset.nextofferDecision);
    },
    true,
  );

  window.nextofferBeacon = {
    view,
    click,
    watch,
    consent(given) {
      consented = Boolean(given);
      const held = waiting.splice(0);
      if (consented) held.forEach(([path, body]) => send(path, body));
    },
  };
})();
