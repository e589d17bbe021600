// One chart: axes, lines with bands, cells of colour, ways through a plane; cursor, zoom and keyboard. Axes and lines
// are uPlot's, the rest is painted into it.
//
// spec = {
//   title, note, height, share (charts over the same x have one cursor and one zoom),
//   x, y: { label, scale, low, high, ticks: [[place, text], ...] or none, hidden },
//   lines: [{ name, x, y, low, high, color, dash, faint, hidden, tag: written at its end }],
//   image: { x, y: edges of cells, values: [x][y] in one array, norm },
//   ways: [{ name, x, y, color }],
//   levels: [{ y, name }],
//   read(x, y): what is said of a place,
//   places: the x that the arrow keys go to,
// }

import { INFINITE, NAN } from "./colors.js";
import { labels, linear, ticks } from "./scales.js";
import uPlot from "./uplot.js";

export const create = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") element[name] = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
};

export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Which cells lie in each pixel: first and one past the last. */
function cellsOf(edges, count, toValue) {
  const n = edges.length - 1;
  const cell = (v) => {
    let [a, b] = [0, n];
    while (a < b) {
      const middle = (a + b) >> 1;
      if (edges[middle + 1] <= v) a = middle + 1;
      else b = middle;
    }
    return v < edges[0] ? -1 : a;
  };
  const found = new Int32Array(2 * count);
  let most = 1;
  for (let p = 0; p < count; p++) {
    let [a, b] = [cell(toValue(p)), cell(toValue(p + 1))];
    if (a > b) [a, b] = [b, a];
    if (b - a < 2) {
      a = cell(toValue(p + 0.5)); // cells of a pixel or more keep their borders
      b = a + 1;
    }
    if (a < 0 && b > 0) a = 0;
    found[2 * p] = a;
    found[2 * p + 1] = Math.min(b, n);
    if (a >= 0) most = Math.max(most, found[2 * p + 1] - a);
  }
  return [found, most];
}

