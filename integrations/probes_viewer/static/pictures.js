// The pictures of a stream, as specs of charts, from its dims and coordinates alone.

import { lineColors, norm, sequential } from "./colors.js";
import { inOrder, taken } from "./data.js";
import { count, digitsOf, edges, extent, labels, linear, log, nearest, number, padded, phrase, stepsScale, valuesScale } from "./scales.js";

export const entries = (dim) => dim.labels ?? dim.values;
/** The entries of a dim as texts, no two alike. */
function texts(dim) {
  const seen = {};
  return (dim.texts ??= dim.labels ?? labels(dim.values, 4).map((text) => ((seen[text] = (seen[text] ?? 0) + 1) > 1 ? `${text} (${seen[text]})` : text)));
}
const text = (dim, i) => (dim.labels ? "" : `${dim.name} `) + texts(dim)[i];
const sizeOf = (dim) => entries(dim).length;
const many = (n, one, more, rest) => n && `${number(n)} ${n === 1 ? one : more} ${rest}`;
const numbers = (length, at) => Float64Array.from({ length }, (_, i) => at(i));
const runOf = (data, each) => (data[1] ? each.run : "");
/** The name of a line, and the one it is hidden by, which stays as runs are added. */
const naming = (data, each, words) => ({ name: phrase([words, runOf(data, each)], ", "), group: phrase([words, each.run], ", ") });
const spread = (count, most) => [...new Set(numbers(most, (i) => Math.round((i * (count - 1)) / (most - 1))))];

/** Where the entries of a dim are drawn, with ticks where these are names. */
function axisOf(dim) {
  const places = dim.scale ? dim.values : entries(dim).map((_, i) => i);
  const scale = dim.scale === "log" ? log(Number.MIN_VALUE) : linear;
  const borders = edges(places, scale);
  const axis = { label: dim.labels ? "" : dim.label, scale, low: borders[0], high: borders.at(-1), places, borders, whole: places.every(Number.isInteger) };
  if (!dim.scale) Object.assign(axis, { short: dim.short, ticks: texts(dim).map((text, i) => [i, text]) });
  return axis;
}

/** Runs in groups by their coordinates, and in words what these differ in. */
export function alike(all) {
  const groups = [...Map.groupBy(all, ({ meta }) => JSON.stringify([meta.form, meta.dims.map((dim) => [dim.label, entries(dim)])])).values()];
  const [first, ...others] = groups.map(([data]) => data);
  const differ = ({ run, meta: { form } }) => `${first.run} has ${first.meta.form}, ${run} has ${form === first.meta.form ? "other entries of it" : form}`;
  return { groups, why: others.length && `beside one another, for they can be neither overlaid nor subtracted: ${others.map(differ).join("; ")}` };
}

export const viewOf = ({ views }, chosen) => (views.includes(chosen) ? chosen : views[0]);

/** One dataset minus another, at the steps that both have. */
export function difference(a, b, view) {
  if (viewOf(a.meta, view) === "fan") [a, b] = [ranked(a), ranked(b)];
  const keys = (steps, seen = {}) => Array.from(steps, (step) => `${step} ${seen[step] = (seen[step] ?? 0) + 1}`);
  const [mine, rows] = [keys(a.step), new Map(keys(b.step).map((key, row) => [key, row]))];
  const common = [...mine.keys()].filter((row) => rows.has(mine[row]));
  if (!common.length) throw new Error("The two runs have no step in common here: no difference.");
  const [left, right] = [taken(a, common), taken(b, common.map((row) => rows.get(mine[row])))];
  return {
    ...left, run: `${a.run} − ${b.run}`, minus: [a, b], parts: null,
    value: Float64Array.from(left.value, (v, i) => v - right.value[i]),
    error: a.error && b.error && Float64Array.from(left.error, (v, i) => Math.hypot(v, right.error[i])),
  };
}

function ranked(data) {
  const [value, size] = [Float64Array.from(data.value), sizeOf(data.meta.dims.at(-1))];
  for (let i = 0; i < value.length; i += size) value.set(fromLargest(value.subarray(i, i + size)), i);
  return { ...data, value, error: null };
}

export const placeOf = (chosen = {}, name, count) => Math.min(Object.hasOwn(chosen, name) ? chosen[name] : 0, count - 1);

