// The page: a picture, what every layer of a network makes of it, and its answer.

import * as api from "./api.js";
import { drawOverlay, drawPicture, erase, setColormap } from "./heat.js";
import { Inspector } from "./inspector.js";
import { Sketch } from "./sketch.js";
import { Strips, element, isMap, number } from "./strips.js";

const IDLE_MS = 250; // after the last stroke, what takes longer than a stroke is computed
const LEAST_CHANGE = 0.01; // of a probability is worth a colour
const OVERLAYS = { none: "nothing", occlusion: "occlusion", "grad-cam": "Grad-CAM" };

const $ = (id) => document.getElementById(id);

const page = {
  models: [],
  model: null,
  engine: null,
  seen: null, // picture A: what api.see answered
  pinned: null, // picture B
  overlay: "none",
  changed: () => {
    strips.mark(inspector.chosen?.layer, inspector.chosen?.channel);
    pointed();
  },
  pointed,
  failed,
};

const strips = new Strips($("strips"), (layer, channel, opener, byKeyboard) => {
  inspector.open(layer, channel, opener);
  page.changed();
  if (byKeyboard) inspector.focus();
});
const inspector = new Inspector($("inspector"), page);
const sketch = new Sketch($("pad"), $("pen"), () => {
  $("hint").hidden = true;
  look(() => sketch.file());
});

// -- Asking: one question at a time, of the newest picture -----------------------------------------

let waiting = null;
let asking = false;
let idle = 0;

/** Show what the network makes of a picture; `picture` gives it when its turn comes. */
async function look(picture) {
  waiting = { picture, since: performance.now() };
  $("main").ariaBusy = "true";
  if (asking) return;
  asking = true;
  clearTimeout(idle);
  while (waiting) {
    const { picture: next, since } = waiting;
    waiting = null;
    try {
      const model = page.model;
      const seen = await api.see(model.name, page.engine, await next());
      if (page.model !== model) continue; // another one was chosen meanwhile
      show(seen, since);
      failed(null);
    } catch (error) {
      failed(error);
    }
  }
  asking = false;
  idle = setTimeout(settle, IDLE_MS);
}

/** The picture stands still: what takes longer. */
async function settle() {
  if (!page.seen) {
    $("main").ariaBusy = "false";
    return;
  }
  await Promise.all([time(), explain()]);
  if (!asking) $("main").ariaBusy = "false";
}

function failed(error) {
  if (error && !(error instanceof api.ServerError)) console.error(error);
  $("entry").hidden = !(error instanceof api.TokenError);
  $("alert").hidden = !error;
  $("alert").textContent = error ? error.message : "";
}

// -- Showing ---------------------------------------------------------------------------------------

function show(seen, since) {
  const before = page.seen;
  page.seen = seen;
  const picture = seen.arrays.get("");
  drawPicture($("shown"), picture);
  const [height, width] = picture.shape;
  $("field").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("shown").parentElement.style.setProperty("--ratio", String(width / height));
  $("shown-caption").textContent = `the network sees ${height}×${width}`;
  erase($("overlay"));
  const layers = [...seen.arrays].filter(([name], place, all) => name && !isFlattened(all[place], all[place - 1]));
  if (before?.of !== page.model) strips.build(layers, page.model.layers);
  seen.of = page.model;
  strips.draw(seen.arrays, page.pinned?.arrays);
  answer(seen.predictions);
  inspector.draw();
  page.changed();
  const parts = `preparing ${seen.prepare_ms.toFixed(1)}, computing ${seen.compute_ms.toFixed(2)}`;
  $("latency").textContent = `From stroke to maps in ${Math.round(performance.now() - since)} ms (${parts})`;
}

/** Whether a layer only lays out the maps before it in a row. */
function isFlattened([, array], [, before]) {
  return !isMap(array) && before.shape.length === 3 && array.values.length === before.values.length;
}

