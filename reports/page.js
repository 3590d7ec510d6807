// Adds to the page what needs a script: the filter, the copy buttons, opening what a link points at. Nothing is hidden without it.
(function () {
  "use strict";
  var form = document.getElementById("filter");
  var cases = Array.prototype.slice.call(document.querySelectorAll("details.case"));
  var areas = Array.prototype.slice.call(document.querySelectorAll("section.area"));
  var verdict = document.getElementById("f-verdict");
  var area = document.getElementById("f-area");
  var pair = document.getElementById("f-pair");
  var text = document.getElementById("f-text");
  var count = document.getElementById("f-count");
  var words = cases.map(function (item) {
    var parts = [item.querySelector("summary").textContent];
    item.querySelectorAll(".reqs").forEach(function (list) { parts.push(list.textContent); });
    return parts.join(" ").toLowerCase();
  });

  function wanted(item, index) {
    var v = verdict.value, kind = item.dataset.v;
    if (v === "bad" && (kind === "pass" || kind === "info" || kind === "unsupported")) return false;
    if (v.indexOf("s:") === 0 && (item.dataset.s || "").indexOf(v.slice(2)) !== 0) return false;
    if (v && v !== "bad" && v.indexOf("s:") !== 0 && kind !== v) return false;
    if (pair && pair.value && item.dataset.p !== pair.value) return false;
    if (area.value && item.closest("section.area").dataset.a !== area.value) return false;
    return text.value.toLowerCase().split(/\s+/).every(function (word) { return words[index].indexOf(word) >= 0; });
  }

  function apply() {
    var shown = 0;
    cases.forEach(function (item, index) {
      item.hidden = !wanted(item, index);
      if (!item.hidden) shown += 1;
    });
    areas.forEach(function (item) { item.hidden = !item.querySelector("details.case:not([hidden])"); });
    count.textContent = shown + " of " + cases.length + " cases shown";
  }

  function openTarget() {
    var target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (target.hidden || target.closest("[hidden]")) { form.reset(); apply(); }
    for (var item = target; item; item = item.parentElement) if (item.tagName === "DETAILS") item.open = true;
    target.scrollIntoView();
  }

  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  document.getElementById("f-open").addEventListener("click", function () {
    cases.forEach(function (item) { if (!item.hidden) item.open = true; });
  });
  document.getElementById("f-close").addEventListener("click", function () {
    cases.forEach(function (item) { item.open = false; });
  });
  document.querySelectorAll("a[data-p]").forEach(function (link) {
    link.addEventListener("click", function (event) {
      event.preventDefault();
      form.reset();
      area.value = link.dataset.a;
      pair.value = link.dataset.p;
      apply();
      document.getElementById("cases").scrollIntoView();
    });
  });
  document.querySelectorAll(".copy button").forEach(function (button) {
    button.hidden = false;
    button.addEventListener("click", function () {
      var code = button.parentElement.querySelector("code");
      var range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      var done = navigator.clipboard ? navigator.clipboard.writeText(code.textContent) : Promise.reject();
      done.then(function () { button.textContent = "Copied"; }, function () {
        button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
      });
    });
  });
  window.addEventListener("hashchange", openTarget);
  window.addEventListener("beforeprint", function () {
    cases.forEach(function (item) { if (["fail", "crash", "setup", "harness"].indexOf(item.dataset.v) >= 0) item.open = true; });
  });
  apply();
  openTarget();
})();
