// Scales of axes, their ticks, and numbers as text.

export const linear = { name: "linear", fwd: (v) => v, bwd: (v) => v };

/** A logarithm; what is not above `floor` is put there. */
export const log = (floor) => ({
  name: "log",
  floor,
  fwd: (v) => Math.log10(v > floor ? v : floor),
  bwd: (v) => 10 ** v,
});

/** Linear up to `unit` on both sides of 0, a logarithm beyond. */
export const symlog = (unit) => ({
  name: "symlog",
  unit,
  fwd: (v) => Math.sign(v) * Math.log10(1 + Math.abs(v) / unit),
  bwd: (v) => Math.sign(v) * unit * (10 ** Math.abs(v) - 1),
});

const MOST = Number.MAX_VALUE;

const back = (places, scale) => places.map((v) => Math.min(Math.max(scale.bwd(v), -MOST), MOST));

/** An interval with a little more on both sides, never infinite. */
export function padded(low, high, scale = linear) {
  if (!(low <= high)) return [scale.bwd(scale.fwd(0)), scale.bwd(scale.fwd(0) + 1)];
  const [a, b] = [scale.fwd(low), scale.fwd(high)];
  const half = b / 2 - a / 2; // for the whole may be more than a number can be
  const size = Math.max(Math.abs(a), Math.abs(b));
  // what differs in its last bits alone is rounding, drawn as a constant
  const margin = half > 5e-13 * size ? 0.1 * half : (scale.name !== "log" && 0.05 * size) || 0.5;
  return back([a - margin, b + margin], scale);
}

/** The last of increasing places that is not above a value; -1 where there is none. */
export function lastTo(places, v) {
  let [a, b] = [-1, places.length - 1];
  while (a < b) {
    const middle = (a + b + 1) >> 1;
    if (places[middle] <= v) a = middle;
    else b = middle - 1;
  }
  return a;
}

/** Which of increasing places is nearest to a value on a scale. */
export function nearest(places, v, scale = linear) {
  const a = Math.max(0, lastTo(places, v));
  const b = Math.min(a + 1, places.length - 1);
  const distance = (i) => Math.abs(scale.fwd(places[i]) - scale.fwd(v));
  return distance(b) < distance(a) ? b : a;
}

/** The scale of the steps: a logarithm where they are spaced so, or as chosen. */
export function stepsScale(steps, choice = "auto") {
  const positive = steps.filter((v) => v > 0);
  if (!positive.length || choice === "linear") return linear;
  const [first, last] = [positive[0], positive.at(-1)];
  const spaced = positive.length > 6 && last > 30 * first && positive[positive.length >> 1] < last / 3;
  return choice === "log" || spaced ? symlog(first) : linear;
}

/** Least and greatest finite value, the least positive one, and how many are not finite. */
export function extent(values) {
  const found = { low: Infinity, high: -Infinity, positive: Infinity, nan: 0, infinite: 0, zero: 0, count: values.length };
  for (const v of values) {
    if (v !== v) found.nan++;
    else if (!Number.isFinite(v)) found.infinite++;
    else {
      if (v < found.low) found.low = v;
      if (v > found.high) found.high = v;
      if (v > 0 && v < found.positive) found.positive = v;
      if (v === 0) found.zero++;
    }
  }
  return found;
}

/** The scale of values: a logarithm where positive ones span two decades, or as chosen. */
export function valuesScale({ low, high, positive, zero, count }, choice = "auto") {
  if (!(positive < Infinity) || choice === "linear") return linear;
  const spans = low >= 0 && high >= 100 * positive && zero <= 0.1 * count;
  if (choice !== "log" && !spans) return linear;
  return low < 0 ? symlog(Math.max(positive, high * 1e-6, low * -1e-6)) : log(Math.max(positive / 1000, Number.MIN_VALUE));
}

