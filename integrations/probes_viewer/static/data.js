// Where numbers come from: a server, or the page itself. Both give the same bytes.

/** The rows of a stream; see contents.py for the layout of the bytes. */
export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const found = { rows: header.rows };
  let place = 4 + length;
  for (const [name, kind, shape] of header.arrays) {
    const size = shape.reduce((a, b) => a * b, 1);
    const Numbers = kind === "f4" ? Float32Array : Float64Array;
    found[name] = new Numbers(buffer, place, size);
    place += Math.ceil((size * Numbers.BYTES_PER_ELEMENT) / 8) * 8;
  }
  return found;
}

/** A stream with its entry in the catalogue, in the order of its steps; complex numbers as magnitudes and parts. */
export function dataset(run, meta, raw) {
  const rows = raw.step.length;
  const size = meta.dims.reduce((product, dim) => product * (dim.labels ?? dim.values).length, 1);
  let { value } = raw;
  let error = raw.standard_error ?? null;
  const parts = meta.complex ? { value, error } : null;
  if (meta.complex) {
    const half = (numbers) => Float64Array.from({ length: rows * size }, (_, i) => Math.hypot(numbers[2 * i], numbers[2 * i + 1]));
    [value, error] = [half(value), error && half(error)];
  }
  return inOrder({ run, meta, step: raw.step, time: raw.wall_time, value, error, parts, size, sent: rows, total: raw.rows }, raw.step);
}

/** A stream with these of its rows, in this order. */
export function taken(data, rows) {
  const pick = (numbers, width) => {
    if (!numbers) return numbers;
    const out = new numbers.constructor(rows.length * width);
    rows.forEach((from, to) => out.set(numbers.subarray(from * width, (from + 1) * width), to * width));
    return out;
  };
  const { size } = data;
  const parts = data.parts && { value: pick(data.parts.value, 2 * size), error: pick(data.parts.error, 2 * size) };
  return { ...data, parts, step: pick(data.step, 1), time: pick(data.time, 1), value: pick(data.value, size), error: pick(data.error, size) };
}

/** A stream with its rows in the order of steps or times; after a resume these differ. */
export function inOrder(data, places) {
  if (!places.some((each, i) => i && each < places[i - 1])) return data;
  return taken(data, [...places.keys()].sort((a, b) => places[a] - places[b] || a - b));
}

/** Behind a server: `base` is where its routes begin. */
export class Served {
  constructor(base, token) {
    Object.assign(this, { base, token, live: true, kept: new Map() });
  }

  async ask(route, parameters = {}) {
    const query = new URLSearchParams({ ...parameters, ...(this.token ? { token: this.token } : {}) });
    const answer = await fetch(`${this.base}${route}?${query}`);
    // what is wrong comes as text
    if (!answer.ok || answer.headers.get("content-type")?.startsWith("text")) throw new Error((await answer.text()).slice(0, 500) || answer.statusText);
    return answer;
  }

  runs = async () => (await this.ask("runs")).json();
  findings = async (run) => (await this.ask("findings", { run })).json();

  /** What a run holds. What was read of one that was begun anew since, or cut, is forgotten. */
  async catalogue(run) {
    const found = await (await this.ask("catalogue", { run })).json();
    if (this.kept.get(run)?.origin !== found.origin) this.kept.set(run, { origin: found.origin, streams: new Map() });
    return found;
  }

  /** All rows; only those that are new are sent. */
  async stream(run, meta) {
    const { streams } = this.kept.get(run);
    const known = streams.get(meta.name);
    if (known?.rows === meta.rows) return known;
    const after = known?.rows < meta.rows ? known.rows : 0;
    const fresh = decode(await (await this.ask("stream", { run, name: meta.name, after })).arrayBuffer());
    const all = after ? joined(known, fresh) : fresh;
    streams.set(meta.name, all);
    return all;
  }
}

function joined(first, second) {
  const all = { ...second };
  for (const name of ["step", "wall_time", "value", "standard_error"]) {
    if (!second[name]) continue;
    all[name] = new second[name].constructor(first[name].length + second[name].length);
    all[name].set(first[name]);
    all[name].set(second[name], first[name].length);
  }
  return all;
}

/** In the page: base64 of deflated bytes, by run and stream. */
export class Embedded {
  constructor(document) {
    Object.assign(this, { document, first: document.stream || null, streams: new Map() });
  }

  find(run) {
    const found = this.document.runs.find((each) => each.name === run);
    if (!found) throw new Error(`There is no run '${run}'.`);
    return found;
  }

  runs = async () => this.document.runs.map(({ summary }) => summary);
  catalogue = async (run) => this.find(run).catalogue;
  async findings(run) {
    const { findings, unknown } = this.find(run);
    if (unknown) throw new Error(unknown);
    return findings;
  }

  async stream(run, meta) {
    const key = JSON.stringify([run, meta.name]);
    if (!this.streams.has(key)) {
      const bytes = Uint8Array.from(atob(this.find(run).streams[meta.name]), (letter) => letter.charCodeAt(0));
      const whole = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      this.streams.set(key, decode(await new Response(whole).arrayBuffer()));
    }
    return this.streams.get(key);
  }
}
