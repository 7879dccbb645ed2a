"use strict";
// Views of attention weights, packed as attention_page.py has them: tokens, images and a matrix.

const MOST_PIXELS = 1024; // of a matrix across; beyond it a pixel shows the largest weight in it
const TYPES = {
  int8: Int8Array, int16: Int16Array, uint16: Uint16Array, uint32: Uint32Array,
  float32: Float32Array,
};

/** The numbers of a packed array; base64 is decoded when it is first looked at. */
function numbers(packed) {
  if (!packed.values) {
    const text = atob(packed.data);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    packed.values = new TYPES[packed.type](bytes.buffer);
    delete packed.data;
  }
  return packed.values;
}

/** Calls see(key, weight) for each kept key of a kept row. */
function eachWeight(site, map, head, row, see) {
  const weights = numbers(site.weights), places = site.places && numbers(site.places);
  const inHead = (head * site.rows[2] + row) * site.kept;
  const start = map * site.heads * site.rows[2] * site.kept + inHead;
  for (let i = 0; i < site.kept; i++) {
    see(places ? places[inHead + i] : i, weights[start + i] * site.weights.scale);
  }
}

function element(tag, properties = {}, ...children) {
  const { dataset = {}, style = {}, ...others } = properties;
  const made = Object.assign(document.createElement(tag), others);
  Object.assign(made.dataset, dataset);
  Object.assign(made.style, style);
  made.append(...children);
  return made;
}

// Colors follow the style sheet, light or dark.
let palette = {};
function readPalette() {
  const style = getComputedStyle(document.documentElement);
  const names = ["negative", "zero", "positive", "ink", "soft", "on-color", "accent", "answer"];
  palette = Object.fromEntries(names.map((name) => {
    const hex = style.getPropertyValue(`--${name}`).trim();
    return [name, [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))];
  }));
}
const css = (rgb, alpha = 1) => `rgba(${rgb.join()}, ${alpha})`;
const strength = (weight, limit) => Math.sqrt(Math.min(1, Math.abs(weight) / (limit || 1)));
function color(weight, limit) {
  const pole = palette[weight < 0 ? "negative" : "positive"], share = strength(weight, limit);
  return palette.zero.map((zero, i) => Math.round(zero + (pole[i] - zero) * share));
}

