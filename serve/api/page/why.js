// Why an answer is as it is: stages, rewrite, principles and the prompt of one request.

import { button, copy, el, long, outward } from "./element.js";
import { count, moment, ms, percent, score } from "./figures.js";
import { prompt } from "./prompt.js";
import { cited } from "./citations.js";
import { get, post } from "./server.js";
import { REASONS, outcome } from "./words.js";

/** The view of a trace. */
export async function why(id, key) {
  return shown(await get(`v1/traces/${encodeURIComponent(id)}`), key);
}

/** The view of a request that is not sent: POST /v1/explain. */
export async function preview(body, key) {
  const told = await post("v1/explain", body);
  const stages = told.stages.map((line) => {
    const [, stage, status, reason = ""] = /^([^=]*)=(\w+)(?:\((.*)\))?$/.exec(line) ?? [null, line, ""];
    const { content = {}, ...detail } = told.details?.[stage] ?? {};
    return { stage, status, reason, ms: null, detail: { ...detail, ...content } };
  });
  const after = told.messages ?? told.text;
  return shown({ ...told, stages, after, before: body.messages, principles: [], notes: told.notes, preview: true }, key);
}

function shown(trace, key) {
  const facts = [
    ["Policy", trace.policy ?? "–"], ["Model", trace.model], ["Engine", trace.engine], ["Render", trace.render],
    ["When", trace.created && moment(trace.created)], ["Key", trace.key],
    ["Tokens", trace.usage && `${count(trace.usage.prompt_tokens)} in, ${count(trace.usage.completion_tokens)} out`],
    ["Cached", cached(trace.usage)],
    ["Status", trace.status], ["Went wrong", trace.error], ["Trace", trace.id],
  ].filter(([, value]) => value);
  return el(
    "section",
    { class: "why", "aria-label": "Why" },
    el("header", { class: "row" },
      el("h1", {}, trace.preview ? "The prompt, not sent" : "Why"),
      el("a", { class: "button", href: "#play" }, "Playground"),
      !trace.preview && key.rights.includes("account") && el("a", { class: "button", href: `#account/${trace.id}` }, "Who approved it"),
      !trace.preview && asked(trace) && el("a", { class: "button", href: again(trace) }, "Try again"),
      proposes(trace, key) && trace.policy && el("a", { class: "button", href: proposal(trace) }, "Propose a change of the policy"),
      trace.before && !trace.preview && button("Copy as curl", () => copy(curl(trace, key), "Command")),
    ),
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value))))),
    el("h2", {}, "Stages"), waterfall(trace),
    trace.notes?.length ? [el("h2", {}, "Notes"), el("ul", { class: "notes" }, trace.notes.map((note) => el("li", {}, note)))] : null,
    trace.stages.filter(({ detail }) => detail?.arm !== undefined).map(rewrite),
    trace.principles?.length ? [el("h2", {}, "Principles"), el("ol", { class: "cards" }, trace.principles.map((row) => principle(row, proposes(trace, key) && key.rights.includes("principles") && proposal(trace, row))))] : null,
    trace.citations ? [el("h2", {}, "Citations in the answer"), cited(trace.citations)] : null,
    el("h2", {}, "The prompt as sent"), sent(trace),
    trace.answer ? [el("h2", {}, "The answer"), el("div", { class: "said" }, trace.answer)] : null,
  );
}

/** The text of a trace's last question; "" where it keeps none, or is no text. */
export function asked(trace) {
  const last = trace?.before?.findLast?.((message) => message.role === "user");
  if (!Array.isArray(last?.content)) return typeof last?.content === "string" ? last.content : "";
  return last.content.map(({ text }) => text).filter((text) => typeof text === "string").join("\n");
}

/** The question in the playground, under the policy that it had and, beside it, the server's others. */
function again(trace) {
  return `#play?${new URLSearchParams({ q: asked(trace), policy: trace.policy ?? "", model: trace.model ?? "" })}`;
}

function proposes(trace, key) {
  return !trace.preview && key.rights.includes("author");
}

/** The form for a change, filled with a rule that the trace names, or with its policy. */
function proposal(trace, row) {
  const about = row ? { index: row.index ?? "", id: row.id } : {};
  return `#changes/new?${new URLSearchParams({ ...about, policy: trace.policy ?? "", trace: trace.id, q: asked(trace).slice(0, 2000) })}`;
}

function cached(usage) {
  const tokens = usage?.prompt_tokens_details?.cached_tokens;
  return Number.isFinite(tokens) && percent(tokens, usage.prompt_tokens);
}

// ---------------------------------------------------------------- stages

const STATUS = { applied: "applied", skipped: "skipped", timed_out: "timed out", failed: "failed" };

