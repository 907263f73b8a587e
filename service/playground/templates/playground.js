const $ = (id) => document.getElementById(id);
const form = $("ask"), model = $("model"), go = $("go"), stop = $("stop");
const status = $("status"), progress = $("progress"), output = $("output");
const maxBody = Number(document.body.dataset.maxBody);
const VERBS = { encode: "Predict the response", decode: "Decode" };
const files = { picture: null, responses: null };
let about = null;
let asking = null;

const chosen = () => model.selectedOptions[0]?.dataset ?? {};
const query = (fields) => new URLSearchParams({ model: model.value, version: chosen().version, ...fields });

function make(tag, fields = {}, ...children) {
  const element = Object.assign(document.createElement(tag), fields);
  element.append(...children);
  return element;
}

function say(words, wrong = false) {
  status.textContent = words;
  status.classList.toggle("wrong", wrong);
}

// What is asked ----------------------------------------------------------------------------------------------------

model.addEventListener("change", describe);

async function describe() {
  asking?.abort();
  about = null;
  output.replaceChildren();
  say("Nothing asked yet.");
  const asked = model.value;
  showFields();
  if (!asked) {
    $("about").textContent = "";
    return;
  }
  $("about").textContent = "Loading …";
  let told, failed = "";
  try {
    const answer = await fetch(`/model?${query({})}`);
    told = await answer.json();
    failed = answer.ok ? "" : told.message;
  } catch {
    failed = "The server does not answer.";
  }
  if (model.value !== asked) return;
  about = failed ? null : told;
  $("about").textContent = failed || words(told);
  showFields();
}

function words(told) {
  const parts = [`${told.units.toLocaleString("en")} units${told.space ? ` on ${told.space}` : ""}`];
  if (told.regions.length) parts.push(`regions ${told.regions.join(", ")}`);
  if (told.license) parts.push(`licence ${told.license}`);
  if (told.reason) parts.push(`takes no pictures here: ${told.reason}`);
  if (chosen().verb === "decode" && !told.outputs.length) parts.push("decodes numbers alone, which this page cannot show");
  return `${parts.join("; ")}.`;
}

function showFields() {
  const able = about !== null && !about.reason && (chosen().verb === "encode" || about.outputs.length > 0);
  for (const verb of Object.keys(VERBS)) {
    const shown = able && chosen().verb === verb;
    $(verb).hidden = $(verb).disabled = !shown;
  }
  if (able && chosen().verb === "decode") {
    $("presets").hidden = !about.presets.length;
    $("preset").replaceChildren(...about.presets.map((name) => make("option", { value: name, textContent: name })));
  }
  go.textContent = (able && VERBS[chosen().verb]) || "Ask";
  go.disabled = !able;
}

// Files ------------------------------------------------------------------------------------------------------------

for (const id of Object.keys(files)) {
  const input = $(id), drop = input.previousElementSibling;
  input.addEventListener("change", () => take(id, input.files[0] ?? null));
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) {
      input.files = event.dataTransfer.files;
      take(id, event.dataTransfer.files[0]);
    }
  });
}
// A file that misses its place would otherwise replace the page.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());

async function take(id, file) {
  const input = $(id);
  const large = file !== null && file.size > maxBody;
  input.setCustomValidity(large ? `The file is larger than ${Math.floor(maxBody / 2 ** 20)} MiB.` : "");
  files[id] = file;
  if (large) input.reportValidity();
  else if (id === "picture") showPicture(file);
  else await countRows(file);
}

function showPicture(file) {
  const shown = $("shown");
  URL.revokeObjectURL(shown.src);
  shown.hidden = true;
  if (file?.type.startsWith("image/")) {
    // A format that the browser cannot show, such as TIFF, may still be one that the model can see.
    shown.onload = () => (shown.hidden = false);
    shown.alt = `Chosen picture, ${file.name}`;
    shown.src = URL.createObjectURL(file);
  }
}

async function countRows(file) {
  if (file === null) return;
  const head = new TextDecoder("latin1").decode(await file.slice(0, 4096).arrayBuffer());
  const shape = head.startsWith("NUMPY", 1) && head.match(/'shape': \(([\d, ]*)\)/);
  if (!shape) {
    $("rows").textContent = "This is no .npy file.";
    return;
  }
  const sizes = shape[1].split(",").filter((size) => size.trim()).map(Number);
  const [rows, units] = sizes.length === 1 ? [1, sizes[0]] : sizes;
  const fits = about && units !== about.units ? `; the model reads ${about.units.toLocaleString("en")}` : "";
  $("rows").textContent = `${rows.toLocaleString("en")} ${rows === 1 ? "row" : "rows"} of ${units.toLocaleString("en")} responses${fits}.`;
  $("first").max = Math.max(0, rows - 1);
}