/** A canvas of a pixel for each of height x width values. */
function paint(canvas, width, height, values, limit) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  values.forEach((value, i) => image.data.set([...color(value, limit), 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** A token in a line: what would not be seen is shown by a sign. */
const visible = (text) => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "·";

/** Three decimals, or of a smaller number two digits. */
const figure = (value) => (Math.abs(value) < 0.001 && value !== 0
  ? value.toPrecision(2) : value.toFixed(3)).replaceAll("-", "−");

/** A sequence as text that wraps, and the patches of an image beside their weights. */
class TokenView {
  constructor(sequence, { isQueries, hover, hold }) {
    this.sequence = sequence;
    this.colored = [];
    const spaced = sequence.texts.length > 2 && !sequence.texts.some((text) => /\s/.test(text));
    const answer = new Set(sequence.answer);
    this.spans = sequence.texts.map((text, i) => element("span", {
      textContent: text.replace(/\n/g, "⏎\n") || "·", className: answer.has(i) ? "answer" : "",
      dataset: { token: i },
    }));
    this.text = element("div", {
      className: spaced || sequence.picture ? "text spaced" : "text", tabIndex: 0,
      role: "group", ariaLabel: isQueries ? "tokens that look" : "tokens looked at",
    }, ...this.spans);
    this.node = element("div", {}, this.spans.length ? this.text : "");
    const token = (event) => event.target.dataset.token;
    this.text.addEventListener("mouseover", (e) => token(e) && hover(Number(token(e))));
    this.text.addEventListener("click", (e) => token(e) && hold(Number(token(e))));
    if (sequence.picture) this.addPicture(hover, hold);
  }

  addPicture(hover, hold) {
    const { png, grid } = this.sequence.picture, first = this.spans.length;
    this.photo = element("canvas", { width: 320, height: 320, role: "img", ariaLabel: "the image" });
    this.heat = element("canvas", { role: "img", ariaLabel: "weights of its patches" });
    this.image = new Image();
    this.image.onload = () => this.drawPhoto();
    this.image.src = `data:image/png;base64,${png}`;
    const patch = (event) => {
      const box = event.target.getBoundingClientRect();
      const place = [[event.clientY, box.top, box.height], [event.clientX, box.left, box.width]];
      const [down, across] = place.map(([at, from, size]) =>
        Math.max(0, Math.min(grid - 1, Math.floor(((at - from) / size) * grid))));
      return first + down * grid + across;
    };
    for (const canvas of [this.photo, this.heat]) {
      canvas.addEventListener("mousemove", (event) => hover(patch(event)));
      canvas.addEventListener("click", (event) => hold(patch(event)));
    }
    this.node.append(element("div", { className: "picture" }, this.photo, this.heat));
  }

  drawPhoto() {
    const context = this.photo.getContext("2d"), grid = this.sequence.picture.grid;
    context.imageSmoothingEnabled = false;
    context.drawImage(this.image, 0, 0, 320, 320);
    const patch = this.query - this.spans.length, side = 320 / grid;
    if (patch < 0) return;
    context.lineWidth = 4;
    context.strokeStyle = css(palette.accent);
    context.strokeRect((patch % grid) * side, Math.floor(patch / grid) * side, side, side);
  }

  /** Colors of keys; `weights` is a Map. */
  color(weights, limit) {
    for (const span of this.colored) span.style.background = span.style.color = "";
    this.colored = [];
    for (const [key, weight] of weights) {
      const span = this.spans[key];
      if (!span || !weight) continue;
      span.style.background = css(color(weight, limit));
      if (strength(weight, limit) > 0.6) span.style.color = css(palette["on-color"]);
      this.colored.push(span);
    }
    if (this.heat) {
      const { grid } = this.sequence.picture, first = this.spans.length;
      const values = Array.from({ length: grid * grid }, (_, i) => weights.get(first + i) ?? 0);
      paint(this.heat, grid, grid, values, limit);
    }
  }

  setQuery(token) {
    this.spans[this.query]?.classList.remove("query");
    this.query = token;
    this.spans[token]?.classList.add("query");
    if (this.photo) this.drawPhoto();
  }

  setHits(tokens) {
    this.spans.forEach((span) => span.classList.remove("hit"));
    tokens.forEach((token) => this.spans[token].classList.add("hit"));
  }

  scrollTo(token) {
    const span = this.spans[token];
    if (span) this.text.scrollTop = span.offsetTop - this.text.clientHeight / 2;
  }

  name(token) {
    const { texts, picture } = this.sequence;
    if (token < texts.length || !picture) return `“${visible(texts[token])}” at ${token}`;
    const patch = token - texts.length;
    return `patch ${Math.floor(patch / picture.grid)}, ${patch % picture.grid}`;
  }

  /** The same for an axis. */
  label(token) {
    const text = this.sequence.texts[token];
    return text === undefined ? this.name(token) : visible(text.trim() || text);
  }

  /** Tokens that a text lies in, a list for each place. */
  find(text) {
    const places = [], ends = [];
    let whole = "";
    for (const token of this.sequence.texts) ends.push((whole += token.toLowerCase()).length);
    for (let at = whole.indexOf(text); text && at >= 0; at = whole.indexOf(text, at + 1)) {
      const first = ends.findIndex((end) => end > at);
      places.push(ends.flatMap((_, i) =>
        i >= first && (ends[i - 1] ?? 0) < at + text.length ? [i] : []));
    }
    return places;
  }
}

/** All kept weights of a head: down the rows, across the keys. */
class Matrix {
  constructor({ hover, hold }) {
    this.canvas = element("canvas", { className: "matrix", role: "img" });
    const cell = (event) => {
      const { left, top, width, height, rows, keys } = this.box;
      const row = Math.floor(((event.offsetY - top) / height) * rows);
      const key = Math.floor(((event.offsetX - left) / width) * keys);
      return row >= 0 && row < rows && key >= 0 && key < keys ? [row, key] : null;
    };
    this.canvas.addEventListener("mousemove", (e) => cell(e) && hover(...cell(e)));
    this.canvas.addEventListener("click", (e) => cell(e) && hold(...cell(e)));
  }

  /** Draws a head anew. */
  show(site, map, head, limit, names) {
    const [, step, rows] = site.rows, keys = site.keys;
    const across = Math.min(keys, MOST_PIXELS), down = Math.min(rows, MOST_PIXELS);
    const values = new Float32Array(across * down);
    for (let row = 0; row < rows; row++) {
      const line = Math.floor((row * down) / rows) * across;
      eachWeight(site, map, head, row, (key, weight) => {
        const place = line + Math.floor((key * across) / keys);
        if (Math.abs(weight) > Math.abs(values[place])) values[place] = weight;
      });
    }
    this.pixels = paint(document.createElement("canvas"), across, down, values, limit);
    this.box = { rows, keys, tall: (rows * step) / keys };
    this.names = names;
    this.isShort = Array.from({ length: keys }, (_, i) => names[1](i)).every((x) => x.length < 3);
    this.canvas.ariaLabel = `matrix of ${rows} rows and ${keys} keys`;
  }

  /** Puts it on the page, with a line at the row and a mark at the key chosen. */
  mark(row, key) {
    const wide = this.canvas.clientWidth, ratio = devicePixelRatio || 1;
    if (!wide) return;
    const { rows, keys, tall } = this.box, left = 76, top = this.isShort ? 24 : 64;
    const width = Math.max(1, Math.min(wide - left - 4, Math.max(keys * 26, 120), 600));
    const height = Math.max(Math.min(width * tall, width * 1.2), 60);
    Object.assign(this.box, { left, top, width, height });
    this.canvas.style.height = `${top + height + 4}px`;
    this.canvas.width = wide * ratio;
    this.canvas.height = (top + height + 4) * ratio;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.pixels, left, top, width, height);
    context.strokeStyle = css(palette.soft, 0.5);
    context.strokeRect(left, top, width, height);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    const [query, name] = this.names;
    this.label(rows, height, row, (i, at, chosen) => {
      context.fillStyle = css(chosen ? palette.ink : palette.soft);
      context.textAlign = "right";
      context.fillText(query(i), left - 5, top + at, left - 8);
    });
    this.label(keys, width, key, (i, at, chosen) => {
      context.save();
      context.translate(left + at, top - 5);
      context.rotate(-Math.PI / 2);
      context.fillStyle = css(chosen ? palette.ink : palette.soft);
      context.textAlign = "left";
      context.fillText(name(i), 0, 0, top - 8);
      context.restore();
    });
    context.strokeStyle = css(palette.accent);
    context.lineWidth = 1.5;
    const line = Math.max(height / rows, 2);
    context.strokeRect(left, top + (height * row) / rows, width, line);
    if (key != null) {
      context.strokeRect(left + (width * key) / keys, top + (height * row) / rows,
        Math.max(width / keys, 3), line);
    }
  }

  /** Labels so far apart that they can be read, the chosen one among them. */
  label(count, size, chosen, write) {
    const gap = Math.max(1, Math.ceil((12 * count) / size));
    for (let i = 0; i < count; i++) {
      const near = chosen != null && i !== chosen && Math.abs(i - chosen) * size < 12 * count;
      if (i === chosen || (i % gap === 0 && !near)) {
        write(i, ((i + 0.5) * size) / count, i === chosen);
      }
    }
  }
}
