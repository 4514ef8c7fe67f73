// One channel: its large map, its value under the pointer in every layer, its filter, what excites it.

import * as api from "./api.js";
import { drawMap, drawPicture, drawSigned } from "./heat.js";
import { element, isMap, number } from "./strips.js";

const MOST_INPUTS = 64; // of a filter are shown

export class Inspector {
  /** @param page what the inspector looks at: `model`, `seen`, `pinned` */
  constructor(root, page) {
    this.root = root;
    this.page = page;
    this.chosen = null; // { layer, channel }
    this.place = null; // { y, x } in pixels of the picture
    this.part = (id) => root.querySelector(`#${id}`);
    this.part("close").addEventListener("click", () => this.close());
  }

  /** Show a channel; `opener` gets the focus back. */
  open(layer, channel, opener) {
    this.chosen = { layer, channel };
    this.opener = opener;
    this.root.hidden = false;
    const array = this.page.seen.arrays.get(layer);
    const kind = isMap(array) ? "channel" : "unit";
    this.part("inspector-title").textContent = `${layer}, ${kind} ${channel}`;
    this.draw();
    this.#filter();
    this.#exciting();
  }

  /** Go on from here by keyboard: on the large map, or where there is none. */
  focus() {
    (this.part("large").querySelector("canvas") ?? this.part("close")).focus();
  }

  close() {
    this.root.hidden = true;
    this.chosen = null;
    this.page.changed();
    this.opener?.focus();
  }

