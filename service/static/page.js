// The page of the service: a picture, a question, strategies; their answers side by side.

import {AnswerPanel} from "./answer.js";
import {byId, make} from "./dom.js";
import {Lens} from "./lens.js";
import {PictureInput} from "./picture.js";
import {MEASURES} from "./risk.js";
import {address, list, useKey} from "./server.js";
import {Arms} from "./strategies.js";

const DESCRIBE = "Please describe this image in detail.";
const FIRST = ["greedy", "vcd"];
const ALTERNATIVES = 5;
const POINT = "Point at a word (or tab to it and use the arrow keys) to see where the model looked.";
const ASK = `Ask something. ${POINT}`;

const lens = new Lens();
const arms = new Arms(byId("arms"));
const picture = new PictureInput(suggest, complain);
let panels = [];
let running = null;

function complain(text) {
  byId("trouble").textContent = text;
}

const measure = () => MEASURES[byId("measure").value];

// A new picture: other questions, and no answers about the one before.
function suggest({example}) {
  complain("");
  running?.abort();
  panels = [];
  byId("answers").replaceChildren();
  lens.invite(ASK);
  const questions = [DESCRIBE, ...(example?.questions ?? [])];
  byId("suggestions").replaceChildren(...questions.map((text) => {
    const onclick = () => {
      byId("question").value = text;
      byId("question").focus();
    };
    return make("button", {type: "button", onclick}, text);
  }));
  byId("question").value ||= DESCRIBE;
}

function request({strategy, params}) {
  const detectors = [...byId("detectors").querySelectorAll("input:checked")].map((box) => box.value);
  const body = {
    model: byId("model").value,
    messages: [{role: "user", content: [
      {type: "image_url", image_url: {url: picture.current.uri}},
      {type: "text", text: byId("question").value.trim()},
    ]}],
    max_tokens: byId("max-tokens").valueAsNumber,
    temperature: byId("temperature").valueAsNumber,
    seed: byId("seed").valueAsNumber,
    stream: true,
    logprobs: true,
    top_logprobs: ALTERNATIVES,
    halu: {strategy, params, detectors, evidence: "map"},
  };
  return {body, picture: picture.current};
}

async function ask() {
  if (!picture.current) return complain("Choose a picture first.");
  if (!byId("question").value.trim()) return complain("Write a question first.");
  complain("");
  running?.abort();
  const mine = (running = new AbortController());
  byId("stop").disabled = false;
  const show = (...pointed) => lens.show(...pointed);
  panels = arms.chosen().map((arm) => new AnswerPanel(request(arm), measure(), show, copy));
  byId("answers").replaceChildren(...panels.map((panel) => panel.element));
  lens.invite(POINT);
  tell(`${panels.length} ${panels.length === 1 ? "answer is" : "answers are"} on the way.`);
  const hidden = byId("answers").getBoundingClientRect().top > innerHeight - 100;
  if (hidden) byId("results").scrollIntoView(); // on a phone they are below the form
  const ends = await Promise.all(panels.map((panel) => panel.follow(mine.signal)));
  if (running !== mine) return;
  running = null;
  byId("stop").disabled = true;
  tell(ends.join(" "));
}

function tell(text) {
  byId("status").textContent = text;
}

async function copy(text, label) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // only pages on https or loopback may use the clipboard itself
    const area = make("textarea", {class: "unseen"}, text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  tell(`Copied as ${label}.`);
}

async function fill() {
  const [models, strategies, detectors] = await Promise.all(["models", "strategies", "detectors"].map(list));
  const names = models.map(({id}) => id);
  // MODEL@STRATEGY is listed for apps that can choose nothing else; here strategies have their own place.
  const bare = names.filter((id) => !id.includes("@") || !names.includes(id.split("@")[0]));
  byId("model").replaceChildren(...bare.map((id) => make("option", {value: id}, id)));
  arms.offer(strategies, FIRST.filter((name) => strategies.some((one) => one.name === name)));
  byId("detectors").append(...detectors.map(({name, summary}) => make("label", {class: "check"},
    make("input", {type: "checkbox", value: name}),
    make("span", {}, make("b", {}, name), ` ${summary}`))));
  byId("send").disabled = false;
}

// Fills the page; where the server wants a key first, asks for it.
async function enter() {
  complain("");
  byId("send").disabled = true;
  try {
    await fill();
    byId("login").hidden = true;
  } catch (error) {
    if (error.status === 401) login();
    else complain(error.message);
  }
}

function login() {
  byId("key-trouble").textContent = byId("login").hidden ? "" : "The server does not know this key.";
  byId("login").hidden = false;
  byId("key").focus();
}

async function start() {
  listen();
  const entered = enter();
  const examples = await (await fetch(address("static/examples/examples.json"))).json();
  picture.offer(examples);
  await picture.example(examples[0]);
  await entered;
}

function listen() {
  const on = (id, kind, act) => byId(id).addEventListener(kind, act);
  const instead = (event, act) => {
    event.preventDefault();
    act();
  };
  for (const [key, {label}] of Object.entries(MEASURES))
    byId("measure").append(make("option", {value: key}, label));
  on("measure", "change", recolour);
  recolour();
  on("use-key", "click", () => {
    useKey(byId("key").value);
    enter();
  });
  on("key", "keydown", (event) => {
    if (event.key === "Enter") instead(event, () => byId("use-key").click());
  });
  on("question", "input", () => complain(""));
  on("question", "keydown", (event) => {
    const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing;
    if (sends) instead(event, () => byId("ask").requestSubmit(byId("send")));
  });
  on("ask", "submit", (event) => instead(event, ask));
  on("add-arm", "click", () => arms.add().focus());
  on("close-lens", "click", () => lens.clear());
  on("stop", "click", () => running?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") lens.clear();
  });
}

function recolour() {
  byId("about").textContent = measure().about;
  for (const panel of panels) panel.colour(measure());
}

start().catch((error) => {
  console.error(error);
  complain("This page could not start; its console says why.");
});