export function ticks(scale, low, high, count = 6) {
  if (scale.name === "linear") return steps125(low, high, count);
  const smallest = scale.name === "log" ? Math.max(low, scale.floor) : Math.max(low, scale.unit);
  const [first, last] = [Math.ceil(Math.log10(smallest) - 1e-9), Math.floor(Math.log10(Math.max(Math.abs(low), Math.abs(high))) + 1e-9)];
  const stride = Math.max(1, Math.ceil((last - first + 1) / count));
  let found = [];
  for (let power = first; power <= last; power += stride) found.push(10 ** power);
  if (found.length < 3) found = [...found, ...found.flatMap((v) => [2 * v, 5 * v]), ...[0.2, 0.5].map((v) => v * 10 ** first)];
  if (scale.name === "symlog") found = [...found, 0, ...found.map((v) => -v)];
  found = found.filter((v) => Math.abs(v) <= MOST && v >= low * (1 - 1e-9) && v <= high * (1 + 1e-9) + 1e-300).sort((a, b) => a - b);
  return found.length > 1 ? found : steps125(low, high, count);
}

function steps125(low, high, count) {
  const rough = high / count - low / count;
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((v) => v * power).find((v) => v >= rough * 0.999);
  if (!(step > 0)) return [low];
  const [first, found] = [Math.ceil(low / step - 1e-9), new Set()];
  const digits = Math.min(17, Math.max(12, 2 + Math.ceil(Math.log10(Math.max(Math.abs(low), Math.abs(high)) / step))));
  for (let k = 0; k <= 2 * count + 2; k++) {
    // counted: `first + k` may be `first` again where numbers are that close
    const v = Number(((first + k) * step).toPrecision(digits));
    if (v <= high + step * 1e-9) found.add(v);
  }
  return found.size > 1 || count > 20 ? [...found] : steps125(low, high, 2 * count);
}

/** Numbers as text, with as many digits as tell them apart. */
export function labels(places, least = 3) {
  const order = places.filter(Number.isFinite).sort((a, b) => a - b);
  const gap = extent(order.slice(1).map((v, i) => v - order[i])).positive;
  const most = extent(order.map(Math.abs)).high;
  const digits = 1 + Math.ceil(Math.log10(most / gap) - 1e-9);
  const exact = places.every(Number.isInteger) && most < 1e15 && digits > 4;
  return places.map((v) => (exact ? count(v) : number(v, Math.min(15, Math.max(least, digits)))));
}

/** How many digits tell values of an interval apart, as an axis does. */
export const digitsOf = (low, high) => Math.min(15, Math.max(4, 3 + Math.ceil(Math.log10(Math.max(Math.abs(low), Math.abs(high)) / (high - low || Infinity)))));

/** A whole number, such as a step, with all of its digits. */
export const count = (v) => (Number.isInteger(v) && Math.abs(v) < 1e15 ? v.toLocaleString("en").replace("-", "−") : number(v));

export const phrase = (words, between = " · ") => words.filter(Boolean).join(between);

const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";

export function number(v, digits = 4) {
  if ((v ?? null) === null) return "";
  if (!Number.isFinite(v)) return v > 0 ? "∞" : v < 0 ? "−∞" : "not a number";
  const size = Math.abs(v);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) {
    const [mantissa, power] = v.toExponential(digits - 1).split("e");
    const raised = [...String(Math.abs(Number(power)))].map((digit) => RAISED[digit]).join("");
    return `${Number(mantissa)}·10${power < 0 ? "⁻" : ""}${raised}`.replace(/^(-?)1·/, "$1").replace("-", "−");
  }
  return Number(v.toPrecision(Math.max(digits, Number.isInteger(v) ? 7 : 0))).toLocaleString("en", { maximumFractionDigits: 15 }).replace("-", "−");
}

/** The borders of cells around increasing centres, as a scale shows them. */
export function edges(centres, scale = linear) {
  const places = Array.from(centres, scale.fwd);
  const n = places.length;
  const out = new Float64Array(n + 1);
  for (let i = 1; i < n; i++) out[i] = places[i - 1] / 2 + places[i] / 2;
  out[0] = n > 1 ? 2 * places[0] - out[1] : places[0] - 0.5;
  out[n] = n > 1 ? 2 * places[n - 1] - out[n - 1] : places[0] + 0.5;
  return back(out, scale);
}
