// A chart, on a canvas or as SVG (export.js): axes, and cells of colour, lines with bands or ways through a plane.
//
// spec = {
//   title, subtitle, note, height, share (charts over the same x have one cursor and one zoom),
//   x, y: { label, scale, low, high, ticks: [[place, text], ...] with short texts, between: what ticks are told of, whole, hidden },
//   lines: [{ name, x: increasing, y, low, high, color, dash, faint, hidden, points, tag: written at its end }],
//   image: { x, y: edges of cells, values: [x][y] in one array, norm },
//   ways: [{ name, x, y, colors, dash, hidden, tag: written at its end, short }],
//   read(x, y): what is said of a place,
//   places, heights: the x and y that the arrow keys go to,
// }

import { INFINITE, NAN } from "./colors.js";
import { create, css } from "./dom.js";
import { extent, labels, lastTo, linear, padded, phrase, ticks } from "./scales.js";

const FONT = "system-ui, sans-serif";
const LONGEST = 195; // pixels of a name along an axis
const MARK = 4; // pixels of the mark of a tick

const ruler = create("canvas").getContext("2d");
ruler.font = `12px ${FONT}`;
const widthOf = (text, size = 12) => (ruler.measureText(text).width * size) / 12;

/** A text in so many pixels, with its middle left out where it is longer. */
export function fitted(text, pixels, size) {
  let room = text.length;
  let found = text;
  while (room > 3 && widthOf(found, size) > pixels) {
    room = Math.min(room - 1, Math.ceil((room * pixels) / widthOf(found, size)));
    found = `${text.slice(0, Math.max(1, (room >> 1) - 1))}…${text.slice(-(room >> 1))}`;
  }
  return found;
}

/** Names, or their `own` parts, in so many pixels, no two alike where that can be: without types, then brief. */
function apart(names, own = names, pixels) {
  // the beginning of a word is enough, not of a number
  const brief = (all) => [99, 6, 4, 2, 1].map((most) => all.map((name) => name.replace(/\p{L}+/gu, (word) => word.slice(0, most))));
  const fits = (all) => new Set(all).size === new Set(names).size && all.every((name) => widthOf(name) <= pixels);
  const bare = own.map((name) => name.replace(/^\w+ /, ""));
  return [names, own, ...brief(bare), ...brief(own)].find(fits) ?? own.map((name) => fitted(name, pixels));
}

