// One word under the lens: where it looked, as heat over the picture, and what else could have been said.

import {byId, make, percent} from "./dom.js";
import {MEASURES} from "./risk.js";

const GROUPS = {image: "picture", question: "question", answer: "answer so far", system: "rest of the prompt"};
const ROWS = ["upper", "middle", "lower"], COLUMNS = ["left", "middle", "right"];

export class Lens {
  #button = null;
  #hint = "";

  // Shows a word of `strategy`'s answer, whose `button` is marked.
  show(word, strategy, button) {
    this.#mark(button);
    byId("lens").classList.toggle("open", true);
    byId("sentence").replaceChildren(...sentence(word, strategy));
    const parts = [alternatives(word), shares(word), facts(word), ...word.findings.map(finding)];
    byId("details").replaceChildren(...parts.filter(Boolean));
    for (const canvas of document.querySelectorAll("canvas.heat")) draw(canvas, word);
  }

  // Empty, with what there is to do.
  invite(hint) {
    this.#hint = hint;
    this.clear();
  }

  clear() {
    this.#mark(null);
    byId("lens").classList.toggle("open", false);
    byId("sentence").textContent = this.#hint;
    byId("details").replaceChildren();
    for (const canvas of document.querySelectorAll("canvas.heat")) canvas.hidden = true;
  }

  #mark(button) {
    this.#button?.setAttribute("aria-pressed", "false");
    button?.setAttribute("aria-pressed", "true");
    this.#button = button;
  }
}

// A dark veil, heat from the word's least to its greatest value, and the boxes that detectors name.
function draw(canvas, {heat, findings}) {
  canvas.hidden = !heat;
  if (!heat) return;
  const picture = canvas.previousElementSibling;
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const low = Math.min(...heat.values), span = Math.max(...heat.values) - low || 1;
  const small = make("canvas", {width: heat.columns, height: heat.rows});
  const dots = small.getContext("2d");
  heat.values.forEach((value, i) => {
    dots.fillStyle = `rgba(255, 70, 0, ${(0.8 * (value - low) / span).toFixed(3)})`;
    dots.fillRect(i % heat.columns, Math.floor(i / heat.columns), 1, 1);
  });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "rgba(20, 24, 32, 0.38)";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  pen.strokeStyle = "#ffffff";
  pen.lineWidth = Math.max(1, canvas.width / 160);
  for (const {evidence: {box}} of findings) {
    if (!box) continue;
    const [left, top, right, bottom] = box;
    pen.strokeRect(left * canvas.width, top * canvas.height,
      (right - left) * canvas.width, (bottom - top) * canvas.height);
  }
}

function sentence(word, strategy) {
  const said = make("strong", {}, word.text);
  if (!word.seen) return [said, ` (${strategy}): nothing is known of how it was said.`];
  const who = ` (${strategy}, risk ${percent(MEASURES.risk.value(word))})`;
  if (!word.mass) return [said, `${who}.`];
  const where = word.heat ? `, most at the ${place(word.heat)}` : "";
  return [said, `${who}: ${percent(word.mass.image)} of the attention lay on the picture${where}.`];
}

function place({rows, columns, values}) {
  const peak = values.indexOf(Math.max(...values));
  const row = ROWS[Math.floor(3 * Math.floor(peak / columns) / rows)];
  const column = COLUMNS[Math.floor(3 * (peak % columns) / columns)];
  return row === column ? "centre" : `${row} ${column}`;
}

function shares({mass}) {
  if (!mass) return null;
  const groups = Object.keys(GROUPS).filter((group) => mass[group] > 0);
  const bar = make("div", {class: "shares", "aria-hidden": "true"},
    ...groups.map((group) => make("i", {class: group})));
  groups.forEach((group, i) => bar.children[i].style.setProperty("--share", mass[group]));
  const legend = groups.map((group) => make("span", {class: group}, `${GROUPS[group]} ${percent(mass[group])}`));
  return make("div", {}, make("h3", {}, "Attention"), bar, make("p", {class: "legend"}, ...legend));
}

// Of the token that was least sure: the word was decided there.
function alternatives({tokens}) {
  const entropy = (token) => token.evidence?.entropy ?? 0;
  const [token] = tokens.filter((one) => one.top.length).sort((a, b) => entropy(b) - entropy(a));
  if (!token) return null;
  const rows = token.top.map((one) => {
    const chance = Math.exp(one.logprob);
    const row = make("li", {class: one.token.trim() === token.text.trim() ? "said" : null},
      make("span", {}, one.token.trim() || JSON.stringify(one.token)),
      make("i", {"aria-hidden": "true"}),
      make("b", {}, percent(chance)));
    row.style.setProperty("--share", chance);
    return row;
  });
  return make("div", {}, make("h3", {}, "Considered"), make("ol", {class: "considered"}, ...rows));
}

function facts(word) {
  if (!word.seen) return null;
  const moved = word.shift < 5e-4
    ? "the strategy's rule left the scores as they were"
    : `the strategy's rule moved the scores by ${word.shift.toFixed(3)} nats`;
  const rank = word.rank === 0
    ? "the model's own favourite"
    : `number ${word.rank + 1} by the model's own scores`;
  return make("p", {class: "legend"}, `Entropy ${word.entropy.toFixed(2)} nats; ${moved}; ${rank}.`);
}

function finding(one) {
  return make("p", {class: "finding"}, make("b", {}, `${one.detector}, ${percent(one.score)}: `), one.reason);
}