/** The stream at one entry of each leading dim, so that at most two are left. */
function selected(data, chosen) {
  const extra = data.meta.dims.length - 2;
  if (extra <= 0) return data;
  const dims = data.meta.dims;
  const size = dims.slice(extra).reduce((product, dim) => product * sizeOf(dim), 1);
  const offset = dims.slice(0, extra).reduce((place, dim) => place * sizeOf(dim) + placeOf(chosen, dim.name, sizeOf(dim)), 0) * size;
  const pick = (all) => all && numbers(data.step.length * size, (i) => all[Math.floor(i / size) * data.size + offset + (i % size)]);
  return { ...data, meta: { ...data.meta, dims: dims.slice(extra) }, size, value: pick(data.value), error: pick(data.error) };
}

/** A moving average that forgets by `weight` a row, corrected for its start. */
export function smoothed(values, weight) {
  let [mean, total] = [0, 0];
  return Float64Array.from(values, (v) => {
    if (!Number.isFinite(v)) return v;
    [mean, total] = [weight * mean + (1 - weight) * v, weight * total + (1 - weight)];
    return mean / total;
  });
}

const bandOf = (y, error) => error && { low: y.map((v, i) => v - 2 * error[i]), high: y.map((v, i) => v + 2 * error[i]) };

const banded = (data) => data.some(({ error }) => error?.some(Number.isFinite)) && "bands: ± 2 standard errors";

/** The dashes of each run, no two alike. */
const dashOf = (run) => [[], [8, 4], [2, 3]][run] ?? [10, 3, ...Array(run - 2).fill([2, 3]).flat()];

/** A stream as `{ charts, columns, bar, legend, sliders, note }`. */
export function picture(all, options) {
  const data = all.map((each) => selected(options.time ? inOrder(each, each.time) : each, options.chosen));
  const [{ meta, minus, run }] = data;
  const view = viewOf(meta, options.view);
  const sliders = all[0].meta.dims.slice(0, -2).map((dim) => ({ name: dim.name, count: sizeOf(dim), text: (i) => `${dim.name} ${texts(dim)[i]}` }));
  const made = DRAWN[view](data, meta, { ...options, sliders, minus });
  const { bar, charts: [first] } = made;
  const { scale } = bar ?? first.y;
  const inAll = (what) => data.reduce((sum, each) => sum + extent(each.value)[what], 0);
  const from = all.flatMap((each) => each.minus ?? each);
  const thinned = from.filter(({ sent, total }) => sent < total).map(({ run, sent, total }) => `${from[1] ? `${run} ` : ""}${count(sent)} of ${count(total)} rows`);
  const notes = [
    ...sliders.map(({ name, count, text }) => text(placeOf(options.chosen, name, count))),
    made.note,
    thinned.length && `thinned for this page: ${thinned.join(", ")}`,
    many(inAll("nan"), "value is", "values are", `not a number${bar ? " (gray)" : ""}`),
    many(inAll("infinite"), "is", "are", `infinite${bar ? " (magenta)" : ""}`),
    bar && many(bar.below, `value below ${number(bar.low)} has`, `values below ${number(bar.low)} have`, "its colour"),
    options.values === "log" && view !== "plane" && scale === linear && "drawn linearly: no logarithm has a place for these values",
    scale.unit && `logarithmic on both sides of 0, linear up to ${number(scale.unit, 2)}`,
    many(first.off, "value of zero or less is", "values of zero or less are", "not on a logarithmic axis"),
    meta.complex && `${minus ? "differences of the " : ""}magnitudes of complex numbers`,
    minus && run,
  ];
  const legend = first.lines?.filter((line) => line.name && !line.faint) ?? [];
  return { sliders, columns: 1, legend, ...made, view, title: meta.title, barLabel: meta.label, note: phrase(notes, "; ") };
}

const xOf = (data, { time }) => (time ? Float64Array.from(data.time, (t) => (t - data.time[0]) / 60) : data.step);

function xAxis(data, options) {
  const places = [...new Set(data.flatMap((each) => [...xOf(each, options)]))].sort((a, b) => a - b);
  const scale = options.time ? linear : stepsScale(places, options.steps);
  return { label: options.time ? "minutes since the first row" : "step", scale, low: places[0], high: places.at(-1), whole: !options.time, places };
}

