// The request just made, for a shell and for Python. Left out is only what the page itself looks at: the
// stream, the evidence, the alternatives.

import {address, hasKey} from "./server.js";

const IMAGE = "\u0000image\u0000";

// `request`: {body, picture} as it was sent.
export function curl({body, picture}) {
  const json = JSON.stringify(withoutReporting(body, "DATA_URI"), null, 2)
    .replace(/[\\$`]/g, "\\$&").replace("DATA_URI", `data:${kind(picture)};base64,$IMAGE`);
  const read = picture.url ? `curl -s ${quoted(picture.url)} | base64` : `base64 < ${quoted(picture.name)}`;
  return [
    `IMAGE=$(${read} | tr -d '\\n')`,
    `curl -s ${quoted(address("v1/chat/completions"))} \\`,
    ...(hasKey() ? ['  -H "Authorization: Bearer $HALU_API_KEY" \\'] : []),
    "  -H 'Content-Type: application/json' --data-binary @- <<JSON",
    json,
    "JSON",
    "",
  ].join("\n");
}

export function python({body, picture}) {
  const {halu, ...rest} = withoutReporting(body, IMAGE);
  const fields = Object.entries(rest).map(([name, value]) => `    ${name}=${literal(value, 1)},`);
  const read = picture.url
    ? `urllib.request.urlopen(${literal(picture.url)}).read()`
    : `Path(${literal(picture.name)}).read_bytes()`;
  const key = hasKey() ? 'os.environ["HALU_API_KEY"]' : '"none"';
  return [
    "import base64",
    ...(hasKey() ? ["import os"] : []),
    picture.url ? "import urllib.request" : "from pathlib import Path",
    "",
    "import openai",
    "",
    `image = base64.b64encode(${read}).decode()`,
    `client = openai.OpenAI(base_url=${literal(address("v1"))}, api_key=${key})`,
    "reply = client.chat.completions.create(",
    ...fields,
    `    extra_body={"halu": ${literal(halu, 1)}},`,
    ")",
    "print(reply.choices[0].message.content)",
    "",
  ].join("\n").replace(`"${IMAGE}"`, `f"data:${kind(picture)};base64,{image}"`);
}

function withoutReporting({stream, logprobs, top_logprobs, ...body}, uri) {
  const {evidence, ...halu} = body.halu;
  const shown = (part) => (part.type === "image_url" ? {...part, image_url: {url: uri}} : part);
  const messages = body.messages.map(({role, content}) => ({role, content: content.map(shown)}));
  return {...body, messages, halu};
}

const kind = ({uri}) => uri.slice(5, uri.indexOf(";"));
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// A value as Python writes it.
function literal(value, depth = 0) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return value === IMAGE ? `"${IMAGE}"` : JSON.stringify(value);
  const inside = Array.isArray(value)
    ? value.map((one) => literal(one, depth + 1))
    : Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${literal(one, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const flat = `${open}${inside.join(", ")}${close}`;
  if (flat.length < 70 && !flat.includes("\n")) return flat;
  const indent = "    ".repeat(depth + 1);
  return `${open}\n${inside.map((one) => `${indent}${one},\n`).join("")}${"    ".repeat(depth)}${close}`;
}
