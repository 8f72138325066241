// One change: what it does side by side, what it would do to a prompt, its history, and the steps that this key may take.

import { button, el, field, say } from "./element.js";
import { moment, stated } from "./figures.js";
import { post } from "./server.js";

const STEPS = {
  submit: { label: "Submit", right: "author", states: ["draft"] },
  approve: { label: "Approve", right: "approver", states: ["submitted"], main: true },
  reject: { label: "Reject", right: "approver", states: ["submitted", "approved"] },
  withdraw: { label: "Withdraw", right: "author", states: ["draft", "submitted", "approved", "blocked"] },
  rebase: { label: "Rebase", right: "author", states: ["draft", "rejected", "withdrawn", "blocked"] },
  rollback: { label: "Roll back", right: "approver", states: ["in_force"], danger: true },
};

export class Change {
  constructor(change, key, question = "", policy = "") {
    this.key = key;
    this.comment = el("textarea", { rows: 2 });
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.root = el("article", { class: "change" });
    this.trial = new Trial(change.id, question, policy);
    this.#show(change);
  }

  #show(change) {
    this.change = change;
    const facts = { State: stated(change.state), Author: change.author || "nobody (no keys)", Digest: change.digest,
      "In force from": change.effective || "its approval", "Rolls back": change.inverts, "Needs a check of": change.requires.join(", ") };
    this.root.replaceChildren(
      el("p", {}, el("a", { href: "#changes" }, "All changes")),
      el("header", { class: "row" }, el("h1", {}, `${change.id}: ${change.title}`),
        el("span", { class: "state", "data-state": change.state }, facts.State)),
      el("dl", { class: "facts" }, Object.entries(facts).filter(([, text]) => text).map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text)))),
      change.reason && el("p", { class: "text reason" }, change.reason),
      el("section", { class: "panel" }, el("h2", {}, "What it does"), change.diff.length ? change.diff.map(item) : el("p", { class: "note" }, "Nothing yet.")),
      this.trial.root,
      el("section", { class: "panel" }, el("h2", {}, "History"), el("ol", { class: "history" }, change.history.map(event)),
        field("Comment", this.comment), this.trouble, el("div", { class: "row end steps" }, this.#steps())));
  }

  #steps() {
    const may = ([name, { right, states }]) => !(name === "rollback" && this.change.inverts) && this.key.rights.includes(right) && states.includes(this.change.state);
    const steps = Object.entries(STEPS).filter(may).map(([name, { label, main, danger }]) =>
      button(label, () => this.#take(name), { class: main ? "main" : danger ? "danger" : "" }));
    return [button("Comment", () => this.#take("comment")), ...steps];
  }

  async #take(step) {
    this.trouble.hidden = true;
    try {
      const change = await post(`v1/changes/${this.change.id}/${step}`, { version: this.change.version, comment: this.comment.value });
      this.comment.value = "";
      if (step === "rollback") {
        say(`Rolled back by ${change.id}`);
        location.hash = `#changes/${change.id}`;
        return;
      }
      say(`${change.id} is ${stated(change.state)}`);
      this.#show(change);
    } catch (error) {
      this.trouble.textContent = error.message;
      this.trouble.hidden = false;
    }
  }
}

function item({ sentence, fields }) {
  return el("section", { class: "item" }, el("h3", {}, sentence[0].toUpperCase() + sentence.slice(1)),
    fields.length ? fields.map((row) => sides(row.field, row.diff)) : el("p", { class: "note" }, "No field differs."));
}

/** Two texts side by side, what differs marked in each. */
function sides(name, diff) {
  const side = (kept, tag) => diff.filter(([what]) => what === "=" || what === kept).map(([what, text]) => (what === "=" ? text : el(tag, {}, text)));
  return el("div", { class: "sides" }, el("h4", {}, name), el("small", {}, "before"), el("small", {}, "after"),
    el("p", { class: "text before" }, side("-", "del")), el("p", { class: "text after" }, side("+", "ins")));
}

function event({ at, did, by, comment }) {
  return el("li", {}, el("span", {}, `${moment(at)} · ${stated(did)}${by ? ` by ${by}` : ""}`), comment && el("p", { class: "text" }, comment));
}

/** A question, and its prompt now and under the change. */
class Trial {
  constructor(id, question, policy) {
    this.id = id;
    this.question = el("input", { type: "text", required: true, value: question });
    this.policy = el("input", { type: "text", value: policy, placeholder: "the first that it touches" });
    this.found = el("div", { role: "status" });
    this.root = el("section", { class: "panel trial" }, el("h2", {}, "Try it"),
      el("form", { class: "row grow search", on: { submit: (submitted) => this.#try(submitted) } },
        field("Policy", this.policy), field("Question", this.question), el("button", { type: "submit" }, "Show the prompt")),
      this.found);
  }

  async #try(submitted) {
    submitted.preventDefault();
    const policy = this.policy.value.trim();
    const body = { messages: [{ role: "user", content: this.question.value }], ...(policy && { trimtab: { policy } }) };
    try {
      const found = await post(`v1/changes/${this.id}/explain`, body);
      const moves = [["comes", found.came], ["goes", found.went], ["is reworded", found.reworded]];
      const words = moves.flatMap(([verb, rules]) => rules.map((rule) => `${rule} ${verb}`));
      const tokens = `${found.tokens_added >= 0 ? "+" : ""}${found.tokens_added} tokens (estimated)`;
      this.found.replaceChildren(
        el("p", { class: "note" }, [`Policy ${found.policy}: ${found.changed ? "another prompt" : "the same prompt"}`, ...words, tokens].join(" · ")),
        sides("prompt", found.diff));
    } catch (error) {
      this.found.replaceChildren(el("p", { class: "trouble", role: "alert" }, error.message));
    }
  }
}