/** A text as lines of so many pixels. */
export function wrapped(text, pixels, size) {
  const lines = [""];
  for (const word of text.split(/\s+/).map((each) => fitted(each, pixels, size))) {
    const longer = phrase([lines.at(-1), word], " ");
    if (widthOf(longer, size) > pixels) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

/** From values in `a` to `b` to pixels in `from` to `to`, and back. */
function along(scale, [a, b], from, to) {
  const [first, last] = [scale.fwd(a) / 2, scale.fwd(b) / 2]; // the whole may be infinite
  return {
    place: (v) => from + (to - from) * ((scale.fwd(v) / 2 - first) / (last - first)),
    value: (p) => scale.bwd(2 * (first + (last - first) * ((p - from) / (to - from)))),
  };
}

/** The ticks of an axis of so many pixels, with texts no longer than `room` that do not touch. */
export function ticksOf(axis, window, pixels, across, room = LONGEST) {
  const [low, high] = [Math.min(...window), Math.max(...window)];
  let found = axis.ticks;
  if (found) {
    if (across && pixels > 60 * found.length) room = Math.min(room, pixels / found.length - 10);
    if (axis.room !== room) Object.assign(axis, { room, names: apart(found.map(([, text]) => text), axis.short, room) });
    found = found.map(([v], i) => [v, axis.names[i]]).filter(([v]) => v >= low && v <= high);
  }
  if (!found) {
    const [least, most] = axis.between ?? [low, high];
    const count = Math.max(3, Math.min(10, Math.floor(pixels / (across ? 80 : 34))));
    const places = ticks(axis.scale, low, high, count).filter((v) => v >= least && v <= most && (!axis.whole || Number.isInteger(v)));
    const texts = labels(places);
    found = places.map((v, i) => [v, texts[i]]);
    const power = ([v]) => v === 0 || Number.isInteger(Number(Math.log10(Math.abs(v)).toFixed(9)));
    if (axis.scale !== linear) found.sort((a, b) => power(b) - power(a));
  }
  const { place } = along(axis.scale, window, 0, pixels);
  const kept = [];
  for (const [v, text] of found) {
    const wide = widthOf(text) / 2;
    // the last within the picture, which ends 16 pixels on
    const [at, half] = across ? [Math.min(place(v), pixels + 16 - wide), wide + 5] : [place(v), 7.5];
    if (kept.every((other) => Math.abs(other.at - at) >= other.half + half)) kept.push({ v, text, at, half });
  }
  return kept.sort((a, b) => a.v - b.v).map(({ v, text }) => [v, text]);
}

export const wholeOf = (axis) => (axis.high !== axis.low ? [axis.low, axis.high] : [axis.low - 0.5, axis.high + 0.5]);

const shown = (scale, v) => Number.isFinite(v) && !(scale.name === "log" && v <= 0);

/** From where to where lines go between two x. */
function heights(lines, scale, [low, high]) {
  const found = lines.filter((line) => !line.hidden).flatMap(({ x, y, low: below = [], high: above = [] }) =>
    [y, below, above].map((all) => extent(all.filter((v, i) => x[i] >= low && x[i] <= high && shown(scale, v)))));
  return padded(Math.min(...found.map((each) => each.low)), Math.max(...found.map((each) => each.high)), scale);
}

/** Where the axes of a chart are, and which place shows which value; `zoom` is of its x. */
export function frameOf(spec, zoom, width, height) {
  const { x, y } = spec;
  const windows = { x: zoom ?? wholeOf(x) };
  windows.y = spec.image || spec.ways ? wholeOf(y) : heights(spec.lines, y.scale, windows.x);
  const [top, bottom] = x.hidden ? [0, height] : [8, height - 44];
  const room = Math.min(LONGEST, Math.max(120, 0.3 * width));
  const upwards = ticksOf(y, windows.y, bottom - top, false, room);
  const widest = Math.min(room, Math.max(0, ...upwards.map(([, text]) => widthOf(text))));
  const left = y.hidden ? 0 : Math.round(widest) + MARK + 6 + (y.label ? 18 : 0);
  const right = Math.max(left + 40, x.hidden ? width : width - 16);
  const [over, up] = [along(x.scale, windows.x, left, right), along(y.scale, windows.y, bottom, top)];
  return {
    spec, windows, width, left, right, top, bottom, widest, x: over.place, y: up.place, xAt: over.value, yAt: up.value,
    ticks: { x: ticksOf(x, windows.x, right - left, true), y: upwards },
  };
}

/** Which cells lie in each pixel: first and one past the last. */
function cellsOf(edges, count, toValue) {
  const n = edges.length - 1;
  const cell = (v) => lastTo(edges, v);
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

/** Cells as pixels; of several in one their mean, on the colours' scale. Returns how many, and of how many columns. */
function paintCells(context, frame, ratio) {
  const { image } = frame.spec;
  const { norm, values } = image;
  image.t ??= Float32Array.from(values, (v) => (Number.isFinite(v) ? norm.place(v) : v));
  const rows = image.y.length - 1;
  const [left, top, right, bottom] = [frame.left, frame.top, frame.right, frame.bottom].map((v) => Math.round(v * ratio));
  const [width, height] = [right - left, bottom - top];
  const [columns, perX] = cellsOf(image.x, width, (p) => frame.xAt((p + left) / ratio));
  const [lines, perY] = cellsOf(image.y, height, (p) => frame.yAt((p + top) / ratio));
  const pixels = new ImageData(width, height);
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
          if (!Number.isFinite(t)) infinite = true;
          else {
            sum += Math.min(Math.max(t, 0), 1);
            count++;
          }
        }
      const color = infinite ? INFINITE : count ? norm.at(sum / count) : NAN;
      const place = 4 * (py * width + px);
      out.set(color, place);
      out[place + 3] = 255;
    }
  }
  const canvas = create("canvas", { width, height });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, left / ratio, top / ratio, width / ratio, height / ratio);
  return [perX * perY, perX];
}

/**
 * A line as pieces of points in pixels, which end where `there(i)` is no value. Of more than four in one of `fine` columns
 * to a pixel, the first, least, greatest and last: it looks the same. Returns these and how many shared a column.
 */