function answer(predictions) {
  $("answer-title").hidden = !predictions.length;
  if (!predictions.length) {
    $("answer").replaceChildren();
    $("best").replaceChildren();
    return;
  }
  const best = predictions[0];
  const values = predictions.map(({ probability }) => probability);
  const shares = isShares(values);
  const [low, high] = shares ? [0, 1] : [Math.min(...values, 0), Math.max(...values, 0)];
  const told = (value, digits) => (shares ? `${(value * 100).toFixed(digits)}%` : number(value));
  const inOrder = [...predictions].sort((a, b) => a.index - b.index);
  const rows = $("answer");
  if (rows.children.length !== inOrder.length) {
    rows.replaceChildren(
      ...inOrder.map(() => {
        const row = element("li", {});
        row.innerHTML = "<span></span><i><b></b></i><span></span>";
        return row;
      }),
    );
  }
  inOrder.forEach(({ label, index, probability }, place) => {
    const row = rows.children[place];
    const [name, bar, share] = row.children;
    name.textContent = label;
    const width = high > low ? (probability - low) / (high - low) : 0;
    bar.firstChild.style.width = `${Math.max(0, Math.min(1, width)) * 100}%`;
    share.textContent = told(probability, 1);
    row.classList.toggle("best", index === best.index);
  });
  $("best").replaceChildren(element("b", { textContent: best.label }), told(best.probability, 0));
  $("best").classList.toggle("short", best.label.length < 4);
  const said = `${best.label}, ${told(best.probability, 0)}`;
  if (!asking || !waiting) $("answer-said").textContent = said;
}

/** Whether scores are probabilities; a file that ends before its softmax has others. */
function isShares(values) {
  const sum = values.reduce((all, value) => all + value, 0);
  return values.every((value) => value >= -1e-4 && value <= 1.0001) && Math.abs(sum - 1) < 0.01;
}

async function time() {
  const seen = page.seen;
  try {
    const { median_ms, runs } = await api.times(page.model.name, seen.arrays.get("").values);
    if (page.seen !== seen) return;
    const table = $("times");
    table.caption.textContent = `One picture, median of ${runs} runs`;
    table.tBodies[0].replaceChildren(
      ...Object.entries(median_ms).map(([engine, ms]) => {
        const row = element("tr", { className: engine === seen.engine ? "current" : "" });
        const text = ms < 1 ? `${Math.round(ms * 1000)} µs` : `${ms.toFixed(2)} ms`;
        row.append(element("td", { textContent: engine }), element("td", { textContent: text }));
        return row;
      }),
    );
  } catch (error) {
    failed(error);
  }
}

async function explain() {
  const { overlay: kind, seen } = page;
  $("overlay-note").textContent = "";
  if (kind === "none" || !seen) {
    erase($("overlay"));
    return;
  }
  $("overlay-note").textContent = "looking…";
  try {
    const found = await api.explain(kind, page.model.name, page.engine, seen.arrays.get("").values);
    if (page.seen !== seen || page.overlay !== kind) return;
    const occlusion = kind === "occlusion";
    const most = drawOverlay($("overlay"), found.arrays.get("heat"), occlusion, occlusion ? LEAST_CHANGE : 0);
    const patch = `${found.size}×${found.size} pixels`;
    if (!occlusion) {
      $("overlay-note").textContent = `Bright: what speaks for “${found.label}” in ${found.layer}.`;
    } else if (most < LEAST_CHANGE) {
      $("overlay-note").textContent = `Hiding ${patch} anywhere hardly changes “${found.label}”.`;
    } else {
      const shares = isShares(seen.predictions.map(({ probability }) => probability));
      const by = shares ? `${(most * 100).toFixed(0)} points` : number(most);
      $("overlay-note").textContent = `Red: hiding ${patch} there lowers “${found.label}”; blue: it raises it; by up to ${by}.`;
    }
  } catch (error) {
    $("overlay-note").textContent = "";
    failed(error);
  }
}

/** Frame the part of the picture that the value under the pointer sees. */
function pointed() {
  inspector.probe();
  const rect = $("field").firstElementChild;
  const field = inspector.field();
  rect.toggleAttribute("hidden", !field);
  if (!field) return;
  rect.setAttribute("x", field.left);
  rect.setAttribute("y", field.top);
  rect.setAttribute("width", field.right - field.left);
  rect.setAttribute("height", field.bottom - field.top);
}

// -- Pictures --------------------------------------------------------------------------------------

/** A picture's file: show it on the pad and look at it. */
async function open(file) {
  try {
    const image = await createImageBitmap(file);
    sketch.show(image, image.width, image.height);
    $("hint").hidden = true;
  } catch {
    // what the browser cannot show, the server will say something about
  }
  look(async () => file);
}

