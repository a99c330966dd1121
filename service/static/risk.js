// What a word's colour says. Each measure maps a word to 0 (nothing to see) to 1.

const LN2 = Math.log(2);
const chance = (word) => Math.min(1, ...word.tokens.map((token) => Math.exp(token.logprob ?? 0)));
const away = (word) => (word.mass ? 1 - word.mass.image : 1);
const found = (word) => Math.max(0, ...word.findings.map((one) => one.score));

export const MEASURES = {
  risk: {
    label: "risk",
    about: "Unsure and not looking: the chance that went to other words, times the share of attention that was " +
      "not on the picture; or what a detector found, if that is more. A sign, not a probability.",
    value: (word) => Math.max((1 - chance(word)) * away(word), found(word)),
  },
  unsure: {
    label: "how unsure it was",
    about: "The chance that went to other words. A free choice of words is unsure too.",
    value: (word) => 1 - chance(word),
  },
  away: {
    label: "how little it looked",
    about: "The share of attention that was not on the picture (mean of layers and heads, after the strategy). " +
      "Attention says where the model read from; it does not prove why it said a word.",
    value: away,
  },
  moved: {
    label: "what the strategy changed",
    about: "How far the strategy's rule moved the scores: the Jensen-Shannon distance between the model's own " +
      "and the rule's, as a share of the greatest. Strategies that act inside the model show 0.",
    value: (word) => Math.sqrt(word.shift / LN2),
  },
  found: {
    label: "what detectors found",
    about: "The detectors' own probability that the picture does not support a word. Choose them beside the " +
      "sampling options.",
    value: found,
  },
};
