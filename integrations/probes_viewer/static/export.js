// A picture as SVG, PNG or CSV: what is seen, not less.

import { create, css } from "./dom.js";
import { fitted, frameOf, paint, ticksOf, wrapped } from "./paint.js";
import { entries } from "./pictures.js";

const [WIDTH, LEFT] = [860, 100];

/** A text as XML can hold it: without control characters. */
const escape = (words) => String(words).replace(/[^\t\n\r -\uD7FF\uE000-\uFFFD\u{10000}-\u{10FFFF}]/gu, "\uFFFD").replace(/[<>&"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
const short = (v) => Number(v.toFixed(2));

/** What charts use of a canvas' context, as SVG. */
class Writer {
  parts = [];
  groups = [];
  dash = [];
  globalAlpha = 1;

  put(tag, attributes, content = "") {
    this.parts.push(`<${tag} ${Object.entries(attributes).map(([name, value]) => `${name}="${escape(value)}"`).join(" ")}>${content}</${tag}>`);
  }

  beginPath = () => (this.path = []);
  moveTo = (x, y) => this.path.push(`M${short(x)},${short(y)}`);
  lineTo = (x, y) => this.path.push(`L${short(x)},${short(y)}`);
  closePath = () => this.path.push("Z");
  rect = (x, y, width, height) => this.path.push(`M${short(x)},${short(y)}h${short(width)}v${short(height)}h${short(-width)}Z`);
  arc = (x, y, r) => this.path.push(`M${short(x - r)},${short(y)}a${r},${r} 0 1 1 ${2 * r},0a${r},${r} 0 1 1 ${-2 * r},0Z`);

  fill = () => this.put("path", { d: this.path.join(""), fill: this.fillStyle, opacity: this.globalAlpha });
  stroke = () => this.put("path", { d: this.path.join(""), fill: "none", stroke: this.strokeStyle, opacity: this.globalAlpha, "stroke-width": this.lineWidth, "stroke-linejoin": this.lineJoin ?? "miter", "stroke-dasharray": this.dash.join() });
  fillRect(...box) {
    this.beginPath();
    this.rect(...box);
    this.fill();
  }
  setLineDash = (dash) => (this.dash = dash);
  fillText(text, x, y) {
    const anchor = { left: "start", center: "middle", right: "end" }[this.textAlign];
    this.put("text", { x: short(x), y: short(y), fill: this.fillStyle, "font-size": parseFloat(this.font), "text-anchor": anchor }, escape(text));
  }
  drawImage = (canvas, x, y, width, height) => this.put("image", { x, y, width, height, preserveAspectRatio: "none", style: "image-rendering: pixelated", href: canvas.toDataURL() });

  save = () => this.groups.push(0);
  restore = () => this.parts.push("</g>".repeat(this.groups.pop()));
  group(attribute) {
    this.parts.push(`<g ${attribute}>`);
    this.groups[this.groups.length - 1]++;
  }
  translate = (x, y) => this.group(`transform="translate(${short(x)},${short(y)})"`);
  rotate = (angle) => this.group(`transform="rotate(${short((angle * 180) / Math.PI)})"`);
  clip() {
    const id = `c${this.parts.length}`;
    this.put("clipPath", { id }, `<path d="${this.path.join("")}"/>`);
    this.group(`clip-path="url(#${id})"`);
  }
}

/** Pictures with their charts, one below the other. */
export function svg(pictures, title, note) {
  const [ink, paper] = [css("--ink"), css("--paper")];
  const writer = new Writer();
  const write = (text, x, y, size = 12, textAlign = "left") => (Object.assign(writer, { fillStyle: ink, textAlign, font: `${size}px` }), writer.fillText(text, x, y));
  let top = 6;
  for (const line of wrapped(title, WIDTH - 32, 16)) write(line, 16, (top += 20), 16);
  for (const line of wrapped(note, WIDTH - 32, 11)) write(line, 16, (top += 15), 11);
  top += 12;
  for (const picture of pictures) top = written(writer, write, picture, top);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${top}" font-family="system-ui, sans-serif"><rect width="100%" height="100%" fill="${paper}"/>${writer.parts.join("")}</svg>`;
}

/** One picture from `top` on: charts, colours, legend. Returns where it ends. */
function written(writer, write, { charts, shown: { bar, barLabel, legend } }, top) {
  for (const { spec, height, zoomed } of charts) {
    if (spec.subtitle) write(fitted(spec.subtitle, WIDTH - 32), 16, (top += 16));
    writer.save();
    writer.translate(16, top + 4);
    // an image is not stretched; lines have all of their points
    paint(writer, frameOf(spec, zoomed(), Math.min(WIDTH - 32, spec.aspect ? height * spec.aspect : Infinity), height), 2, 100);
    writer.restore();
    top += height + 16;
  }
  if (bar) {
    const stops = Array.from({ length: 17 }, (_, i) => `<stop offset="${i / 16}" stop-color="rgb(${bar.at(i / 16)})"/>`).join("");
    const id = `g${writer.parts.length}`;
    writer.put("linearGradient", { id }, stops);
    writer.put("rect", { x: LEFT, y: top, width: 300, height: 12, fill: `url(#${id})` });
    for (const [v, text] of ticksOf(bar, [bar.low, bar.high], 300, true)) write(text, LEFT + 300 * bar.place(v), top + 25, 12, "center");
    write(fitted(barLabel, WIDTH - LEFT - 330), LEFT + 310, top + 11);
    top += 40;
  }
  const seen = legend.filter((line) => !line.hidden);
  const columns = seen.some(({ name }) => fitted(name, 215) !== name) ? 1 : 3;
  seen.forEach(({ name, color, dash }, i) => {
    const [x, y] = [LEFT + 250 * (i % columns), top + 16 * Math.floor(i / columns)];
    Object.assign(writer, { strokeStyle: color, lineWidth: 3, dash: dash ?? [], path: [`M${x},${y + 1}h18`] });
    writer.stroke();
    write(fitted(name, columns > 1 ? 215 : WIDTH - x - 40), x + 24, y + 5);
  });
  return top + 16 * Math.ceil(seen.length / columns) + 16;
}

/**
 * Every value with its step and its coordinates; in parts, for one text would be too long. A text that a spreadsheet
 * would take for a formula begins with an apostrophe, as OWASP recommends.
 */
export function csv(all) {
  const formula = /^[=+\-@\t\r\n＝＋－＠](?!Infinity$)/;
  const cell = (v) => {
    const unsafe = typeof v === "string" && formula.test(v);
    return unsafe || /[",\n\r]/.test(v) ? `"${unsafe ? "'" : ""}${String(v).replaceAll('"', '""')}"` : String(v);
  };
  const names = [...new Set(all.flatMap(({ meta }) => meta.dims.map((dim) => dim.name)))];
  const [error, complex] = [all.some((data) => data.error), all.some((data) => data.parts)];
  const header = complex ? ["real", "imaginary"] : ["value"];
  if (error) header.push(...(complex ? ["standard_error_real", "standard_error_imaginary"] : ["standard_error"]));
  const parts = [["run", "step", "unix_time", ...names, ...header].map(cell).join() + "\n"];
  for (const data of all) {
    const { size, meta: { dims } } = data;
    const places = Array.from({ length: size }, (_, k) => {
      const found = { __proto__: null };
      for (const dim of dims.slice().reverse()) {
        const all = dim.exact ?? entries(dim);
        found[dim.name] = cell(all[k % all.length]);
        k = Math.floor(k / all.length);
      }
      return names.map((name) => `${found[name] ?? ""},`).join("");
    });
    const columns = data.parts ?? data;
    const at = (numbers, i) => (!complex ? numbers?.[i] ?? "" : data.parts && numbers ? `${numbers[2 * i]},${numbers[2 * i + 1]}` : `${numbers?.[i] ?? ""},`);
    for (let row = 0; row < data.step.length; row++) {
      const start = `${cell(data.run)},${data.step[row]},${data.time[row]},`;
      let part = "";
      for (let i = row * size; i < (row + 1) * size; i++) part += `${start}${places[i - row * size]}${at(columns.value, i)}${error ? `,${at(columns.error, i)}` : ""}\n`;
      parts.push(part);
    }
  }
  return parts;
}

export function save(name, kind, content) {
  const url = URL.createObjectURL(new Blob([content].flat(), { type: kind }));
  create("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

export async function png(source) {
  const scale = Math.min(2, 32000 / source.match(/height="([\d.]+)/)[1]);
  if (scale < 0.5) throw new Error("No PNG can be as large. SVG and CSV have all of it.");
  const image = new Image();
  image.src = `data:image/svg+xml,${encodeURIComponent(source)}`;
  await image.decode();
  const canvas = create("canvas", { width: scale * image.width, height: scale * image.height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done));
}
