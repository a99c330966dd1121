// The picture: an example, or one that was chosen, dropped or pasted. It stays in this page until asked about.

import {byId, make} from "./dom.js";
import {address} from "./server.js";

const KINDS = ["image/png", "image/jpeg", "image/webp", "image/gif"];

export class PictureInput {
  current = null; // {name, uri, url}: url only for an example, which the server has too
  #changed;
  #refused;
  #wanted = null; // the newest choice: an older one that opens later is dropped

  // `changed(picture)` hears of every new picture, `refused(text)` why one cannot be used.
  constructor(changed, refused) {
    this.#changed = changed;
    this.#refused = refused;
    byId("file").addEventListener("change", ({target: {files}}) => files[0] && this.take(files[0]));
    document.addEventListener("paste", (event) => this.#dropped(event, event.clipboardData));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => this.#dropped(event, event.dataTransfer));
  }

  // Shows the shipped examples as buttons.
  offer(examples) {
    byId("examples").replaceChildren(...examples.map((example) => {
      const src = address(`static/examples/${example.file}`);
      const onclick = () => this.example(example);
      return make("button", {type: "button", "aria-pressed": "false", "data-name": example.file, onclick},
        make("img", {src, alt: `Example: ${example.theme}`, width: 64, height: 64}));
    }));
  }

  async example(example) {
    const url = address(`static/examples/${example.file}`);
    const blob = await fetch(url).then((reply) => reply.blob()).catch(() => null);
    if (!blob) return this.#refused("The server does not send the picture. Is it still running?");
    const caption = `What the built-in models could name: ${example.things.join(", ")}.`;
    return this.#show({name: example.file, blob, url, caption, example});
  }

  async take(file) {
    const name = file.name || "picture.png";
    if (!KINDS.includes(file.type)) return this.#refuse(`${name} is not a PNG, JPEG, WebP or GIF picture.`);
    return this.#show({name, blob: file, url: null, caption: name, example: null});
  }

  async #show({name, blob, url, caption, example}) {
    this.#wanted = blob;
    const uri = await dataUri(blob);
    const shown = byId("shown");
    const probe = new Image();
    probe.src = uri;
    try {
      await probe.decode();
    } catch {
      return this.#refuse(`${name} cannot be opened as a picture.`);
    }
    if (this.#wanted !== blob) return;
    this.current = {name, uri, url};
    for (const image of [shown, byId("small")]) {
      image.src = uri;
      image.parentElement.style.setProperty("--ratio", probe.naturalWidth / probe.naturalHeight);
    }
    shown.alt = example ? `Example picture, ${example.theme}. ${caption}` : `Your picture ${name}`;
    shown.hidden = false;
    byId("caption").textContent = caption;
    for (const button of byId("examples").children)
      button.setAttribute("aria-pressed", String(button.dataset.name === example?.file));
    if (example) byId("file").value = "";
    await shown.decode();
    this.#changed({...this.current, example});
  }

  // The one before stays, so the refused one's name must not stand beside the button.
  #refuse(text) {
    byId("file").value = "";
    this.#refused(text);
  }

  #dropped(event, data) {
    const file = [...(data?.files ?? [])][0];
    if (!file) return;
    event.preventDefault();
    this.take(file);
  }
}

function dataUri(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
}
