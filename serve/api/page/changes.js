// Changes: the inbox, and drafting one.

import { Change } from "./change.js";
import { choice, el, field, say } from "./element.js";
import { moment } from "./figures.js";
import { get, post } from "./server.js";

const STATES = {
  "draft,submitted,approved,blocked": "open", submitted: "waiting for approval", in_force: "in force",
  "retired,rejected,withdrawn": "ended", "": "all",
};
const RULE = { title: "Title", source: "Source", url: "Address", region: "Region", language: "Language", kind: "Kind", in_force_from: "In force from", in_force_to: "In force to" };

/** A state as people read it. */
export function stated(state) {
  return state.replace("_", " ");
}

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

  /** The inbox, or the change of that id. */
  async open(id) {
    if (id) {
      const change = new Change(await get(`v1/changes/${encodeURIComponent(id)}`), this.key);
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

  async #draft(body) {
    try {
      const change = await post("v1/changes", body);
      say(`Drafted ${change.id}`);
      location.hash = `#changes/${change.id}`;
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

/** A form for a change of one rule, or of whatever its items say as JSON. */
function drafting(draft) {
  const reason = el("textarea", { rows: 2, required: true });
  const effective = el("input", { type: "date" });
  const index = el("input", { type: "text", placeholder: "law" });
  const name = el("input", { type: "text", placeholder: "parks-4" });
  const text = el("textarea", { rows: 3 });
  const gone = el("input", { type: "checkbox" });
  const inputs = Object.fromEntries(Object.keys(RULE).map((key) => [key, el("input", { type: key.startsWith("in_force") ? "date" : "text" })]));
  const items = el("textarea", { rows: 4, spellcheck: "false", placeholder: '[{"kind": "policy", "name": "careful", "content": {…}}]' });
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
      const given = Object.entries(inputs).filter(([, input]) => input.value.trim()).map(([key, input]) => [key, input.value.trim()]);
      const rule = { kind: "rule", index: index.value.trim(), name: name.value.trim() };
      rows.push(gone.checked ? { ...rule, op: "withdraw" } : { ...rule, content: { text: text.value, ...Object.fromEntries(given) } });
    }
    await draft({ reason: reason.value, effective: effective.value, items: rows });
  };
  return el("details", { class: "panel" }, el("summary", {}, "Draft a change"),
    el("form", { on: { submit } },
      el("div", { class: "fields" }, field("Index", index), field("Rule", name, "its id: a new one is added, a known one changed")),
      field("Text", text),
      el("details", {}, el("summary", {}, "More of the rule"), el("div", { class: "fields" }, Object.entries(RULE).map(([key, label]) => field(label, inputs[key])))),
      el("label", { class: "row check" }, gone, "Withdraw the rule instead"),
      el("details", {}, el("summary", {}, "Policies, profiles, several rules"), field("Items as JSON", items)),
      field("Reason", reason),
      el("div", { class: "fields" }, field("In force from", effective, "empty: from its approval")),
      wrong,
      el("div", { class: "row end" }, el("button", { type: "submit", class: "main" }, "Draft it"))));
}
