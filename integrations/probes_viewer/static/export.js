// A picture as SVG, PNG or CSV: what is seen, not less.

import { alpha, create, css, paintCells } from "./chart.js";
import { entries } from "./pictures.js";
import { linear, number, ticks } from "./scales.js";

const escape = (words) => String(words).replace(/[<>&"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
const words = (x, y, content, more = "") => `<text x="${x}" y="${y}" ${more}>${escape(content)}</text>`;

/** Charts as they are shown, one below the other. */
export function svg(charts, title, note, bar, barLabel, legend = []) {
  const [ink, paper] = [css("--ink"), css("--paper")];
  const width = 860;
  const parts = [words(16, 24, title, 'font-size="16"'), words(16, 42, note, 'font-size="11" opacity=".7"')];
  let top = 56;
  for (const chart of charts) {
    parts.push(one(chart, top, width, bar));
    top += chart.u.height + 30;
  }
  if (bar) {
    const stops = Array.from({ length: 17 }, (_, i) => `<stop offset="${i / 16}" stop-color="rgb(${bar.at(i / 16)})"/>`).join("");
    parts.push(`<linearGradient id="bar">${stops}</linearGradient><rect x="100" y="${top}" width="300" height="12" fill="url(#bar)"/>`);
    for (const v of ticks(bar.scale ?? linear, bar.low, bar.high, 4)) parts.push(words(100 + 300 * bar.place(v), top + 25, number(v, 3), 'text-anchor="middle"'));
    parts.push(words(410, top + 11, barLabel));
    top += 40;
  }
  legend.forEach(({ name, color }, i) => {
    const [x, y] = [100 + 250 * (i % 3), top + 16 * Math.floor(i / 3)];
    parts.push(`<rect x="${x}" y="${y}" width="18" height="3" fill="${color}"/>`, words(x + 24, y + 5, name));
  });
  const height = top + 16 * Math.ceil(legend.length / 3) + 16;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="system-ui, sans-serif" font-size="12" fill="${ink}"><rect width="100%" height="100%" fill="${paper}"/>${parts.join("")}</svg>`;
}

function one({ spec, u }, top, width) {
  const { x, y } = spec;
  const [left, right, bottom] = [130, width - 20, top + u.height];
  const [low, high] = [u.scales.x.min, u.scales.x.max];
  const [below, above] = [u.scales.y.min, u.scales.y.max];
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
    drawn.push(`<path d="${path(xs, line.y)}" fill="none" stroke="${line.color}" opacity="${line.faint ? 0.3 : 1}" stroke-width="1.6" stroke-dasharray="${line.dash ?? ""}"/>`);
    if (line.y.length < 2 || line.points) xs.forEach((v, i) => Number.isFinite(line.y[i]) && drawn.push(`<circle cx="${at(v)}" cy="${up(line.y[i])}" r="2.5" fill="${line.color}"/>`));
  }
  for (const way of spec.ways ?? []) {
    drawn.push(`<path d="${path(Array.from(way.x), way.y)}" fill="none" stroke="#999"/>`);
    way.x.forEach((v, i) => Number.isFinite(v + way.y[i]) && drawn.push(`<circle cx="${at(v)}" cy="${up(way.y[i])}" r="3" fill="${way.colors[i]}"/>`));
  }
  const clip = `c${top}`;
  parts.push(`<clipPath id="${clip}"><rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}"/></clipPath><g clip-path="url(#${clip})">${drawn.join("")}</g>`);
  parts.push(`<rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}" fill="none" stroke="#888"/>`);
  const marks = (axis, a, b) => (axis.ticks ? axis.ticks.filter(([v]) => v >= Math.min(a, b) && v <= Math.max(a, b)) : ticks(axis.scale, a, b, 7).map((v) => [v, number(v, 3)]));
  if (!x.hidden) for (const [v, label] of marks(x, low, high)) parts.push(words(at(v), bottom + 15, label, 'text-anchor="middle"'));
  if (!y.hidden) for (const [v, label] of marks(y, below, above)) parts.push(words(left - 6, up(v) + 4, label, 'text-anchor="end"'));
  parts.push(words((left + right) / 2, bottom + 28, [x.label, spec.subtitle].filter(Boolean).join(" · "), 'text-anchor="middle"'));
  parts.push(words(14, (top + bottom) / 2, y.label, `text-anchor="middle" transform="rotate(-90 14 ${(top + bottom) / 2})"`));
  return parts.join("");
}

/** Every value with its step and its coordinates. */
export function csv(all) {
  const cell = (v) => (/[",\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : String(v));
  const { dims } = all[0].meta;
  const lines = [["run", "step", "unix_time", ...dims.map((dim) => dim.name), "value", ...(all[0].error ? ["standard_error"] : [])].map(cell).join()];
  for (const data of all)
    for (let i = 0; i < data.value.length; i++) {
      const row = Math.floor(i / data.size);
      let rest = i % data.size;
      const places = dims.map((dim) => {
        rest = rest;
        return dim;
      });
      const labels = [];
      for (const dim of places.reverse()) {
        const count = entries(dim).length;
        labels.unshift(entries(dim)[rest % count]);
        rest = Math.floor(rest / count);
      }
      lines.push([data.run, data.step[row], data.time[row], ...labels, data.value[i], ...(data.error ? [data.error[i]] : [])].map(cell).join());
    }
  return lines.join("\n") + "\n";
}

/** Hand a file to the reader of the page. */
export function save(name, kind, content) {
  const url = URL.createObjectURL(new Blob([content], { type: kind }));
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
