// One chart on the page: cursor, zoom and keyboard; see paint.js for what it shows.

import { create, css, withKey } from "./dom.js";
import { dot, frameOf, paint, ticksOf, trace, wholeOf } from "./paint.js";
import { digitsOf, nearest } from "./scales.js";

/** A canvas, empty, with the pixels of the screen, drawn on in those of the page. */
function emptied(canvas, width, height) {
  const ratio = devicePixelRatio;
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

const TURNS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
const ZOOMS = { "+": 0.5, "=": 0.5, "-": 2 };

export class Chart {
  /** Draws `spec` into `parent`; `shared` has the `charts` of the page, and by their x `zoom` and `onZoom(share, range)`. */
  constructor(parent, spec, shared) {
    Object.assign(this, { spec, shared, at: null, drag: null, share: spec.share ?? `${spec.title} ${spec.x.label}` });
    this.readout = create("output", "readout");
    [this.canvas, this.over] = [create("canvas"), create("canvas")];
    this.box = create("div", {
      className: "plot", tabIndex: 0, role: "img", "aria-label": `${spec.title}. ${spec.note ?? ""}`,
      onkeydown: (event) => this.onKey(event), ondblclick: () => this.setZoom(null),
    }, this.canvas, this.over);
    for (const kind of ["move", "down", "up", "leave", "cancel"]) this.box.addEventListener(`pointer${kind}`, (event) => this.onPointer(event));
    this.box.chart = this;
    this.warning = create("div", "note");
    parent.append(this.readout, this.box, this.warning);
    shared.charts.add(this);
    this.draw();
    this.watch = new ResizeObserver(() => this.box.clientWidth > 40 && this.box.clientWidth !== this.frame.width && this.draw());
    this.watch.observe(this.box);
  }

  destroy() {
    this.watch.disconnect();
    this.shared.charts.delete(this);
  }

  /** Go on where a chart of the same axes has been. */
  follow({ spec, at }) {
    if (spec.x.label !== this.spec.x.label || spec.y.label !== this.spec.y.label) return;
    this.at = at;
    this.mark();
  }

  zoomed = () => this.shared.zoom.get(this.share);

  draw() {
    const { spec } = this;
    const width = Math.max(120, this.box.clientWidth || 480);
    this.height = Math.min(spec.height, width / spec.aspect || Infinity);
    this.frame = frameOf(spec, this.zoomed(), width, this.height);
    const words = paint(emptied(this.canvas, width, this.height), this.frame, devicePixelRatio);
    this.warning.textContent = this.empty() ? "Nothing was measured between these steps. Escape shows all." : words;
    this.mark();
  }

  setZoom(range) {
    if (!range || range[1] > range[0]) this.shared.onZoom(this.share, range);
  }

  /** Whether a zoom, perhaps that of another stream, shows nothing of this one. */
  empty() {
    const [{ image, x, places }, zoom] = [this.spec, this.zoomed()];
    if (!zoom || !places?.length) return false;
    const [low, high] = zoom;
    return image ? high < x.low || low > x.high : !places.some((v) => v >= low && v <= high);
  }

  /** The cursor, in words and above the picture, and what is dragged over. */
  mark() {
    const { at, drag, frame, spec } = this;
    const { low, high } = spec.image?.norm ?? {};
    this.readout.textContent = at ? spec.read(at[0], at[1], spec.image ? digitsOf(low, high) : digitsOf(...frame.windows.y), ...at.slice(2)) : "";
    if (!at && !drag) return void (this.over.width = 0);
    const { left, right, top, bottom } = frame;
    const context = emptied(this.over, frame.width, this.height);
    context.beginPath();
    context.rect(left, top, right - left, bottom - top);
    context.clip();
    context.fillStyle = "#8883";
    if (drag) context.fillRect(drag[0], top, drag[1] - drag[0], bottom - top);
    if (!at) return;
    const [x, y] = [frame.x(at[0]), at[1] === null ? -1 : frame.y(at[1])];
    context.strokeStyle = css("--soft");
    context.setLineDash([4, 3]);
    context.beginPath();
    trace(context, [[x, top], [x, bottom]]);
    trace(context, [[left, y], [right, y]]);
    context.stroke();
    for (const line of spec.lines ?? []) {
      if (line.hidden || line.faint) continue;
      const row = nearest(line.x, at[0], spec.x.scale);
      dot(context, [frame.x(line.x[row]), frame.y(line.y[row])], 3, line.color);
    }
  }

  /** Put the cursor at a place, or nowhere, in all charts over the same x. */
  point(at) {
    const { share } = this.spec;
    if (!this.shared.charts.has(this)) return; // drawn anew meanwhile
    for (const chart of this.shared.charts) {
      if (chart !== this && !(share && chart.spec.share === share)) continue;
      chart.at = at && (chart === this ? at : [at[0], null]);
      chart.mark();
    }
  }

  /** Mouse or finger moves the cursor; what it is dragged over is zoomed to. */
  onPointer(event) {
    const { frame, box } = this;
    const { left, right, top, bottom } = frame;
    const page = box.getBoundingClientRect();
    const [x, y] = [event.clientX - page.left, event.clientY - page.top];
    const inside = x >= left && x <= right && y >= top && y <= bottom;
    if (event.type === "pointerdown" && inside && event.button === 0) {
      this.drag = [x, x];
      box.setPointerCapture(event.pointerId);
    }
    if (this.drag) this.drag[1] = Math.min(Math.max(x, left), right);
    if (event.type === "pointerup" && this.drag) {
      const ends = this.drag.slice().sort((a, b) => a - b);
      this.drag = null;
      if (ends[1] - ends[0] >= 4) this.setZoom(ends.map(frame.xAt));
    }
    if (event.type === "pointercancel" || (event.type === "pointermove" && !event.buttons)) this.drag = null;
    this.point(inside && !/leave|cancel/.test(event.type) ? [this.frame.xAt(x), this.frame.yAt(y)] : null);
  }

  onKey(event) {
    const [turn, factor] = [TURNS[event.key], ZOOMS[event.key]];
    if ((!turn && !factor) || withKey(event)) return; // the browser's own zoom
    event.preventDefault();
    if (turn) this.point(this.moved(...(this.at ? turn : [0, 0])));
    const [low, high] = this.frame.windows.x;
    if (factor || this.at[0] < low || this.at[0] > high) this.show(factor ?? 1);
  }

  /** The cursor so many values, and so many lines or entries, on. */
  moved(right, up) {
    const { places, heights, lines, ways, x, y } = this.spec;
    const [was, height, k = 0, row = 0] = this.at ?? [];
    const among = (all, i) => Math.min(Math.max(i, 0), all.length - 1);
    const move = (all, value, by, scale) => all[typeof value === "number" ? among(all, nearest(all, value, scale) + by) : 0];
    if (ways) {
      const seen = ways.filter((each) => !each.hidden);
      const way = seen[among(seen, seen.indexOf(ways[k]) + up)] ?? ways[k];
      const next = among(way.x, row + right);
      return [way.x[next], way.y[next], ways.indexOf(way), next];
    }
    const to = move(places, was, right, x.scale);
    if (heights) return [to, move(heights, height, up, y.scale)];
    const value = (line) => line.y[nearest(line.x, to, x.scale)];
    const order = lines.filter((line) => !line.hidden && !line.faint).sort((a, b) => value(a) - value(b) || 0);
    const next = order[among(order, order.indexOf(lines[k]) + up)];
    return [to, next ? value(next) : null, lines.indexOf(next)];
  }

  /** Show so many times as much, with the cursor in it. */
  show(factor) {
    const { x } = this.spec;
    const [low, high, least, most] = [...this.frame.windows.x, ...wholeOf(x)].map(x.scale.fwd);
    const half = (factor * (high - low)) / 2;
    const middle = Math.min(Math.max(this.at ? x.scale.fwd(this.at[0]) : (low + high) / 2, least + half), most - half);
    this.setZoom(2 * half < most - least ? [middle - half, middle + half].map(x.scale.bwd) : null);
  }
}

export function colorBar(norm, label, height) {
  const canvas = create("canvas", { width: 14, height: 256, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  for (let i = 0; i < 256; i++) {
    context.fillStyle = `rgb(${norm.at(1 - i / 255).join()})`;
    context.fillRect(0, i, 14, 1);
  }
  const found = ticksOf(norm, [norm.low, norm.high], 170).map(([v, textContent]) => create("span", { textContent, style: `bottom: ${100 * norm.place(v)}%` }));
  const scale = create("div", "bar-ticks", ...found);
  return create("div", { className: "bar", title: label, style: `--height: ${height}px` }, canvas, scale, create("span", "bar-label", label));
}
