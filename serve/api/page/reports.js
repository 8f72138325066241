// An evaluation's report, opened in place: its findings in sentences, then every comparison with its intervals.

import { el } from "./element.js";
import { count, moment, NONE } from "./figures.js";
import { get } from "./server.js";

const COLUMNS = ["Measure", "Before", "After", "Difference", "p (Holm)", "In words"];

/** The runs that have a report, as a list of links. */
export async function listed() {
  const { data } = await get("v1/reports");
  if (!data.length) return el("p", { class: "note" }, "No report: reports in [server] names the folder of runs of `trimtab eval`.");
  return el("ul", { class: "notes" }, data.map(({ id, written }) => el("li", {}, el("a", { href: `#reports/${encodeURIComponent(id)}` }, id), ` · ${moment(written)}`)));
}

export class Reports {
  constructor() {
    this.root = el("section", { class: "reports stack", "aria-label": "Evaluation" });
  }

  /** The report of that name, or the list. */
  async open(name) {
    this.root.replaceChildren(...(name ? report(await get(`v1/reports/${encodeURIComponent(name)}`)) : [el("h1", {}, "Evaluations"), await listed()]));
  }
}

function report(it) {
  const rows = [["Questions", count(it.questions)], ["Baseline", it.run.baseline ?? it.comparisons?.[0]?.baseline], ["Finished", it.run.finished], ["Trimtab", it.run.version]];
  const facts = rows.filter(([, value]) => value).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value))));
  return [
    el("header", { class: "row" }, el("h1", {}, `Evaluation ${it.id}`), el("a", { class: "button", href: "#use" }, "Use")),
    el("dl", { class: "facts" }, facts),
    el("h2", {}, "What it found"),
    el("ul", { class: "notes" }, (it.summary ?? []).map((line) => el("li", {}, line))),
    ...tables("All questions", it.comparisons ?? []),
    ...Object.entries(it.kinds ?? {}).map(([kind, found]) => el("details", { class: "panel" }, el("summary", {}, `Questions of the kind ${kind}`), tables(kind, found))),
    el("p", { class: "note" }, "Intervals are 95 %, paired by question. “No difference shown” means that these questions cannot tell."),
  ].filter(Boolean);
}

/** A table for each arm that is compared with the baseline. */
function tables(what, comparisons) {
  const arms = [...new Set(comparisons.map(({ arm }) => arm))];
  return arms.flatMap((arm) => {
    const mine = comparisons.filter((row) => row.arm === arm);
    const name = `${arm} against ${mine[0].baseline}`;
    const head = el("tr", {}, COLUMNS.map((column) => el("th", { scope: "col" }, column)));
    return [el("h3", {}, name), el("div", { class: "scrolls", tabindex: 0, role: "region", "aria-label": `${what}: ${name}` },
      el("table", { class: "traces" }, el("caption", { class: "hidden" }, `${what}: ${name}`), el("thead", {}, head), el("tbody", {}, mine.map(compared))))];
  });
}

function compared({ measure, before, after, difference, holm, word }) {
  const cells = [whole(measure, before), whole(measure, after), whole(measure, difference, true), Number.isFinite(holm) ? (holm < 0.001 ? "< 0.001" : holm.toFixed(3)) : NONE, word];
  return el("tr", {}, el("th", { scope: "row", title: measure.about }, measure.name.replaceAll("_", " ")), cells.map((cell, i) => el("td", { "data-name": COLUMNS[i + 1] }, cell)));
}

/** A value with its interval: a share in percent, a difference of shares in points, else in the measure's unit. */
function whole(measure, found, signed = false) {
  if (!Number.isFinite(found?.value)) return NONE;
  const share = measure.kind === "rate" || measure.unit.startsWith("of the ");
  const said = (value) => {
    if (!Number.isFinite(value)) return NONE;
    const text = share ? (100 * Math.abs(value)).toFixed(1) : Math.abs(value).toLocaleString("en", { maximumSignificantDigits: 3 });
    return `${value < 0 ? "−" : signed && value > 0 ? "+" : ""}${text}`;
  };
  const unit = share ? (signed ? " points" : " %") : measure.unit && ` ${measure.unit}`;
  return `${said(found.value)}${unit} (${said(found.low)} to ${said(found.high)})`;
}
