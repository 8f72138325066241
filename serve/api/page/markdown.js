// Markdown of an answer as elements. The parser makes tokens, and each becomes an element here: no text becomes HTML, so
// nothing has to be sanitised, and the page's policy (no trusted types) holds.

import { el, outward } from "./element.js";

let parser = null;

/** Load the parser, which the page does without until there is an answer. */
export async function ready() {
  if (parser) return;
  await import("./markdown-it.min.js");
  parser = globalThis.markdownit({ html: false, linkify: false, typographer: false });
  parser.disable("entity"); // &lt; is what the model wrote, and a page of Markdown is no page of HTML
}

/** The elements of a text; call `ready` before. */
export function markdown(text) {
  return built(parser.parse(text, {}));
}

// Headings inside an answer are none of the page's.
const BLOCKS = new Set(["p", "ul", "ol", "li", "blockquote", "table", "thead", "tbody", "tr", "th", "td"]);
const INLINE = new Set(["strong", "em", "s"]);

/** Elements of a list of tokens, which open and close each other. */
function built(tokens) {
  const root = [];
  const open = [root];
  for (const token of tokens) {
    if (token.nesting < 0) {
      open.pop();
      continue;
    }
    const node = made(token);
    if (node === null) {
      if (token.nesting > 0) open.push(open.at(-1)); // its children stand where it would
      continue;
    }
    put(open.at(-1), node);
    if (token.nesting > 0) open.push(node);
  }
  return root;
}

function put(parent, node) {
  const nodes = Array.isArray(node) ? node : [node];
  if (Array.isArray(parent)) parent.push(...nodes);
  else parent.append(...nodes);
}

/** The element of a token, its inline content, or null for what adds none. */
function made(token) {
  const { type, tag, content } = token;
  if (type === "inline") return built(token.children);
  if (type === "text" || type === "html_inline" || type === "html_block") return document.createTextNode(content);
  if (type === "fence" || type === "code_block") return el("pre", { tabindex: 0 }, el("code", {}, content));
  if (type === "code_inline") return el("code", {}, content);
  if (type === "softbreak") return document.createTextNode("\n");
  if (type === "hardbreak") return el("br");
  if (type === "hr") return el("hr");
  if (type === "image") return outward(token.attrGet("src") ?? "", `[${content || "image"}]`);
  if (type === "link_open") return outward(token.attrGet("href") ?? "", "");
  if (type === "heading_open") return el("p", { class: "heading" });
  if (type === "paragraph_open" && token.hidden) return null;
  if (type === "ordered_list_open") return el("ol", { start: token.attrGet("start") });
  if (BLOCKS.has(tag) || INLINE.has(tag)) return el(tag);
  return content ? document.createTextNode(content) : null;
}
