// Values as pixels: inferno for activations, blue-white-red for what may be below zero.

let inferno = new Uint32Array(256);
const buffers = new WeakMap(); // by canvas, what is put into it

/** @param colours 256 times red, green, blue */
export function setColormap(colours) {
  inferno = Uint32Array.from({ length: 256 }, (_, i) => rgba(...colours.slice(3 * i, 3 * i + 3), 255));
}

function rgba(red, green, blue, alpha) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0; // as little-endian bytes
}

function pixels(canvas, height, width) {
  let kept = buffers.get(canvas);
  if (!kept || kept.image.width !== width || kept.image.height !== height) {
    canvas.width = width;
    canvas.height = height;
    const image = new ImageData(width, height);
    kept = { image, words: new Uint32Array(image.data.buffer), context: canvas.getContext("2d") };
    buffers.set(canvas, kept);
  }
  return kept;
}

/** The lowest and highest of every stride-th value from start on. */
export function range(values, start, stride) {
  let low = Infinity;
  let high = -Infinity;
  for (let i = start; i < values.length; i += stride) {
    if (values[i] < low) low = values[i];
    if (values[i] > high) high = values[i];
  }
  return [low, high];
}

/** One channel of (height, width, channels) in inferno, from its lowest to its highest value. */
export function drawMap(canvas, { values, shape }, channel) {
  const [height, width, channels] = shape;
  const { image, words, context } = pixels(canvas, height, width);
  const [low, high] = range(values, channel, channels);
  const scale = high > low ? 255 / (high - low) : 0;
  for (let i = 0, from = channel; i < words.length; i++, from += channels) {
    words[i] = inferno[Math.round((values[from] - low) * scale)] ?? inferno[0];
  }
  context.putImageData(image, 0, 0);
  return [low, high];
}

/** The same as a rectangle of a larger image's pixels, which are `stride` words a row. */
export function mapInto(words, stride, { values, shape }, channel, left, top, width, height) {
  const [rows, columns, channels] = shape;
  const [low, high] = range(values, channel, channels);
  const scale = high > low ? 255 / (high - low) : 0;
  const places = Int32Array.from({ length: width }, (_, x) => ((x + 0.5) / width) * columns);
  const colours = new Uint32Array(columns);
  let drawn = -1; // the map's row above
  for (let y = 0, start = top * stride + left; y < height; y++, start += stride) {
    const row = Math.floor(((y + 0.5) / height) * rows);
    if (row === drawn) {
      words.copyWithin(start, start - stride, start - stride + width);
      continue;
    }
    drawn = row;
    for (let x = 0, from = row * columns * channels + channel; x < columns; x++, from += channels) {
      colours[x] = inferno[Math.round((values[from] - low) * scale)] ?? inferno[0];
    }
    for (let x = 0; x < width; x++) words[start + x] = colours[places[x]];
  }
}

/** Units in rows of a canvas. */
export function drawUnits(canvas, values, columns) {
  const rows = Math.ceil(values.length / columns);
  const { image, words, context } = pixels(canvas, rows, columns);
  const [low, high] = range(values, 0, 1);
  const scale = high > low ? 255 / (high - low) : 0;
  words.fill(0);
  for (let i = 0; i < values.length; i++) words[i] = inferno[Math.round((values[i] - low) * scale)] ?? inferno[0];
  context.putImageData(image, 0, 0);
}

/** A picture of uint8: (height, width, 1 or 3). */
export function drawPicture(canvas, { values, shape }, at = 0) {
  const [height, width, channels] = shape.slice(-3);
  const { image, words, context } = pixels(canvas, height, width);
  const start = at * height * width * channels;
  for (let i = 0; i < words.length; i++) {
    const from = start + i * channels;
    const grey = values[from];
    words[i] = channels === 3 ? rgba(grey, values[from + 1], values[from + 2], 255) : rgba(grey, grey, grey, 255);
  }
  context.putImageData(image, 0, 0);
}

const COLD = [33, 102, 172];
const WARM = [178, 24, 43];
const MIDDLE = 247;

/** Every stride-th value from start on, on both sides of zero. */
export function drawSigned(canvas, values, height, width, start, stride, limit) {
  const { image, words, context } = pixels(canvas, height, width);
  for (let i = 0; i < words.length; i++) {
    const share = limit ? Math.max(-1, Math.min(1, values[start + i * stride] / limit)) : 0;
    const end = share < 0 ? COLD : WARM;
    const mixed = end.map((colour) => Math.round(MIDDLE + (colour - MIDDLE) * Math.abs(share)));
    words[i] = rgba(...mixed, 255);
  }
  context.putImageData(image, 0, 0);
}

/** Laid over a picture: clear where the value is 0. Signed values are red and blue, others inferno.
    `least` is the smallest value that may have the full colour; returns the largest there is. */
export function drawOverlay(canvas, { values, shape }, signed, least) {
  const [height, width] = shape;
  const { image, words, context } = pixels(canvas, height, width);
  const most = values.reduce((largest, value) => Math.max(largest, Math.abs(value) || 0), 0);
  const limit = Math.max(most, least);
  for (let i = 0; i < words.length; i++) {
    const share = limit ? (values[i] || 0) / limit : 0;
    const alpha = Math.round(255 * Math.min(1, Math.abs(share) ** 0.7));
    if (signed) {
      words[i] = share < 0 ? rgba(70, 150, 255, alpha) : rgba(255, 60, 70, alpha);
    } else {
      words[i] = ((inferno[Math.round(share * 255)] & 0xffffff) | (alpha << 24)) >>> 0;
    }
  }
  context.putImageData(image, 0, 0);
  return most;
}

export function erase(canvas) {
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
}
