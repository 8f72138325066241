// Principles: search an index as the stage would, look at one, add and withdraw.

import { button, choice, el, field, long, outward, say } from "./element.js";
import { score, stated } from "./figures.js";
import { all, get, post, remove } from "./server.js";

const PAGE = 20;
const ADDED = ["id", "title", "source", "url", "region", "language", "kind", "tags", "in_force_from", "in_force_to"];

export class Principles {
  constructor(key) {
    this.key = key;
    this.root = el("section", { class: "principles", "aria-label": "Principles" }, el("h1", {}, "Principles"));
  }

  /** Ask which indexes there are, and show them; `held` may name an index and a principle in it. */
  async open(held) {
    if (!this.form) {
      const indexes = (await get("v1/indexes")).data;
      if (!indexes.length) {
        this.root.append(el("p", { class: "note" }, "This server has no index of principles. “Quote your rules” in the README says how to make one."));
        this.form = el("form");
        return;
      }
      this.#build(indexes);
    }
    if (!this.index) return;
    const named = held.get("index");
    if (named && this.indexes[named]) this.index.value = named;
    this.#chosen();
    if (held.get("id")) await this.#one(held.get("id"));
    else if (!this.list.childElementCount) await this.#browse("");
  }

  #build(indexes) {
    this.indexes = Object.fromEntries(indexes.map((row) => [row.id, row]));
    this.index = choice(indexes.map(({ id }) => [id, id]), indexes[0].id, { on: { change: () => this.#switch() } });
    this.query = el("input", { type: "search", placeholder: "What bears on…" });
    this.filters = {
      region: el("input", { type: "text" }), language: el("input", { type: "text", placeholder: "en, zh…" }),
      kind: el("input", { type: "text" }), tags: el("input", { type: "text", placeholder: "a, b" }), on: el("input", { type: "date" }),
    };
    this.mode = choice([["hybrid", "hybrid"], ["dense", "dense"], ["lexical", "lexical"]], "hybrid");
    this.k = el("input", { type: "number", min: 1, max: 100, value: 8 });
    const labels = { region: "Region", language: "Language", kind: "Kind", tags: "Tags", on: "In force on" };
    const filters = Object.entries(this.filters).map(([name, input]) => field(labels[name], input));
    this.form = el("form", { class: "panel", role: "search", on: { submit: (event) => this.#submit(event) } },
      el("div", { class: "row grow search" }, field("Index", this.index), field("Search", this.query),
        el("button", { type: "submit", class: "main" }, "Search")),
      el("details", {}, el("summary", {}, "Filters"), el("div", { class: "fields" }, filters, field("Mode", this.mode), field("At most", this.k))));
    this.told = el("p", { class: "note", role: "status" });
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.list = el("ol", { class: "cards" });
    this.more = button("More", () => this.#browse(this.last), { hidden: true });
    this.adding = this.#adding();
    this.importing = importing((step) => this.#try(step), () => this.index.value, () => this.#browse(""));
    this.root.append(this.form, this.adding, this.importing, this.trouble, this.told, this.list, this.more);
  }

  #chosen() {
    this.adding.hidden = this.importing.hidden = !this.indexes[this.index.value].changeable;
  }

  #switch() {
    this.#chosen();
    this.list.replaceChildren();
    this.#try(() => this.#browse(""));
  }

  async #try(step) {
    this.trouble.hidden = true;
    try {
      await step();
    } catch (error) {
      this.trouble.textContent = error.message;
      this.trouble.hidden = false;
    }
  }

  // ---------------------------------------------------------------- looking

  #submit(event) {
    event.preventDefault();
    this.list.replaceChildren();
    this.#try(() => (this.query.value.trim() ? this.#search() : this.#browse("")));
  }

  async #search() {
    const filters = Object.entries(this.filters).filter(([, input]) => input.value.trim());
    const asked = Object.fromEntries(filters.map(([name, input]) => [name, name === "tags" ? tagsOf(input.value) : input.value.trim()]));
    const body = { index: this.index.value, query: this.query.value, k: Number(this.k.value) || 8, mode: this.mode.value, ...asked };
    const { data, revision } = await post("v1/principles/search", body);
    this.told.textContent = data.length ? `${data.length} found, best first; revision ${revision}` : "Nothing found";
    this.more.hidden = true;
    this.list.replaceChildren(...data.map((row) => this.#card(row)));
  }

  async #browse(after) {
    const { data, revision } = await get("v1/principles", { index: this.index.value, after, limit: PAGE });
    if (!after) this.list.replaceChildren();
    const on = this.filters.on.value;
    this.list.append(...data.filter((row) => inForce(row, on)).map((row) => this.#card(row)));
    this.last = data.at(-1)?.id;
    this.more.hidden = data.length < PAGE;
    const all = this.list.childElementCount;
    const when = on ? `, in force on ${on}` : "";
    this.told.textContent = all ? `${all} by id${when}; revision ${revision}` : on ? `None so far${when}` : "This index is empty";
  }

  async #one(id) {
    await this.#try(async () => {
      const row = await get(`v1/principles/${encodeURIComponent(id)}`, { index: this.index.value });
      this.list.replaceChildren(this.#card(row));
      this.told.textContent = `The principle ${id}`;
      this.more.hidden = true;
    });
  }

  #card(row) {
    const where = [row.id, row.region || "everywhere", row.language, row.kind, row.tags.join(", ")];
    const force = row.in_force_from || row.in_force_to ? `in force ${row.in_force_from || "…"} – ${row.in_force_to || "…"}` : "";
    const changeable = this.indexes[this.index.value].changeable;
    const away = withdrawal(() => this.#try(() => this.#withdraw(row, card)));
    const card = el("li", { class: "card" },
      el("header", { class: "row" }, el("h2", {}, row.title || row.id), changeable && button("Edit", () => this.#edit(row), { class: "plain" }), changeable && away),
      el("p", { class: "note" }, [...where, force].filter(Boolean).join(" · ")),
      row.source || row.url ? el("p", { class: "note" }, row.url ? outward(row.url, row.source || row.url) : row.source) : null,
      long(row.text),
      row.score === undefined ? null : scores(row),
      this.key.rights.some((right) => right === "author" || right === "approver") && history(this.index.value, row.id, (step) => this.#try(step)));
    return card;
  }

  // ---------------------------------------------------------------- changing

  #adding() {
    const inputs = Object.fromEntries(ADDED.map((name) => [name, el("input", { type: name.startsWith("in_force") ? "date" : name === "url" ? "url" : "text", required: name === "id" })]));
    const text = el("textarea", { rows: 3, required: true });
    const labels = { id: "Id", title: "Title", source: "Source", url: "Address", region: "Region", language: "Language", kind: "Kind", tags: "Tags", in_force_from: "In force from", in_force_to: "In force to" };
    const submit = async (event) => {
      event.preventDefault();
      await this.#try(async () => {
        const given = Object.entries(inputs).filter(([, input]) => input.value.trim());
        const row = Object.fromEntries(given.map(([name, input]) => [name, name === "tags" ? tagsOf(input.value) : input.value.trim()]));
        const { revision } = await post("v1/principles", { index: this.index.value, principles: [{ ...row, text: text.value }] });
        form.reset();
        await this.#one(row.id);
        say(`Added; revision ${revision}`);
      });
    };
    this.inputs = { ...inputs, text };
    const form = el("form", { on: { submit } },
      field("Text", text), el("div", { class: "fields" }, ADDED.map((name) => field(labels[name], inputs[name]))),
      el("div", { class: "row end" }, el("button", { type: "submit", class: "main" }, "Add it")));
    return el("details", { class: "panel" }, el("summary", {}, "Add a principle"), form);
  }

  /** The form with a principle in it: what is added under its id replaces it. */
  #edit(row) {
    for (const [name, input] of Object.entries(this.inputs)) input.value = name === "tags" ? row.tags.join(", ") : (row[name] ?? "");
    this.adding.open = true;
    this.inputs.text.focus();
    this.adding.scrollIntoView({ block: "start" });
  }

  async #withdraw(row, card) {
    const path = `v1/principles/${encodeURIComponent(row.document || row.id)}?${new URLSearchParams({ index: this.index.value })}`;
    const { revision } = await remove(path);
    card.remove();
    this.told.tabIndex = -1;
    this.told.focus();
    say(`Withdrawn; revision ${revision}`);
  }
}

/** Whether a principle was in force on a day; without a day, any is. */
function inForce(row, on) {
  return !on || ((!row.in_force_from || row.in_force_from <= on) && (!row.in_force_to || on <= row.in_force_to));
}

/** The changes that made a principle what it is, when they are asked for. */
function history(index, id, attempt) {
  const list = el("ul", { class: "notes" });
  const load = (event) => event.target.open && !list.childElementCount && attempt(async () => {
    const changes = await all("v1/changes", { state: "in_force,retired", limit: 200 });
    const own = changes.filter(({ touches }) => touches.some((line) => line.endsWith(` ${index}/${id}`)));
    const rows = own.map((change) => el("li", {}, el("a", { href: `#changes/${change.id}` }, change.title || change.id), ` by ${change.author || "–"}, ${stated(change.state)}`));
    list.replaceChildren(...(rows.length ? rows : [el("li", {}, "No change on record: it was added directly or from a file.")]));
  });
  return el("details", { on: { toggle: load } }, el("summary", {}, "History"), list);
}

/** Many principles at once, JSON lines or a JSON list: first the plan, then the import. */
function importing(attempt, index, done) {
  const text = el("textarea", { rows: 5, required: true, spellcheck: "false", class: "code", placeholder: '{"id": "law-12", "title": "…", "text": "…"}' });
  const file = el("input", { type: "file", accept: ".jsonl,.json" });
  file.addEventListener("change", async () => { text.value = (await file.files[0]?.text()) ?? ""; plan.hidden = true; });
  const told = el("p", { class: "note", role: "status" });
  const changed = el("ul", { class: "notes" });
  const go = button("Import", () => attempt(async () => {
    const { revision, ids } = await post("v1/principles", { index: index(), principles: parsed(text.value) });
    plan.hidden = true;
    text.value = "";
    await done();
    say(`${ids.length} imported; revision ${revision}`);
  }), { class: "main" });
  const plan = el("div", { class: "stack", hidden: true }, told, changed, el("div", { class: "row end" }, go));
  text.addEventListener("input", () => { plan.hidden = true; });
  const submit = (event) => {
    event.preventDefault();
    return attempt(async () => {
      const it = await post("v1/principles", { index: index(), principles: parsed(text.value), plan: true });
      told.textContent = `${it.added.length} would be added, ${it.changed.length} changed, ${it.same.length} stay as they are. Nothing is withdrawn.`;
      changed.replaceChildren(...it.changed.slice(0, 50).map((row) => el("li", {}, `${row.id}: ${row.fields.join(", ")}`)));
      go.disabled = !it.added.length && !it.changed.length;
      plan.hidden = false;
    });
  };
  const form = el("form", { class: "stack", on: { submit } }, field("JSON lines, or a list", text), field("From a file", file),
    el("div", { class: "row end" }, el("button", { type: "submit" }, "Show the plan")), plan);
  return el("details", { class: "panel" }, el("summary", {}, "Import many"), form);
}

function parsed(text) {
  const whole = text.trim();
  if (whole.startsWith("[")) return JSON.parse(whole);
  return whole.split("\n").filter((line) => line.trim()).map((line, i) => {
    try {
      return JSON.parse(line);
    } catch (error) {
      throw new Error(`line ${i + 1}: ${error.message}`);
    }
  });
}

function tagsOf(text) {
  return text.split(",").map((tag) => tag.trim()).filter(Boolean);
}

/** A button that asks once more where it stands. */
function withdrawal(act) {
  let sure = false;
  const it = button("Withdraw", () => {
    if (sure) return act();
    sure = true;
    it.textContent = "Withdraw for good?";
    it.classList.add("danger");
    return undefined;
  }, { class: "plain" });
  it.addEventListener("blur", () => {
    sure = false;
    it.textContent = "Withdraw";
    it.classList.remove("danger");
  });
  return it;
}

/** Fused, dense and lexical, each as a number and (where it has a scale) a bar. */
function scores(row) {
  const parts = [["fused", row.score], ["dense", row.dense], ["lexical", row.lexical]];
  return el("dl", { class: "scores" }, parts.map(([name, value]) => {
    const number = el("dd", {}, score(value));
    if (name !== "lexical" && Number.isFinite(value)) {
      const bar = el("span", { class: "bar" });
      bar.style.inlineSize = `${Math.max(0, Math.min(100, 100 * value))}%`;
      number.append(el("span", { class: "track", "aria-hidden": "true" }, bar));
    }
    return el("div", {}, el("dt", {}, name), number);
  }));
}
