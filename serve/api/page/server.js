// The server's public API, the only one that the page uses. The key lives in this module and nowhere else.

let key = "";

/** What went wrong, in words to show; `status` 0: the server was not reached, or broke off. */
export class Failed extends Error {
  constructor(message, status = 0, code = "", trace = "") {
    super(message);
    this.status = status;
    this.code = code;
    this.trace = trace;
  }

  /** Status, code and message on one line. */
  get line() {
    return [[this.status || "", this.code].filter(Boolean).join(" "), this.message].filter(Boolean).join(": ");
  }
}

/** What to do when the server wants a key: a function that is given what it said. */
export const asks = { key: () => {} };

export function useKey(secret) {
  key = secret;
}

export async function get(path, query = {}) {
  const asked = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== "" && value !== null));
  return (await call("GET", asked.size ? `${path}?${asked}` : path)).json();
}

export async function post(path, body) {
  return (await call("POST", path, body)).json();
}

/** The rows of a list, page after page, until there are `most`. */
export async function all(path, query, most = Infinity) {
  const rows = [];
  for (let after = ""; rows.length < most; ) {
    const { data, next } = await get(path, { ...query, after });
    rows.push(...data);
    if (!next) break;
    after = next;
  }
  return rows;
}

/** What `ask` finds, asked up to five times a second apart until it is `enough`: a busy server writes a trace some
 * seconds after its answer. */
export async function patiently(ask, enough) {
  for (let tries = 1; ; tries++) {
    const found = await ask();
    if (tries === 5 || enough(found)) return found;
    await new Promise((done) => setTimeout(done, 1000));
  }
}

export async function remove(path) {
  return (await call("DELETE", path)).json();
}

/** Ask for a chat completion: `begun` gets the headers, `said` each piece of text. Returns the usage and the citations,
 * if they are told. */
export async function chat(body, signal, begun, said) {
  const options = { stream: true, stream_options: { include_usage: true } };
  const answer = await call("POST", "v1/chat/completions", { ...body, ...options }, signal);
  begun(answer.headers);
  let usage = null;
  let citations = null;
  let done = false;
  for await (const data of events(answer.body, signal)) {
    if (data === "[DONE]") {
      done = true;
      continue;
    }
    const event = JSON.parse(data);
    if (event.error) throw new Failed(event.error.message ?? "The engine sent an error.", 0, event.error.code ?? "");
    const text = event.choices?.[0]?.delta?.content;
    if (text) said(text);
    usage = event.usage ?? usage;
    citations = event.trimtab?.citations ?? citations;
  }
  if (!done) throw new Failed("The answer broke off before its end.");
  return { usage, citations };
}

async function call(method, path, body, signal) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  const sent = { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" };
  const answer = await reached(() => fetch(path, sent), signal);
  if (answer.ok) return answer;
  const error = (await answer.json().catch(() => ({}))).error ?? {};
  const failed = new Failed(error.message ?? `The server answered ${answer.status}.`, answer.status, error.code ?? "", answer.headers.get("x-trimtab-trace") ?? "");
  if (answer.status === 401) asks.key(key ? failed.message : "");
  throw failed;
}

async function reached(step, signal) {
  try {
    return await step();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failed("The connection to the server broke.");
  }
}

/** The data of each event of a stream. */
async function* events(stream, signal) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reached(() => reader.read(), signal);
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}
