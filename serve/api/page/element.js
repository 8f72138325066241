// Elements out of plain values. Text stays text: there is no way from here to HTML.

/** An element. `props` are attributes, `on` its listeners; strings among the children become text. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "value") node.value = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** A control under its label. */
export function field(label, control, hint = "") {
  control.id ||= `c${++made}`;
  return el("div", { class: "field" }, el("label", { for: control.id }, label), control, hint && el("small", {}, hint));
}
let made = 0;

/** A select of [value, text] pairs. */
export function choice(pairs, chosen, props = {}) {
  return offer(el("select", props), pairs, chosen);
}

/** Give a select other pairs. */
export function offer(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => el("option", { value }, text)));
  select.value = chosen;
  return select;
}

export function button(text, click, props = {}) {
  return el("button", { type: "button", ...props, on: { click } }, text);
}

/** A link elsewhere, for http and https only; other addresses are shown and lead nowhere. */
export function outward(url, text) {
  if (!/^https?:\/\//i.test(url)) return el("span", {}, text);
  return el("a", { href: url, rel: "noopener noreferrer", target: "_blank" }, text);
}

/** Text that may be long: its beginning, and the rest when asked for. */
export function long(text, most = 1200) {
  if (text.length <= most) return el("p", { class: "text" }, text);
  const rest = el("p", { class: "text" }, text);
  const summary = el("summary", {}, `${text.slice(0, 160)}… `, el("em", {}, `(${text.length.toLocaleString()} characters)`));
  return el("details", {}, summary, rest);
}

/** The element, which the keyboard reaches while it has more text than room and so can be scrolled. */
export function scrolled(node) {
  new ResizeObserver(() => {
    if (node.scrollHeight > node.clientHeight) node.setAttribute("tabindex", 0);
    else node.removeAttribute("tabindex");
  }).observe(node);
  return node;
}

/** A drawing of one path on a ground of 24 by 24. */
export function icon(path) {
  const [svg, line] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** Say something to those who listen, and show it for a moment; `quietly` where it can be seen anyway. */
export function say(text, quietly = false) {
  const spot = document.getElementById("said");
  spot.textContent = text;
  spot.classList.remove("fades");
  void spot.offsetWidth; // begins the fading anew
  spot.classList.toggle("fades", !quietly);
}

/** Copy a text; where the browser does not allow it, show it to be copied by hand. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied`);
  } catch {
    const area = document.getElementById("copied");
    area.value = text;
    document.getElementById("copy").showModal();
    area.select();
  }
}
