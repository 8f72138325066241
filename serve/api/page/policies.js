// Policies: every setting in words, the profile as the prompt that it becomes, and a draft tried beside the one in force.

import { button, choice, el, field } from "./element.js";
import { prompt } from "./prompt.js";
import { get, post } from "./server.js";
import { sentences } from "./words.js";

const SAMPLE = "Is it legal to record a phone call?";

export class Policies {
  constructor(server) {
    this.server = server;
    const names = server.policies.map(({ id, default: first }) => [id, first ? `${id} (default)` : id]);
    this.policy = choice(names, names[0]?.[0] ?? "", { on: { change: () => { location.hash = `#policies/${encodeURIComponent(this.policy.value)}`; } } });
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    this.body = el("div", { class: "stack" });
    this.root = el("section", { class: "policies", "aria-label": "Policies" }, el("h1", {}, "Policies"),
      el("form", { class: "panel", on: { submit: (event) => event.preventDefault() } }, field("Policy", this.policy)), this.trouble, this.body);
  }

  /** Show the policy that the address names, or the first, if it is still `wanted` when it is there. */
  async open(name, _held, wanted) {
    if (name && this.server.policies.some(({ id }) => id === name)) this.policy.value = name;
    await this.#try(async () => {
      const policy = await get(`v1/policies/${encodeURIComponent(this.policy.value)}`);
      if (!wanted()) return;
      this.body.replaceChildren(...[facts(policy), el("h2", {}, "What it does"), settings(policy), this.#prompt(policy), this.#draft(policy)].flat().filter(Boolean));
    });
  }

  async #try(step) {
    this.trouble.hidden = true;
    try {
      await step();
    } catch (error) {
      this.trouble.textContent = error.line ?? error.message;
      this.trouble.hidden = false;
    }
  }

  /** The prompt that a question becomes, without sending it. */
  #prompt(policy) {
    if (!this.server.key.rights.includes("explain")) return null;
    const question = el("input", { type: "text", value: SAMPLE });
    const place = el("div", { class: "stack" });
    const show = (event) => {
      event?.preventDefault();
      return this.#try(async () => {
        const told = await post("v1/explain", { messages: [{ role: "user", content: question.value }], trimtab: { policy: policy.id } });
        const after = told.messages ?? told.text;
        const other = told.stop.length || Object.keys(told.decoding).length;
        place.replaceChildren(el("p", { class: "note" }, told.stages.join(", ") || "no stage"), ...prompt({ spans: told.spans, after }),
          other ? el("p", { class: "note" }, `Decoding ${JSON.stringify(told.decoding)}, stops ${JSON.stringify(told.stop)}`) : "");
      });
    };
    const form = el("form", { class: "panel", on: { submit: show } },
      el("div", { class: "row grow" }, field("A question", question), el("button", { type: "submit" }, "Show its prompt")));
    return [el("h2", {}, "The prompt that it makes"), form, place];
  }

  /** A draft of other settings, tried on a question beside what is in force. */
  #draft(policy) {
    if (!this.server.key.rights.includes("author")) return null;
    const name = el("input", { type: "text", required: true, value: policy.change ? policy.id : `${policy.id}-draft` });
    const title = el("input", { type: "text", required: true, value: `Change ${policy.id}` });
    const text = el("textarea", { rows: 12, spellcheck: "false", class: "code", value: JSON.stringify(policy.file, null, 2) });
    const question = el("input", { type: "text", value: SAMPLE });
    const place = el("div", { class: "stack" });
    const submit = (event) => {
      event.preventDefault();
      return this.#try(async () => {
        const items = [{ kind: "policy", name: name.value.trim(), content: JSON.parse(text.value) }];
        const change = await post("v1/changes", { title: title.value, reason: title.value, items });
        const messages = [{ role: "user", content: question.value }];
        const told = await post(`v1/changes/${change.id}/explain`, { messages, trimtab: { policy: name.value.trim() } });
        // Under a name of its own a draft stands beside the policy that it was made from.
        const beside = () => (this.server.key.rights.includes("explain") ? post("v1/explain", { messages, trimtab: { policy: policy.id } }) : null);
        const before = told.before ?? (await beside());
        place.replaceChildren(
          el("p", {}, "The draft is kept: ", el("a", { href: `#changes/${change.id}` }, "look at it, submit it or withdraw it"), "."),
          el("div", { class: "answers" }, side(`${policy.id}, in force`, before), side("Under the draft", told.after)));
      });
    };
    const form = el("form", { class: "panel stack", on: { submit } },
      el("div", { class: "row grow" }, field("Name", name, policy.change ? "" : "One from trimtab.toml lives with the file: a draft gets a name of its own"), field("What for", title)),
      field("Settings, as JSON", text), el("div", { class: "row grow" }, field("Try it on", question), el("button", { type: "submit", class: "main" }, "Draft and try")));
    return [el("h2", {}, "A draft beside it"), form, place];
  }
}

function side(name, told) {
  const after = told && (told.messages ?? told.text);
  return el("article", { class: "stack" }, el("h3", {}, name),
    told ? [el("p", { class: "note" }, told.stages.join(", ") || "no stage"), ...prompt({ spans: told.spans, after })] : el("p", { class: "note" }, "There is none."));
}

function facts(policy) {
  const rows = [["Digest", policy.digest], ["Where it is from", policy.change ? "a change" : policy.builtin ? "built in" : "trimtab.toml"]];
  const shown = rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value))));
  if (policy.change) shown.push(el("div", {}, el("dt", {}, "Change"), el("dd", {}, el("a", { href: `#changes/${policy.change}` }, policy.change))));
  return el("dl", { class: "facts" }, shown);
}

/** Settings that differ from their defaults, then the others: on a phone those wait until they are asked for. */
function settings(policy) {
  const own = ([name]) => name.split(".").reduce((held, part) => held?.[part], policy.file) !== undefined;
  const all = sentences(policy);
  const rest = all.filter((row) => !own(row));
  return [
    table(all.filter(own), "Settings of the policy"),
    rest.length && el("details", { class: "stack", open: !matchMedia("(max-width: 46rem)").matches },
      el("summary", {}, `${rest.length} settings with their defaults`), table(rest, "Settings with their defaults")),
  ];
}

function table(found, name) {
  const rows = found.map(([setting, value, sentence]) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, setting)),
    el("td", {}, sentence), el("td", {}, el("code", {}, JSON.stringify(value)))));
  const head = el("tr", {}, ["Setting", "What it means", "Value"].map((column) => el("th", { scope: "col" }, column)));
  return el("div", { class: "scrolls", tabindex: 0, role: "region", "aria-label": name },
    el("table", {}, el("caption", { class: "hidden" }, name), el("thead", {}, head), el("tbody", {}, rows)));
}
