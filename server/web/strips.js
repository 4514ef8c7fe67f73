// Every layer as a strip: a tile a map, or all units of a layer that has none.

import { drawMap, drawUnits } from "./heat.js";

const UNIT_COLUMNS = 64;
const MOST_TILES = 64; // are shown before somebody asks for more

/** Whether a layer puts out maps; those of a single value are units. */
export const isMap = ({ shape }) => shape.length === 3 && shape[0] * shape[1] > 1;

/** How a layer's strip is headed. */
function heading(layer, array) {
  const size = isMap(array) ? `${array.shape[2]} maps of ${array.shape[0]}×${array.shape[1]}` : `${array.values.length} units`;
  const sees = layer?.sees ? ` · one value sees ${layer.sees.join("×")} pixels` : "";
  return `${layer?.operator ?? ""} · ${size}${sees}`;
}

export class Strips {
  /** @param chosen called with a layer and a channel, and what was clicked
      @param grown called when there are more tiles to draw */
  constructor(root, chosen, grown) {
    this.root = root;
    this.chosen = chosen;
    this.grown = grown;
    this.strips = new Map();
  }

  /** Lay out strips for some layers: [name, { shape }] in order. */
  build(arrays, layers) {
    this.strips.clear();
    const made = arrays.map(([name, array]) => {
      const layer = layers.find((each) => each.name === name);
      const strip = element("div", { className: "strip" });
      const title = element("h3", { textContent: name });
      title.append(element("small", { textContent: heading(layer, array) }));
      strip.append(title, isMap(array) ? this.#tiles(name, array) : this.#units(name, array));
      return strip;
    });
    this.root.replaceChildren(...made);
  }

  /** Draw values, and beside them those of a second picture. */
  draw(arrays, others) {
    for (const [name, strip] of this.strips) {
      const [array, other] = [arrays.get(name), others?.get(name)];
      if (!array) continue;
      if (strip.tiles) {
        strip.tiles.forEach(([, a, b], channel) => {
          drawMap(a, array, channel);
          if (other) drawMap(b, other, channel);
        });
      } else {
        drawUnits(strip.a, array.values, strip.columns);
        if (other) drawUnits(strip.b, other.values, strip.columns);
        strip.b.hidden = !other;
        strip.values = array.values;
        this.#say(strip);
      }
    }
  }

  /** Mark the chosen channel. */
  mark(name, channel) {
    for (const [layer, strip] of this.strips) {
      if (!strip.tiles) continue;
      strip.tiles.forEach(([tile], number) => {
        tile.ariaPressed = String(layer === name && number === channel);
      });
    }
  }

  #tiles(name, array) {
    const count = array.shape[2];
    const few = count <= 16 ? " few" : count <= 32 ? " some" : "";
    const group = element("div", { className: `tiles${few}`, role: "group", ariaLabel: `Channels of ${name}` });
    const tile = (channel) => {
      const button = element("button", {
        type: "button",
        className: "tile",
        title: `${name}, channel ${channel}`,
        ariaLabel: `${name}, channel ${channel}`,
        ariaPressed: "false",
        tabIndex: channel ? -1 : 0, // one stop for the tab key; arrows go on from there
      });
      const [a, b] = [element("canvas", {}), element("canvas", { className: "b" })];
      button.append(a, b);
      button.addEventListener("click", () => this.chosen(name, channel, button));
      group.append(button);
      return [button, a, b];
    };
    const tiles = Array.from({ length: Math.min(count, MOST_TILES) }, (_, channel) => tile(channel));
    group.addEventListener("keydown", (event) => {
      const here = tiles.findIndex(([tile]) => tile === document.activeElement);
      const columns = getComputedStyle(group).gridTemplateColumns.split(" ").length;
      const there = moved(event, here, columns, tiles.length);
      if (there === here) return;
      event.preventDefault();
      tiles[here][0].tabIndex = -1;
      tiles[there][0].tabIndex = 0;
      tiles[there][0].focus();
    });
    this.strips.set(name, { tiles });
    if (tiles.length === count) return group;
    const more = element("button", { type: "button", className: "more", textContent: `All ${count} maps` });
    more.addEventListener("click", () => {
      for (let channel = tiles.length; channel < count; channel++) tiles.push(tile(channel));
      more.remove();
      this.grown();
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
    const strip = { a, b, columns, said, unit: 0, count };
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
        this.chosen(name, strip.unit, a);
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
