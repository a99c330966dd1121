// One strategy's answer: words that can be pointed at, how it went, and the request for taking away.

import {make, percent} from "./dom.js";
import {Refused, chat} from "./server.js";
import {curl, python} from "./snippets.js";
import {Transcript} from "./transcript.js";

const NO_EVIDENCE = "no_evidence";
const UNSEEN = "This strategy may take words back, so nothing is known of how each was said.";

export class AnswerPanel {
  #transcript = new Transcript();
  #words = [];
  #measure;
  #pointed;
  #request;
  #began = performance.now();
  #seconds = null; // until the last word, without the detectors

  // `request` is {body, picture}; `pointed(word, strategy, button)` hears which word is looked at.
  constructor(request, measure, pointed, copied) {
    this.#request = request;
    this.#measure = measure;
    this.#pointed = pointed;
    this.strategy = request.body.halu.strategy;
    this.#build(copied);
  }

  get text() {
    return this.#transcript.text;
  }

  // Asks, and shows the answer as it comes; what it came to, as a sentence. Never throws.
  async follow(signal) {
    try {
      for await (const event of this.#events(signal)) {
        this.#transcript.hear(event);
        this.#render();
        this.#progress();
      }
      this.#end();
      return `${this.strategy} answers: ${this.text}`;
    } catch (error) {
      return this.#fail(error);
    }
  }

  // Asks again without evidence where the strategy has none, and says so.
  async *#events(signal) {
    const {logprobs, top_logprobs, ...bare} = this.#request.body;
    try {
      yield* chat(this.#request.body, signal);
    } catch (error) {
      if (error.code !== NO_EVIDENCE) throw error;
      this.unseen.hidden = false;
      yield* chat({...bare, halu: {...bare.halu, evidence: "none"}}, signal);
    }
  }

  colour(measure) {
    this.#measure = measure;
    this.#render();
  }

  #build(copied) {
    const params = Object.entries(this.#request.body.halu.params)
      .map(([key, value]) => `${key} ${JSON.stringify(value)}`);
    const label = `Answer of ${this.strategy}; arrow keys go from word to word`;
    this.said = make("p", {class: "words", role: "group", "aria-label": label});
    this.state = make("p", {class: "state"}, "waiting…");
    this.notes = make("div", {});
    this.unseen = make("p", {class: "hint", hidden: true}, UNSEEN);
    const copy = (language, text) => {
      const onclick = () => copied(text(this.#request), language);
      return make("button", {type: "button", class: "quiet", onclick}, `Copy as ${language}`);
    };
    this.take = make("div", {class: "row"}, copy("curl", curl), copy("Python", python));
    this.element = make("article", {class: "reply", "aria-label": this.strategy, "aria-busy": "true"},
      make("h2", {}, this.strategy, ...(params.length ? [make("small", {}, params.join(", "))] : [])),
      this.said, this.notes, this.unseen, this.state, this.take);
    for (const kind of ["pointerover", "focusin", "click"])
      this.said.addEventListener(kind, ({target}) => this.#point(target));
    this.said.addEventListener("click", ({target}) => target.scrollIntoView({block: "nearest"}));
    this.said.addEventListener("keydown", (event) => this.#walk(event));
  }

  // Words are buttons of which one is in the tab order.
  #render() {
    this.#words = this.#transcript.words();
    this.#words.forEach((word, i) => {
      const button = this.said.children[i] ?? this.#another(word.lead, i);
      if (button.textContent !== word.text) button.textContent = word.text;
      button.classList.toggle("doubted", word.findings.length > 0);
      button.style.setProperty("--level", word.seen ? this.#measure.value(word).toFixed(3) : 0);
    });
  }

  #progress() {
    if (this.#transcript.reason) this.#seconds ??= (performance.now() - this.#began) / 1000;
    const checks = this.#seconds !== null && this.#request.body.halu.detectors.length;
    this.state.textContent = checks ? "the detectors are looking…" : "answering…";
  }

  #another(lead, place) {
    const button = make("button", {type: "button", "aria-pressed": "false", tabindex: place ? "-1" : "0"});
    this.said.append(lead, button);
    return button;
  }

  #point(target) {
    const place = [...this.said.children].indexOf(target);
    if (place < 0) return;
    for (const button of this.said.children) button.tabIndex = button === target ? 0 : -1;
    this.#pointed(this.#words[place], this.strategy, target);
  }

  #walk(event) {
    const buttons = [...this.said.children], here = buttons.indexOf(event.target);
    const there = {
      ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1,
      Home: 0, End: buttons.length - 1,
    }[event.key];
    if (here < 0 || there === undefined) return;
    event.preventDefault();
    buttons[Math.max(0, Math.min(there, buttons.length - 1))].focus();
  }

  #end() {
    const {report, reason, findings, tokens} = this.#transcript;
    if (!tokens.length && !this.text) this.said.textContent = "(It said nothing.)";
    this.#finish([
      tokens.length > 0 && `${tokens.length} tokens`,
      report && `${report.forwards} rows through the model`,
      this.#seconds !== null && `${this.#seconds.toFixed(1)} s`,
      reason === "length" && "cut off: the longest answer was reached",
    ].filter(Boolean).join(" · "));
    if (findings) this.notes.replaceChildren(...this.#found(findings));
  }

  // A line for each place in the text; the detectors' reasons are under the lens.
  #found(findings) {
    if (!findings.length) return [make("p", {class: "hint"}, "The detectors found nothing to doubt.")];
    const characters = Array.from(this.text);
    const places = Map.groupBy(findings, ({start, stop}) => `${start} ${stop}`);
    return [...places.values()].map((own) => make("p", {class: "finding"},
      make("b", {}, characters.slice(own[0].start, own[0].stop).join("")), ": ",
      own.map(({detector, score}) => `${detector} ${percent(score)}`).join(", ")));
  }

  #fail(error) {
    if (error.name === "AbortError") {
      this.#finish("stopped");
      return `${this.strategy} was stopped.`;
    }
    if (!(error instanceof Refused)) console.error(error);
    const told = error instanceof Refused ? error.message : "This page has failed; its console says why.";
    this.notes.replaceChildren(make("p", {class: "trouble"}, told));
    this.#finish(this.text ? "broken off" : "no answer");
    return `${this.strategy}: ${told}`;
  }

  #finish(text) {
    this.state.textContent = text;
    this.element.setAttribute("aria-busy", "false");
  }
}
