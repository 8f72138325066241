// The playground: one question, two or more columns that answer it at once, turn after turn.

import { Answer } from "./answer.js";
import { button, choice, copy, el, field, offer, say, scrolled } from "./element.js";
import { Settings, columnsOf, link } from "./settings.js";

const MOST = 4; // columns
const EXAMPLES = [
  "How do I keep bread fresh?",
  "Is it legal to record a phone call?",
  "Explain to a child why the sky is blue.",
];

export class Playground {
  /** `server` is what it told of itself: its policies, models, and the key's rights. */
  constructor(server, preview) {
    Object.assign(this, { server, preview, columns: [], turns: [] });
    this.examples = server.page?.questions.length ? server.page.questions : EXAMPLES;
    this.bar = el("div", { class: "columns", role: "group", "aria-label": "Columns" });
    this.list = el("ol", { class: "turns" });
    this.settings = new Settings();
    this.question = el("textarea", {
      rows: 1, placeholder: "Ask something…", "aria-label": "Your question", "aria-describedby": "asking",
      on: { keydown: (event) => this.#key(event), input: () => this.#fit() },
    });
    this.send = el("button", { type: "submit", class: "main" }, "Ask");
    this.halt = button("Stop", () => this.stop(), { class: "main", hidden: true });
    this.add = button("Add a column", () => this.#column(this.#fresh()), { class: "plain" });
    const others = [
      this.add,
      button("Copy link", () => this.#share(), { class: "plain" }),
      button("Start over", () => this.clear(), { class: "plain" }),
    ];
    this.form = el(
      "form",
      { class: "composer", novalidate: true, "aria-label": "Question", on: { submit: (event) => this.#submit(event) } },
      el("div", { class: "row" }, this.question, this.send, this.halt),
      el("div", { class: "row below" }, this.settings.root, others, el("small", { id: "asking" }, "Enter asks, Shift+Enter is a new line, Esc stops")),
    );
    this.empty = el(
      "section",
      { class: "empty" },
      el("h1", {}, "See what alignment does to an answer"),
      el("p", {}, "Ask once. Each column answers under its own policy; Why shows what was put into the prompt, and from where."),
      this.server.page?.note && el("p", { class: "small" }, this.server.page.note),
      el("div", { class: "row examples" }, this.examples.map((text) => button(text, () => this.#try(text)))),
    );
    this.root = el("section", { class: "play", "aria-label": "Playground" }, this.bar, this.empty, this.list, this.form);
    this.root.addEventListener("keydown", (event) => event.key === "Escape" && this.stop());
    for (const policy of this.#pair()) this.#column({ policy, model: "" });
  }

  /** Question, columns and settings of a link; nothing where they are those that it was given or gave last. */
  restore(query) {
    if (query === this.held) return;
    this.held = query;
    const held = new URLSearchParams(query);
    const known = columnsOf(held).filter(({ policy }) => this.server.policies.some(({ id }) => id === policy));
    if (known.length) {
      this.columns = [];
      this.bar.replaceChildren();
      for (const column of known.slice(0, MOST)) this.#column(column);
    }
    this.settings.restore(held);
    this.question.value = held.get("q") ?? "";
    this.#fit();
    this.question.focus();
  }

  stop() {
    for (const turn of this.turns) for (const answer of turn.answers) if (answer.asking) answer.stop();
  }

  clear() {
    this.stop();
    this.turns = [];
    this.list.replaceChildren();
    this.empty.hidden = false;
    this.question.focus();
  }

  // ---------------------------------------------------------------- columns

  /** The default policy, and before it what the engine says without one. */
  #pair() {
    const ids = this.server.policies.map(({ id }) => id);
    const standing = this.server.policies.find((policy) => policy.default) ?? this.server.policies[0];
    // A base model answers no chat without a template: its zero-shot arm is the profile that holds markers only.
    const bare = standing?.render === "base" && ids.includes("urial-plain") ? "urial-plain" : "raw";
    const other = standing?.id === bare ? ids.find((id) => id !== bare) : standing?.id;
    return [ids.includes(bare) ? bare : ids.find((id) => id !== other), other].filter(Boolean);
  }

  #fresh() {
    const taken = this.columns.map(({ policy }) => policy);
    const policy = this.server.policies.find(({ id }) => !taken.includes(id)) ?? this.server.policies[0];
    return { policy: policy.id, model: "" };
  }

  #column(column) {
    const policies = this.server.policies.map(({ id }) => [id, id]);
    const pick = (name) => (event) => {
      column[name] = event.target.value;
      if (name === "policy") this.#models(column);
    };
    column.models = el("select", { on: { change: pick("model") } });
    const policy = choice(policies, column.policy, { on: { change: pick("policy") } });
    const away = button("×", () => this.#drop(column), { class: "plain away", "aria-label": "Remove this column" });
    const look = button("Prompt", () => this.#look(column), { class: "plain", title: "Show the prompt without sending it" });
    column.away = away;
    column.root = el(
      "fieldset", {}, el("legend", { class: "hidden" }, `Column ${this.columns.length + 1}`),
      field("Policy", policy), field("Model", column.models),
      this.server.key.rights.includes("explain") && look, away,
    );
    this.#models(column);
    this.columns.push(column);
    this.bar.append(column.root);
    this.#counted();
  }

  /** The models to choose from: the policy's engine's own first, where it has one. */
  #models(column) {
    const own = this.server.policies.find(({ id }) => id === column.policy)?.model;
    const listed = this.server.models.filter((id) => id !== own).map((id) => [id, id]);
    const pairs = own ? [["", own], ...listed] : listed.length ? listed : [["", "the engine's own"]];
    if (!pairs.some(([value]) => value === column.model)) column.model = pairs[0][0];
    offer(column.models, pairs, column.model);
  }

  #drop(column) {
    column.root.remove();
    this.columns = this.columns.filter((other) => other !== column);
    this.#counted();
  }

  #counted() {
    this.add.disabled = this.columns.length >= MOST;
    for (const column of this.columns) column.away.hidden = this.columns.length < 2;
    this.root.style.setProperty("--columns", this.columns.length);
  }

  async #look(column) {
    const question = this.question.value.trim() || this.turns.at(-1)?.question || this.examples[0];
    try {
      await this.preview(this.#body(column, question));
    } catch (error) {
      say(error.message);
    }
  }

  // ---------------------------------------------------------------- asking

  #key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.form.requestSubmit();
  }

  /** As high as its text, within reason. */
  #fit() {
    this.question.style.height = "auto";
    this.question.style.height = `${Math.min(this.question.scrollHeight + 2, 240)}px`;
  }

  #try(text) {
    this.question.value = text;
    this.form.requestSubmit();
  }

  #submit(event) {
    event.preventDefault();
    const question = this.question.value.trim();
    if (!question || this.#asking || !this.settings.check()) return;
    this.question.value = "";
    this.#fit();
    this.empty.hidden = true;
    const bodies = this.columns.map((column) => this.#body(column, question));
    const turn = new Turn(question, this.columns, this.server.key, () => this.#busy());
    this.turns.push(turn);
    this.list.append(turn.root);
    turn.root.scrollIntoView({ block: "start" });
    turn.answers.forEach((answer, i) => answer.ask(bodies[i]));
    this.#busy();
  }

  get #asking() {
    return this.turns.some((turn) => turn.answers.some((answer) => answer.asking));
  }

  #busy() {
    const had = document.activeElement === this.send || document.activeElement === this.halt;
    this.send.hidden = this.#asking;
    this.halt.hidden = !this.#asking;
    if (had) (this.#asking ? this.halt : this.send).focus();
  }

  /** A request: the column's own conversation so far, and the question. */
  #body(column, question) {
    const messages = this.turns.flatMap((turn) => {
      const answer = turn.best ?? turn.answers.find((each) => each.column === column);
      if (!answer?.text) return [];
      return [{ role: "user", content: turn.question }, { role: "assistant", content: answer.text }];
    });
    const system = this.settings.system.value.trim();
    if (system) messages.unshift({ role: "system", content: system });
    messages.push({ role: "user", content: question });
    const trimtab = { policy: column.policy, ...this.settings.options };
    if (this.server.key.rights.includes("explain")) trimtab.explain = true;
    return { ...(column.model && { model: column.model }), messages, ...this.settings.decoding, trimtab };
  }

  #share() {
    const question = this.question.value.trim() || this.turns.at(-1)?.question || "";
    const address = link(question, this.columns, this.settings.saved);
    this.held = address.split("#play?")[1];
    history.replaceState(null, "", address);
    copy(address, "Link");
  }
}

/** One question and its answers, side by side. */
class Turn {
  constructor(question, columns, key, changed) {
    this.question = question;
    this.key = key;
    this.changed = () => {
      for (const { verdict } of this.answers) verdict?.refresh();
      this.#linked();
      changed();
    };
    this.best = null;
    this.answers = columns.map((column) => new Answer(column, key, this));
    this.goes = el("p", { class: "note", hidden: true }, "The conversation goes on with the better answer in every column.");
    const answers = el("div", { class: "answers" }, this.answers.map(({ root }) => root));
    this.kept = el("a", { hidden: true }, "Address of this comparison");
    this.root = el("li", { class: "turn" }, scrolled(el("h2", { class: "question" }, question)), answers, this.goes, this.kept);
  }

  /** An address under which the answers can be read again, where the caller may read traces. */
  #linked() {
    const traces = this.answers.map(({ trace }) => trace).filter(Boolean);
    const done = this.answers.every(({ asking }) => !asking);
    this.kept.hidden = !done || traces.length < 2 || !this.key.rights.includes("traces");
    this.kept.href = `#compare/${traces.join(",")}`;
  }

  /** The other answers to the very same conversation: only those can be compared. */
  rivals(answer) {
    return this.answers.filter(
      (other) => other !== answer && other.state === "done" && other.text && other.prompt === answer.prompt,
    );
  }

  choose(answer) {
    this.best = answer;
    this.goes.hidden = answer === null;
    for (const each of this.answers) each.root.classList.toggle("best", each === answer);
  }

  again(answer) {
    answer.ask(answer.body);
    this.changed();
  }
}