/** Cells as pixels; of several in one pixel their mean, on the scale of the colours. Returns how many there were. */
export function paintCells(context, image, left, top, width, height, xOf, yOf) {
  const { norm, values } = image;
  if (!image.t) {
    image.t = new Float32Array(values.length);
    for (let i = 0; i < values.length; i++) image.t[i] = Number.isFinite(values[i]) ? norm.place(values[i]) : values[i];
  }
  const rows = image.y.length - 1;
  const [columns, perX] = cellsOf(image.x, width, xOf);
  const [lines, perY] = cellsOf(image.y, height, yOf);
  const pixels = context.createImageData(width, height);
  const out = pixels.data;
  for (let px = 0; px < width; px++) {
    const [i0, i1] = [columns[2 * px], columns[2 * px + 1]];
    if (i0 < 0 || i0 >= i1) continue;
    for (let py = 0; py < height; py++) {
      const [j0, j1] = [lines[2 * py], lines[2 * py + 1]];
      if (j0 < 0 || j0 >= j1) continue;
      let [sum, count, infinite] = [0, 0, false];
      for (let i = i0; i < i1; i++)
        for (let j = j0; j < j1; j++) {
          const t = image.t[i * rows + j];
          if (t !== t) continue;
          if (t === Infinity || t === -Infinity) infinite = true;
          else {
            sum += Math.min(Math.max(t, 0), 1);
            count++;
          }
        }
      const color = infinite ? INFINITE : count ? norm.at(sum / count) : NAN;
      const place = 4 * (py * width + px);
      out[place] = color[0];
      out[place + 1] = color[1];
      out[place + 2] = color[2];
      out[place + 3] = 255;
    }
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  context.drawImage(canvas, left, top);
  return perX * perY;
}

/** The least and the greatest of what lines show between two x, a little more on both sides. */
function heights(lines, scale, low, high) {
  let [least, most] = [Infinity, -Infinity];
  for (const { x, y, low: below, high: above, hidden } of lines) {
    if (hidden) continue;
    for (let i = 0; i < x.length; i++) {
      if (x[i] < low || x[i] > high) continue;
      for (const v of [y[i], below?.[i], above?.[i]]) {
        if (!Number.isFinite(v) || (scale.name === "log" && v <= 0)) continue;
        if (v < least) least = v;
        if (v > most) most = v;
      }
    }
  }
  if (!(least <= most)) return [scale.bwd(0), scale.bwd(1)];
  const [a, b] = [scale.fwd(least), scale.fwd(most)];
  // what differs in its last bits alone is rounding: it is drawn as the constant that it is
  const margin = b - a > 1e-12 * Math.max(Math.abs(a), Math.abs(b)) ? 0.05 * (b - a) : Math.abs(a) * 0.05 || 0.5;
  return [scale.bwd(a - margin), scale.bwd(b + margin)];
}

/** From where to where an axis goes; downwards where its first entry is on top. */
const window_ = (axis) => (axis.high !== axis.low ? [axis.low, axis.high] : [axis.low - 0.5, axis.high + 0.5]);
const between = (v, [a, b]) => v >= Math.min(a, b) && v <= Math.max(a, b);

/** The ticks of an axis of so many pixels, from one end of its window to the other, with their texts. */
export function ticksOf(axis, [low, high], pixels, across) {
  if (!axis.ticks) {
    const found = ticks(axis.scale, Math.min(low, high), Math.max(low, high), Math.max(3, Math.min(10, Math.floor(pixels / (across ? 80 : 34)))));
    const texts = labels(found);
    return found.map((v, i) => [v, texts[i]]);
  }
  const longest = axis.ticks.reduce((most, [, text]) => Math.max(most, Math.min(text.length, LONGEST)), 0);
  const inside = axis.ticks.filter(([place]) => between(place, [low, high]));
  const stride = Math.max(1, Math.ceil((inside.length * (across ? Math.max(30, 8 * longest) : 15)) / Math.max(1, pixels)));
  return inside.filter((_, i) => i % stride === 0).map(([place, text]) => [place, shortened(text)]);
}

const LONGEST = 30;
const LETTER = 6.3; // pixels, about

/** As much of a text as there is room for. */
const fitting = (text, pixels) => (text.length * LETTER > pixels ? `${text.slice(0, Math.max(1, Math.floor(pixels / LETTER) - 1))}…` : text);

/** A name with its middle left out: layers differ at both ends. */
const shortened = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST / 2 - 1)}…${text.slice(-LONGEST / 2)}` : text);

export class Chart {
  /** Draws `spec` into `parent`; `shared` has `zoom` and `onZoom(low, high)` of all charts over the same x. */
  constructor(parent, spec, shared = {}) {
    [this.spec, this.shared] = [spec, shared];
    this.readout = create("output", { className: "readout" });
    this.box = create("div", { className: "plot", tabIndex: 0, role: "img", "aria-label": `${spec.title}. ${spec.note ?? ""}` });
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    this.box.chart = this;
    this.warning = create("div", { className: "note" });
    parent.append(this.readout, this.box, this.warning);
    this.draw();
    this.watch = new ResizeObserver(() => {
      const width = Math.floor(this.box.clientWidth);
      if (width > 40 && width !== this.u.width) this.u.setSize({ width, height: this.height });
    });
    this.watch.observe(this.box);
  }

  destroy() {
    this.watch.disconnect();
    this.u.destroy();
  }

  draw() {
    const { spec, shared } = this;
    const lines = spec.lines ?? [];
    const { x, y } = spec;
    this.height = spec.height ?? 260;
    const whole = window_(x);
    const zoomed = () => (spec.share && shared.zoom?.[spec.share]) || this.zoom || whole;
    this.zoomed = zoomed;
    this.window = () => (spec.image || spec.ways || y.fixed ? window_(y) : heights(lines, y.scale, ...zoomed()));
    // uPlot labels no axis of numbers with more than 17 digits, so that it is given heights in units of a power of 10
    const most = Math.max(...this.window().map((v) => Math.abs(y.scale.fwd(v))));
    this.unit = most >= 1e12 && Number.isFinite(most) ? 10 ** Math.floor(Math.log10(most)) : 1;
    const axisOf = (axis, side) => {
      const [stroke, grid] = [css("--ink"), css("--grid")];
      let shown = [];
      return {
        side, stroke, show: !axis.hidden, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif",
        label: side === 2 ? axis.label : fitting(axis.label, this.height - 40), labelSize: 18, labelGap: 2, gap: 4,
        size: side === 2 ? 26 : (u, values) => Math.min(Math.max(120, 0.3 * u.width), 14 + 6.6 * Math.max(1, ...(values ?? []).map((text) => text.length))),
        grid: { show: !spec.image, stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 },
        filter: (u, splits) => splits, // uPlot's own leaves out most of those of a logarithm
        splits: (u, index, low, high) => {
          shown = side === 2 ? ticksOf(axis, [low, high], u.width - 60, true) : ticksOf(axis, [low, high].map(this.fromPlace), u.height - 40);
          return shown.map(([v]) => (side === 2 ? v : this.placeOf(v)));
        },
        values: () => shown.map(([, text]) => text),
      };
    };
    const data = this.data(lines, whole);
    const series = [{}];
    const bands = [];
    for (const line of lines) {
      if (line.low) {
        bands.push({ series: [series.length, series.length + 1], fill: alpha(line.color, 0.18) });
        for (let k = 0; k < 2; k++) series.push({ show: !line.hidden, points: { show: false }, width: 0 });
      }
      const few = line.points || line.x.every((v) => v === line.x[0]);
      series.push({
        label: line.name, stroke: line.faint ? alpha(line.color, 0.3) : line.color, width: line.faint ? 1 : 1.8,
        dash: line.dash, points: { show: few || undefined, size: few ? 7 : 5 }, spanGaps: true, show: !line.hidden,
      });
    }
    if (series.length === 1) series.push({ show: true, points: { show: false }, width: 0 });
    this.u = new uPlot(
      {
        width: Math.max(120, Math.floor(this.box.clientWidth) || 480), height: this.height, pxAlign: 1,
        scales: {
          x: { time: false, distr: 100, fwd: x.scale.fwd, bwd: x.scale.bwd, range: zoomed, auto: true },
          y: { time: false, dir: y.low > y.high ? -1 : 1, range: () => this.window().map(this.placeOf).sort((a, b) => a - b), auto: true },
        },
        axes: [axisOf(x, 2), axisOf(y, 3)], series, bands, legend: { show: false },
        padding: [8, 28, 0, 0],
        cursor: {
          sync: spec.share ? { key: spec.share, scales: ["x", null], setSeries: false } : undefined,
          points: { show: !spec.image && !spec.ways }, drag: { x: true, y: false, setScale: false },
          bind: { dblclick: () => () => (this.setZoom(null), null) },
        },
        hooks: {
          drawClear: [(u) => this.paint(u)],
          draw: [(u) => this.paintTags(u), (u) => this.paintWays(u)],
          setCursor: [(u) => this.read(u)],
          setSelect: [
            (u) => {
              const { left, width } = u.select;
              if (width < 4) return;
              this.setZoom([u.posToVal(left, "x"), u.posToVal(left + width, "x")]);
              u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            },
          ],
        },
      },
      data,
      this.box,
    );
  }

  /** Lines on the x that any of them has. */
  data(lines, whole) {
    if (!lines.length) return [whole, [null, null]];
    const clean = (numbers, line) =>
      Array.from(numbers, (v) => (Number.isFinite(v) && !(this.spec.y.scale.name === "log" && v <= 0) ? this.placeOf(v) : null));
    const tables = lines.map((line) => [
      Array.from(line.x),
      ...(line.low ? [clean(line.high, line), clean(line.low, line)] : []),
      clean(line.y, line),
    ]);
    const first = lines[0].x;
    if (lines.every((line) => line.x === first)) return [tables[0][0], ...tables.flatMap((table) => table.slice(1))];
    return uPlot.join(tables.map(unique));
  }

  /** Where a value is on uPlot's axis, and back; the height of a value, and the value at one. */
  placeOf = (v) => this.spec.y.scale.fwd(v) / this.unit;
  topOf = (v, ratio = false) => this.u.valToPos(this.placeOf(v), "y", ratio);
  fromPlace = (place) => this.spec.y.scale.bwd(place * this.unit);
  valueAt = (top) => this.fromPlace(this.u.posToVal(top, "y"));

  setZoom(range) {
    if (range && !(range[1] > range[0])) return;
    const { share } = this.spec;
    if (share) this.shared.onZoom?.(share, range);
    else {
      this.zoom = range;
      this.rescale();
    }
  }

  rescale() {
    const [min, max] = this.zoomed();
    this.u.setScale("x", { min, max });
  }

  /** Whether a zoom, made in another stream or kept in a link, shows nothing of this one. */
  empty() {
    const [{ image, x, places }, [low, high]] = [this.spec, this.zoomed()];
    if (!this.spec.share || (low === x.low && high === x.high) || !places?.length) return false;
    return image ? high < x.low || low > x.high : !places.some((v) => v >= low && v <= high);
  }

  paint(u) {
    const { image, levels } = this.spec;
    const { left, top, width, height } = u.bbox;
    this.warning.textContent = this.empty() ? "Nothing was measured between these steps. Escape shows all." : "";
    if (image) {
      const ratio = devicePixelRatio;
      const whole = [left, top, width, height].map(Math.round);
      const most = paintCells(
        u.ctx, image, ...whole,
        (p) => u.posToVal((p + whole[0] - left) / ratio, "x"), (p) => this.valueAt((p + whole[1] - top) / ratio),
      );
      if (most > 1) this.warning.textContent = `Drawn whole: a pixel is the mean of up to ${most} values. Drag to zoom.`;
    }
    for (const { y, name } of levels ?? []) {
      const place = this.topOf(y, true);
      Object.assign(u.ctx, { strokeStyle: css("--ink"), lineWidth: devicePixelRatio });
      u.ctx.setLineDash([4, 4]);
      u.ctx.beginPath();
      u.ctx.moveTo(left, place);
      u.ctx.lineTo(left + width, place);
      u.ctx.stroke();
      u.ctx.setLineDash([]);
      u.ctx.fillText(name, left + 6, place - 4);
    }
  }

  /** What tells lines of one colour apart, at their ends. */
  paintTags(u) {
    const { left, width } = u.bbox;
    for (const { x, y, tag, hidden } of this.spec.lines ?? []) {
      const last = tag && !hidden ? y.findLastIndex((v, i) => Number.isFinite(v) && x[i] <= u.scales.x.max) : -1;
      if (last < 0) continue;
      Object.assign(u.ctx, { fillStyle: css("--soft"), font: `${10 * devicePixelRatio}px system-ui, sans-serif`, textAlign: "right" });
      u.ctx.fillText(tag, left + width - 4 * devicePixelRatio, this.topOf(y[last], true) - 3 * devicePixelRatio);
    }
  }

  paintWays(u) {
    for (const { name, x, y, colors } of this.spec.ways ?? []) {
      const at = (i) => [u.valToPos(x[i], "x", true), this.topOf(y[i], true)];
      for (let i = 0; i < x.length; i++) {
        if (!Number.isFinite(x[i] + y[i])) continue;
        u.ctx.fillStyle = u.ctx.strokeStyle = colors[i];
        u.ctx.lineWidth = 1.2 * devicePixelRatio;
        if (i && Number.isFinite(x[i - 1] + y[i - 1])) {
          u.ctx.beginPath();
          u.ctx.moveTo(...at(i - 1));
          u.ctx.lineTo(...at(i));
          u.ctx.stroke();
        }
        u.ctx.beginPath();
        u.ctx.arc(...at(i), 3 * devicePixelRatio, 0, 7);
        u.ctx.fill();
      }
      const last = x.findLastIndex((v, i) => Number.isFinite(v + y[i]));
      if (last < 0 || !name) continue;
      const [left, top] = at(last);
      const right = left < u.bbox.left + 0.8 * u.bbox.width;
      Object.assign(u.ctx, { fillStyle: css("--ink"), font: `${12 * devicePixelRatio}px system-ui, sans-serif`, textAlign: right ? "left" : "right" });
      u.ctx.fillText(name, left + (right ? 7 : -7) * devicePixelRatio, top - 5 * devicePixelRatio);
    }
  }

  read(u) {
    const { left, top } = u.cursor;
    if (left < 0 || left === null || left === undefined) {
      this.readout.textContent = "";
      return;
    }
    this.at = [u.posToVal(left, "x"), top >= 0 ? this.valueAt(top) : null];
    this.readout.textContent = this.spec.read ? this.spec.read(...this.at) : "";
  }

  /** Arrow keys move the cursor from value to value; Escape shows all. */
  onKey(event) {
    const { u, spec } = this;
    const turn = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
    if (event.key === "Escape") this.setZoom(null);
    if (!turn) return;
    event.preventDefault();
    const move = (places, value, by, scale) => {
      if (!places?.length) return value;
      let nearest = 0;
      places.forEach((v, i) => {
        if (Math.abs(scale.fwd(v) - scale.fwd(value)) < Math.abs(scale.fwd(places[nearest]) - scale.fwd(value))) nearest = i;
      });
      return places[Math.min(Math.max(nearest + by, 0), places.length - 1)];
    };
    const [x, y] = this.at ?? [spec.x.low, spec.y.low];
    const to = [
      this.at ? move(spec.places, x, turn[0], spec.x.scale) : spec.places?.[0] ?? x,
      move(spec.heights, y ?? spec.heights?.[0], turn[1], spec.y.scale),
    ];
    const top = spec.heights ? this.topOf(to[1]) : u.over.clientHeight / 2;
    u.setCursor({ left: u.valToPos(to[0], "x"), top });
  }

  /** Where a place is, in pixels of the page. */
  pixel(x, y) {
    const box = this.u.over.getBoundingClientRect();
    return [box.left + this.u.valToPos(x, "x"), box.top + this.topOf(y)];
  }
}

function unique(table) {
  const kept = table[0].map((v, i) => i).filter((i) => i === table[0].length - 1 || table[0][i] !== table[0][i + 1]);
  return kept.length === table[0].length ? table : table.map((column) => kept.map((i) => column[i]));
}

export function alpha(color, opacity) {
  if (color.startsWith("rgb(")) return color.replace("rgb(", "rgba(").replace(")", `,${opacity})`);
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
}

/** The bar of colours beside cells, with its values and unit. */
export function colorBar(norm, label, height) {
  const canvas = create("canvas", { width: 14, height: 256, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  for (let i = 0; i < 256; i++) {
    context.fillStyle = `rgb(${norm.at(1 - i / 255).join()})`;
    context.fillRect(0, i, 14, 1);
  }
  canvas.style.height = `${height}px`;
  const scale = create("div", { className: "bar-ticks" });
  scale.style.height = `${height}px`;
  for (const [v, text] of ticksOf({ scale: norm.scale ?? linear }, [norm.low, norm.high], 170)) {
    const tick = create("span", { textContent: text });
    tick.style.bottom = `${100 * norm.place(v)}%`;
    scale.append(tick);
  }
  return create("div", { className: "bar", title: label }, canvas, scale, create("span", { className: "bar-label", textContent: label }));
}
