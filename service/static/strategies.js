// Which strategies answer: a list of arms, each one strategy or several joined with "+".

import {make} from "./dom.js";
import {parameterForm} from "./parameters.js";

const KINDS = {
  decoding: "Plain decoding", image: "Other views of the picture", prompt: "Other prompts",
  logits: "Scores of tokens", attention: "Attention", control: "Control of the loop",
};

export class Arms {
  #box;
  #catalogue = [];
  #arms = [];

  constructor(box) {
    this.#box = box;
  }

  // Shows these strategies to choose from, and begins with the named ones.
  offer(catalogue, names) {
    this.#catalogue = catalogue;
    this.#arms = [];
    this.#box.replaceChildren();
    for (const name of names) this.add(name);
  }

  add(name = this.#catalogue[0]?.name) {
    const arm = {parts: []};
    arm.list = make("div", {});
    arm.legend = make("legend", {});
    arm.remove = make("button", {type: "button", class: "quiet", onclick: () => this.#remove(arm)}, "Remove");
    const combine = make("button", {type: "button", class: "quiet", onclick: () => this.#part(arm, "vhr").focus()},
      "Combine with another");
    const below = make("div", {class: "row"}, combine, arm.remove);
    arm.element = make("fieldset", {class: "arm"}, arm.legend, arm.list, below);
    this.#arms.push(arm);
    this.#box.append(arm.element);
    this.#part(arm, name);
    this.#number();
    return arm.parts[0].select;
  }

  // What was chosen: [{strategy, params}]; of several parts the parameters are dotted.
  chosen() {
    return this.#arms.map(({parts}) => {
      const names = parts.map((part) => part.select.value);
      const values = parts.flatMap((part, i) => Object.entries(part.form.values())
        .map(([key, value]) => [parts.length > 1 ? `${names[i]}.${key}` : key, value]));
      return {strategy: names.join("+"), params: Object.fromEntries(values)};
    });
  }

  #remove(arm) {
    const place = this.#arms.indexOf(arm);
    this.#arms.splice(place, 1);
    arm.element.remove();
    this.#number();
    this.#arms[Math.min(place, this.#arms.length - 1)].parts[0].select.focus();
  }

  #number() {
    this.#arms.forEach((arm, i) => {
      arm.legend.textContent = `Strategy ${i + 1}`;
      arm.remove.hidden = this.#arms.length === 1;
    });
  }

  #part(arm, name) {
    const first = arm.parts.length === 0;
    const part = {about: make("p", {class: "hint"}), details: make("details", {})};
    const onchange = () => this.#describe(part);
    part.select = make("select", {"aria-label": first ? "Strategy" : "Combined with", onchange}, ...this.#groups());
    if (this.#catalogue.some((one) => one.name === name)) part.select.value = name;
    const drop = () => {
      arm.parts.splice(arm.parts.indexOf(part), 1);
      part.element.remove();
      arm.parts[0].select.focus();
    };
    const cross = {type: "button", class: "quiet", "aria-label": "Do not combine", hidden: first, onclick: drop};
    const row = make("div", {class: "row"}, part.select, make("button", cross, "×"));
    part.element = make("div", {class: "part"}, row, part.about, part.details);
    this.#describe(part);
    arm.parts.push(part);
    arm.list.append(part.element);
    return part.select;
  }

  // What the chosen strategy is, and a form for its parameters.
  #describe(part) {
    const {summary, paper, params} = this.#catalogue.find((one) => one.name === part.select.value);
    const source = paper.venue && `${paper.short}, ${paper.venue}`;
    part.about.textContent = [summary.replace(/\.$/, ""), source].filter(Boolean).join(" · ");
    part.form = parameterForm(params);
    part.details.hidden = part.form.size === 0;
    part.details.replaceChildren(make("summary", {}, `Parameters (${part.form.size})`), part.form.element);
  }

  #groups() {
    const kinds = [...new Set([...Object.keys(KINDS), ...this.#catalogue.map((one) => one.kind)])];
    return kinds
      .map((kind) => [kind, this.#catalogue.filter((one) => one.kind === kind)])
      .filter(([, members]) => members.length)
      .map(([kind, members]) => make("optgroup", {label: KINDS[kind] ?? kind},
        ...members.map(({name}) => make("option", {value: name}, name))));
  }
}
