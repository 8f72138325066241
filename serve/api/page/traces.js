// Recent requests: filter, look further back, open one.

import { button, choice, el, field } from "./element.js";
import { count, moment, ms } from "./figures.js";
import { get } from "./server.js";

const OUTCOMES = { "": "any", applied: "applied", skipped: "skipped", timed_out: "timed out", failed: "failed", none: "no stage", error: "request failed" };

export class Traces {
  constructor(server) {
    const policies = [["", "any"], ...server.policies.map(({ id }) => [id, id])];
    const again = { on: { change: () => this.open() } };
    this.filters = {
      policy: choice(policies, "", again),
      outcome: choice(Object.entries(OUTCOMES), "", again),
      key: el("input", { type: "text", ...again }),
    };
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.told = el("p", { class: "note", role: "status" });
    this.body = el("tbody");
    this.older = button("Older", () => this.#load(this.next), { hidden: true });
    const names = ["When", "Policy", "What was done", "Model", "Tokens", "Time", "Status"];
    const head = el("tr", {}, names.map((name) => el("th", { scope: "col" }, name)));
    this.table = el("table", { class: "traces" }, el("caption", { class: "hidden" }, "Recent requests"), el("thead", {}, head), this.body);
    this.root = el("section", { class: "recent", "aria-label": "Traces" },
      el("h1", {}, "Traces"),
      el("form", { class: "panel", on: { submit: (event) => { event.preventDefault(); this.open(); } } },
        el("div", { class: "row grow" }, field("Policy", this.filters.policy), field("Outcome", this.filters.outcome),
          server.key.needed && field("Key", this.filters.key), el("button", { type: "submit" }, "Refresh"))),
      this.trouble, this.told, this.table, this.older);
  }

  async open() {
    this.body.replaceChildren();
    await this.#load("");
  }

  async #load(after) {
    const asked = Object.fromEntries(Object.entries(this.filters).map(([name, input]) => [name, input.value.trim()]));
    this.trouble.hidden = true;
    try {
      const { data, next } = await get("v1/traces", { ...asked, after, limit: 50 });
      if (!after) this.body.replaceChildren();
      this.body.append(...data.map(row));
      this.next = next;
      this.older.hidden = !next;
      this.table.hidden = !this.body.childElementCount;
      this.told.textContent = this.body.childElementCount ? "" : next ? "None among the latest; older ones may match." : "No request yet that matches.";
    } catch (error) {
      this.trouble.textContent = error.message;
      this.trouble.hidden = false;
    }
  }
}

function row(trace) {
  const stages = trace.stages.map(({ stage, status, reason }) => `${stage} ${status.replace("_", " ")}${reason ? ` (${reason})` : ""}`);
  const wrong = trace.error || trace.status >= 400;
  const cells = {
    Policy: trace.policy ?? "–",
    "What was done": stages.join(", ") || "nothing",
    Model: trace.model || "–",
    Tokens: trace.usage ? `${count(trace.usage.prompt_tokens)} + ${count(trace.usage.completion_tokens)}` : "–",
    Time: ms(trace.total_ms),
    Status: wrong ? `${trace.status}: ${trace.error ?? ""}` : String(trace.status),
  };
  return el("tr", { class: wrong ? "wrong" : "" },
    el("th", { scope: "row" }, el("a", { href: `#why/${trace.id}` }, moment(trace.created))),
    Object.entries(cells).map(([name, text]) => el("td", { "data-name": name }, text)));
}