  /** Draw again what the pictures changed. */
  draw() {
    if (!this.chosen) return;
    const { layer, channel } = this.chosen;
    const pictures = [["A", this.page.seen], ["B", this.page.pinned]].filter(([, seen]) => seen);
    const both = pictures.length > 1;
    const told = [];
    const figures = [];
    for (const [name, seen] of pictures) {
      const array = seen.arrays.get(layer);
      if (!array) continue;
      if (!isMap(array)) {
        told.push(`${both ? `${name}: ` : ""}${number(array.values[channel])}`);
        continue;
      }
      const canvas = element("canvas", {
        role: "application",
        tabIndex: 0,
        ariaLabel: `Map of picture ${name}. Point with the mouse, or with the arrow keys.`,
      });
      const [low, high] = drawMap(canvas, array, channel);
      told.push(`${both ? `${name}: ` : ""}${number(low)} to ${number(high)}`);
      const cross = element("i", { className: "cross", hidden: true });
      const figure = element("figure", {});
      figure.append(canvas, cross);
      if (both) figure.append(element("figcaption", { textContent: name }));
      canvas.addEventListener("pointermove", (event) => this.#point(event, canvas, array));
      canvas.addEventListener("keydown", (event) => this.#step(event, array));
      figures.push(figure);
    }
    const large = this.part("large");
    // A new answer may draw while somebody is at a map with the keyboard.
    const held = [...large.querySelectorAll("canvas")].indexOf(document.activeElement);
    large.replaceChildren(...figures);
    large.querySelectorAll("canvas")[held]?.focus();
    this.part("range").textContent = figures.length ? `From black to yellow: ${told.join(" · ")}` : `Value ${told.join(" · ")}`;
    this.probe();
  }

  #point(event, canvas, array) {
    const box = canvas.getBoundingClientRect();
    const [rows, columns] = array.shape;
    const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
    const column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * columns)));
    this.#pointAt(row, column);
  }

  /** Move what is pointed at by a value; at first it is the one in the middle. */
  #step(event, { shape: [rows, columns] }) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const layer = this.#layer(this.chosen.layer);
    if (!step || !layer?.rows) return;
    event.preventDefault();
    const from = this.place && [nearest(layer.rows, this.place.y), nearest(layer.columns, this.place.x)];
    const to = from ? [from[0] + step[0], from[1] + step[1]] : [rows >> 1, columns >> 1];
    this.#pointAt(Math.max(0, Math.min(rows - 1, to[0])), Math.max(0, Math.min(columns - 1, to[1])));
  }

  #pointAt(row, column) {
    const layer = this.#layer(this.chosen.layer);
    if (layer?.rows) this.at({ y: middle(layer.rows[row]), x: middle(layer.columns[column]) });
  }

  /** Point at a place of the picture, in pixels. */
  at(place) {
    this.place = place;
    this.page.pointed();
  }

  /** The values under the pointer, in every layer that puts out maps. */
  probe() {
    const { seen, pinned, model } = this.page;
    const table = this.part("probe");
    const place = this.place;
    table.caption.textContent = place
      ? `row ${Math.floor(place.y)}, column ${Math.floor(place.x)} of the picture`
      : "point at the large map or the picture, or use the arrow keys on the map";
    table.tHead.hidden = !place;
    const body = table.tBodies[0];
    if (!place || !this.chosen) {
      body.replaceChildren();
      return;
    }
    const rows = [];
    for (const layer of model.layers) {
      const array = seen.arrays.get(layer.name);
      if (!array || !isMap(array) || !layer.rows) continue;
      const own = layer.name === this.chosen.layer;
      // The same channel everywhere, or a layer's last where it has fewer.
      const channel = Math.min(this.chosen.channel, array.shape[2] - 1);
      const [row, column] = [nearest(layer.rows, place.y), nearest(layer.columns, place.x)];
      const value = (from) => from.values[(row * from.shape[1] + column) * from.shape[2] + channel];
      const cells = [`${layer.name} · ${channel}`, `${row}, ${column}`, number(value(array))];
      const other = pinned?.arrays.get(layer.name);
      if (other) cells.push(number(value(other)));
      const line = element("tr", { className: own ? "current" : "" });
      line.append(...cells.map((text) => element("td", { textContent: text })));
      rows.push(line);
      if (own) this.#cross(row, column, array.shape);
    }
    body.replaceChildren(...rows);
  }

  /** The part of the picture that the value under the pointer sees; null where nothing is pointed at. */
  field() {
    if (!this.chosen || !this.place) return null;
    const layer = this.#layer(this.chosen.layer);
    if (!layer?.rows) return null;
    const [top, bottom] = layer.rows[nearest(layer.rows, this.place.y)];
    const [left, right] = layer.columns[nearest(layer.columns, this.place.x)];
    return { top, left, bottom, right };
  }

  #cross(row, column, [rows, columns]) {
    for (const cross of this.part("large").querySelectorAll(".cross")) {
      const canvas = cross.previousElementSibling;
      const [height, width] = [canvas.clientHeight / rows, canvas.clientWidth / columns];
      Object.assign(cross.style, {
        top: `${row * height}px`,
        left: `${column * width}px`,
        height: `${height}px`,
        width: `${width}px`,
      });
      cross.hidden = false;
    }
  }

  #layer(name) {
    return this.page.model.layers.find((layer) => layer.name === name);
  }

  async #filter() {
    const { layer, channel } = this.chosen;
    const part = this.part("filter-part");
    part.hidden = !this.#layer(layer)?.filters;
    if (part.hidden) return;
    const found = await this.#ask(() => api.filter(this.page.model.name, layer, channel));
    if (!found) return;
    const { values, shape } = found.arrays.get("kernel");
    const [height, width, inputs] = shape;
    const limit = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const shown = Array.from({ length: Math.min(inputs, MOST_INPUTS) }, (_, input) => {
      const canvas = element("canvas", { role: "img", title: `input ${input}`, ariaLabel: `Weights for input ${input}` });
      drawSigned(canvas, values, height, width, input, inputs, limit);
      return canvas;
    });
    this.part("filter").replaceChildren(...shown);
  }

  async #exciting() {
    const { layer, channel } = this.chosen;
    const part = this.part("exciting-part");
    part.hidden = !this.page.model.images;
    if (part.hidden) return;
    this.part("exciting").replaceChildren(element("p", { className: "waiting", textContent: "searching…" }));
    this.part("exciting-source").textContent = "";
    const found = await this.#ask(() => api.exciting(this.page.model.name, layer, channel));
    if (!found) return;
    const pictures = found.arrays.get("images");
    const [, height, width] = pictures.shape;
    const shown = found.images.map(({ value, box }, place) => {
      const [top, left, bottom, right] = box;
      const canvas = element("canvas", { role: "img", ariaLabel: `Image with value ${number(value)}` });
      drawPicture(canvas, pictures, place);
      const frame = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      frame.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      Object.entries({ x: left, y: top, width: right - left, height: bottom - top }).forEach(([name, size]) =>
        rect.setAttribute(name, size),
      );
      frame.append(rect);
      const figure = element("figure", { title: number(value) });
      figure.append(canvas, frame);
      return figure;
    });
    this.part("exciting").replaceChildren(...shown);
    this.part("exciting-source").textContent = `Of ${found.source}, with the part that does it.`;
  }

  /** An answer, or nothing where another channel has been chosen meanwhile. */
  async #ask(question) {
    const asked = this.chosen;
    try {
      const answer = await question();
      return this.chosen === asked ? answer : null;
    } catch (error) {
      this.page.failed(error);
      return null;
    }
  }
}

const middle = ([from, to]) => (from + to) / 2;

/** Which of some boxes' middles is nearest to a place. */
function nearest(boxes, place) {
  let best = 0;
  boxes.forEach((box, number) => {
    if (Math.abs(middle(box) - place) < Math.abs(middle(boxes[best]) - place)) best = number;
  });
  return best;
}
