// Settings of a policy, and outcomes of its stages, in sentences.

const QUOTE = { quoted: "in English", "quoted-zh": "in Chinese", "opo-en": "as in OPO's paper, in English", "opo-zh": "as in OPO's paper, in Chinese" };
const plural = (n, one, more = `${one}s`) => `${n} ${n === 1 ? one : more}`;

/** Every setting of a policy as [setting, value, sentence]. */
export function sentences(policy) {
  const own = Object.entries(POLICY).filter(([name]) => name in policy).map(([name, say]) => [name, policy[name], say(policy[name], policy)]);
  const stages = policy.stages.flatMap((stage) => {
    const settings = policy.options?.[stage] ?? {};
    return Object.entries(settings).map(([name, value]) => {
      const say = STAGES[stage]?.[name];
      return [`${stage}.${name}`, value, say ? say(value, settings) : ""]; // null: it means nothing beside the others
    });
  });
  return [...own, ...stages].filter(([, , sentence]) => sentence !== null);
}

const POLICY = {
  engine: (it) => `Requests go to the engine “${it}”.`,
  stages: (it) => (it.length ? `These stages work on each request, at the same time: ${it.join(", ")}.` : "No stage works on a request."),
  render: (it) => (it === "base" ? "The chat becomes one text for a base model." : "The chat stays a chat: the policy's text goes into its messages."),
  profile: (it) => `The instruction and examples are those of the profile “${it}”.`,
  budget_ms: (it) => `All stages together get ${it} ms; what is late is treated like what failed.`,
  on_error: (it) => (it === "fail" ? "A stage that fails makes the request fail: nothing goes out without the policy." : "A stage that fails is left out, and the answer's headers say so."),
  fallback: (it) => (it.length ? `Where the engine does not serve a request, these are tried: ${it.join(", ")}.` : "There is no other engine to fall back on."),
  cache_salt: (it) => (it === "tenant" ? "Each tenant has its own part of a vLLM engine's prefix cache." : "All tenants share a vLLM engine's prefix cache."),
  elsewhere: (it) => (it === "raw" ? "Requests on paths that cannot carry the policy are passed on unaligned." : "Requests on paths that cannot carry the policy are refused."),
  optional: (it) => (it.length ? `Any caller may skip or choose: ${it.join(", ")}.` : "A caller needs a right to skip a stage or to choose region, language or date."),
};

const STAGES = {
  opo: {
    index: (it) => (it.length ? `Rules are searched in ${it.join(", ")}.` : "Nothing is searched."),
    k: (it) => `At most ${plural(it, "rule")} found for the last question ${it === 1 ? "is" : "are"} quoted.`,
    budget_tokens: (it) => `Together they have at most ${it} tokens.`,
    mode: (it) => ({ hybrid: "The search is by meaning and by words.", dense: "The search is by meaning only.", lexical: "The search is by words only." })[it],
    floor: (it) => (it < 0 ? "What scores below the index's own floor is left out." : it === 0 ? "No score is too low." : `What scores below ${it} is left out.`),
    follow: (it) => (it ? `Up to ${plural(it, "article")} that a found rule refers to come along.` : "Articles that a rule refers to do not come along."),
    most: (it) => (it ? `At most ${it} come from one source.` : "Any number may come from one source."),
    region: (it) => (it ? `Where no region is known it is ${it}.` : "No region is assumed."),
    language: (it) => (it ? `Rules are in ${it}, unless the request says otherwise.` : "Rules may be in any language."),
    kind: (it) => (it ? `Only rules of the kind “${it}”.` : "Rules of any kind."),
    tags: (it) => (it.length ? `Only rules with the tags ${it.join(", ")}.` : "Rules with any tags."),
    detect_region: (it) => (it ? "A Chinese province or city in the question chooses the region." : "The question does not choose the region."),
    detect_language: (it) => (it ? "Only rules in the question's language, where that is clear." : "The question's language does not limit the rules."),
    without_region: (it) => (it === "national" ? "Without a region only national rules apply." : "Without a region all rules apply."),
    pinned: (it) => (it.length ? `Always in the prompt: ${it.join(", ")}.` : "No rule is always in the prompt."),
    pinned_on_error: (it, all) => (!all.pinned?.length ? null : it === "fail" ? "A pinned rule that cannot be read makes the request fail." : "A pinned rule that cannot be read is left out."),
    frame: (it) => `Rules are quoted ${QUOTE[it] ?? it}.`,
    forbids: (it) => (it ? `A request whose best match has the tag “${it}” is refused.` : "No rule refuses a request."),
    cite: (it) => (it ? "The answer is asked for marks beside what rests on a rule, and they are checked." : "Citations in answers are not checked."),
    unknown: (it, all) => (!all.cite ? null : it === "remove" ? "A mark of a rule that was not shown is taken out of the answer." : "A mark of a rule that was not shown stays in the answer, and is reported."),
    footnotes: (it, all) => (!all.cite ? null : it ? "The cited rules are listed at the answer's end." : "The answer gets no footnotes."),
  },
  bpo: {
    rewriter: (it) => `The rewriter “${it}” improves the question.`,
    mode: (it) => ({ replace: "Its words replace the user's.", complement: "Its hint follows the user's words.", demo: "Its question and an answer become an example.", shadow: "Its words are recorded and not used." })[it] ?? "How its words are used depends on its template.",
    percent: (it) => (it === 100 ? "Every request is rewritten." : `${it} % of requests are rewritten, the others compared with them.`),
    max_chars: (it) => `A question of more than ${it} characters is left alone.`,
    max_code: (it) => `A question that is more than ${Math.round(100 * it)} % code is left alone.`,
    history_chars: (it) => `An instruct rewriter sees ${it} characters of the conversation.`,
    multi_turn: (it) => (it ? "Follow-up questions are rewritten too." : "Follow-up questions are left alone where the rewriter cannot see the conversation."),
    demo_tokens: (it) => `An example's answer has at most ${it} tokens.`,
  },
};

/** Why a stage did nothing, as the server says it and in words where there are some. */
export function outcome(reason) {
  const words = REASONS[reason] ?? REASONS[/^rejected: (\S+)/.exec(reason ?? "")?.[1]];
  return [reason, words].filter(Boolean).join(" – ");
}

export const REASONS = {
  empty: "the rewrite had no text", unchanged: "the rewrite was the prompt itself", leak: "the rewrite held control tokens or the rewriter's own instruction",
  refusal: "the rewrite refused the request", language: "the rewrite was in another language", repeated: "the rewrite repeated itself",
  length: "the rewrite was too long or too short", answered: "the rewrite answered the prompt, or asked back", link: "the rewrite lost a link",
  code: "the rewrite lost a piece of code", quote: "the rewrite lost a quotation", date: "the rewrite lost a date",
  number: "the rewrite lost a number, or changed its unit", negation: "the rewrite lost or added a negation", format: "the rewrite lost the format that the prompt asks for",
  target_language: "the rewrite asked for the answer in another language", stated: "the rewrite stated where it should ask",
  added: "what the rewrite added would change the answer", contradiction: "the rewrite asked for two formats that exclude each other", meaning: "the rewrite kept too little of the prompt's content",
  name: "the rewrite lost a name", assumed: "the rewrite stated something that the prompt does not",
  strayed: "the rewrite strayed from the prompt's subject", dropped: "the rewrite dropped a part of the request",
  tools: "requests with tools are not rewritten", "nothing relevant": "no rule bears on the question",
  context: "the model's context had no room for it", request: "the request asked to skip it", refused: "the engine refused the prompt with it",
  elsewhere: "this path cannot carry the policy",
};
