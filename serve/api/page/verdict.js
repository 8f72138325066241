// What a person says of an answer: a thumb, or that it is better than those beside it.

import { button, el, icon, say } from "./element.js";
import { post, remove } from "./server.js";

const UP = "M7 10v10H3V10zm2 0 4-8c1.5 0 2.5 1 2.5 2.5L14.8 9H20c1 0 1.8 1 1.6 2l-1.6 7c-.3 1.2-1.3 2-2.5 2H9z";
const DOWN = "M7 14V4H3v10zm2 0 4 8c1.5 0 2.5-1 2.5-2.5L14.8 15H20c1 0 1.8-1 1.6-2L20 6c-.3-1.2-1.3-2-2.5-2H9z";
const THUMBS = { up: [UP, "Good answer"], down: [DOWN, "Bad answer"] };

export class Verdict {
  /** `rivals()` are the finished answers to the same conversation; `chosen()` is told when this one is the best. */
  constructor(trace, rivals, chosen) {
    this.trace = trace;
    this.rivals = rivals;
    this.chosen = chosen;
    this.kept = { up: [], down: [], better: [] }; // ids of the feedback that stands, by what was pressed
    this.buttons = Object.fromEntries(
      Object.entries(THUMBS).map(([name, [path, label]]) => [name, this.#button(name, icon(path), label)]),
    );
    this.buttons.better = this.#button("better", "This one is better", null);
    this.root = el("div", { class: "verdict" }, Object.values(this.buttons));
    this.refresh();
  }

  #button(name, shown, label) {
    const props = { class: "plain", "aria-pressed": "false", "aria-label": label, title: label };
    return button(shown, () => this.#press(name), props);
  }

  /** There is something to compare with, or no longer. */
  refresh() {
    this.buttons.better.hidden = this.rivals().length === 0 && this.kept.better.length === 0;
  }

  async #press(name) {
    const all = Object.values(this.buttons);
    for (const each of all) each.disabled = true;
    try {
      if (this.kept[name].length) await this.#withdraw(name);
      else await this.#give(name);
    } catch (error) {
      say(error.message);
    }
    for (const each of all) each.disabled = false;
    this.buttons[name].focus();
  }

  async #give(name) {
    if (name === "better") {
      for (const { verdict } of this.rivals()) if (verdict.kept.better.length) await verdict.#withdraw("better");
      const pairs = this.rivals().map((rival) => ({ chosen: this.trace, rejected: rival.trace }));
      for (const pair of pairs) this.kept.better.push((await post("v1/feedback", pair)).id);
      this.chosen(true);
      say(pairs.length ? "Kept: this answer is the better one" : "There is nothing to compare it with");
    } else {
      const given = await post("v1/feedback", { trace: this.trace, rating: name });
      this.#mark(name === "up" ? "down" : "up", []); // the server has replaced it
      this.kept[name].push(given.id);
      say("Kept, thank you");
    }
    this.#mark(name, this.kept[name]);
  }

  async #withdraw(name) {
    for (const id of this.kept[name].splice(0)) await remove(`v1/feedback/${id}`);
    this.#mark(name, []);
    if (name === "better") this.chosen(false);
    say("Withdrawn");
  }

  #mark(name, ids) {
    this.kept[name] = ids;
    this.buttons[name].setAttribute("aria-pressed", String(ids.length > 0));
  }
}
