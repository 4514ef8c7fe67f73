// Every layer as a strip: a tile a map, or all units of a layer that has none.

import { drawUnits, mapInto } from "./heat.js";

const UNIT_COLUMNS = 64;
const MOST_TILES = 64; // are shown before somebody asks for more
const MOST_SIDE = 8192; // of a canvas, in its own pixels
const MOST_SLENDER = 4; // a tile: beyond that, its map is drawn out

/** Whether a layer puts out maps; those of a single value are units. */
export const isMap = ({ shape }) => shape.length === 3 && shape[0] * shape[1] > 1;

/** How a layer's strip is headed. */
function heading(layer, array) {
  const size = isMap(array) ? `${array.shape[2]} maps of ${array.shape[0]}×${array.shape[1]}` : `${array.values.length} units`;
  const sees = layer?.sees ? ` · one value sees ${layer.sees.join("×")} pixels` : "";
  return `${layer?.operator ?? ""} · ${size}${sees}`;
}

export class Strips {
  /** @param chosen called with a layer, a channel, what was chosen, and whether by keyboard */
  constructor(root, chosen) {
    this.root = root;
    this.chosen = chosen;
    this.strips = new Map();
    // What is far from being seen is drawn when it comes near.
    this.scrolling = new IntersectionObserver((entries) => this.#scrolled(entries), { rootMargin: "300px" });
    this.resizing = new ResizeObserver((entries) => this.#resized(entries));
  }

  /** Lay out strips for some layers: [name, { shape }] in order. */
  build(arrays, layers) {
    this.strips.clear();
    this.scrolling.disconnect();
    this.resizing.disconnect();
    const made = arrays.map(([name, array]) => {
      const layer = layers.find((each) => each.name === name);
      const strip = element("div", { className: "strip" });
      const title = element("h3", { textContent: name });
      title.append(element("small", { textContent: heading(layer, array) }));
      strip.append(title, isMap(array) ? this.#tiles(name, array) : this.#units(name, array));
      strip.dataset.layer = name;
      return strip;
    });
    this.root.replaceChildren(...made);
    for (const strip of made) this.scrolling.observe(strip);
    for (const { group } of this.strips.values()) if (group) this.resizing.observe(group);
  }

  /** Draw values, and beside them those of a second picture. */
  draw(arrays, others) {
    for (const [name, strip] of this.strips) {
      strip.pair = [arrays.get(name), others?.get(name)];
      if (strip.near) this.#draw(strip);
    }
  }

  #draw(strip) {
    const [array, other] = strip.pair ?? [];
    if (!array) return;
    if (strip.group) {
      this.#drawSheet(strip, array, other);
    } else {
      drawUnits(strip.a, array.values, strip.columns);
      if (other) drawUnits(strip.b, other.values, strip.columns);
      strip.b.hidden = !other;
      strip.values = array.values;
      this.#say(strip);
    }
  }

  /** All maps of a strip on one canvas behind its tiles: a canvas each would cost a browser far more. */
  #drawSheet(strip, array, other) {
    const context = (strip.context ??= strip.sheet.getContext("2d"));
    strip.layout ??= laidOut(strip);
    const { image, words, boxes, gap } = strip.layout;
    boxes.forEach(({ left, top, width, height }, channel) => {
      const half = other ? Math.max(1, (height - gap) >> 1) : height;
      mapInto(words, image.width, array, channel, left, top, width, half);
      if (other) mapInto(words, image.width, other, channel, left, top + height - half, width, half);
    });
    context.putImageData(image, 0, 0);
  }

  #scrolled(entries) {
    for (const { target, isIntersecting } of entries) {
      const strip = this.strips.get(target.dataset.layer);
      if (!strip) continue; // of a model that is not shown any more
      strip.near = isIntersecting;
      if (strip.near) this.#draw(strip);
    }
  }

