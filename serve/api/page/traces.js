// Recent requests: filter, look further back, open one.

import { button, choice, el, field } from "./element.js";
import { count, moment, ms } from "./figures.js";
import { get, patiently } from "./server.js";

const OUTCOMES = { "": "any", applied: "applied", skipped: "skipped", timed_out: "timed out", failed: "failed", none: "no stage", error: "request failed" };

export class Traces {
  constructor(server) {
    const policies = [["", "any"], ...server.policies.map(({ id }) => [id, id])];
    const again = { on: { change: () => this.#go() } };
    this.filters = {
      text: el("input", { type: "search", placeholder: "first words of a question", ...again }),
      policy: choice(policies, "", again),
      outcome: choice(Object.entries(OUTCOMES), "", again),
      model: el("input", { type: "text", ...again }),
      since: el("input", { type: "date", ...again }),
      until: el("input", { type: "date", ...again }),
      slower_ms: el("input", { type: "number", min: 0, ...again }),
      key: el("input", { type: "text", ...again }),
    };
    const others = [field("Model", this.filters.model), field("From", this.filters.since), field("To", this.filters.until),
      field("Slower than, ms", this.filters.slower_ms), server.key.needed && field("Key", this.filters.key)];
    this.more = el("details", {}, el("summary", {}, "More filters"), el("div", { class: "fields" }, others));
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.told = el("p", { class: "note", role: "status" });
    this.body = el("tbody");
    this.older = button("Older", () => this.#load(this.next), { hidden: true });
    const names = ["When", "Question", "Policy", "What was done", "Model", "Tokens", "Time", "Status"];
    const head = el("tr", {}, names.map((name) => el("th", { scope: "col" }, name)));
    this.table = el("table", { class: "traces" }, el("caption", { class: "hidden" }, "Recent requests"), el("thead", {}, head), this.body);
    this.root = el("section", { class: "recent", "aria-label": "Traces" },
      el("h1", {}, "Traces"),
      el("form", { class: "panel", on: { submit: (event) => { event.preventDefault(); this.#go(); } } },
        el("div", { class: "row grow search" }, field("Policy", this.filters.policy), field("Search", this.filters.text),
          field("Outcome", this.filters.outcome), el("button", { type: "submit" }, "Refresh")),
        this.more),
      this.trouble, this.told, this.table, this.older);
  }

  /** Show what the address asks for. */
  async open(held = new URLSearchParams()) {
    for (const [name, input] of Object.entries(this.filters)) input.value = held.get(name) ?? "";
    this.more.open ||= ["model", "since", "until", "slower_ms", "key"].some((name) => this.filters[name].value);
    this.body.replaceChildren();
    await this.#load("");
  }

  get #asked() {
    const given = Object.entries(this.filters).map(([name, input]) => [name, input.value.trim()]);
    return Object.fromEntries(given.filter(([, value]) => value));
  }

  /** The filters become the address, so that Back and a reload find them again. */
  #go() {
    const address = `#traces?${new URLSearchParams(this.#asked)}`.replace(/\?$/, "");
    if (location.hash === address) return this.#load("");
    location.hash = address;
    return undefined;
  }

  /** A page of the list; an empty first one is asked for again. */
  async #load(after) {
    const asked = JSON.stringify(this.#asked);
    const other = () => !this.root.isConnected || asked !== JSON.stringify(this.#asked);
    this.trouble.hidden = true;
    try {
      await patiently(async () => {
        const page = await get("v1/traces", { ...JSON.parse(asked), after, limit: 50 });
        if (!other()) this.#show(page, after);
        return page;
      }, ({ data }) => after || data.length || other());
    } catch (error) {
      if (other()) return;
      this.trouble.textContent = error.message;
      this.trouble.hidden = false;
    }
  }

  #show({ data, next }, after) {
    if (!after) this.body.replaceChildren();
    this.body.append(...data.map(row));
    this.next = next;
    this.older.hidden = !next;
    this.table.hidden = !this.body.childElementCount;
    this.told.textContent = this.body.childElementCount ? "" : next ? "None among the latest; older ones may match." : "No request yet that matches.";
  }
}

function row(trace) {
  const stages = trace.stages.map(({ stage, status, reason }) => `${stage} ${status.replace("_", " ")}${reason ? ` (${reason})` : ""}`);
  const wrong = trace.error || trace.status >= 400;
  const cells = {
    Question: trace.opening || "–",
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
