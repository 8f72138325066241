// A prompt as it was sent, each piece marked by where it comes from.

import { el } from "./element.js";
import { count, percent } from "./figures.js";

const ORIGINS = {
  profile: "the policy's constant part",
  pinned: "principles that always stand there",
  system: "the client's system message",
  history: "the conversation before",
  retrieved: "principles found for this question",
  user: "what the user wrote",
  rewrite: "the rewriter's words",
};
const LONG = 600; // characters of a piece that is shown folded

/** The whole prompt: legend, then the pieces; by message, where it is messages. */
export function prompt({ spans, after }) {
  const whole = spans.reduce((sum, span) => sum + span.text.length, 0);
  const used = Object.keys(ORIGINS).filter((origin) => spans.some((span) => span.origin === origin));
  const legend = used.map((origin) => {
    const size = spans.reduce((sum, span) => sum + (span.origin === origin ? span.text.length : 0), 0);
    const words = `${ORIGINS[origin]}: ${percent(size, whole)}`;
    return el("li", { "data-origin": origin }, el("span", { class: "origin" }, origin), ` ${words}`);
  });
  return [el("ul", { class: "legend" }, legend), el("div", { class: "prompt" }, ...pieces(spans, after))];
}

function pieces(spans, after) {
  if (!Array.isArray(after)) return joined(spans).map(piece);
  return after.map((message, i) => {
    const own = joined(spans.filter((span) => span.message === i)).map(piece);
    const media = Array.isArray(message.content) ? message.content.filter((part) => typeof part.text !== "string") : [];
    const parts = media.map((part) => el("p", { class: "note" }, `[${part.type ?? "part"}]`));
    return el("section", { class: "message" }, el("h4", {}, message.role), own, parts);
  });
}

/** Neighbours of one origin are one piece. */
function joined(spans) {
  const out = [];
  for (const { origin, text } of spans) {
    if (out.at(-1)?.origin === origin) out.at(-1).text += text;
    else out.push({ origin, text });
  }
  return out;
}

function piece({ origin, text }) {
  const label = el("span", { class: "origin" }, origin);
  const props = { class: "piece", "data-origin": origin };
  if (text.length <= LONG) return el("div", props, label, el("div", { class: "text" }, text));
  const begins = text.trim().slice(0, 90).replace(/\s+/g, " ");
  const summary = el("summary", {}, label, ` ${begins}… `, el("em", {}, `${count(text.length)} characters`));
  return el("details", props, summary, el("div", { class: "text" }, text));
}
