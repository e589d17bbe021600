// A picture as SVG, PNG or CSV: what is seen, not less.

import { alpha, create, css, paintCells, ticksOf } from "./chart.js";
import { entries } from "./pictures.js";
import { linear } from "./scales.js";

const escape = (words) => String(words).replace(/[<>&"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
const words = (x, y, content, more = "") => `<text x="${x}" y="${y}" ${more}>${escape(content)}</text>`;

/** Charts as they are shown, one below the other. */
export function svg(charts, title, note, bar, barLabel, legend = []) {
  const [ink, paper] = [css("--ink"), css("--paper")];
  const width = 860;
  const parts = [words(16, 24, title, 'font-size="16"'), words(16, 42, note, 'font-size="11" opacity=".7"')];
  let top = 56;
  for (const chart of charts) {
    parts.push(one(chart, top, width));
    top += chart.u.height + 44;
  }
  if (bar) {
    const stops = Array.from({ length: 17 }, (_, i) => `<stop offset="${i / 16}" stop-color="rgb(${bar.at(i / 16)})"/>`).join("");
    parts.push(`<linearGradient id="bar">${stops}</linearGradient><rect x="100" y="${top}" width="300" height="12" fill="url(#bar)"/>`);
    for (const [v, text] of ticksOf({ scale: bar.scale ?? linear }, [bar.low, bar.high], 320, true)) parts.push(words(100 + 300 * bar.place(v), top + 25, text, 'text-anchor="middle"'));
    parts.push(words(410, top + 11, barLabel));
    top += 40;
  }
  const seen = legend.filter((line) => !line.hidden);
  seen.forEach(({ name, color, dash }, i) => {
    const [x, y] = [100 + 250 * (i % 3), top + 16 * Math.floor(i / 3)];
    parts.push(`<path d="M${x},${y + 1}h18" stroke="${color}" stroke-width="3" stroke-dasharray="${dash ?? ""}"/>`, words(x + 24, y + 5, name));
  });
  const height = top + 16 * Math.ceil(seen.length / 3) + 16;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="system-ui, sans-serif" font-size="12" fill="${ink}"><rect width="100%" height="100%" fill="${paper}"/>${parts.join("")}</svg>`;
}

function one(chart, top, width) {
  const { spec, u } = chart;
  const { x, y } = spec;
  const [left, bottom] = [130, top + u.height];
  const right = Math.min(width - 20, spec.aspect ? left + u.height * spec.aspect : Infinity); // an image is not stretched
  const [low, high] = [u.scales.x.min, u.scales.x.max];
  const [below, above] = chart.window();
  const share = (scale, v, a, b) => (scale.fwd(v) - scale.fwd(a)) / (scale.fwd(b) - scale.fwd(a));
  const at = (v) => left + (right - left) * share(x.scale, v, low, high);
  const up = (v) => bottom - (bottom - top) * share(y.scale, v, below, above);
  const parts = [];
  if (spec.image) {
    const canvas = create("canvas", { width: right - left, height: bottom - top });
    const back = (axis, a, b) => (p) => axis.scale.bwd(axis.scale.fwd(a) + (axis.scale.fwd(b) - axis.scale.fwd(a)) * p);
    const [toX, toY] = [back(x, low, high), back(y, above, below)];
    paintCells(canvas.getContext("2d"), spec.image, 0, 0, canvas.width, canvas.height, (p) => toX(p / canvas.width), (p) => toY(p / canvas.height));
    parts.push(`<image x="${left}" y="${top}" width="${canvas.width}" height="${canvas.height}" href="${canvas.toDataURL()}"/>`);
  }
  const path = (xs, ys) => {
    let [out, pen] = ["", "M"];
    xs.forEach((v, i) => {
      if (!Number.isFinite(ys[i]) || (y.scale.name === "log" && ys[i] <= 0)) return;
      out += `${pen}${at(v).toFixed(2)},${up(ys[i]).toFixed(2)}`;
      pen = "L";
    });
    return out;
  };
  const drawn = [];
  for (const line of spec.lines ?? []) {
    if (line.hidden) continue;
    const xs = Array.from(line.x);
    if (line.low) drawn.push(`<path d="${path([...xs, ...xs.slice().reverse()], [...line.high, ...Array.from(line.low).reverse()])}Z" fill="${alpha(line.color, 0.18)}"/>`);
    const last = line.tag ? line.y.findLastIndex(Number.isFinite) : -1;
    if (last >= 0) drawn.push(words(right - 4, up(line.y[last]) - 4, line.tag, 'text-anchor="end" font-size="10" opacity=".7"'));
    drawn.push(`<path d="${path(xs, line.y)}" fill="none" stroke="${line.color}" opacity="${line.faint ? 0.3 : 1}" stroke-width="1.6" stroke-dasharray="${line.dash ?? ""}"/>`);
    if (line.y.length < 2 || line.points) xs.forEach((v, i) => Number.isFinite(line.y[i]) && drawn.push(`<circle cx="${at(v)}" cy="${up(line.y[i])}" r="2.5" fill="${line.color}"/>`));
  }
  for (const way of spec.ways ?? []) {
    drawn.push(`<path d="${path(Array.from(way.x), way.y)}" fill="none" stroke="#999"/>`);
    const last = way.x.findLastIndex((v, i) => Number.isFinite(v + way.y[i]));
    if (last >= 0) parts.push(words(at(way.x[last]), up(way.y[last]) - 6, way.name, 'text-anchor="middle"'));
    way.x.forEach((v, i) => Number.isFinite(v + way.y[i]) && drawn.push(`<circle cx="${at(v)}" cy="${up(way.y[i])}" r="3" fill="${way.colors[i]}"/>`));
  }
  const clip = `c${top}`;
  parts.push(`<clipPath id="${clip}"><rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}"/></clipPath><g clip-path="url(#${clip})">${drawn.join("")}</g>`);
  parts.push(`<rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}" fill="none" stroke="#888"/>`);
  if (!x.hidden) for (const [v, label] of ticksOf(x, [low, high], right - left, true)) parts.push(words(at(v), bottom + 15, label, 'text-anchor="middle"'));
  if (!y.hidden) for (const [v, label] of ticksOf(y, [below, above], bottom - top)) parts.push(words(left - 6, up(v) + 4, label, 'text-anchor="end"'));
  parts.push(words((left + right) / 2, bottom + 28, [x.label, spec.subtitle].filter(Boolean).join(" · "), 'text-anchor="middle"'));
  parts.push(words(14, (top + bottom) / 2, y.label, `text-anchor="middle" transform="rotate(-90 14 ${(top + bottom) / 2})"`));
  return parts.join("");
}

/** Every value with its step and its coordinates; in parts, for of a large stream one text would be too long. */
export function csv(all) {
  const cell = (v) => (/[",\n\r]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : String(v));
  const { dims } = all[0].meta;
  const error = all.some((data) => data.error);
  const parts = [["run", "step", "unix_time", ...dims.map((dim) => dim.name), "value", ...(error ? ["standard_error"] : [])].map(cell).join() + "\n"];
  for (const data of all) {
    const run = cell(data.run);
    const places = Array.from({ length: data.size }, (_, k) => {
      const found = [];
      for (const dim of dims.slice().reverse()) {
        const all = entries(dim);
        found.unshift(cell(all[k % all.length]));
        k = Math.floor(k / all.length);
      }
      return found.map((each) => `${each},`).join("");
    });
    for (let row = 0; row < data.step.length; row++) {
      let part = "";
      for (let k = 0; k < data.size; k++) {
        const i = row * data.size + k;
        part += `${run},${data.step[row]},${data.time[row]},${places[k]}${data.value[i]}${error ? `,${data.error ? data.error[i] : ""}` : ""}\n`;
      }
      parts.push(part);
    }
  }
  return parts;
}

/** Hand a file to the reader of the page. */
export function save(name, kind, content) {
  const url = URL.createObjectURL(new Blob([content].flat(), { type: kind }));
  create("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

export async function png(source) {
  const image = new Image();
  image.src = `data:image/svg+xml;base64,${btoa(Array.from(new TextEncoder().encode(source), (byte) => String.fromCharCode(byte)).join(""))}`;
  await image.decode();
  const canvas = create("canvas", { width: 2 * image.width, height: 2 * image.height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done));
}