const when = (data, row, { time }) => `step ${count(data.step[row])}${time ? ` (${number((data.time[row] - data.time[0]) / 60, 3)} min)` : ""}`;
const told = (data, i, digits) => `${number(data.value[i], digits)}${data.error ? ` ± ${number(data.error[i], 2)}` : ""}`;

function lineSpec(data, options, lines) {
  const x = xAxis(data, options);
  const all = (key) => extent(lines.flatMap((line) => [...line[key] ?? []]));
  const found = all("y");
  // room for the lower border of a band, down to a hundredth of the least value
  found.positive = Math.min(found.positive, Math.max(all("low").positive, found.positive / 100));
  const scale = valuesScale(found, options.values);
  const off = scale.name === "log" ? lines.reduce((sum, { faint, y }) => sum + (faint ? 0 : y.filter((v) => v <= 0).length), 0) : 0;
  return {
    share: options.time ? "time" : "step", x, places: x.places, lines, off, height: 340,
    y: { label: data[0].meta.label, scale },
    read(at, y, digits, k) {
      const shown = lines.filter((line) => !line.faint && !line.hidden);
      const read = shown.map((line) => ({ line, row: nearest(line.x, at, this.x.scale) }));
      const by = ({ line, row }) => (line === lines[k] ? -1 : Math.abs(scale.fwd(line.y[row]) - scale.fwd(y ?? 0)) || 0);
      const chosen = read.length <= 3 || y === null ? read.slice(0, 3) : read.sort((a, b) => by(a) - by(b)).slice(0, 1);
      return chosen.map(({ line, row }) => line.read(row, digits)).join("   ");
    },
  };
}

function lines(data, meta, options) {
  const [dim] = meta.dims;
  const count = dim ? sizeOf(dim) : 1;
  const chosen = spread(count, 24);
  const several = count > 1;
  const colors = lineColors(several ? chosen.length : data.length);
  const drawn = [];
  data.forEach((each, run) =>
    chosen.forEach((k, index) => {
      const column = (values) => numbers(each.step.length, (row) => values[row * each.size + k]);
      const [y, error] = [column(each.value), each.error && column(each.error)];
      const x = xOf(each, options);
      const color = colors[several ? index : run];
      const words = dim && text(dim, k);
      const { name, group } = naming(data, each, several && words);
      const read = (row, digits) => `${phrase([words, runOf(data, each), when(each, row, options)], ", ")}: ${told(each, row * each.size + k, digits)}`;
      const dash = several ? dashOf(run) : undefined;
      const band = bandOf(y, error);
      if (options.smooth) drawn.push({ x, y, color, faint: true, group });
      drawn.push({ name, x, y: options.smooth ? smoothed(y, options.smooth) : y, color, dash, read, group, ...(!options.smooth && band) });
    }),
  );
  const notes = [
    !options.smooth && banded(data),
    chosen.length < count && `${chosen.length} of ${count} are drawn`,
    options.smooth && "smoothed; the values themselves are faint",
  ];
  return { charts: [lineSpec(data, options, drawn)], note: phrase(notes, "; ") };
}

/** The rows that have a cell: of several at one place, the last. */
function latest(data, options) {
  const places = xOf(data, options);
  const rows = [...places.keys()].filter((row) => places[row] !== places[row + 1]);
  return rows.length === places.length ? data : taken(data, rows);
}

function cells(given, options, dim, offset) {
  const data = latest(given, options);
  const [x, axis] = [xAxis([data], options), axisOf(dim)];
  const at = x.places;
  const rows = sizeOf(dim);
  const index = (row, k) => row * data.size + offset + k;
  const values = numbers(at.length * rows, (i) => data.value[index(Math.floor(i / rows), i % rows)]);
  const borders = edges(at, x.scale);
  const y = dim.labels ? { ...axis, low: axis.high, high: axis.low } : axis;
  return {
    share: options.time ? "time" : "step", x: { ...x, low: borders[0], high: borders.at(-1), between: [x.low, x.high] }, y,
    image: { x: borders, y: axis.borders, values }, places: at, heights: axis.places, note: data === given ? "" : "of several rows at one step, the last is shown",
    read(place, height, digits) {
      const row = nearest(at, place, x.scale);
      if (height === null) return when(data, row, options);
      const k = nearest(axis.places, height, axis.scale);
      return `${when(data, row, options)}, ${text(dim, k)}: ${told(data, index(row, k), digits)}`;
    },
  };
}