// Asking -----------------------------------------------------------------------------------------------------------

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const verb = chosen().verb;
  asking?.abort();
  const mine = (asking = new AbortController());
  output.replaceChildren();
  progress.hidden = false;
  progress.removeAttribute("value");
  stop.hidden = false;
  say("Asking …");
  try {
    await (verb === "encode" ? encode(mine.signal) : decode(mine.signal));
  } catch (error) {
    if (asking === mine) say(mine.signal.aborted ? "Stopped." : error.message || "The server does not answer.", !mine.signal.aborted);
  } finally {
    if (asking === mine) {
      asking = null;
      progress.hidden = stop.hidden = true;
    }
  }
});
stop.addEventListener("click", () => asking?.abort());

// Yields [event, fields] of a stream of server-sent events; an event "failure" becomes an error.
async function* ask(address, body, signal) {
  const answer = await fetch(address, { method: "POST", body, signal });
  if (!answer.ok) throw new Error((await answer.json()).message);
  let left = "";
  for await (const text of texts(answer.body.pipeThrough(new TextDecoderStream()))) {
    const blocks = (left + text).split("\n\n");
    left = blocks.pop();
    for (const block of blocks) {
      const [name, data] = block.split("\n").map((line) => line.slice(line.indexOf(":") + 2));
      const fields = JSON.parse(data);
      if (name === "failure") throw new Error(fields.message);
      yield [name, fields];
    }
  }
}

async function* texts(stream) {
  const reader = stream.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}

async function encode(signal) {
  for await (const [name, fields] of ask(`/encode?${query({})}`, files.picture, signal)) {
    if (name === "regions") {
      output.append(make("h3", { textContent: "By region" }), make("figure", {}, picture(fields.picture), make("figcaption", { textContent: "Mean over the units of each region; the line holds the middle half of them." })));
      say("Predicted; drawing the cortex …");
    } else if (name === "cortex") {
      const panels = make("div", { className: "hemispheres" }, ...fields.panels.map(picture));
      output.prepend(make("h3", { textContent: "On the cortex" }), bar(fields.bar), make("figure", {}, panels, make("figcaption", { textContent: "Left and right hemisphere, flattened; grey where the model has no units." })));
    }
    if (name !== "regions") say("Done.");
  }
}

async function decode(signal) {
  const fields = { first: $("first").value, count: $("count").value, seed: $("seed").value, preview_every: $("previews").value };
  if (about.presets.length) fields.preset = $("preset").value;
  const cards = new Map();
  const list = make("div", { className: "decoded" });
  let stage = "";
  output.append(list);
  const card = (row) => {
    if (!cards.has(row)) {
      const figure = make("figure", {}, make("h3", { textContent: `Row ${row}` }), make("div", { className: "waiting", textContent: "waiting" }));
      cards.set(row, figure);
      list.append(figure);
    }
    return cards.get(row);
  };
  for await (const [name, told] of ask(`/decode?${query(fields)}`, files.responses, signal)) {
    if (name === "accepted") say(told.before ? `Waiting; ${told.before} before this.` : "At work …");
    if (name === "step") {
      progress.max = Math.max(1, told.total);
      progress.value = told.done;
      // Said once a stage: whoever listens to the page should not hear every step.
      if (told.stage !== stage) say(`At work: ${(stage = told.stage)} …`);
    }
    if (name === "preview" && told.sample === 0) {
      const image = make("img", { className: "preview", src: told.picture, alt: `Preview of row ${told.row}` });
      card(told.row).children[1].replaceWith(image);
    }
    if (name === "row") card(told.row).replaceChildren(...shownRow(told));
    if (name === "summary") say(`Done: ${told.succeeded} decoded${told.failed ? `, ${told.failed} failed` : ""}.`, told.failed > 0);
  }
}

function shownRow(told) {
  const title = make("h3", { textContent: `Row ${told.row}` });
  if (told.failure) return [title, make("p", { className: "wrong", textContent: told.failure })];
  const many = told.pictures.length > 1;
  const [first, ...others] = told.pictures.map((src, k) => make("img", { src, alt: `Reconstruction of row ${told.row}${many ? `, sample ${k + 1}` : ""}` }));
  const pictures = [...(first ? [first] : []), ...(many ? [make("div", { className: "samples" }, ...others)] : [])];
  const caption = told.caption === null ? [] : [make("figcaption", { className: "caption", textContent: told.caption || "No words." })];
  return [title, ...pictures, ...caption];
}

function picture(image) {
  const found = make("picture");
  for (const [media, srcset, width, height] of image.sources) found.append(make("source", { media, srcset, width, height }));
  found.append(make("img", { src: image.uri, alt: image.alt, width: image.width, height: image.height }));
  return found;
}

function bar(scale) {
  const ramp = make("div", { className: "bar-ramp" });
  ramp.style.background = `linear-gradient(to right, ${scale.gradient.join(", ")})`;
  const ticks = make("div", { className: "bar-ticks" }, ...Object.values(scale.ticks).map((textContent) => make("span", { textContent })));
  return make("div", { className: "bar" }, make("div", { textContent: scale.label }), ramp, ticks);
}

// A browser may keep the choice of an earlier visit.
describe();
