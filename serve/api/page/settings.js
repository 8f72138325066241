// What is asked beside the question: decoding, system message, what the stages are told. And the link that holds it.

import { el, field } from "./element.js";

const NUMBERS = {
  temperature: ["Temperature", { min: 0, max: 2, step: "any" }],
  top_p: ["Top p", { min: 0, max: 1, step: "any" }],
  max_tokens: ["Most tokens", { min: 1, step: 1 }],
  seed: ["Seed", { step: 1 }],
};
const TOLD = { region: ["Region", "text"], language: ["Language", "text"], date: ["In force on", "date"] };

export class Settings {
  constructor() {
    this.system = el("textarea", { rows: 2 });
    this.numbers = {};
    this.told = {};
    const decoding = Object.entries(NUMBERS).map(([name, [label, limits]]) => {
      this.numbers[name] = el("input", { type: "number", inputmode: "decimal", placeholder: "default", ...limits });
      return field(label, this.numbers[name]);
    });
    const stages = Object.entries(TOLD).map(([name, [label, type]]) => {
      this.told[name] = el("input", { type });
      return field(label, this.told[name]);
    });
    this.root = el(
      "details",
      { class: "settings" },
      el("summary", {}, "Settings"),
      field("System message", this.system),
      el("div", { class: "fields" }, decoding, stages),
    );
  }

  /** The fields of a request's body. */
  get decoding() {
    const given = Object.entries(this.numbers).filter(([, input]) => input.value !== "");
    return Object.fromEntries(given.map(([name, input]) => [name, Number(input.value)]));
  }

  /** The fields of its `trimtab` field. */
  get options() {
    return Object.fromEntries(
      Object.entries(this.told).filter(([, input]) => input.value).map(([name, input]) => [name, input.value]),
    );
  }

  /** Whether all of it makes sense; what does not is shown, and says so. */
  check() {
    const wrong = [...Object.values(this.numbers), ...Object.values(this.told)].find((input) => !input.validity.valid);
    if (!wrong) return true;
    this.root.open = true;
    return wrong.reportValidity();
  }

  /** What a link holds of this. */
  get saved() {
    return { ...(this.system.value && { system: this.system.value }), ...this.decoding, ...this.options };
  }

  restore(saved) {
    const all = { system: this.system, ...this.numbers, ...this.told };
    for (const [name, input] of Object.entries(all)) input.value = saved.get(name) ?? "";
    this.root.open = Object.values(all).some((input) => input.value !== "");
  }
}

/** The address of this page with a question, its columns and settings; never a key. */
export function link(question, columns, saved) {
  const held = new URLSearchParams({ q: question, ...saved });
  for (const { policy, model } of columns) {
    held.append("policy", policy);
    held.append("model", model);
  }
  return `${location.origin}${location.pathname}#play?${held}`;
}

/** The columns that a link names. */
export function columnsOf(held) {
  const models = held.getAll("model");
  return held.getAll("policy").map((policy, i) => ({ policy, model: models[i] ?? "" }));
}
