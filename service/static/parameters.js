// A form for the parameters of a strategy, from their JSON Schema. Only what was changed is sent.

import {make} from "./dom.js";

let fields = 0;

// {element, values()} for one schema; `values` has the parameters that differ from "as the default".
export function parameterForm(schema) {
  const inputs = Object.entries(schema.properties ?? {})
    .filter(([, property]) => !property.operator)
    .map(([name, property]) => field(name, property));
  return {
    element: make("div", {class: "parameters"}, ...inputs.map((one) => one.element)),
    size: inputs.length,
    values() {
      const given = inputs.map((one) => [one.name, one.value()]);
      return Object.fromEntries(given.filter(([, value]) => value !== undefined));
    },
  };
}

function field(name, property) {
  const id = `parameter-${++fields}`;
  const kinds = property.anyOf ?? [property];
  const input = control(kinds, property.default, {id, "aria-describedby": `${id}-about`});
  return {
    name,
    element: make("div", {},
      make("label", {for: id}, name), input,
      make("p", {id: `${id}-about`, class: "hint"}, property.description ?? "")),
    value: () => (input.value.trim() === "" ? undefined : read(input.value.trim(), kinds)),
  };
}

function control(kinds, standard, attributes) {
  const shown = typeof standard === "string" ? standard : JSON.stringify(standard ?? null).replace("null", "none");
  const choices = kinds.flatMap((kind) => kind.enum ?? (kind.type === "boolean" ? [true, false] : []));
  const closed = kinds.every((kind) => kind.enum || kind.type === "boolean" || kind.type === "null");
  if (closed) {
    const others = choices.filter((choice) => choice !== standard).map(String);
    return make("select", attributes, make("option", {value: ""}, `${shown} (default)`),
      ...others.map((choice) => make("option", {value: choice}, choice)));
  }
  return make("input", {...attributes, placeholder: shown, autocomplete: "off", ...bounds(kinds)});
}

function bounds(kinds) {
  const [kind] = kinds;
  if (!kinds.every((one) => ["number", "integer", "null"].includes(one.type))) return {type: "text"};
  const step = kind.type === "integer" ? 1 : "any";
  return {type: "number", step, min: kind.minimum ?? null, max: kind.maximum ?? null};
}

// Text stays text where the schema takes nothing else; otherwise numbers, lists and truth are read as JSON.
function read(text, kinds) {
  if (kinds.every((kind) => kind.type === "string")) return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
