// node tours.mjs CLIENT URL: one Node client's whole tour before URL, as JSON: step -> outcome (see tours.py).
// Run from a folder that has package.json's dependencies.

const MODEL = "scripted";
const HELLO = "hello there";
const WEATHER = "What is the weather in Paris?";
const FAIL = "please fail";
const place = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

async function outcome(step) {
  try {
    return String(await step());
  } catch (error) {
    const status = error.status ?? error.statusCode;
    return `${error.constructor.name}${status ? ` ${status}` : `: ${String(error.message).slice(0, 200)}`}`;
  }
}

async function openai(url) {
  const { default: OpenAI } = await import("openai");
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
  const tool = { type: "function", function: { name: "get_weather", parameters: place } };
  const flat = { type: "function", name: "get_weather", parameters: place, strict: false };
  const ask = (content, more = {}) =>
    client.chat.completions.create({ model: MODEL, messages: [{ role: "user", content }], ...more });
  return {
    "chat": async () => (await ask(HELLO)).choices[0].message.content,
    "chat stream": async () => {
      let text = "";
      for await (const chunk of await ask(HELLO, { stream: true })) text += chunk.choices[0]?.delta?.content ?? "";
      return text;
    },
    "chat tools": async () => {
      const call = (await ask(WEATHER, { tools: [tool] })).choices[0].message.tool_calls[0];
      return `${call.function.name} ${call.function.arguments}`;
    },
    "chat error": () => ask(FAIL),
    "responses": async () => (await client.responses.create({ model: MODEL, input: HELLO })).output_text,
    "responses stream": async () => {
      const kinds = [];
      let text = "";
      for await (const event of await client.responses.create({ model: MODEL, input: HELLO, stream: true })) {
        if (kinds.at(-1) !== event.type) kinds.push(event.type);
        if (event.type === "response.output_text.delta") text += event.delta;
      }
      return `${kinds[0]} ${text} ${kinds.at(-1)}`;
    },
    "responses tools": async () => {
      const call = (await client.responses.create({ model: MODEL, input: WEATHER, tools: [flat] })).output[0];
      return `${call.name} ${call.arguments}`;
    },
    "responses error": () => client.responses.create({ model: MODEL, input: FAIL }),
  };
}

async function anthropic(url) {
  const { default: Anthropic } = await import("@anthropic-ai/sdk");
  const client = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
  const tool = { name: "get_weather", input_schema: place };
  const body = (content, more = {}) => ({
    model: MODEL, max_tokens: 100, messages: [{ role: "user", content }], ...more,
  });
  return {
    "plain": async () => (await client.messages.create(body(HELLO))).content[0].text,
    "stream": async () => {
      const message = await client.messages.stream(body(HELLO, { system: "Be kind." })).finalMessage();
      return `${message.content[0].text} ${message.stop_reason}`;
    },
    "tools": async () => {
      const message = await client.messages.stream(body(WEATHER, { tools: [tool] })).finalMessage();
      return `${message.content[0].name} ${JSON.stringify(message.content[0].input)}`;
    },
    "error": () => client.messages.create(body(FAIL)),
  };
}

async function vercel(url) {
  const { generateText, streamText, generateObject, tool, jsonSchema, stepCountIs } = await import("ai");
  const { createOpenAI } = await import("@ai-sdk/openai");
  const { createAnthropic } = await import("@ai-sdk/anthropic");
  const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
  const claude = createAnthropic({ baseURL: `${url}/v1`, apiKey: "none" });
  const models = { responses: openai(MODEL), chat: openai.chat(MODEL), messages: claude(MODEL) };
  const tools = {
    get_weather: tool({
      description: "The weather in a city", inputSchema: jsonSchema(place),
      execute: async ({ city }) => `sunny in ${city}`,
    }),
  };
  const person = jsonSchema({
    type: "object", additionalProperties: false, required: ["name", "age"],
    properties: { name: { type: "string" }, age: { type: "integer" } },
  });
  const steps = {};
  for (const [name, model] of Object.entries(models)) {
    const common = { model, maxRetries: 0 };
    steps[`${name}: text`] = async () => (await generateText({ ...common, prompt: HELLO })).text;
    steps[`${name}: stream`] = async () => {
      let text = "";
      for await (const part of streamText({ ...common, prompt: HELLO, onError() {} }).textStream) text += part;
      return text;
    };
    steps[`${name}: tools`] = async () =>
      (await generateText({ ...common, prompt: WEATHER, tools, stopWhen: stepCountIs(3) })).text;
    steps[`${name}: object`] = async () =>
      JSON.stringify((await generateObject({ ...common, prompt: HELLO, schema: person })).object);
  }
  return steps;
}

const [client, url] = process.argv.slice(2);
const steps = await { openai, anthropic, vercel }[client](url);
const out = {};
for (const [name, step] of Object.entries(steps)) out[name] = await outcome(step);
console.log(JSON.stringify(out));
process.exit(0);
