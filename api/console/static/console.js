// Sliders and number boxes of shares keep each other at 100 %; everything else works without this file.
(function () {
  "use strict";
  function rows(box) {
    return Array.from(box.querySelectorAll(".share")).filter(function (r) { return !r.hidden; });
  }
  function value(row) { return parseFloat(row.querySelector("[data-number]").value.replace(",", ".")) || 0; }
  function text(x) { return String(Math.round(x * 100) / 100); }
  function put(row, x) {
    row.querySelector("[data-number]").value = text(x);
    row.querySelector("[data-slider]").value = x;
  }
  function sum(box) {
    var total = rows(box).reduce(function (s, r) { return s + value(r); }, 0);
    box.querySelector("[data-sum]").textContent = Math.abs(total - 100) < 0.05 ? "" : "Σ " + text(total) + " %";
  }
  function balance(box, changed) {
    var all = rows(box), others = all.filter(function (r) { return r !== changed; });
    if (!others.length) { return; }
    var own = Math.min(100, Math.max(0, value(changed))), left = 100 - own;
    var before = others.reduce(function (s, r) { return s + value(r); }, 0);
    var rest = left;
    others.forEach(function (r, i) {
      var share = i === others.length - 1 ? rest : Math.round(before > 0 ? value(r) / before * left : left / others.length);
      rest -= share;
      put(r, share);
    });
    sum(box);
  }
  document.querySelectorAll("[data-shares]").forEach(function (box) {
    box.addEventListener("input", function (event) {
      var row = event.target.closest(".share");
      if (!row) { return; }
      if (event.target.matches("[data-slider]")) {
        row.querySelector("[data-number]").value = event.target.value;
        balance(box, row);
      } else if (event.target.matches("[data-number]")) {
        row.querySelector("[data-slider]").value = value(row);
        if (rows(box).length === 2) { balance(box, row); }
        sum(box);
      }
    });
    var equal = box.querySelector("[data-equal]");
    equal.addEventListener("click", function () {
      var all = rows(box);
      all.forEach(function (r, i) {
        var low = Math.ceil(10000 * i / all.length), high = Math.ceil(10000 * (i + 1) / all.length);
        put(r, (high - low) / 100);
      });
      sum(box);
      box.dispatchEvent(new Event("change", { bubbles: true }));
    });
    var more = box.querySelector("[data-more]");
    if (more) {
      more.addEventListener("click", function () {
        var next = box.querySelector(".share[hidden]");
        if (!next) { return; }
        next.hidden = false;
        next.querySelector("[name=variant]").value = "variant-" + rows(box).length;
        equal.click();
        next.querySelector("[name=variant]").focus();
        if (!box.querySelector(".share[hidden]")) { more.hidden = true; }
      });
    }
  });
  document.querySelectorAll("[data-print]").forEach(function (button) {
    button.addEventListener("click", function () { window.print(); });
  });
  document.addEventListener("keydown", function (event) {
    var open = document.querySelector(".bar details[open]");
    if (event.key === "Escape" && open) { open.open = false; open.querySelector("summary").focus(); }
  });
})();
