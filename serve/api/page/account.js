// The account: is it whole, what does it say, and what was a request given.

import { button, choice, el, field } from "./element.js";
import { count, moment } from "./figures.js";
import { get } from "./server.js";

const KINDS = {
  "": "everything", change: "changes", open: "requests", close: "answers", checkpoint: "checkpoints", start: "starts and reloads",
  erased: "erasures", cut: "cuts", torn: "torn ends", gap: "gaps",
};

export class Account {
  constructor() {
    this.kind = choice(Object.entries(KINDS), "", { on: { change: () => this.#list() } });
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.told = el("p", { class: "note", role: "status" });
    this.verdict = el("div", { role: "status" });
    this.check = button("Verify", () => this.#verify(), { class: "main" });
    this.body = el("tbody");
    this.older = button("Older", () => this.#load(this.next), { hidden: true });
    const head = el("tr", {}, ["When", "Entry", "What", "Who"].map((name) => el("th", { scope: "col" }, name)));
    this.table = el("table", { class: "traces" }, el("caption", { class: "hidden" }, "Entries, newest first"), el("thead", {}, head), this.body);
    this.whole = [
      el("h1", {}, "Account"),
      el("section", { class: "panel", "aria-label": "Verification" },
        el("p", {}, "Every entry carries the hash of all entries before it, and checkpoints are signed. The server verifies what it has; ",
          el("code", {}, "trimtab account verify --checkpoint FILE"), " also shows whether the end was cut off, with a checkpoint that you kept elsewhere."),
        el("div", { class: "row" }, this.check), this.verdict),
      el("form", { class: "panel", on: { submit: (event) => { event.preventDefault(); this.#list(); } } },
        el("div", { class: "row grow" }, field("Show", this.kind), el("button", { type: "submit" }, "Refresh"))),
      this.trouble, this.told, this.table, this.older,
    ];
    this.root = el("section", { class: "recent account", "aria-label": "Account" }, this.whole);
  }

  /** The timeline, or the story of the request of that id. */
  async open(id) {
    if (id) {
      this.root.replaceChildren(...story(await get(`v1/account/requests/${encodeURIComponent(id)}`)));
      return;
    }
    this.root.replaceChildren(...this.whole);
    await this.#list();
  }

  async #list() {
    this.body.replaceChildren();
    await this.#load("");
  }

  async #load(before) {
    this.trouble.hidden = true;
    try {
      const { data, next } = await get("v1/account", { kind: this.kind.value, before, limit: 50 });
      if (!before) this.body.replaceChildren();
      this.body.append(...data.map(row));
      this.next = next;
      this.older.hidden = !next;
      this.check.disabled = false;
      this.table.hidden = !this.body.childElementCount;
      this.told.textContent = this.body.childElementCount ? "" : next ? "None among the latest; older ones may match." : "No entry that matches.";
    } catch (error) {
      this.table.hidden = true;
      this.check.disabled = error.code === "no_account"; // no fault: a new server has none
      if (this.check.disabled) this.told.textContent = "Nothing is recorded yet. The account begins with the first change, or with record = \"requests\" in [account].";
      else this.#failed(error);
    }
  }

  async #verify() {
    this.trouble.hidden = true;
    this.check.disabled = true;
    this.verdict.replaceChildren(el("p", { class: "note" }, "Reading every entry…"));
    try {
      const { whole, words } = await get("v1/account/verification");
      const [account, ...lines] = words;
      this.verdict.replaceChildren(
        el("p", { class: whole ? "" : "trouble" }, whole ? "The account is whole." : "The account is not whole."),
        el("ul", { class: "notes" }, [...lines, account].map((line) => el("li", {}, line))));
    } catch (error) {
      this.verdict.replaceChildren();
      this.#failed(error);
    } finally {
      this.check.disabled = false;
    }
  }

  #failed(error) {
    this.trouble.textContent = error.message;
    this.trouble.hidden = false;
  }
}

/** What an entry says, in a few words. */
function said(entry) {
  const told = {
    begin: () => `account ${entry.chain} begins`,
    segment: () => "a new file of the log",
    start: () => `a worker serves ${count(Object.keys(entry.policies ?? {}).length)} policies`,
    stop: () => "a worker stops",
    open: () => `request under ${entry.policy || "no policy"}${entry.rules?.length ? `, ${count(entry.rules.length)} rules quoted` : ""}`,
    close: () => `answer ${entry.finish || ""}, status ${entry.status}${entry.applied ? `: ${entry.applied}` : ""}`,
    change: () => `change ${entry.change} ${String(entry.step).replace("_", " ")}${entry.title ? `: ${entry.title}` : ""}`,
    checkpoint: () => `signed up to entry ${count(entry.upto)}`,
    cut: () => `entries up to ${count(entry.upto)} cut off for their age`,
    torn: () => `${count(entry.bytes)} bytes torn by a crash, set aside`,
    gap: () => `${count(entry.dropped)} entries lost: ${entry.why}`,
    erased: () => `person ${entry.person} erased, ${count(entry.requests)} requests`,
  }[entry.kind];
  return told ? told() : entry.kind;
}

function row(entry) {
  const what = entry.kind === "open" || entry.kind === "close" ? el("a", { href: `#account/${entry.id}` }, said(entry)) : said(entry);
  const cells = { Entry: count(entry.n), What: what, Who: entry.by || entry.key || "–" };
  return el("tr", { class: entry.kind === "gap" || entry.kind === "torn" ? "wrong" : "" },
    el("th", { scope: "row" }, moment(entry.at)),
    Object.entries(cells).map(([name, text]) => el("td", { "data-name": name }, text)));
}

function story({ id, story: lines, entries }) {
  return [
    el("h1", {}, `Request ${id}`),
    el("ol", { class: "notes" }, lines.map((line) => el("li", {}, line))),
    el("p", {}, el("a", { href: `#why/${id}` }, "Its trace"), " (while it is kept) · ", el("a", { href: "#account" }, "The account")),
    el("details", {}, el("summary", {}, "The entries as they were hashed"), entries.map((entry) => el("pre", { class: "text", tabindex: 0 }, JSON.stringify(entry, null, 1)))),
  ];
}