/** Stages run beside each other, then the engine reads, then it writes. */
function waterfall(trace) {
  const planned = Math.max(0, ...trace.stages.map((stage) => stage.ms ?? 0));
  const rows = trace.stages.map((stage) => ({ ...stage, from: 0, ms: stage.ms }));
  const first = trace.first_byte_ms;
  if (first) rows.push({ stage: "engine reads", status: "", reason: "to the first byte", from: planned, ms: first - planned });
  if (first && trace.total_ms) rows.push({ stage: "engine writes", status: "", reason: "", from: first, ms: trace.total_ms - first });
  if (!rows.length) return el("p", { class: "note" }, "No stage: what the client sent went to the engine as it was.");
  const whole = Math.max(1e-9, trace.total_ms ?? planned, planned);
  const body = rows.map((row) => {
    const bar = el("div", { class: "bar", "data-status": row.status || "engine" });
    bar.style.marginInlineStart = `${Math.min(99, (100 * row.from) / whole)}%`;
    bar.style.inlineSize = `${Math.max(0.5, Math.min(100, (100 * (row.ms ?? 0)) / whole))}%`;
    const said = [STATUS[row.status] ?? row.status, outcome(row.reason)].filter(Boolean).join(": ");
    return el("tr", {}, el("th", { scope: "row" }, row.stage), el("td", { "data-status": row.status }, said),
      el("td", { class: "number" }, ms(row.ms)), el("td", { class: "track", "aria-hidden": "true" }, row.ms === null ? null : bar));
  });
  const names = ["Stage", "Outcome", "Time"].map((name) => el("th", { scope: "col" }, name));
  const head = el("thead", {}, el("tr", {}, names, el("td", { class: "track", "aria-hidden": "true" })));
  return el("table", { class: "waterfall" }, el("caption", { class: "hidden" }, "What happened, in order"), head, el("tbody", {}, body));
}

// ---------------------------------------------------------------- rewrite and principles

function rewrite({ stage, detail }) {
  const changes = (detail.diff ?? [["-", detail.before], ["+", detail.after]]).map(([what, text]) =>
    what === "=" ? text : el(what === "-" ? "del" : "ins", {}, text));
  return [
    el("h2", {}, `The rewrite (${stage})`),
    el("p", { class: detail.accepted === false ? "trouble" : "note" }, judged(detail), detail.cached ? " It came from the cache." : ""),
    detail.why ? el("p", { class: "note" }, detail.why) : null,
    detail.after === undefined ? null : el("p", { class: "text diff" }, changes),
    detail.offered && detail.offered > 1 ? el("p", { class: "note" }, `${detail.offered} rewrites were offered.`) : null,
  ];
}

function judged(detail) {
  if (detail.arm === "control") return "This request was left alone, to compare with.";
  if (detail.pending) return "The rewriter had not answered when this was recorded.";
  if (detail.failed) return `There is none: ${detail.failed}.`;
  if (detail.accepted) return `The gate accepted it, mode ${detail.mode}.`;
  const why = REASONS[detail.rule] ? `: ${REASONS[detail.rule]}` : "";
  return `The gate rejected it (${detail.rule})${why}. The user's own words went on.`;
}

function principle(row, proposed) {
  const held = new URLSearchParams({ index: row.index ?? "", id: row.id });
  const scores = row.pinned ? "pinned" : `score ${score(row.score)} (dense ${score(row.dense)}, lexical ${score(row.lexical)})`;
  return el("li", { class: "card" },
    el("h3", {}, el("a", { href: `#principles?${held}` }, row.title || row.id)),
    el("p", { class: "note" }, [row.index && `${row.index}/${row.id}`, row.region || "everywhere", scores].filter(Boolean).join(" · ")),
    row.source || row.url ? el("p", { class: "note" }, row.url ? outward(row.url, row.source || row.url) : row.source) : null,
    proposed && row.index && el("p", {}, el("a", { class: "button", href: proposed }, "Propose a change of this rule")));
}

// ---------------------------------------------------------------- the prompt

function sent(trace) {
  if (trace.spans) return prompt(trace);
  if (!trace.before) {
    return el("p", { class: "note" }, "This trace has no content: send the request with “explain”, or set trace_content = true in [server].");
  }
  const turns = trace.before.map((message) => el("section", { class: "message" }, el("h4", {}, message.role),
    long(typeof message.content === "string" ? message.content : JSON.stringify(message.content))));
  return [el("p", { class: "note" }, "Nothing was changed: this is what the client sent."), el("div", { class: "prompt" }, turns)];
}

/** The request as a command for a shell. */
export function curl(trace, key) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const body = { ...(trace.model && { model: trace.model }), messages: trace.before, ...trace.params, stream: trace.stream };
  const url = new URL("v1/chat/completions", location.href.replace(/#.*/, "")).href;
  const lines = [`curl ${quoted(url)}`, "-H 'Content-Type: application/json'"];
  if (key.needed) lines.push('-H "Authorization: Bearer $TRIMTAB_KEY"');
  if (trace.policy) lines.push(`-H ${quoted(`X-Trimtab-Policy: ${trace.policy}`)}`);
  return [...lines, `-d ${quoted(JSON.stringify(body))}`].join(" \\\n  ");
}