function colored(charts, options) {
  const all = charts.map((chart) => chart.image.values);
  const joined = all.length === 1 ? all[0] : Float64Array.from(all.flatMap((values) => [...values]));
  const bar = norm(joined, options.values, options.minus);
  charts.forEach((chart) => (chart.image.norm = bar));
  return bar;
}

/** How high a picture is in which so many rows have room for their names. */
const highFor = (rows, least) => Math.min(480, Math.max(least, 52 + 16 * rows));

function heatMaps(data, meta, options) {
  const [dim, outer] = meta.dims.slice().reverse();
  const [rows, count] = [sizeOf(dim), outer ? sizeOf(outer) : 1];
  const chosen = spread(count, options.small ? 4 : 16);
  const height = outer ? 180 : highFor(rows, 220);
  const charts = data.flatMap((each) =>
    chosen.map((k) => ({ ...cells(each, options, dim, k * rows), subtitle: phrase([runOf(data, each), outer && text(outer, k)], ", "), height })),
  );
  const note = phrase([chosen.length < count && `${chosen.length} of ${count} entries of ${outer.name} are shown`, charts[0].note], "; ");
  return { charts, columns: outer && charts.length > 4 ? 3 : Math.min(2, charts.length), bar: colored(charts, options), note };
}

/** The row at a step, or the nearest; of several the one after so many, or the last. */
function rowOf(steps, { step = steps.at(-1), again = Infinity } = {}) {
  const away = (row) => Math.abs(steps[row] - step);
  const rows = [...steps.keys()].sort((a, b) => away(a) - away(b) || a - b);
  return rows.findLast((row, i) => i <= again && away(row) === away(rows[0]));
}

/** A strip of steps, and the one that is chosen large. */
function frames(data, meta, options) {
  const [first] = data;
  const [dy, dx] = meta.dims;
  const [ay, ax] = [dy, dx].map((dim) => ({ ...axisOf(dim), label: dim.label }));
  const image = dy.name === "y" && dx.name === "x";
  const [height, width] = [sizeOf(dy), sizeOf(dx)];
  const rows = first.step.length;
  const choice = (each, row) => ({ step: each.step[row], again: each.step.subarray(0, row).filter((step) => step === each.step[row]).length });
  const named = (each, row) => `${when(each, row, options)}${choice(each, row).again ? " again" : ""}`;
  const row = rowOf(first.step, options.chosen);
  const frame = (each, row, large) => {
    const at = rowOf(each.step, choice(first, row));
    const index = (i, j) => at * each.size + j * width + i;
    const values = numbers(width * height, (k) => each.value[index(Math.floor(k / height), k % height)]);
    const y = image ? ay : { ...ay, low: ay.high, high: ay.low };
    const hidden = !large || image;
    return {
      subtitle: phrase([runOf(data, each), named(each, at)], ", "), chosen: choice(each, at), large, aspect: image && width / height,
      x: { ...ax, hidden }, y: { ...y, hidden }, height: !large ? 130 : image ? 400 : highFor(height, 400),
      image: { x: ax.borders, y: ay.borders, values }, places: ax.places, heights: ay.places,
      read: (x, v, digits) => {
        const [i, j] = [nearest(ax.places, x, ax.scale), nearest(ay.places, v ?? 0, ay.scale)];
        return `${text(dy, j)}, ${text(dx, i)}: ${told(each, index(i, j), digits)}`;
      },
    };
  };
  const steps = spread(rows, options.small || data[1] ? 4 : 8);
  const strip = data.flatMap((each) => steps.map((row) => frame(each, row)));
  const charts = data.map((each) => frame(each, row, true));
  const bar = colored([...strip, ...charts], options);
  const slider = { name: "step", count: rows, text: (i) => named(first, i), value: row, of: (i) => choice(first, i) };
  const note = steps.length < rows && `the strip shows ${steps.length} of ${rows} steps${data[1] ? ` of ${first.run}` : ""}`;
  return { charts, strip, columns: Math.min(2, data.length), bar, sliders: [...options.sliders, slider], note };
}