  #resized(entries) {
    for (const { target } of entries) {
      const strip = [...this.strips.values()].find(({ group }) => group === target);
      if (!strip) continue;
      strip.layout = null;
      if (strip.near) this.#draw(strip);
    }
  }

  /** Mark the chosen channel. */
  mark(name, channel) {
    for (const [layer, strip] of this.strips) {
      strip.tiles?.forEach((tile, number) => {
        tile.ariaPressed = String(layer === name && number === channel);
      });
    }
  }

  #tiles(name, array) {
    const [rows, columns, count] = array.shape;
    const few = count <= 16 ? " few" : count <= 32 ? " some" : "";
    const group = element("div", { className: `tiles${few}`, role: "group", ariaLabel: `Channels of ${name}` });
    const ratio = Math.min(MOST_SLENDER, Math.max(1 / MOST_SLENDER, columns / rows));
    group.style.setProperty("--ratio", String(ratio));
    const sheet = element("canvas", { className: "sheet", ariaHidden: "true" });
    group.append(sheet);
    const tile = (channel) => {
      const button = element("button", {
        type: "button",
        className: "tile",
        title: `${name}, channel ${channel}`,
        ariaLabel: `${name}, channel ${channel}`,
        ariaPressed: "false",
        tabIndex: channel ? -1 : 0, // one stop for the tab key; arrows go on from there
      });
      button.addEventListener("click", (event) => this.chosen(name, channel, button, event.detail === 0));
      group.append(button);
      return button;
    };
    const tiles = Array.from({ length: Math.min(count, MOST_TILES) }, (_, channel) => tile(channel));
    group.addEventListener("keydown", (event) => {
      const here = tiles.indexOf(document.activeElement);
      const columns = getComputedStyle(group).gridTemplateColumns.split(" ").length;
      const there = moved(event, here, columns, tiles.length);
      if (there === here) return;
      event.preventDefault();
      tiles[there].focus();
    });
    group.addEventListener("focusin", ({ target }) => {
      for (const tile of tiles) tile.tabIndex = tile === target ? 0 : -1;
    });
    this.strips.set(name, { tiles, group, sheet, near: true });
    if (tiles.length === count) return group;
    const more = element("button", { type: "button", className: "more", textContent: `All ${count} maps` });
    more.addEventListener("click", () => {
      for (let channel = tiles.length; channel < count; channel++) tiles.push(tile(channel));
      tiles[MOST_TILES].focus();
      more.remove();
    });
    const both = element("div", {});
    both.append(group, more);
    return both;
  }

  #units(name, array) {
    const count = array.values.length;
    const columns = Math.min(count, UNIT_COLUMNS);
    const group = element("div", { className: "rows" });
    const a = element("canvas", {
      className: "unit-rows",
      tabIndex: 0,
      role: "slider",
      ariaLabel: `Units of ${name}`,
      ariaValueMin: "0",
      ariaValueMax: String(count - 1),
    });
    const b = element("canvas", { className: "unit-rows", hidden: true });
    for (const canvas of [a, b]) canvas.style.maxWidth = `${columns * 18}px`;
    const said = element("p", { className: "note" });
    const strip = { a, b, columns, said, unit: 0, count, near: true };
    const pick = (event) => {
      const box = a.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
      const row = Math.floor(((event.clientY - box.top) / box.height) * Math.ceil(count / columns));
      strip.unit = Math.max(0, Math.min(count - 1, row * columns + column));
      this.#say(strip);
    };
    a.addEventListener("pointermove", pick);
    a.addEventListener("click", (event) => {
      pick(event);
      this.chosen(name, strip.unit, a);
    });
    a.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        this.chosen(name, strip.unit, a, true);
        return;
      }
      const there = moved(event, strip.unit, columns, count);
      if (there === strip.unit) return;
      event.preventDefault();
      strip.unit = there;
      this.#say(strip);
    });
    group.append(a, b, said);
    this.strips.set(name, strip);
    return group;
  }

  #say(strip) {
    if (!strip.values) return;
    const text = `unit ${strip.unit}: ${number(strip.values[strip.unit])}`;
    strip.a.ariaValueNow = String(strip.unit);
    strip.a.ariaValueText = text;
    strip.said.textContent = text;
  }
}

/** Where a strip's tiles lie on its sheet, in whole pixels of that, which is made as large as they need. */
function laidOut({ sheet, group, tiles }) {
  const whole = group.getBoundingClientRect();
  const scale = Math.min(devicePixelRatio, MOST_SIDE / whole.height, MOST_SIDE / whole.width);
  sheet.width = Math.max(1, Math.round(whole.width * scale));
  sheet.height = Math.max(1, Math.round(whole.height * scale));
  const boxes = tiles.map((tile) => {
    const box = tile.getBoundingClientRect();
    const left = Math.round((box.left - whole.left) * scale);
    const top = Math.round((box.top - whole.top) * scale);
    const width = Math.min(Math.round(box.width * scale), sheet.width - left);
    return { left, top, width, height: Math.min(Math.round(box.height * scale), sheet.height - top) };
  });
  const image = new ImageData(sheet.width, sheet.height);
  // Between the two maps of a tile, where there are two.
  const gap = Math.max(1, Math.round(scale));
  return { boxes, gap, image, words: new Uint32Array(image.data.buffer) };
}

/** Where a key leads in a grid. */
function moved(event, here, columns, count) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  if (event.key === "Home") return 0;
  if (event.key === "End") return count - 1;
  const there = here + (steps[event.key] ?? 0);
  return there >= 0 && there < count ? there : here;
}

export function element(tag, properties) {
  const made = document.createElement(tag);
  const { role, ...others } = properties;
  if (role) made.setAttribute("role", role);
  return Object.assign(made, others);
}

/** A number in four digits or so. */
export function number(value) {
  if (value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  return size && (size < 0.001 || size >= 10000) ? value.toExponential(2) : value.toPrecision(3);
}
