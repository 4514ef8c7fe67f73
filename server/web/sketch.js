// The drawing pad: white ink on black, by mouse, finger or keyboard.

const INK = 20; // the pen's width on a pad of 280 pixels
const SENT = 112; // the side of what is sent: as fine as a network of 28 pixels has use for
const STEP = 10; // how far an arrow key moves the pen

export class Sketch {
  /** @param changed called whenever there is more or less ink */
  constructor(canvas, pen, changed) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.pen = pen;
    this.changed = changed;
    this.empty = true;
    this.foreign = false; // what is on the pad was not drawn there
    this.keys = { x: canvas.width / 2, y: canvas.height / 4, down: false };
    this.context.lineCap = this.context.lineJoin = "round";
    this.context.lineWidth = INK;
    this.context.strokeStyle = "#fff";
    this.clear();
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => (this.pen.hidden = true));
    const small = document.createElement("canvas");
    small.width = small.height = SENT;
    this.small = small.getContext("2d", { willReadFrequently: true });
    this.small.imageSmoothingQuality = "high";
  }

  clear() {
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.empty = true;
    this.foreign = false;
  }

  /** Put a picture on the pad, as large as it fits. */
  show(image, width, height) {
    this.clear();
    const scale = Math.min(this.canvas.width / width, this.canvas.height / height);
    this.context.imageSmoothingEnabled = scale < 1;
    const [w, h] = [width * scale, height * scale];
    this.context.drawImage(image, (this.canvas.width - w) / 2, (this.canvas.height - h) / 2, w, h);
    this.empty = false;
    this.foreign = true;
  }

  /** What is drawn, as the bytes of a picture's file. */
  file() {
    this.small.drawImage(this.canvas, 0, 0, SENT, SENT);
    return bitmap(this.small.getImageData(0, 0, SENT, SENT));
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  #begin(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    if (this.foreign) this.clear();
    this.last = this.#place(event);
    this.#line(this.last, this.last);
  }

  #move(event) {
    if (!this.canvas.hasPointerCapture(event.pointerId)) return;
    for (const point of event.getCoalescedEvents?.() ?? [event]) {
      const to = this.#place(point);
      this.#line(this.last, to, false);
      this.last = to;
    }
    this.changed();
  }

  #line([x0, y0], [x1, y1], tell = true) {
    this.context.beginPath();
    this.context.moveTo(x0, y0);
    this.context.lineTo(x1 + 0.01, y1);
    this.context.stroke();
    this.empty = false;
    if (tell) this.changed();
  }

  #key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    const { keys, canvas } = this;
    if (event.key === " ") keys.down = !keys.down;
    if (keys.down && this.foreign) this.clear();
    const from = [keys.x, keys.y];
    if (move) {
      keys.x = Math.max(0, Math.min(canvas.width, keys.x + move[0] * STEP));
      keys.y = Math.max(0, Math.min(canvas.height, keys.y + move[1] * STEP));
    }
    if (keys.down) this.#line(from, [keys.x, keys.y]);
    this.pen.hidden = false;
    this.pen.classList.toggle("down", keys.down);
    this.pen.style.left = `${(keys.x / canvas.width) * 100}%`;
    this.pen.style.top = `${(keys.y / canvas.height) * 100}%`;
  }
}

/** A grey picture as a BMP file of 8 bits a pixel: made at once, where a browser takes its time over PNG. */
function bitmap({ data, width, height }) {
  const [colours, start] = [256, 14 + 40 + 4 * 256];
  const file = new DataView(new ArrayBuffer(start + width * height));
  file.setUint16(0, 0x424d); // BM
  file.setUint32(2, file.byteLength, true);
  file.setUint32(10, start, true);
  file.setUint32(14, 40, true); // the size of what follows
  file.setInt32(18, width, true);
  file.setInt32(22, -height, true); // from the top
  file.setUint16(26, 1, true);
  file.setUint16(28, 8, true);
  file.setUint32(46, colours, true);
  for (let i = 0; i < colours; i++) file.setUint32(54 + 4 * i, i * 0x010101, true);
  // A row takes a multiple of four bytes, as SENT is one.
  for (let i = 0; i < width * height; i++) file.setUint8(start + i, data[4 * i]);
  return file.buffer;
}
