// What an answer cites, in words.

import { el, outward } from "./element.js";

/** The lists, for a trace. */
export function cited(citations) {
  const lists = [
    ["Cited", citations.cited, (row) => [rule(row), row.url ? [" ", outward(row.url, row.source || row.url)] : row.source ? ` (${row.source})` : ""]],
    ["Unknown: no such rule was in the prompt", citations.unknown, (row) => `[${row.mark}]`],
    ["Altered: the rule does not say this", citations.altered, (row) => [rule(row), row.quoted ? `: “${row.quoted}”` : "", row.found_in ? ` – these are the words of ${row.found_in}` : ""]],
    ["Quoted without a mark", citations.unmarked, rule],
  ];
  const shown = lists.filter(([, rows]) => rows.length);
  if (!shown.length) return el("p", { class: "note" }, "The answer cites no rule.");
  return shown.map(([name, rows, text]) => [el("h3", {}, name), el("ul", { class: "notes" }, rows.map((row) => el("li", {}, text(row))))]);
}

function rule(row) {
  const held = new URLSearchParams({ index: row.index ?? "", id: row.id });
  return el("a", { href: `#principles?${held}` }, row.title || row.id);
}
