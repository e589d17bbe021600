// Colours of values and of lines; all can be told apart by colour-blind readers.

import { extent, linear, log, symlog } from "./scales.js";

const anchors = (hex) => hex.match(/.{6}/g).map((each) => [0, 2, 4].map((i) => parseInt(each.slice(i, i + 2), 16)));

// viridis, and red to blue through white (Brewer), at 17 places.
const VIRIDIS = anchors("44015448186a472d7b4240863b528b33638d2c728e26828e21918c1fa08828ae803fbc735ec96284d44baddc30d8e219fde725");
const DIVERGING = anchors("0530611752902a71b23f8ec06bacd19bc9e0c2ddece0ecf3f7f6f6fbe5d8fbccb4f5aa89e48066d05548ba2832930e2667001f");

/** Okabe and Ito's categories, without black, no lighter than lines on white may be. */
const CATEGORIES = ["#0072b2", "#d55e00", "#009e73", "#c26e9c", "#bb8200", "#3c96cc", "#8c6d31"];

export const NAN = [150, 150, 150];
export const INFINITE = [214, 0, 147];

function between(table, t) {
  const place = t * (table.length - 1);
  const i = Math.min(Math.floor(place), table.length - 2);
  return table[i].map((v, k) => Math.round(v + (table[i + 1][k] - v) * (place - i)));
}

export const dark = matchMedia("(prefers-color-scheme: dark)");

/** Where a line is from first (0) to last (1), in colours that can be told from the paper. */
export const sequential = (t) => `rgb(${between(VIRIDIS, dark.matches ? 0.4 + 0.6 * t : 0.6 * t)})`;

/** Colours of `count` lines: categories of a few, the order as dark to light of many. */
export function lineColors(count) {
  if (count <= CATEGORIES.length) return CATEGORIES.slice(0, count);
  return Array.from({ length: count }, (_, i) => sequential(i / (count - 1)));
}

/**
 * How numbers become colours: white is 0 where signs differ or may, a logarithm where values span decades.
 * `place` maps a value to 0..1, `at` that to red, green and blue; so many `below` have the colour of `low`.
 */
export function norm(values, choice = "auto", signed) {
  const found = extent(values);
  let { low, high } = found;
  if (!(low <= high)) [low, high] = [0, 1];
  const stride = Math.max(1, Math.floor(values.length / 20000));
  const sample = values.filter((v, i) => i % stride === 0 && Number.isFinite(v) && v !== 0).map(Math.abs).sort();
  const quantile = (q) => sample[Math.floor(q * (sample.length - 1))] ?? 0;
  let [scale, table, below] = [linear, VIRIDIS, 0];
  if (signed || (low < -1e-6 * Math.abs(high) && high > 0)) {
    // less than that is rounding, of what cannot be negative
    high = Math.max(-low, high) || 1;
    low = -high;
    table = DIVERGING;
    if (choice === "log" || (choice === "auto" && high > 100 * (quantile(0.5) || high))) scale = symlog(Math.max(quantile(0.5) || high / 100, high * 1e-100));
  } else if (choice === "log" || (choice === "auto" && high > 30 * quantile(0.1) && quantile(0.1) > 0)) {
    if (found.positive < high) {
      low = Math.max(found.positive, high * 1e-6);
      scale = log(low);
      for (const v of values) if (v < low * (1 - 1e-9) && v > -Infinity) below++;
    }
  }
  if (high <= low) low > 1e300 ? (low /= 2) : (high = low + (Math.abs(low) || 1));
  const [start, end] = [scale.fwd(low) / 2, scale.fwd(high) / 2];
  const lookup = Array.from({ length: 1024 }, (_, i) => between(table, i / 1023));
  const place = (v) => (scale.fwd(v) / 2 - start) / (end - start);
  return {
    low, high, scale, place, below,
    at: (t) => lookup[Math.min(1023, Math.max(0, Math.round(t * 1023)))],
  };
}
