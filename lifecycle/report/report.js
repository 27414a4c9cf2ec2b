"use strict";
// Filters: each row has what they go by as text. Without this script the page is whole, and not filtered.
(() => {
  const by = (id) => document.getElementById(id);
  const form = by("filters"), status = by("shown"), all = by("all"), AT_ONCE = 200;
  const rows = Array.from(by("sessions").tBodies, (body) => {
    const cells = body.rows[0].cells;
    return {
      body, details: cells[0].querySelector("details"),
      1: [cells[1].textContent], 2: [cells[2].textContent], 6: [cells[6].textContent],
      7: Array.from(cells[7].children, (error) => error.textContent),
      text: [cells[0].title, cells[0].textContent, cells[8].textContent].join("\n").toLowerCase(),
      slowest: Number(cells[5].dataset.ms ?? -1),
    };
  });
  const selects = Array.from(form.querySelectorAll("select"));
  for (const select of selects) {
    const count = new Map();
    for (const row of rows) for (const value of row[select.dataset.column]) count.set(value, (count.get(value) || 0) + 1);
    select.add(new Option("any", ""));
    for (const [value, number] of [...count].filter(([value]) => value !== "-").sort((a, b) => b[1] - a[1])) {
      select.add(new Option((value.length > 40 ? value.slice(0, 40) + "…" : value) + " (" + number + ")", value));
    }
  }
  const number = new Intl.NumberFormat("en");
  function apply() {
    const wanted = selects.filter((select) => select.value).map((select) => [select.dataset.column, select.value]);
    const text = by("text").value.trim().toLowerCase(), slower = by("slower").value === "" ? null : Number(by("slower").value);
    let shown = 0;
    for (const row of rows) {
      const fits = wanted.every(([column, value]) => row[column].includes(value))
        && (!text || row.text.includes(text)) && (slower === null || row.slowest > slower);
      if (row.body.hidden === fits) row.body.hidden = !fits;
      if (fits) shown++;
    }
    const active = wanted.length > 0 || text !== "" || slower !== null;
    status.hidden = !active;
    status.textContent = active ? "Filtered: " + number.format(shown) + " of " + number.format(rows.length) + " sessions" : "";
    all.disabled = shown > AT_ONCE || shown === 0;
    all.title = shown > AT_ONCE ? "Filter to " + AT_ONCE + " sessions or fewer first" : "";
    tell();
  }
  const visible = () => rows.filter((row) => !row.body.hidden);
  function tell() { all.textContent = visible().some((row) => !row.details.open) ? "Open all" : "Close all"; }
  all.addEventListener("click", () => {
    const open = all.textContent === "Open all";
    for (const row of visible()) row.details.open = open;
    tell();
  });
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => { queueMicrotask(() => setTimeout(apply)); });
  form.addEventListener("submit", (event) => event.preventDefault());
  // Where there are many sessions, what is below a row is text until it is asked for.
  by("sessions").addEventListener("toggle", (event) => {
    const kept = event.target.open && event.target.closest("tbody").querySelector("noscript");
    if (kept) kept.outerHTML = kept.textContent;
    tell();
  }, true);
  form.hidden = rows.length < 2;
  apply();
})();