function piecesOf(frame, fine, x, y, there) {
  const [low, high] = frame.windows.x;
  const pieces = [];
  let [piece, group, column, most] = [null, [], null, 1];
  const close = () => {
    if (group.length > 4) {
      most = Math.max(most, group.length);
      const sorted = group.slice().sort((a, b) => a[1] - b[1]);
      group = [group[0], sorted[0], sorted.at(-1), group.at(-1)];
    }
    piece?.push(...group);
    group = [];
  };
  for (let i = 0; i < x.length; i++) {
    if (x[i + 1] < low) continue; // lines lead to neighbours of what is shown
    if (x[i - 1] > high) break;
    if (!there(i)) {
      close();
      piece = null;
      continue;
    }
    const point = [frame.x(x[i]), frame.y(y[i])];
    const now = Math.floor(point[0] * fine);
    if (!piece || now !== column) close();
    if (!piece) pieces.push((piece = []));
    column = now;
    group.push(point);
  }
  close();
  return [pieces, most];
}

export const trace = (context, points, start = "moveTo") => points.forEach(([left, top], i) => context[i ? "lineTo" : start](left, top));

export function dot(context, [left, top], radius, color) {
  context.fillStyle = color;
  context.beginPath();
  context.arc(left, top, radius, 0, 7);
  context.fill();
}

/** A line with its band. Returns how many values shared a column, and its dots. */
function paintLine(context, frame, fine, { x, y, low, high, color, dash, faint, points }) {
  const { scale } = frame.spec.y;
  let dense = 1;
  if (low) {
    const there = (i) => Number.isFinite(low[i]) && shown(scale, high[i]);
    const [[upper, most], [lower]] = [high, low].map((border) => piecesOf(frame, fine, x, border, there));
    // that of a single value can be seen
    const wide = (piece) => (piece[1] ? piece : [-2, 2].map((by) => [piece[0][0] + by, piece[0][1]]));
    dense = most;
    Object.assign(context, { fillStyle: color, globalAlpha: 0.18 });
    upper.forEach((piece, k) => {
      context.beginPath();
      trace(context, wide(piece));
      trace(context, wide(lower[k]).reverse(), "lineTo");
      context.closePath();
      context.fill();
    });
  }
  const [pieces, most] = piecesOf(frame, fine, x, y, (i) => shown(scale, y[i]));
  Object.assign(context, { strokeStyle: color, globalAlpha: faint ? 0.3 : 1, lineWidth: faint ? 1 : 1.8, lineJoin: "bevel" });
  context.setLineDash(dash ?? []);
  context.beginPath();
  for (const piece of pieces) trace(context, piece);
  context.stroke();
  context.setLineDash([]);
  context.globalAlpha = 1;
  const all = points || x[0] === x.at(-1);
  const dots = pieces.flatMap((piece) => (all || piece.length === 1 ? piece : []));
  return [Math.max(dense, most), dots.map((point) => [point, all ? 3.5 : 2, color])];
}

const finite = ({ x, y }, i) => Number.isFinite(x[i]) && Number.isFinite(y[i]);

function paintWay(context, frame, way) {
  const at = (i) => [frame.x(way.x[i]), frame.y(way.y[i])];
  context.setLineDash(way.dash);
  way.colors.forEach((color, i) => {
    if (!finite(way, i)) return;
    if (finite(way, i + 1)) {
      Object.assign(context, { strokeStyle: color, lineWidth: 1.2 });
      context.beginPath();
      trace(context, [at(i), at(i + 1)]);
      context.stroke();
    }
    dot(context, at(i), 3, color);
    if (way.dash.length) dot(context, at(i), 1.6, css("--paper"));
  });
  context.setLineDash([]);
}

/**
 * Draw a chart. The context takes pixels of the page, of each of which the medium shows `ratio`; lines are thinned to
 * `fine` columns of each. Returns what has to be said of it.
 */
