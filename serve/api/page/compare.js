// Answers side by side, by the ids of their traces: an address that survives a reload and can be sent on.

import { button, copy, el, scrolled } from "./element.js";
import { count, ms, summed } from "./figures.js";
import { markdown, ready } from "./markdown.js";
import { get } from "./server.js";
import { asked } from "./why.js";

/** The view of the traces with these ids. */
export async function compare(ids) {
  await ready();
  const traces = await Promise.all(ids.map((id) => get(`v1/traces/${encodeURIComponent(id)}`)));
  const question = asked(traces.find((trace) => trace.before));
  const again = new URLSearchParams({ q: question });
  for (const trace of traces) {
    again.append("policy", trace.policy ?? "");
    again.append("model", trace.model ?? "");
  }
  return el("section", { class: "compare", "aria-label": "Comparison" },
    el("header", { class: "row" }, el("h1", {}, "Comparison"),
      button("Copy link", () => copy(location.href, "Link")),
      question && el("a", { class: "button", href: `#play?${again}` }, "Ask again")),
    question && scrolled(el("p", { class: "question" }, question)),
    el("div", { class: "answers" }, traces.map(column)));
}

function column(trace) {
  const stages = trace.stages.map(({ stage, status, reason }) => `${stage}=${status}${reason ? `(${reason})` : ""}`);
  const said = trace.answer ? markdown(trace.answer) : el("p", { class: "note" }, trace.error ?? "This trace keeps no content.");
  const figures = [["Status", trace.status], ["Total", ms(trace.total_ms)], ["Tokens", trace.usage && count(trace.usage.completion_tokens)]];
  return el("article", { class: "answer", "aria-label": `Answer under ${trace.policy}` },
    el("header", {}, el("h2", {}, trace.policy ?? "–"), el("span", { class: "model" }, trace.model), el("p", { class: "applied" }, stages.join(", ") || "none")),
    el("div", { class: "words" }, el("div", { class: "said formed" }, said), el("p", { class: "note" }, summed(trace.citations))),
    el("dl", { class: "figures" }, figures.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value ?? "–"))))),
    el("div", { class: "row tools" }, el("a", { class: "button", href: `#why/${trace.id}` }, "Why")));
}
