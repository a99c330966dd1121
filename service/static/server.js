// The server that sent this page: its lists, its streams, its refusals in plain words.

const BASE = new URL("./", document.baseURI);
const UNREACHABLE = "The server does not answer. Is it still running?";
const CUT = "The server stopped in the middle of the answer.";
let key = "";

// What the server, or the way to it, refused: `message` is for people, `code` for programs; `status` is 0
// if nothing came.
export class Refused extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// The key lives in this module's memory: it is gone when the page is.
export function useKey(text) {
  key = text.trim();
}

export const hasKey = () => key !== "";
export const address = (path) => new URL(path, BASE).href;

// The entries of "models", "strategies" or "detectors".
export async function list(kind) {
  const reply = await call(`v1/${kind}`);
  return (await reply.json()).data;
}

// The events of a chat completion, as they come. Ending the loop early, or `signal`, ends the request.
export async function* chat(body, signal) {
  const reply = await call("v1/chat/completions", {
    method: "POST",
    headers: {"content-type": "application/json"},
    body: JSON.stringify(body),
    signal,
  });
  for await (const data of eventData(reply.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Refused(event.error.message, 200);
    yield event;
  }
  throw new Refused(CUT, 200);
}

async function call(path, options = {}) {
  const headers = {...options.headers, ...(key ? {authorization: `Bearer ${key}`} : {})};
  const reply = await fetch(address(path), {...options, headers}).catch((error) => {
    throw error.name === "AbortError" ? error : new Refused(UNREACHABLE);
  });
  if (!reply.ok) throw await refusal(reply);
  return reply;
}

async function refusal(reply) {
  const told = (await reply.json().catch(() => null))?.error;
  const unsaid = `The server refuses, without saying why (status ${reply.status}).`;
  return new Refused(told?.message ?? unsaid, reply.status, told?.code);
}

// The data of server-sent events; comments, which keep the connection open, are passed over.
async function* eventData(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const {value, done} = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new Refused(CUT, 200);
      });
      if (done) return;
      const events = (rest + value).split(/\r?\n\r?\n/);
      rest = events.pop();
      for (const event of events) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
