// One answer on its way: its text as it comes, its figures, and what can be done with it.

import { button, el, say } from "./element.js";
import { NONE, added, count, ms, percent, summed } from "./figures.js";
import { chat, get, patiently } from "./server.js";
import { Verdict } from "./verdict.js";

const FIGURES = {
  first: "First token", total: "Total", tokens: "Tokens", added: "Prompt added", cached: "Cached",
};

export class Answer {
  /** `column` says policy and model, `key` what the caller may; `turn` knows the answers beside this one. */
  constructor(column, key, turn) {
    Object.assign(this, { column, policy: column.policy, model: column.model, key, turn });
    this.text = "";
    this.trace = "";
    this.state = "new"; // asking, done, stopped, failed
    this.verdict = null;
    this.applied = el("p", { class: "applied" }, NONE);
    this.said = el("div", { class: "said" });
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.cites = el("p", { class: "note" });
    this.figures = Object.fromEntries(Object.keys(FIGURES).map((name) => [name, el("dd", {}, NONE)]));
    this.tools = el("div", { class: "row tools" });
    const figures = Object.entries(FIGURES).map(([name, label]) => el("div", {}, el("dt", {}, label), this.figures[name]));
    this.root = el(
      "article",
      { class: "answer", "aria-label": `Answer under ${this.policy}` },
      el("header", {}, el("h3", {}, this.policy), this.model && el("span", { class: "model" }, this.model), this.applied),
      el("div", { class: "words" }, this.said, this.cites, this.trouble), el("dl", { class: "figures" }, figures), this.tools,
    );
  }

  get asking() {
    return this.state === "asking";
  }

  /** Ask, and show what comes. Never throws: what goes wrong is shown where the answer would be. */
  async ask(body) {
    this.body = body;
    this.prompt = JSON.stringify(body.messages);
    this.stopping = new AbortController();
    Object.assign(this, { text: "", trace: "", state: "asking", verdict: null });
    this.said.classList.remove("formed");
    this.cites.textContent = "";
    this.said.replaceChildren(this.node = document.createTextNode(""));
    this.said.setAttribute("aria-busy", "true");
    this.trouble.hidden = true;
    this.tools.replaceChildren();
    for (const figure of Object.values(this.figures)) figure.textContent = NONE;
    const started = performance.now();
    try {
      const { usage, citations } = await chat(body, this.stopping.signal, (headers) => this.#begun(headers), (text) => this.#add(text, started));
      this.state = "done";
      this.#counted(usage);
      this.cites.textContent = summed(citations);
      say(`${this.policy} has answered`, true);
    } catch (error) {
      this.state = this.stopping.signal.aborted ? "stopped" : "failed";
      this.trace ||= error.trace ?? "";
      this.#fail(this.state === "stopped" ? "Stopped." : (error.line ?? error.message));
    }
    this.figures.total.textContent = ms(performance.now() - started);
    this.#paint();
    this.said.removeAttribute("aria-busy");
    await this.#form();
    this.#offer();
    this.turn.changed();
    await this.#explain();
  }

  stop() {
    this.stopping?.abort();
  }

  #begun(headers) {
    this.trace = headers.get("x-trimtab-trace") ?? "";
    this.applied.textContent = headers.get("x-trimtab-applied") ?? NONE;
  }

  #add(text, started) {
    if (!this.text) this.figures.first.textContent = ms(performance.now() - started);
    this.text += text;
    this.frame ??= requestAnimationFrame(() => this.#paint());
  }

  /** Once a frame, however many pieces came: text is only ever added to the one text node. */
  #paint() {
    this.frame = null;
    this.node.appendData(this.text.slice(this.node.length));
  }

  /** The finished text as Markdown; what the parser cannot be loaded for stays text. */
  async #form() {
    if (this.state !== "done" || !this.text) return;
    try {
      const { markdown, ready } = await import("./markdown.js");
      await ready();
      this.said.replaceChildren(...markdown(this.text));
      this.said.classList.add("formed");
    } catch {
      say("The Markdown parser could not be loaded; answers are shown as text");
    }
  }

  #fail(message) {
    this.trouble.textContent = message;
    this.trouble.hidden = false;
  }

  #counted(usage) {
    if (!usage) return;
    this.figures.tokens.textContent = count(usage.completion_tokens);
    this.figures.cached.textContent = percent(usage.prompt_tokens_details?.cached_tokens, usage.prompt_tokens);
  }

  #offer() {
    const may = (right) => this.key.rights.includes(right);
    const offered = [];
    if (this.state !== "done") offered.push(button("Try again", () => this.turn.again(this)));
    if (this.trace && may("traces")) offered.push(el("a", { class: "button", href: `#why/${this.trace}` }, "Why"));
    if (this.state === "done" && this.text && may("feedback") && may("explain")) {
      this.verdict = new Verdict(this.trace, () => this.turn.rivals(this), (best) => this.turn.choose(best ? this : null));
      offered.push(this.verdict.root);
    }
    this.tools.replaceChildren(...offered);
  }

  /** What only the trace says: how much of the prompt is the policy's. */
  async #explain() {
    if (this.state !== "done" || !this.trace || !this.key.rights.includes("traces")) return;
    const trace = await patiently(() => get(`v1/traces/${this.trace}`).catch(() => null), Boolean);
    const tokens = trace && added(trace);
    if (tokens === null) return;
    const whole = trace.usage?.prompt_tokens;
    this.figures.added.textContent = tokens ? `≈ ${count(tokens)} of ${count(whole)}` : `0 of ${count(whole)}`;
  }
}
