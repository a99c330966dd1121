// The browser of samples. It reads the packed elements that samples.py writes: "index" at once, a
// chunk when one of its samples comes into view. All text is set as text, never as markup.
"use strict";

const HEIGHT = 54; // of a line of the list, in pixels, as in report.css
const KEPT = 48; // unpacked chunks
const KINDS = ["right", "wrong", "unreadable"];
const SIGNS = { right: "✓", wrong: "✗", unreadable: "?", absent: "·" };
const CHANGES = ["same", "better", "worse"];

const at = (id) => document.getElementById(id);

function make(tag, name, ...content) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...content);
  return element;
}

async function unpack(id) {
  const bytes = Uint8Array.from(atob(at(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

// What an answer is, from its letter in the index: see STATES in samples.py.
function stateOf(letter) {
  if (letter === "-") return { kind: "absent", change: "same" };
  const code = letter.charCodeAt(0) - 97;
  return { kind: KINDS[code % 3], change: CHANGES[Math.floor(code / 3)] };
}

const browser = {
  index: null,
  chunks: new Map(),
  texts: [], // lower-cased, by chunk, once searched
  found: [], // numbers of the samples that pass the filters
  chosen: 0, // place in `found`
  search: 0, // the latest filtering; an older one gives up

  async open() {
    this.index = await unpack("index");
    let first = 0;
    for (const group of this.index.groups) {
      group.first = first;
      first += group.count;
    }
    this.total = first;
    this.fillFilters();
    await this.filter();
  },

  groupOf(number) {
    return this.index.groups.find((group) => number < group.first + group.count);
  },

  lettersOf(number, group) {
    const width = group.arms.length;
    const start = (number - group.first) * width;
    return group.states.slice(start, start + width);
  },

  // The chunk's samples, or a promise of them.
  chunk(place) {
    if (!this.chunks.has(place)) {
      if (this.chunks.size >= KEPT) this.chunks.delete(this.chunks.keys().next().value);
      const coming = unpack(`chunk-${place}`);
      this.chunks.set(place, coming);
      coming.then((samples) => {
        if (this.chunks.get(place) === coming) this.chunks.set(place, samples);
      });
    }
    return this.chunks.get(place);
  },

  async sample(number) {
    const samples = await this.chunk(Math.floor(number / this.index.chunk));
    return samples[number % this.index.chunk];
  },

  fillFilters() {
    const several = new Set(this.index.groups.map((group) => group.model)).size > 1;
    for (const [place, group] of this.index.groups.entries()) {
      const model = several ? `${group.model} · ` : "";
      group.name = `${model}${group.benchmark} · ${group.split}`;
      at("group").add(new Option(`${group.name} (${group.count.toLocaleString("en")})`, place));
    }
    const arms = new Set(this.index.groups.flatMap((group) => group.arms));
    for (const arm of arms) at("arm").add(new Option(arm, arm));
    this.fillCategories();
  },

  fillCategories() {
    const names = new Set(this.groups().flatMap((group) => group.categories));
    at("category").replaceChildren(new Option("every category", ""));
    for (const name of [...names].sort()) at("category").add(new Option(name, name));
    at("category").hidden = names.size === 0;
  },

  groups() {
    const chosen = at("group").value;
    return chosen === "" ? this.index.groups : [this.index.groups[Number(chosen)]];
  },

  async filter() {
    const mine = ++this.search;
    const passed = this.groups().flatMap((group) => this.passing(group));
    const words = at("text").value.trim().toLowerCase();
    const found = words ? await this.holding(passed, words, mine) : passed;
    if (mine !== this.search) return;
    this.found = found;
    at("count").textContent =
      `${found.length.toLocaleString("en")} of ${this.total.toLocaleString("en")} samples`;
    at("runway").style.height = `${found.length * HEIGHT}px`;
    at("list").scrollTop = 0;
    this.choose(0);
  },

  passing(group) {
    const wanted = at("what").value;
    const arm = at("arm").value;
    const category = at("category").value;
    const only = category === "" ? null : group.categories.indexOf(category);
    const columns = [...group.arms.keys()].filter((n) => arm === "" || group.arms[n] === arm);
    const fits = new Set([..."abcdefghi-"].filter((letter) => this.fits(letter, wanted)));
    const numbers = [];
    for (let place = 0; place < group.count; place++) {
      if (only !== null && group.category[place] !== only) continue;
      const row = place * group.arms.length;
      if (columns.some((n) => fits.has(group.states[row + n]))) numbers.push(group.first + place);
    }
    return numbers;
  },

  fits(letter, wanted) {
    const { kind, change } = stateOf(letter);
    if (wanted === "") return true;
    if (wanted === "changed") return change !== "same";
    return kind === wanted || change === wanted;
  },

  async holding(numbers, words, mine) {
    const found = [];
    let last = -1;
    for (const number of numbers) {
      const place = Math.floor(number / this.index.chunk);
      if (place !== last) {
        if (!this.texts[place]) this.texts[place] = await this.textsOf(place);
        if (mine !== this.search) return found;
        last = place;
        at("count").textContent = `searching … ${Math.round((100 * number) / this.total)} %`;
      }
      if (this.texts[place][number % this.index.chunk].includes(words)) found.push(number);
    }
    return found;
  },

  async textsOf(place) {
    const samples = await unpack(`chunk-${place}`);
    return samples.map((sample) =>
      [sample.id, sample.image, sample.question, sample.label, ...sample.answers.map((a) => a?.text)]
        .flat().join("\n").toLowerCase());
  },

  choose(place) {
    this.chosen = Math.max(0, Math.min(place, this.found.length - 1));
    const list = at("list");
    const top = this.chosen * HEIGHT;
    if (top < list.scrollTop) list.scrollTop = top;
    const low = top + HEIGHT - list.clientHeight;
    if (low > list.scrollTop) list.scrollTop = low;
    this.drawList();
    this.drawDetail();
  },

  drawList() {
    const list = at("list");
    const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 3);
    const last = Math.min(this.found.length, first + Math.ceil(list.clientHeight / HEIGHT) + 7);
    const items = [];
    for (let place = first; place < last; place++) items.push(this.item(place));
    at("runway").replaceChildren(...items);
    if (this.found.length) list.setAttribute("aria-activedescendant", `item-${this.chosen}`);
  },

  item(place) {
    const number = this.found[place];
    const group = this.groupOf(number);
    const states = signs([...this.lettersOf(number, group)].map((letter) => stateOf(letter).kind));
    const head = make("div", "", states);
    const under = make("div", "under", group.name);
    const item = make("div", "item", head, under);
    item.id = `item-${place}`;
    item.style.top = `${place * HEIGHT}px`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(place === this.chosen));
    item.addEventListener("click", () => this.choose(place));
    const fill = (sample) => {
      const caption = Array.isArray(sample.label);
      const first = sample.answers.find((answer) => answer);
      head.append(caption ? first.text : sample.question);
      under.textContent = `${group.name} · ${sample.id}`;
    };
    const chunk = this.chunk(Math.floor(number / this.index.chunk));
    if (Array.isArray(chunk)) fill(chunk[number % this.index.chunk]);
    else chunk.then((samples) => fill(samples[number % this.index.chunk]));
    return item;
  },

  async drawDetail() {
    const number = this.found[this.chosen];
    if (number === undefined) {
      at("detail").replaceChildren(make("p", "soft", "No sample passes these filters."));
      return;
    }
    const sample = await this.sample(number);
    if (number !== this.found[this.chosen]) return;
    const group = this.groupOf(number);
    const letters = this.lettersOf(number, group);
    const said = make("div", "said");
    for (const [n, answer] of sample.answers.entries()) {
      if (answer) said.append(answered(group, group.arms[n], answer, stateOf(letters[n])));
    }
    at("detail").replaceChildren(this.top(sample, group), asked(sample), said);
  },

  top(sample, group) {
    const repeat = sample.repeat ? ` · repeat ${sample.repeat}` : "";
    const image = sample.image && sample.image !== sample.id ? ` · picture ${sample.image}` : "";
    const step = (text, name, by) => {
      const button = make("button", "", text);
      button.setAttribute("aria-label", name);
      button.addEventListener("click", () => this.choose(this.chosen + by));
      return button;
    };
    const told = `${this.chosen + 1} of ${this.found.length} · ${group.name} · ${sample.id}`;
    return make("div", "bar-top", step("←", "previous sample", -1),
      step("→", "next sample", 1), make("span", "", told + image + repeat));
  },
};

// A sign a strategy; of many strategies, how many there are of each.
function signs(kinds) {
  const all = make("span", "states");
  const few = kinds.length <= 10;
  for (const kind of few ? kinds : [...new Set(kinds)]) {
    const count = few ? "" : `${kinds.filter((other) => other === kind).length} `;
    all.append(make("span", kind, SIGNS[kind] + count));
  }
  return all;
}

function asked(sample) {
  const caption = Array.isArray(sample.label);
  const truth = caption ? sample.label.join(", ") || "none of the known objects" : sample.label;
  const words = make("div", "",
    make("p", "question", sample.question),
    make("p", "soft", `${caption ? "In the picture: " : "Truth: "}${truth}`));
  if (sample.picture === undefined) {
    if (sample.image) words.append(make("p", "soft small", `Picture ${sample.image} is not embedded.`));
    return make("div", "asked", words);
  }
  const image = make("img");
  image.alt = `picture ${sample.image}`;
  image.src = `data:image/jpeg;base64,${at(`picture-${sample.picture}`).textContent}`;
  return make("div", "asked", image, words);
}

function answered(group, arm, answer, { kind, change }) {
  const head = make("h4", "", make("span", kind, `${SIGNS[kind]} `), arm);
  if (change !== "same") head.append(make("span", `tag ${change}`, `${change} than plain`));
  const why = make("p", "told why");
  const box = make("section", "", head, marked(answer, why));
  if (answer.doubts) box.append(why);
  for (const line of notes(group, answer, kind)) box.append(make("p", "told", line));
  return box;
}

// The answer with the benchmark's marks and the detectors' doubts, whose reasons `why` shows.
function marked(answer, why) {
  const text = make("p");
  const marks = answer.marks ?? [];
  const doubts = answer.doubts ?? [];
  const ends = [0, answer.text.length, ...[...marks, ...doubts].flatMap(([start, stop]) => [start, stop])];
  const edges = [...new Set(ends)].sort((a, b) => a - b);
  for (const [n, start] of edges.slice(0, -1).entries()) {
    const holds = (one) => one[0] <= start && start < one[1];
    const words = answer.text.slice(start, edges[n + 1]);
    const mark = marks.find(holds);
    const own = doubts.filter(holds);
    text.append(mark || own.length ? stretch(words, answer, mark, own, start, why) : words);
  }
  if (!answer.text.trim()) text.append(make("i", "soft", "(nothing)"));
  if (doubts.length) why.textContent = "Point at words with a wavy line, or tab to them, for what was found there.";
  return text;
}

// One stretch of an answer; the keyboard reaches it where a doubt begins.
function stretch(words, answer, mark, doubts, start, why) {
  const made = make("mark", !mark ? "plain" : mark[3] ? "made-up" : "", words);
  if (mark) made.title = `${rule(answer, mark)}: ${mark[3] ? "not " : ""}in the picture`;
  if (!doubts.length) return made;
  const reasons = doubts.map(([, , who, score, reason]) => `${who}, ${Math.round(100 * score)} %: ${reason}`);
  const tell = () => why.replaceChildren(...reasons.map((reason) => make("span", "", reason)));
  made.classList.add("doubted");
  for (const event of ["pointerenter", "click", "focus"]) made.addEventListener(event, tell);
  if (doubts.some((one) => one[0] === start)) {
    made.tabIndex = 0;
    made.setAttribute("role", "button");
    made.setAttribute("aria-label", `${words}. ${reasons.join(" ")}`);
  }
  return made;
}

// How the rules read a word: "tied → tie", "puppies → puppy → dog".
function rule(answer, [start, stop, name, , word]) {
  const steps = [answer.text.slice(start, stop).toLowerCase(), word || name, name];
  return steps.filter((step, n) => n === 0 || step !== steps[n - 1]).join(" → ");
}

function notes(group, answer, kind) {
  const lines = [];
  const marks = answer.marks ?? [];
  const unique = (list) => [...new Set(list)].join(", ");
  const wrong = unique(marks.filter((mark) => mark[3]).map((mark) => mark[2]));
  const rules = unique(marks.map((mark) => rule(answer, mark)).filter((told) => told.includes("→")));
  if (wrong) lines.push(`Made up: ${wrong}`);
  if (answer.missed?.length) lines.push(`Missed: ${answer.missed.join(", ")}`);
  if (rules) lines.push(`Rules (${group.rules}): ${rules}`);
  const how = `rules ${group.rules}`;
  if (Array.isArray(answer.read)) {
    if (kind === "unreadable") lines.push("Unreadable: no word in it.");
  } else if (kind === "unreadable") lines.push(`Unreadable; the ${how} take it for ${answer.read}`);
  else lines.push(`Read as ${answer.read} (${how})`);
  if (answer.cut) lines.push("Cut off at the token limit.");
  return lines;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches?.("input, select");
  if (event.key === "/" && !typing) {
    at("text").focus();
    event.preventDefault();
    return;
  }
  if (event.key === "Escape" && typing) at("list").focus();
  if (typing) return;
  const page = Math.floor(at("list").clientHeight / HEIGHT);
  const near = { j: 1, k: -1 };
  const inList = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  const by = near[event.key] ?? (event.target === at("list") ? inList[event.key] : undefined);
  if (by === undefined) return;
  browser.choose(browser.chosen + by);
  event.preventDefault();
}

/** A plot that is wider than its place opens with zero in the middle. */
function centre() {
  for (const box of document.querySelectorAll(".panel.wide")) box.scrollLeft = (box.scrollWidth - box.clientWidth) / 2;
}

function start() {
  centre();
  let waiting = 0;
  const later = (wait) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => browser.filter(), wait);
  };
  at("group").addEventListener("change", () => { browser.fillCategories(); later(0); });
  for (const id of ["arm", "what", "category"]) at(id).addEventListener("change", () => later(0));
  at("text").addEventListener("input", () => later(200));
  at("list").addEventListener("scroll", () => requestAnimationFrame(() => browser.drawList()));
  document.addEventListener("keydown", onKey);
  browser.open().catch((error) => {
    at("count").textContent = `This browser cannot unpack the samples: ${error.message}`;
  });
}

start();
