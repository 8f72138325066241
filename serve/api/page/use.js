// A person's day: a complaint about an answer, last week in a chart, and the feedback that people gave.

import { button, el, field, say } from "./element.js";
import { count, moment, ms } from "./figures.js";
import { listed } from "./reports.js";
import { all, get } from "./server.js";

const DAYS = 7;
const KINDS = { requests: "Requests", failed: "Refused or failed", skipped: "A stage skipped", added: "Latency added, mean", tokens: "Tokens" };

export class Use {
  constructor(server) {
    this.key = server.key;
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.chart = el("div", { class: "chart-place" });
    this.feedback = el("div", { class: "feedback" });
    this.reports = el("div", {});
    this.root = el("section", { class: "use", "aria-label": "Use" }, el("h1", {}, "Use"),
      complaint(), this.trouble, el("h2", {}, `The last ${DAYS} days`), this.chart,
      this.key.rights.includes("feedback") && [el("h2", {}, "Feedback"), this.feedback],
      this.key.rights.includes("reports") && [el("h2", {}, "Evaluations"), this.reports]);
  }

  async open() {
    this.trouble.hidden = true;
    try {
      this.chart.replaceChildren(...week(await get("v1/usage", { days: DAYS })));
      if (this.key.rights.includes("feedback")) this.feedback.replaceChildren(...verdicts(await all("v1/feedback", { limit: 500 }, 5000)));
      if (this.key.rights.includes("reports")) this.reports.replaceChildren(await listed());
    } catch (error) {
      this.trouble.textContent = error.line ?? error.message;
      this.trouble.hidden = false;
    }
  }
}

// ---------------------------------------------------------------- a complaint

/** A field that takes a trace's id, its address on this page or in the API, or a header as a client logs it. */
function complaint() {
  const input = el("input", { type: "text", required: true, autocomplete: "off", placeholder: "a trace's id or address" });
  const submit = (event) => {
    event.preventDefault();
    const id = /[0-9a-f]{32}/i.exec(input.value)?.[0];
    if (id) location.hash = `#why/${id}`;
    else say("There is no trace's id in this: 32 digits from 0 to f");
  };
  return el("form", { class: "panel", on: { submit } },
    el("div", { class: "row grow" }, field("Somebody complains about an answer", input, "Every answer names its trace in the header X-Trimtab-Trace"),
      el("button", { type: "submit", class: "main" }, "Look at it")));
}

// ---------------------------------------------------------------- the week

/** The chart, and the same as a table. */
function week({ data, kept_s: kept }) {
  const days = [...Array(DAYS)].map((_, i) => new Date(Date.now() - (DAYS - 1 - i) * 864e5).toISOString().slice(0, 10));
  const policies = [...new Set(data.map((row) => row.policy))].sort();
  const cells = policies.map((policy) => [policy, days.map((day) => sum(data.filter((row) => row.day === day && row.policy === policy)))]);
  const short = kept < DAYS * 86400 && el("p", { class: "note" }, `Traces are kept for ${Math.round(kept / 3600)} hours: trace_ttl_s in [server] keeps them longer.`);
  if (!data.length) return [el("p", { class: "note" }, "No request yet."), short].filter(Boolean);
  return [chart(days, cells), table(cells), outcomes(data), short].filter(Boolean);
}

function sum(rows) {
  const add = (pick) => rows.reduce((whole, row) => whole + pick(row), 0);
  return {
    requests: add((row) => row.requests), failed: add((row) => (row.failed ? row.requests : 0)), added: add((row) => row.added_ms),
    skipped: add((row) => (Object.values(row.outcomes).some((status) => status !== "applied") ? row.requests : 0)), tokens: add((row) => row.tokens),
  };
}