function profile(data, meta, options) {
  const [dim] = meta.dims;
  const axis = axisOf(dim);
  const drawn = [];
  data.forEach((each, run) =>
    spread(each.step.length, 8).forEach((row, i, all) => {
      const pick = (values) => values?.subarray(row * each.size, (row + 1) * each.size);
      const [y, error] = [pick(each.value), pick(each.error)];
      const names = naming(data, each, `step ${count(each.step[row])}`);
      const band = bandOf(y, error);
      const read = (k, digits) => `${names.name}, ${text(dim, k)}: ${told(each, row * each.size + k, digits)}`;
      drawn.push({ ...names, x: axis.places, y, color: sequential(i / Math.max(1, all.length - 1)), dash: dashOf(run), read, points: dim.labels, ...band });
    }),
  );
  const spec = lineSpec(data, options, drawn);
  return { charts: [{ ...spec, share: null, x: axis, places: axis.places }], note: banded(data) };
}

/** Sorted, what is not a number last. */
function fromLargest(values) {
  const found = Float64Array.from(values).sort().reverse();
  const missing = Math.max(0, found.findIndex((v) => v === v));
  found.copyWithin(0, missing);
  return found.fill(NaN, found.length - missing);
}

/** The largest eigenvalues one by one, the others as quantiles. */
function fan(data, meta, options) {
  const drawn = [];
  data.forEach((each, run) => {
    const x = xOf(each, options);
    const sorted = Array.from(each.step, (_, row) => {
      const values = each.value.subarray(row * each.size, (row + 1) * each.size);
      return each.minus ? values : fromLargest(values);
    });
    const top = Math.min(5, each.size);
    const line = (words, pick, color, tag) => {
      const [y, names] = [Float64Array.from(sorted, pick), naming(data, each, words)];
      drawn.push({ ...names, x, y, color, dash: dashOf(run), tag, read: (row, digits) => `${names.name}, ${when(each, row, options)}: ${number(y[row], digits)}` });
    };
    for (let k = 0; k < top; k++) line(`largest ${k + 1}`, (values) => values[k], sequential(k / top));
    const quantile = (q) => (values) => values[Math.max(0, Math.floor((1 - q) * (values.filter((v) => v === v).length - 1)))];
    if (each.size > 10)
      for (const q of [0, 0.1, 0.25, 0.5, 0.75, 0.9]) line(q ? `quantile ${q}` : "smallest", quantile(q), "#8a8a8a", q ? `${100 * q} %` : "smallest");
  });
  return { charts: [lineSpec(data, options, drawn)], note: data[0].size > 10 ? "the five largest, and quantiles in gray: of so many percent, none is larger" : "" };
}

function plane(data, meta, options) {
  const [dim, two] = meta.dims;
  const count = sizeOf(dim);
  const ways = data.flatMap((each, run) =>
    Array.from({ length: count }, (_, k) => {
      const pick = (axis) => numbers(each.step.length, (row) => each.value[row * each.size + k * 2 + axis]);
      const colors = Array.from(each.step, (_, row) => sequential(row / Math.max(1, each.step.length - 1)));
      return { ...naming(data, each, text(dim, k)), tag: text(dim, k), short: dim.short?.[k] ?? text(dim, k), x: pick(0), y: pick(1), colors, color: sequential(0.5), dash: dashOf(run), each };
    }),
  );
  const axis = (i, key) => {
    const found = extent(ways.flatMap((way) => [...way[key]]));
    const [low, high] = padded(found.low, found.high);
    return { label: `${entries(two)[i]}${meta.unit}`, scale: linear, low, high };
  };
  const [x, y] = [axis(0, "x"), axis(1, "y")];
  const read = (at, height, digits, k, row) => {
    let best = ways[k] && { way: ways[k], row };
    const off = (v, at, { low, high }) => ((v / 2 - at / 2) / (high / 2 - low / 2)) ** 2;
    for (const way of best ? [] : ways.filter((each) => !each.hidden))
      way.x.forEach((v, row) => {
        const distance = off(v, at, x) + off(way.y[row], height, y);
        if (distance < (best?.distance ?? Infinity)) best = { distance, way, row };
      });
    if (!best) return "";
    const told = (v, { low, high }) => number(v, digitsOf(low, high));
    return `${best.way.name}, ${when(best.way.each, best.row, options)}: ${told(best.way.x[best.row], x)}, ${told(best.way.y[best.row], y)}`;
  };
  return { charts: [{ x, y, ways, read, height: 380 }], legend: ways.length > 6 || data[1] ? ways : [], note: "from dark (first step) to light (last step)" };
}

const DRAWN = { lines, "heat map": heatMaps, "heat maps": heatMaps, frames, profile, fan, plane };
