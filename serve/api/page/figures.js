// How numbers, times and states are written.

export const NONE = "–";

export function ms(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 10) return `${value.toFixed(1)} ms`;
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(value < 10000 ? 2 : 1)} s`;
}

export function count(value) {
  return Number.isFinite(value) ? value.toLocaleString("en") : NONE;
}

export function percent(part, whole) {
  return Number.isFinite(part) && whole > 0 ? `${Math.round((100 * part) / whole)} %` : NONE;
}

export function score(value) {
  return Number.isFinite(value) ? value.toFixed(3) : NONE;
}

export function moment(seconds) {
  return new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** A change's state, or a step that led to it, as people read it. */
export function stated(state) {
  return state.replace("_", " ");
}

/** How many of the prompt's tokens a policy added, by its share of the characters: the engine counts only the whole. */
export function added(trace) {
  const tokens = trace.usage?.prompt_tokens;
  if (!trace.spans) return trace.stages.length ? null : 0;
  const size = (texts) => texts.reduce((sum, text) => sum + text.length, 0);
  const whole = size(trace.spans.map((span) => span.text));
  if (!Number.isFinite(tokens) || !whole || !trace.before) return null;
  const asked = size(trace.before.map(({ content }) => (typeof content === "string" ? content : "")));
  return Math.round((tokens * Math.max(0, whole - asked)) / whole);
}

/** What an answer cites on one line: how many rules are cited, and what is wrong; "" where the policy asks for no marks. */
export function summed(citations) {
  if (!citations) return "";
  const many = (rows, one, more) => rows.length && `${rows.length} ${rows.length === 1 ? one : more}`;
  return [
    many(citations.cited, "rule cited", "rules cited") || "no rule cited",
    many(citations.unknown, "mark of a rule that was not shown", "marks of rules that were not shown"),
    many(citations.altered, "quotation that is not in its rule", "quotations that are not in their rules"),
    many(citations.unmarked, "rule quoted without its mark", "rules quoted without their marks"),
  ].filter(Boolean).join(" · ");
}
