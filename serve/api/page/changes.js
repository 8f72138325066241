// Changes: the inbox, and drafting one.

import { Change } from "./change.js";
import { choice, el, field, say } from "./element.js";
import { moment, stated } from "./figures.js";
import { get, post } from "./server.js";

const STATES = {
  "draft,submitted,approved,blocked": "open", submitted: "waiting for approval", in_force: "in force",
  "retired,rejected,withdrawn": "ended", "": "all",
};
const RULE = { title: "Title", source: "Source", url: "Address", region: "Region", language: "Language", kind: "Kind", in_force_from: "In force from", in_force_to: "In force to" };
const KEPT = ["tags", "parent"];

export class Changes {
  constructor(key) {
    this.key = key;
    this.state = choice(Object.entries(STATES), "draft,submitted,approved,blocked", { on: { change: () => this.#list("") } });
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.told = el("p", { class: "note", role: "status" });
    this.list = el("ol", { class: "cards" });
    this.older = el("button", { type: "button", hidden: true, on: { click: () => this.#list(this.next) } }, "Older");
    this.inbox = [
      el("h1", {}, "Changes"),
      el("form", { class: "panel", on: { submit: (event) => event.preventDefault() } }, el("div", { class: "row grow" }, field("Show", this.state))),
      key.rights.includes("author") && drafting((body) => this.#draft(body)),
      this.trouble, this.told, this.list, this.older,
    ].filter(Boolean);
    this.root = el("section", { class: "changes", "aria-label": "Changes" }, this.inbox);
  }

  /** The inbox, a form filled with what a complaint is about, or the change of that id, if it is still `wanted` then. */
  async open(id, held, wanted) {
    if (id === "new" && this.key.rights.includes("author")) {
      const form = drafting((body) => this.#draft(body, held), await proposed(held));
      if (!wanted()) return;
      this.root.replaceChildren(el("p", {}, el("a", { href: `#why/${held.get("trace") ?? ""}` }, "The answer that it is about")), el("h1", {}, "Propose a change"), this.trouble, form);
      this.trouble.hidden = true;
      return;
    }
    if (id) {
      const change = new Change(await get(`v1/changes/${encodeURIComponent(id)}`), this.key, held.get("q") ?? "", held.get("policy") ?? "");
      if (!wanted()) return;
      this.root.replaceChildren(change.root);
      return;
    }
    this.root.replaceChildren(...this.inbox);
    await this.#list("");
  }

  async #list(after) {
    this.trouble.hidden = true;
    try {
      const { data, next } = await get("v1/changes", { state: this.state.value, after, limit: 50 });
      if (!after) this.list.replaceChildren();
      this.list.append(...data.map(card));
      this.next = next;
      this.older.hidden = !next;
      this.told.textContent = this.list.childElementCount ? "" : "No change here.";
    } catch (error) {
      this.#failed(error);
    }
  }

  async #draft(body, held) {
    try {
      const change = await post("v1/changes", body);
      say(`Drafted ${change.id}`);
      const [policy] = body.items.filter(({ kind }) => kind === "policy").map(({ name }) => name);
      const tried = held && new URLSearchParams({ q: held.get("q") ?? "", policy: policy ?? held.get("policy") ?? "" });
      location.hash = `#changes/${change.id}${tried ? `?${tried}` : ""}`;
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error) {
    this.trouble.textContent = error.message;
    this.trouble.hidden = false;
  }
}

function card(change) {
  const facts = [change.author || "nobody (no keys)", moment(change.created), change.effective && `from ${change.effective}`, change.touches.join(", ")];
  return el("li", { class: "card" },
    el("header", { class: "row" },
      el("h2", {}, el("a", { href: `#changes/${change.id}` }, `${change.id}: ${change.title}`)),
      el("span", { class: "state", "data-state": change.state }, stated(change.state))),
    el("p", { class: "note" }, facts.filter(Boolean).join(" · ")));
}

/** What a complaint's trace fills the form with: the rule that it names, else its policy. */
async function proposed(held) {
  const [index, id, name] = ["index", "id", "policy"].map((field) => held.get(field) ?? "");
  const reason = `A complaint about the answer of trace ${held.get("trace")}${name && `, under the policy ${name}`}: `;
  if (id) return { reason, index, id, rule: await get(`v1/principles/${encodeURIComponent(id)}`, { index }) };
  const policy = await get(`v1/policies/${encodeURIComponent(name)}`);
  // A policy of the file stays as it is: a draft of it gets a name of its own.
  const item = { kind: "policy", name: policy.change ? name : `${name}-draft`, content: policy.file };
  return { reason, items: JSON.stringify([item], null, 2) };
}

/** A form for a change of one rule, or of whatever its items say as JSON. `given` is what it is filled with. */
function drafting(draft, given = null) {
  const rule = given?.rule ?? {};
  const reason = el("textarea", { rows: 2, required: true, value: given?.reason ?? "" });
  const effective = el("input", { type: "date" });
  const index = el("input", { type: "text", placeholder: "law", value: given?.index ?? "" });
  const name = el("input", { type: "text", placeholder: "parks-4", value: given?.id ?? "" });
  const text = el("textarea", { rows: 3, value: rule.text ?? "" });
  const gone = el("input", { type: "checkbox" });
  const inputs = Object.fromEntries(Object.keys(RULE).map((key) => [key, el("input", { type: key.startsWith("in_force") ? "date" : "text", value: rule[key] ?? "" })]));
  const items = el("textarea", { rows: given?.items ? 12 : 4, spellcheck: "false", class: "code", value: given?.items ?? "", placeholder: '[{"kind": "policy", "name": "careful", "content": {…}}]' });
  const wrong = el("p", { class: "trouble", role: "alert", hidden: true });
  const submit = async (event) => {
    event.preventDefault();
    wrong.hidden = true;
    let rows = [];
    try {
      rows = items.value.trim() ? JSON.parse(items.value) : [];
    } catch (error) {
      wrong.textContent = `The items are not JSON: ${error.message}`;
      wrong.hidden = false;
      return;
    }
    if (name.value.trim()) {
      const filled = Object.entries(inputs).filter(([, input]) => input.value.trim()).map(([key, input]) => [key, input.value.trim()]);
      const target = { kind: "rule", index: index.value.trim(), name: name.value.trim() };
      // What the form has no field for stays as it was in the rule that it was filled with.
      const same = target.index === given?.index && target.name === given?.id;
      const kept = same ? Object.fromEntries(KEPT.filter((key) => rule[key]?.length).map((key) => [key, rule[key]])) : {};
      rows.push(gone.checked ? { ...target, op: "withdraw" } : { ...target, content: { ...kept, text: text.value, ...Object.fromEntries(filled) } });
    }
    await draft({ reason: reason.value, effective: effective.value, items: rows });
  };
  return el("details", { class: "panel", open: Boolean(given) }, el("summary", {}, "Draft a change"),
    el("form", { on: { submit } },
      el("div", { class: "fields" }, field("Index", index), field("Rule", name, "its id: a new one is added, a known one changed")),
      field("Text", text),
      el("details", {}, el("summary", {}, "More of the rule"), el("div", { class: "fields" }, Object.entries(RULE).map(([key, label]) => field(label, inputs[key])))),
      el("label", { class: "row check" }, gone, "Withdraw the rule instead"),
      el("details", { open: Boolean(given?.items) }, el("summary", {}, "Policies, profiles, several rules"), field("Items as JSON", items)),
      field("Reason", reason),
      el("div", { class: "fields" }, field("In force from", effective, "empty: from its approval")),
      wrong,
      el("div", { class: "row end" }, el("button", { type: "submit", class: "main" }, "Draft it"))));
}