export function paint(context, frame, ratio, fine = ratio) {
  const { spec, left, right, top, bottom } = frame;
  const { x, y, image, lines = [], ways = [] } = spec;
  const [ink, grid, soft] = ["--ink", "--grid", "--soft"].map(css);
  const write = (text, place, height, textAlign, fillStyle = ink, size = 12) => {
    Object.assign(context, { fillStyle, textAlign, font: `${size}px ${FONT}` });
    context.fillText(text, place, height);
  };
  const [perPixel, perX] = image ? paintCells(context, frame, ratio) : [1];

  // lines that are whole pixels wide and lie on whole pixels are crisp
  const hair = Math.max(1, Math.floor(ratio)) / ratio;
  const rule = (...box) => {
    const [a, b, width, height] = box.map((v) => Math.round(v * ratio) / ratio);
    context.fillStyle = grid;
    context.fillRect(a, b, width || hair, height || hair);
  };
  const [from, to] = image ? [bottom, left] : [top, right];
  for (const [v, text] of x.hidden ? [] : frame.ticks.x) {
    const [place, half] = [frame.x(v), widthOf(text) / 2];
    rule(place - hair / 2, from, 0, bottom - from + MARK);
    write(text, Math.min(Math.max(place, half), frame.width - half), bottom + MARK + 14, "center");
  }
  for (const [v, text] of y.hidden ? [] : frame.ticks.y) {
    const place = frame.y(v);
    rule(left - MARK, place - hair / 2, to - left + MARK, 0);
    write(fitted(text, frame.widest + 1), left - MARK - 4, place + 4, "right");
  }
  if (!x.hidden) write(fitted(x.label, right - left), (left + right) / 2, bottom + 38, "center");
  if (!y.hidden && y.label) {
    context.save();
    context.translate(12, (top + bottom) / 2);
    context.rotate(-Math.PI / 2);
    write(fitted(y.label, bottom - top + 8), 0, 0, "center");
    context.restore();
  }

  context.save();
  context.beginPath();
  context.rect(left, top, right - left, bottom - top);
  context.clip();
  const drawn = lines.filter((line) => !line.hidden);
  const painted = drawn.map((line) => paintLine(context, frame, fine, line));
  const seen = ways.filter((way) => !way.hidden);
  for (const way of seen) paintWay(context, frame, way);
  context.restore();

  const inside = ([a, b]) => a > left - 1 && a < right + 1 && b > top - 1 && b < bottom + 1;
  for (const each of painted.flatMap(([, dots]) => dots)) if (inside(each[0])) dot(context, ...each);
  const tags = [];
  for (const { x, y, tag } of drawn) {
    const last = tag ? y.findLastIndex((v, i) => Number.isFinite(v) && x[i] <= frame.windows.x[1]) : -1;
    if (last < 0) continue;
    const height = frame.y(y[last]) - 3;
    const wide = widthOf(tag);
    const end = tags.reduce((end, other) => (Math.abs(other.height - height) < 10 ? end - other.wide : end), right - 4);
    context.fillStyle = css("--paper");
    context.fillRect(end - wide, height - 9, wide + 2, 12);
    write(tag, end, height, "right", soft, 10);
    tags.push({ wide, height });
  }
  const put = [];
  // in less than half of the width a name fits on one side of any place
  const names = apart(seen.map((way) => way.tag), seen.map((way) => way.short), (right - left) / 2 - 9);
  seen.forEach((way, k) => {
    const last = way.x.findLastIndex((_, i) => finite(way, i));
    const [place, height] = [frame.x(way.x[last]), frame.y(way.y[last]) - 5];
    if (!inside([place, height + 5])) return;
    const wide = widthOf(names[k]);
    const start = place + 7 + wide < right ? place + 7 : place - 7 - wide;
    const free = (v) => v > top + 9 && v < bottom - 3 && put.every(([from, to, other]) => from > start + wide || to < start || Math.abs(v - other) >= 13);
    // below it, then above; 40 names are higher than any chart
    const found = Array.from({ length: 80 }, (_, i) => height + 13 * (i < 40 ? i : 39 - i)).find(free);
    if (found === undefined) return;
    put.push([start, start + wide, found]);
    write(names[k], start, found, "left");
  });

  if (perPixel > 1) return `Drawn whole: a pixel is the mean of up to ${perPixel} values.${perX > 1 ? " Drag to zoom." : ""}`;
  const dense = Math.max(1, ...painted.map(([most]) => most));
  if (dense > 1) return `Drawn whole: of up to ${dense} values in a column of pixels the first, least, greatest and last. Drag to zoom.`;
  return "";
}