const SVG = (tag, props, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

/** Bars of a day: its requests, policy upon policy; what failed is hatched by its colour at the foot. */
function chart(days, cells) {
  const most = Math.max(1, ...days.map((_, i) => cells.reduce((whole, [, row]) => whole + row[i].requests, 0)));
  const [wide, high] = [70, 140];
  const svg = SVG("svg", { viewBox: `0 0 ${wide * days.length} ${high + 24}`, class: "chart", role: "img", "aria-label": `Requests a day, at most ${most}; the table below has the numbers` });
  days.forEach((day, i) => {
    let at = high;
    cells.forEach(([, row], policy) => {
      const size = (high * row[i].requests) / most;
      const bad = (high * row[i].failed) / most;
      at -= size;
      svg.append(SVG("rect", { x: i * wide + 10, y: at, width: wide - 20, height: size, class: `bar-${policy % 4}` }));
      if (bad) svg.append(SVG("rect", { x: i * wide + 10, y: at + size - bad, width: wide - 20, height: bad, class: "bar-bad" }));
    });
    svg.append(SVG("text", { x: i * wide + wide / 2, y: high + 16, "text-anchor": "middle" }, day.slice(5)));
  });
  const legend = cells.map(([policy], i) => el("li", {}, el("span", { class: `swatch bar-${i % 4}`, "aria-hidden": "true" }), policy || "none"));
  legend.push(el("li", {}, el("span", { class: "swatch bar-bad", "aria-hidden": "true" }), "refused or failed"));
  return el("figure", { class: "panel" }, svg, el("figcaption", {}, el("ul", { class: "legend" }, legend)));
}

function table(cells) {
  const head = el("tr", {}, el("th", { scope: "col" }, "Policy"), Object.values(KINDS).map((name) => el("th", { scope: "col" }, name)));
  const rows = cells.map(([policy, days]) => {
    const all = days.reduce((whole, day) => Object.fromEntries(Object.entries(day).map(([name, value]) => [name, value + (whole[name] ?? 0)])), {});
    const texts = [count(all.requests), count(all.failed), count(all.skipped), ms(all.requests ? all.added / all.requests : null), count(all.tokens)];
    const held = new URLSearchParams({ policy });
    return el("tr", {}, el("th", { scope: "row" }, policy ? el("a", { href: `#traces?${held}` }, policy) : "none"), texts.map((text) => el("td", { class: "number" }, text)));
  });
  return el("div", { class: "scrolls", tabindex: 0, role: "region", "aria-label": "Requests by policy" },
    el("table", {}, el("caption", { class: "hidden" }, "Requests of the week by policy"), el("thead", {}, head), el("tbody", {}, rows)));
}

/** How often each stage was applied, skipped, late or failed. */
function outcomes(data) {
  const counts = {};
  for (const row of data) for (const [stage, status] of Object.entries(row.outcomes)) {
    counts[stage] ??= {};
    counts[stage][status] = (counts[stage][status] ?? 0) + row.requests;
  }
  const words = Object.entries(counts).map(([stage, all]) => `${stage}: ${Object.entries(all).map(([status, n]) => `${count(n)} ${status.replace("_", " ")}`).join(", ")}`);
  return words.length ? el("ul", { class: "notes" }, words.map((text) => el("li", {}, text))) : null;
}

// ---------------------------------------------------------------- feedback

function verdicts(rows) {
  if (!rows.length) return [el("p", { class: "note" }, "No feedback yet: thumbs and “This one is better” in the playground, or POST /v1/feedback.")];
  const pairs = rows.filter(({ kind }) => kind === "preference").map(pair);
  const head = el("tr", {}, ["When", "Question", "Verdict", "Comment", "Trace"].map((name) => el("th", { scope: "col" }, name)));
  const save = button(`Save ${pairs.length} training pair${pairs.length === 1 ? "" : "s"}`, () => download(pairs), { disabled: !pairs.length });
  return [el("div", { class: "row" }, save, el("span", { class: "note" }, "JSON lines for trimtab train; `trimtab feedback export` writes all of it.")),
    el("div", { class: "scrolls", tabindex: 0, role: "region", "aria-label": "Feedback" },
      el("table", {}, el("caption", { class: "hidden" }, "Feedback, newest first"), el("thead", {}, head), el("tbody", {}, rows.slice(0, 200).map(verdict))))];
}

function verdict(row) {
  const side = row.rated ?? row.chosen;
  const said = row.kind === "rating" ? { up: "good", down: "bad" }[row.rating] : `${row.chosen.policy} better than ${row.rejected.policy}`;
  const question = row.prompt.findLast((turn) => turn.role === "user")?.content ?? "";
  const cells = [moment(row.created), question.slice(0, 120), said, row.comment || "–", el("a", { href: `#why/${side.trace}` }, "Why")];
  return el("tr", {}, cells.map((cell) => el("td", {}, cell)));
}

function pair({ prompt, chosen, rejected }) {
  const turn = ({ answer }) => [{ role: "assistant", content: answer }];
  return { prompt, chosen: turn(chosen), rejected: turn(rejected) };
}

function download(pairs) {
  const file = new Blob(pairs.map((row) => `${JSON.stringify(row)}\n`), { type: "application/jsonl" });
  const link = el("a", { href: URL.createObjectURL(file), download: "pairs.jsonl" });
  link.click();
  URL.revokeObjectURL(link.href);
  say(`${pairs.length} pairs saved`);
}