async function sample(name) {
  try {
    open(await api.sample(page.model.name, name));
  } catch (error) {
    failed(error);
  }
}

function blank() {
  sketch.clear();
  $("hint").hidden = false;
  const { height, width, channels } = page.model;
  look(async () => new Uint8Array(height * width * channels));
}

$("clear").addEventListener("click", blank);
$("open").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) open(file);
  $("file").value = "";
});
$("compare").addEventListener("click", () => {
  page.pinned = page.pinned ? null : page.seen;
  const on = Boolean(page.pinned);
  $("compare").ariaPressed = String(on);
  $("compare").textContent = on ? "Let B go" : "Keep as B";
  $("pair").hidden = !on;
  document.body.classList.toggle("comparing", on);
  strips.draw(page.seen.arrays, page.pinned?.arrays);
  inspector.draw();
});

const drop = $("drop");
addEventListener("dragenter", (event) => {
  if (event.dataTransfer?.types.includes("Files")) drop.hidden = false;
});
drop.addEventListener("dragleave", () => (drop.hidden = true));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.hidden = true;
  const [file] = event.dataTransfer.files;
  if (file) open(file);
});

$("shown").addEventListener("pointermove", (event) => point(event));
$("overlay").addEventListener("pointermove", (event) => point(event));

function point(event) {
  if (!inspector.chosen) return;
  const box = event.currentTarget.getBoundingClientRect();
  const { height, width } = page.model;
  inspector.at({
    y: ((event.clientY - box.top) / box.height) * height,
    x: ((event.clientX - box.left) / box.width) * width,
  });
}

// -- Choices ---------------------------------------------------------------------------------------

/** A row of radio buttons: value → what it is called. */
function segments(root, name, choices, chosen, changed) {
  const legend = root.querySelector("legend");
  const labels = Object.entries(choices).map(([value, text]) => {
    const label = element("label", {});
    const input = element("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => changed(value));
    label.append(input, element("span", { textContent: text }));
    return label;
  });
  root.replaceChildren(legend, ...labels);
}

function choose(model) {
  page.model = model;
  page.seen = null;
  page.pinned = null;
  if (!model.engines.includes(page.engine)) [page.engine] = model.engines;
  document.body.classList.remove("comparing");
  $("compare").ariaPressed = "false";
  $("compare").textContent = "Keep as B";
  $("pair").hidden = true;
  if (inspector.chosen) inspector.close();
  strips.build([], []);
  $("answer").replaceChildren();
  $("best").replaceChildren();
  segments($("engines"), "engine", Object.fromEntries(model.engines.map((name) => [name, name])), page.engine, (value) => {
    page.engine = value;
    again();
  });
  $("samples").replaceChildren(
    ...model.samples.map((name) => {
      const label = name.replace(/\.\w+$/, "");
      const button = element("button", { type: "button", title: label, ariaLabel: `Sample ${label}` });
      const image = element("img", { alt: "" });
      button.append(image);
      api.sample(model.name, name).then((file) => (image.src = URL.createObjectURL(file)), failed);
      button.addEventListener("click", () => sample(name));
      return button;
    }),
  );
  $("samples-title").hidden = !model.samples.length;
  $("assumed").hidden = !model.assumed;
  if (model.samples.length) sample(model.samples[0]);
  else blank();
}

/** The same picture once more. */
function again() {
  if (page.seen) look(async () => page.seen.arrays.get("").values);
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && inspector.chosen) inspector.close();
});

$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});

segments($("overlays"), "overlay", OVERLAYS, "none", (value) => {
  page.overlay = value;
  explain();
});

$("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  api.setToken($("token").value);
  failed(null);
  start();
});

async function start() {
  try {
    setColormap(await api.colormap());
    page.models = await api.models();
    const select = $("model");
    select.replaceChildren(...page.models.map(({ name }) => element("option", { value: name, textContent: name })));
    select.onchange = () => choose(page.models.find(({ name }) => name === select.value));
    if (page.models.length) choose(page.models[0]);
    else failed(new api.ServerError("This server has no model that takes pictures."));
  } catch (error) {
    failed(error);
  }
}

start();
