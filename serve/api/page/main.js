// The page: asks the server what it is, shows the view that the address names, keeps theme and key.

import { el, say } from "./element.js";
import { Playground } from "./playground.js";
import { Principles } from "./principles.js";
import { asks, get, useKey } from "./server.js";
import { Traces } from "./traces.js";

const main = document.getElementById("view");
/** The view of a trace, or of a prompt that is not sent. */
const traced = () => import("./why.js");
// Views whose code is loaded when they are first opened, so that the first paint does not wait for it.
const LATER = {
  use: async () => new (await import("./use.js")).Use(server),
  policies: async () => new (await import("./policies.js")).Policies(server),
  changes: async () => new (await import("./changes.js")).Changes(server.key),
  reports: async () => new (await import("./reports.js")).Reports(),
  account: async () => new (await import("./account.js")).Account(),
};
const views = {};
let server = null;

/** What the server says of itself, as far as this key may know. */
async function met() {
  const [key, policies, models] = await Promise.all([
    get("v1/key"), get("v1/policies"), get("v1/models").catch(() => ({ data: [] })),
  ]);
  // An alias is a policy and a model under one name; here the two are chosen apart.
  return { key, policies: policies.data, page: policies.page, models: models.data.filter((row) => !row.policy).map(({ id }) => id) };
}

async function start() {
  try {
    server = await met();
  } catch (error) {
    if (error.status !== 401) main.replaceChildren(trouble(error, start));
    return;
  }
  document.getElementById("open-key").hidden = !server.key.needed;
  for (const name of Object.keys(LATER)) delete views[name];
  views.play = new Playground(server, async (body) => {
    const turn = routes;
    const view = await (await traced()).preview(body, server.key);
    if (turn === routes) put(view);
  });
  views.principles = new Principles(server.key);
  views.traces = new Traces(server);
  await route(true);
}

function trouble(error, again) {
  const retry = el("button", { type: "button", on: { click: again } }, "Try again");
  return el("section", { class: "panel" }, el("p", { class: "trouble", role: "alert" }, error.message), error.status ? el("p", { class: "note" }, [error.status, error.code].filter(Boolean).join(" ")) : null, retry,
    error.trace && el("a", { class: "button", href: `#why/${error.trace}` }, "Why"));
}

// ---------------------------------------------------------------- the view that the address names

let routes = 0;

/** Show the view that the address names, unless another is asked for before it is there. */
async function route(first = false) {
  if (!server) return;
  const [, name, id, query] = /^#?([a-z]*)(?:\/([^?]*))?(?:\?(.*))?$/s.exec(location.hash) ?? [];
  if (name === "view") return; // the link that skips to the content
  const turn = ++routes;
  const show = (view) => turn === routes && put(view, first);
  const held = new URLSearchParams(query);
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.hash === `#${name || "play"}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    if (name === "why" && id) show(await (await traced()).why(decodeURIComponent(id), server.key));
    else if (name === "compare" && id) show(await (await import("./compare.js")).compare(id.split(",")));
    else if (name in LATER) {
      views[name] ??= await LATER[name]();
      await views[name].open(id && decodeURIComponent(id), held, () => turn === routes);
      show(views[name].root);
    } else if (name === "principles" || name === "traces") {
      show(views[name].root);
      await views[name].open(held);
    } else {
      show(views.play.root);
      if (query) views.play.restore(query);
    }
  } catch (error) {
    show(trouble(error, () => route()));
  }
}

function put(view, first = false) {
  main.replaceChildren(view);
  const title = view.querySelector("h1")?.textContent;
  document.title = title && !view.classList.contains("play") ? `${title} – Trimtab` : "Trimtab";
  if (!first) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

addEventListener("hashchange", () => route());

// ---------------------------------------------------------------- key

const dialog = document.getElementById("key");
const secret = document.getElementById("secret");

const KEPT = "It is kept in this tab's memory until you close or reload it";

asks.key = (said) => {
  // A server without keys passes the caller's on: it is the engine that asks.
  const engines = server && !server.key.needed;
  document.getElementById("key-title").textContent = `${engines ? "The engine" : "This server"} asks for a key`;
  document.getElementById("key-use").textContent = engines
    ? `${KEPT}. This server has no keys of its own, so it sends yours to the engine behind it.`
    : `${KEPT}, and goes to this server only: no engine sees it.`;
  const line = document.getElementById("key-trouble");
  line.textContent = said;
  line.hidden = !said;
  if (!dialog.open) dialog.showModal();
  secret.select();
};
document.getElementById("open-key").addEventListener("click", () => asks.key(""));
dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey(secret.value.trim());
  try {
    await get("v1/key");
  } catch (error) {
    if (error.status !== 401) say(error.message);
    return;
  }
  secret.value = "";
  dialog.close();
  await start();
});

// ---------------------------------------------------------------- theme

const THEMES = ["system", "light", "dark"];
const theme = document.getElementById("theme");

function themed(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  theme.textContent = { system: "◐", light: "☀", dark: "☾" }[name];
  theme.setAttribute("aria-label", `Theme: ${name}`);
  theme.title = `Theme: ${name}`;
}

theme.addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "system";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  themed(next);
  try {
    localStorage.setItem("trimtab-theme", next);
  } catch {
    say("This browser keeps no settings: the theme lasts until the page is closed");
  }
});
themed(document.documentElement.dataset.theme ?? "system");

await start();
