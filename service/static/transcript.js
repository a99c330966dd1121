// One answer as it comes: its tokens become words, each with the evidence of its tokens. No DOM here.

export class Transcript {
  constructor() {
    this.text = "";
    this.tokens = []; // {text, start, stop, logprob, evidence, top}; offsets count code points
    this.findings = null; // none: no detector was asked
    this.report = null; // what really ran, with the last event
    this.reason = null; // why the answer ended
  }

  // Takes one event of a chat completion.
  hear(event) {
    const choice = event.choices[0];
    this.text += choice?.delta.content ?? "";
    this.reason = choice?.finish_reason ?? this.reason;
    const said = choice?.logprobs?.content ?? [];
    (event.halu?.tokens ?? []).forEach((token, i) => {
      this.tokens.push({...token, top: said[i]?.top_logprobs ?? []});
    });
    if (event.halu?.strategy) this.report = event.halu;
    this.findings = event.halu?.findings ?? this.findings;
  }

  // The words so far, punctuation apart. What no token covers yet is the last word's.
  words() {
    const characters = Array.from(this.text);
    const groups = [];
    const tokens = this.tokens.length ? this.tokens : pieces(this.text);
    for (const token of tokens.filter((one) => one.stop > one.start)) {
      if (!groups.length || (!groups.at(-1).every(blank) && BEGINS.test(token.text))) groups.push([]);
      groups.at(-1).push(token);
    }
    if (!groups.length) return [];
    const starts = [0, ...groups.slice(1).map((tokens) => tokens[0].start), characters.length];
    const said = (i) => characters.slice(starts[i], starts[i + 1]).join("");
    return groups
      .map((tokens, i) => word(tokens, said(i), starts[i], this.findings ?? []))
      .filter((one) => one.text);
  }
}

const BEGINS = /^(\s|[.,;:!?]+$)/;
const PIECES = /\s*([.,;:!?]+|[^\s.,;:!?]+)/g;

// Text that came without tokens, cut as if it had some.
function pieces(text) {
  let start = 0;
  return (text.match(PIECES) ?? []).map((piece) => {
    const stop = start + Array.from(piece).length;
    const token = {text: piece, start, stop, logprob: null, evidence: null, top: []};
    start = stop;
    return token;
  });
}

const blank = (token) => !token.text.trim();

function word(tokens, said, begin, findings) {
  const text = said.trim(), lead = said.slice(0, said.length - said.trimStart().length);
  const start = begin + Array.from(lead).length, stop = start + Array.from(text).length;
  const own = tokens.filter((token) => !blank(token));
  const seen = own.map((token) => token.evidence).filter(Boolean);
  const masses = seen.map((one) => one.mass).filter(Boolean);
  const looks = seen.map((one) => one.look?.[0]).filter(Boolean);
  return {
    lead,
    text,
    tokens: own,
    seen: seen.length > 0,
    entropy: Math.max(0, ...seen.map((one) => one.entropy)),
    shift: Math.max(0, ...seen.map((one) => one.shift)),
    rank: Math.max(0, ...seen.map((one) => one.rank)),
    mass: masses.length ? meanMass(masses) : null,
    heat: looks.length ? {...looks[0], values: meanValues(looks.map((look) => look.values))} : null,
    findings: findings.filter((one) => one.start < stop && start < one.stop),
  };
}

function meanMass(masses) {
  const groups = Object.keys(masses[0]);
  return Object.fromEntries(groups.map((group) => [group, mean(masses.map((mass) => mass[group]))]));
}

function meanValues(lists) {
  return lists[0].map((_, i) => mean(lists.map((values) => values[i])));
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
