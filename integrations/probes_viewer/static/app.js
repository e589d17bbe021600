// The page: runs, streams, findings, one stream large. Its state is in the address: links restore it.

import { Chart, colorBar } from "./chart.js";
import { dark } from "./colors.js";
import { dataset } from "./data.js";
import { create, withKey } from "./dom.js";
import { csv, png, save, svg } from "./export.js";
import { alike, difference, picture, placeOf, viewOf } from "./pictures.js";
import { count, number, phrase } from "./scales.js";

const KEYS = [
  ["/", "search streams"], ["j, k", "next and previous stream"], ["o", "overview"], ["v", "next picture"],
  ["l, s", "values, steps: linear, logarithmic, automatic"], ["d", "difference of two runs"],
  ["arrows", "cursor of the chart in focus: along values, from line to line"], ["+, −", "zoom at the cursor"], ["Esc", "undo the zoom"], ["?", "these keys"],
];
const CHOICES = ["auto", "linear", "log"];
const MOST_SMOOTH = 0.98;
const LOOK_AGAIN = 30_000; // ms
const p = (kind, ...words) => create("p", kind, ...words);
const family = (name) => name.split("/")[0];
const input = (type, label, more) => create("input", { type, "aria-label": label, placeholder: label, ...more });
const button = (textContent, onclick, more = {}) => create("button", { type: "button", textContent, onclick, ...more });

const older = (words, shown) => `${words.replace(/\.$/, "")}.${shown ? " What is shown is older." : ""}`;
const hiding = (stream, { group }) => `${stream} ${group}`;
const linesOf = ({ charts: [{ lines, ways }] }) => lines ?? ways ?? [];
const folded = (textContent, child) => create("details", {}, create("summary", "", textContent), child);
const reached = (body) => [...body.querySelectorAll("input, button, .plot")];
const row = (...cells) => create("tr", {}, ...cells.map((cell, i) => create(i ? "td" : "th", "", cell ?? "")));

const dashed = ({ color, dash = [] }) =>
  `url("data:image/svg+xml,${encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 1h24" stroke="${color}" stroke-width="4" stroke-dasharray="${dash}"/></svg>`)}")`;

export class App {
  constructor(root, source) {
    Object.assign(this, { root, source, catalogues: new Map(), found: new Map(), figures: new Set(), kept: new Map(), sought: "", listed: false, searched: "", shared: { charts: new Set() } });
    this.shared.onZoom = (share, range) => {
      this.shared.zoom.set(share, range);
      for (const chart of this.shared.charts) if (chart.share === share) chart.draw();
      this.remember();
    };
  }

  async start() {
    this.restore();
    addEventListener("hashchange", () => (this.restore(), this.refresh().then(() => this.render())));
    addEventListener("keydown", (event) => this.onKey(event));
    addEventListener("beforeprint", () => this.figures.forEach((figure) => this.later(figure))); // browsers do not wait
    dark.addEventListener("change", () => (this.drawAll(), matchMedia("print").matches || this.dark === dark.matches || this.render()));
    this.onPixels();
    await this.refresh();
    this.render();
    if (this.source.live)
      setInterval(async () => {
        if (document.hidden || this.updating) return;
        this.updating = true;
        await this.update().finally(() => (this.updating = false));
      }, 2000);
  }

  onPixels() {
    matchMedia(`(resolution: ${devicePixelRatio}dppx)`).addEventListener("change", () => (this.drawAll(), this.onPixels()), { once: true });
  }

  drawAll = () => this.shared.charts.forEach((chart) => chart.draw());

  restore() {
    const query = new URLSearchParams(location.hash.slice(1));
    const choice = (key) => (CHOICES.includes(query.get(key)) ? query.get(key) : "auto");
    this.state = {
      runs: [...new Set(query.getAll("run"))], stream: query.get("stream") ?? (location.hash ? null : this.source.first), view: query.get("view"),
      steps: choice("steps"), values: choice("values"), smooth: Math.min(Math.max(Number(query.get("smooth")) || 0, 0), MOST_SMOOTH),
      time: query.get("time") === "1", difference: query.get("difference") === "1",
      chosen: Object.fromEntries([...query].filter(([key, value]) => key.startsWith("at.") && /^\d+$/.test(value)).map(([key, value]) => [key.slice(3), Number(value)])),
    };
    this.hidden = new Set(query.getAll("hide"));
    this.shared.zoom = new Map();
    for (const [key, value] of query) {
      const zoom = value.split(",").map(Number);
      if (key.startsWith("zoom") && zoom.length === 2 && zoom[0] < zoom[1] && zoom.every(Number.isFinite)) this.shared.zoom.set(key.slice(5) || (this.state.time ? "time" : "step"), zoom);
    }
  }

  /** What is seen, or would be after a change, as a part of the address. */
  address(change) {
    const { runs, chosen, ...kept } = { ...this.state, ...change };
    const query = new URLSearchParams();
    for (const run of runs) query.append("run", run);
    for (const line of this.hidden) query.append("hide", line);
    for (const [share, range] of this.shared.zoom) if (range) query.set(/^(step|time)$/.test(share) ? "zoom" : `zoom.${share}`, range.map((v) => Number(v.toPrecision(12))));
    for (const [key, value] of Object.entries(kept)) if (value && value !== "auto") query.set(key, value === true ? 1 : value);
    for (const [key, value] of Object.entries(chosen)) query.set(`at.${key}`, value);
    return `#${query}`;
  }

  remember(how = "replace") {
    try {
      history[`${how}State`](null, "", this.address());
    } catch {} // a frame in a notebook has none
  }

  set(change) {
    Object.assign(this.state, change);
    this.remember("stream" in change ? "push" : "replace");
    this.render();
  }

  /** Other axes have another zoom. */
  toggle(key) {
    this.shared.zoom.clear();
    this.set({ [key]: !this.state[key] });
  }

  async refresh() {
    try {
      this.runs = await this.source.runs();
      this.problem = null;
    } catch (error) {
      this.problem = older(`No answer: ${error.message}`, this.runs?.length);
      this.runs ??= [];
      return;
    }
    if (!this.state.runs.length) this.state.runs = (this.source.live ? [this.runs.find((run) => run.rows) ?? this.runs[0]] : this.runs).flatMap((run) => run?.name ?? []);
    await Promise.all(
      this.state.runs.map(async (name) => {
        try {
          this.catalogues.set(name, await this.source.catalogue(name));
        } catch (error) {
          const known = this.told(name);
          if (known && !known.problem) this.problem = older(`${name}: ${error.message}`, true);
          else this.catalogues.set(name, { name, streams: [], events: [], costs: { rows: [] }, notes: [], problem: error.message });
        }
      }),
    );
  }

  /** While training writes: figures whose streams have grown are drawn again. */
  async update() {
    const names = () => String(this.streams().map(({ name }) => name));
    const [before, listed] = [names(), JSON.stringify(this.runs)];
    await this.refresh();
    await this.released();
    this.banner.textContent = this.problem ?? "";
    if (before !== names() || (listed === "[]" && this.runs.length)) return this.render();
    if (listed !== JSON.stringify(this.runs)) this.keepingPlace(() => this.find("header").replaceWith(this.header()));
    for (const [run, note] of this.notes) note.textContent = this.noteOf(run);
    for (const [run, look] of this.looks) if (look.written !== this.told(run).rows && Date.now() - look.at > LOOK_AGAIN) this.stands(run);
    for (const figure of this.figures) if (figure.drawn && figure.rows !== this.rowsOf(figure.name)) this.draw(figure);
  }

  find = (what) => this.root.querySelector(what);
  told = (run) => this.catalogues.get(run);
  metas = (name) => this.state.runs.map((run) => [run, this.told(run)?.streams.find((meta) => meta.name === name)]).filter(([, meta]) => meta);
  metaOf = (name) => this.metas(name)[0]?.[1];
  rowsOf = (name) => JSON.stringify(this.metas(name).map(([run, meta]) => [meta.rows, this.told(run).origin]));

  inRun = (words, run) => (this.state.runs[1] ? `${words} in ${run}` : words);

  noteOf(run) {
    return phrase([...this.told(run).notes, this.runs.find(({ name }) => name === run)?.state]);
  }

  streams() {
    const all = new Map();
    for (const run of this.state.runs) for (const meta of this.told(run)?.streams ?? []) if (!all.has(meta.name)) all.set(meta.name, meta);
    return [...all.values()].sort((a, b) => a.name.startsWith("probes/") - b.name.startsWith("probes/") || (a.name < b.name ? -1 : 1));
  }

  render() {
    if (!this.runs.length || this.state.runs.every((run) => this.catalogues.has(run))) this.keepingPlace(() => this.redraw());
  }

  /** Draw anew, with the same in focus. */
  keepingPlace(draw) {
    const lists = () => [...this.root.querySelectorAll(".menu, nav")];
    const [focus, tops] = [document.activeElement, lists().map((list) => list.scrollTop)];
    const [label, inList] = [focus?.getAttribute("aria-label"), focus?.closest("nav")];
    draw();
    lists().forEach((list, i) => (list.scrollTop = tops[i]));
    if (focus?.isConnected) return;
    const again = label ? this.find(`[aria-label="${CSS.escape(label)}"]`) : inList && this.find("nav [aria-current]");
    again?.focus({ preventScroll: true });
  }

  /** Wait until nothing is pressed or dragged, half a minute at most. */
  async released() {
    const held = () => this.find(":active") || [...this.shared.charts].some(({ drag }) => drag);
    for (let i = 0; i < 300 && held(); i++) await new Promise((done) => setTimeout(done, 100));
  }

  /** Take the charts away, and keep where the reader was. */
  clear({ name, body, charts }) {
    if (charts.length) this.kept.set(name, { focus: reached(body).indexOf(document.activeElement), charts: charts.splice(0) });
    this.kept.get(name)?.charts.forEach((chart) => chart.destroy());
  }

  redraw() {
    for (const figure of this.figures) this.clear(figure);
    this.figures.clear();
    this.dark = dark.matches;
    [this.notes, this.looks] = [new Map(), new Map()];
    this.observer?.disconnect();
    this.observer = new IntersectionObserver((seen) => seen.forEach(({ isIntersecting, target }) => isIntersecting && this.later(target.figure)), { rootMargin: "300px" });
    const main = create("main", { id: "main" });
    this.root.replaceChildren(this.header(), create("div", "columns", this.nav(), main));
    main.append((this.banner = p("alarm", this.problem)));
    if (!this.runs.length)
      main.append(p("empty", this.problem ? "" : "There is no run here yet. One appears with its first measurements."));
    else if (this.state.stream) this.large(main);
    else this.overview(main);
    document.title = phrase([this.state.stream, this.state.runs.join(", "), "probes"]);
  }

  header() {
    const chosen = new Set(this.state.runs);
    const pick = (name, checked) => {
      const others = this.state.runs.filter((each) => each !== name);
      if (checked || others.length) this.state.runs = checked ? [...others, name] : others;
      this.refresh().then(() => this.set({}));
    };
    const row = (run) =>
      create("label", { className: "run", title: run.problem || "" },
        input("checkbox", run.name, { checked: chosen.has(run.name), onchange: (event) => pick(run.name, event.target.checked) }),
        create("span", "", run.name),
        create("small", "", run.problem ? `unreadable: ${run.problem}` : phrase([run.model, run.steps && `${count(run.steps)} step${run.steps > 1 ? "s" : ""}`, run.state], ", ")));
    const gone = this.state.runs.filter((name) => !this.runs.some((run) => run.name === name));
    const list = create("div", {}, ...gone.map((name) => row({ name, problem: "it is not here" })), ...this.runs.map(row));
    const sift = () => [...list.children].forEach((each) => (each.hidden = !each.querySelector("span").textContent.toLowerCase().includes(this.sought.toLowerCase())));
    const filter = input("text", "find a run", { value: this.sought, oninput: () => ((this.sought = filter.value), sift()) });
    sift();
    return create("header", {},
      create("strong", "", "probes"),
      create("details", { className: "runs", open: this.listed, ontoggle: (event) => (this.listed = event.target.open) }, create("summary", "", `${this.runs[1] ? `${this.state.runs.length} of ${this.runs.length} runs:  ` : ""}${this.state.runs.join("  +  ") || "no run"}`), create("div", "menu", this.runs.length > 8 && filter, list)),
      create("span", "space"),
      button("Overview", () => this.set({ stream: null }), { disabled: !this.state.stream }),
      button("Keys", () => this.help(), { "aria-label": "keyboard shortcuts" }));
  }

  nav() {
    const nav = create("nav", { "aria-label": "streams" });
    const list = create("div");
    const fill = (words) => {
      this.searched = words;
      list.replaceChildren();
      let last = null;
      const parts = words.toLowerCase().split(/\s+/);
      for (const meta of this.streams()) {
        if (!parts.every((part) => `${meta.name} ${meta.title}`.toLowerCase().includes(part)) || (!words && meta.name.startsWith("probes/"))) continue;
        if (family(meta.name) !== last) list.append(create("h2", "", (last = family(meta.name))));
        list.append(this.link(meta.name.slice(last.length + 1) || meta.name, meta.name, { title: meta.title, "aria-current": meta.name === this.state.stream ? "page" : null }));
      }
      if (!list.children.length) list.append(p("note", words ? "No stream fits." : "No stream yet."));
    };
    const find = input("search", "search streams", { value: this.searched, oninput: (event) => fill(event.target.value),
      onkeydown: (event) => event.key === "Enter" && list.querySelector("a")?.click() });
    nav.append(find, list);
    fill(this.searched);
    return nav;
  }

  link(textContent, stream, more) {
    const onclick = (event) => withKey(event) || event.shiftKey || (event.preventDefault(), this.open(stream));
    return create("a", { href: this.address({ stream, view: null, chosen: {} }), textContent, onclick, ...more });
  }

  open(stream) {
    this.set({ stream, view: null, chosen: {} });
    scrollTo(0, this.find("main").offsetTop - 50); // not around a frame
    const [list, item] = ["nav", "nav [aria-current]"].map(this.find);
    if (item) list.scrollTop = Math.min(Math.max(list.scrollTop, item.offsetTop + 60 - list.clientHeight), item.offsetTop - 60);
  }

  closeList = () => (this.find(".runs").open = this.listed = false);

  overview(main) {
    const [names, { runs }] = [new Set(this.streams().map((meta) => meta.name)), this.state];
    for (const run of runs) {
      const catalogue = this.told(run);
      main.append(create("h1", "", phrase([run, catalogue.model])));
      if (catalogue.problem) main.append(p("alarm", `This run cannot be read: ${catalogue.problem}`));
      else {
        this.notes.set(run, p("note", this.noteOf(run)));
        main.append(this.notes.get(run));
      }
      if (catalogue.empty) main.append(p("empty", catalogue.empty));
    }
    const shown = new Set(["loop/loss"]);
    if (names.has("loop/loss")) main.append(this.figure("loop/loss"));
    for (const run of runs) {
      const body = create("div");
      main.append(create("section", {}, create("h2", "", this.inRun("What stands out", run)), body));
      this.looks.set(run, { body, names, shown });
      this.stands(run);
    }
    for (const run of runs) main.append(this.costs(run));
    for (const [group, members] of Map.groupBy([...names].filter((name) => !name.startsWith("probes/")), family))
      main.append(create("section", {}, create("h2", "", group), create("div", "grid", ...members.map((name) => this.figure(name, true)))));
    for (const run of runs) main.append(this.about(run));
  }

  async stands(run) {
    const look = this.looks.get(run);
    const { body: section, names, shown } = look;
    const wait = p("note", "…");
    Object.assign(look, { at: Date.now(), written: this.told(run).rows });
    if (!section.children.length) section.append(wait);
    let found;
    try {
      found = await this.source.findings(run);
      wait.textContent = found.length ? "" : this.told(run).silence;
    } catch (error) {
      return void (wait.textContent = `Not known: ${error.message}`);
    }
    const grid = section.querySelector(".grid") ?? create("div", "grid");
    section.replaceChildren(wait, create("ul", "findings", ...found.map((each) =>
      create("li", { className: each.alarm ? "alarm" : "" }, create("span", "", each.text), each.stream ? this.link(each.where, each.stream) : each.where, each.advice))), grid);
    for (const { stream } of found)
      if (names.has(stream) && !shown.has(stream)) {
        shown.add(stream);
        grid.append(this.figure(stream, true));
      }
  }

  costs(run) {
    const { rows, words } = this.told(run).costs;
    if (!rows.length) return "";
    return create("section", {}, create("h2", "", this.inRun("What the probes cost", run)),
      p("note", words),
      create("table", {}, create("thead", {}, row("", "turns", "skipped", "failed", "seconds")),
        create("tbody", {}, ...rows.map(([name, ...numbers]) => row(name, ...numbers.map((v) => number(v, 3)))))));
  }

  about(run) {
    const { settings = {}, versions = {}, about = {}, events } = this.told(run);
    const table = (values) => create("table", {}, ...Object.entries(values).map((each) => row(...each)));
    return create("section", "about",
      folded(`Events of ${run} (${events.length})`,
        create("table", {}, ...events.map((event) => row(`step ${count(event.step)}`, new Date(1000 * event.wall_time).toLocaleString(), phrase([event.kind, event.plugin], " "), event.message)))),
      folded("Settings", table(settings)),
      folded("Versions", table({ ...about, ...versions })));
  }

  large(main) {
    const { state } = this;
    const meta = this.metaOf(state.stream);
    for (const { name, problem } of state.runs.map((run) => this.told(run))) if (problem) main.append(p("alarm", `${name} cannot be read: ${problem}`));
    if (!meta) return main.append(p("empty", `No run that is chosen has a stream ${state.stream}.`));
    const view = viewOf(meta, state.view);
    const select = (label, value, items, key) =>
      create("label", {}, label, " ", create("select", { "aria-label": label, onchange: (event) => this.set({ [key]: event.target.value }) }, ...items.map((item) => create("option", { value: item, textContent: item === "auto" ? "automatic" : item, selected: item === value }))));
    const check = (label, key) => create("label", {}, input("checkbox", label, { checked: state[key], onchange: () => this.toggle(key) }), ` ${label}`);
    const slide = input("range", "smoothing", { min: 0, max: MOST_SMOOTH, step: 0.02, value: state.smooth, onchange: (event) => this.set({ smooth: Number(event.target.value) }) });
    const figure = this.figure(state.stream);
    const write = async (kind) => {
      const { data, pictures, caption } = figure.figure;
      if (!pictures) return; // there is no picture to keep
      const name = `${state.runs.join("+")}.${state.stream}`.replace(/[^\p{L}\p{N}_.+-]+/gu, ".").slice(-150);
      if (kind === "csv") return save(`${name}.csv`, "text/csv", csv(data));
      const source = svg(pictures, meta.title, phrase([caption.textContent, state.runs.join(", ")]));
      save(`${name}.${kind}`, kind === "svg" ? "image/svg+xml" : "image/png", kind === "svg" ? source : await png(source));
    };
    main.append(
      create("div", "controls",
        meta.views.length > 1 && select("picture", view, meta.views, "view"),
        /lines|heat|fan/.test(view) && !state.time && select("steps", state.steps, CHOICES, "steps"),
        view !== "plane" && select("values", state.values, CHOICES, "values"), check("time", "time"),
        view === "lines" && create("label", {}, "smoothing ", slide),
        state.runs[1] && check(`${state.runs[0]} − ${state.runs[1]}`, "difference"),
        create("span", "exports", ...["png", "svg", "csv"].map((kind) => button(kind.toUpperCase(), () => write(kind).catch(({ message }) => (this.banner.textContent = message)))))),
      figure,
      p("note", meta.made));
  }

  /** A stream with its title, drawn when it comes into sight. */
  figure(name, small = false) {
    const meta = this.metaOf(name);
    const words = meta?.title ?? name;
    const title = create(small ? "h3" : "h2", {}, small ? this.link(words, name) : words);
    const body = create("div", "body");
    const caption = create("figcaption");
    const element = create("figure", { className: small ? "small" : "", "aria-label": words, "data-stream": name }, title, body, caption);
    element.figure = { name, small, body, caption, charts: [] };
    this.figures.add(element.figure);
    this.observer.observe(element);
    return element;
  }

  later(figure) {
    if (figure.drawn) return;
    figure.drawn = true;
    this.queue = (this.queue ?? Promise.resolve()).then(() => this.figures.has(figure) && this.draw(figure));
  }

  async draw(figure) {
    const { name, small, body, caption } = figure;
    figure.rows = this.rowsOf(name);
    const { state } = this;
    try {
      let found = await Promise.all(this.metas(name).map(async ([run, meta]) => dataset(run, meta, await this.source.stream(run, meta))));
      if (figure.charts.length) await this.released();
      if (!this.figures.has(figure)) return;
      found = found.filter((data) => data.step.length);
      if (state.difference && !small && state.runs[1]) {
        const two = state.runs.slice(0, 2).map((run) => found.find((data) => data.run === run));
        const lacking = state.runs.find((run, i) => i < 2 && !two[i]);
        if (lacking !== undefined) throw new Error(`${lacking} ${this.told(lacking).problem ? "cannot be read" : "has no row of this stream"}: no difference.`);
        found = alike(two).why ? two : [difference(...two, state.view)];
      }
      if (!found.length) return body.replaceChildren(p("note", "No row yet."));
      const { groups, why } = alike(found);
      const shown = groups.map((group) => picture(group, { ...state, ...(small && { view: null, chosen: {}, small }) }));
      this.clear(figure);
      const boxes = groups.map(() => create("div"));
      body.replaceChildren(create("div", "beside", ...boxes));
      groups.forEach((group, i) => {
        if (why) for (const spec of shown[i].charts) if (group.length === 1 || !spec.subtitle) spec.subtitle = phrase([...group.map(({ run }) => run), spec.subtitle], ", ");
        this.part(figure, shown[i], boxes[i]);
      });
      const pictures = shown.map((each) => ({ shown: each, charts: figure.charts.filter(({ spec }) => each.charts.includes(spec.of)) }));
      Object.assign(figure, { data: found, shown: shown[0], pictures });
      caption.textContent = phrase([name, ...new Set(shown.map(({ note }) => note)), why]);
      const { focus, charts = [] } = this.kept.get(name) ?? {};
      this.kept.delete(name);
      charts.forEach((chart, i) => figure.charts[i]?.follow(chart));
      if (document.activeElement === document.body) reached(body)[focus]?.focus({ preventScroll: true });
    } catch (error) {
      this.clear(figure);
      Object.assign(figure, { data: null, shown: null, pictures: null });
      body.replaceChildren(p("alarm", `Not drawn: ${error.message}`));
      caption.textContent = name;
    }
  }

  /** Sliders, charts, colours and legend of runs with the same coordinates. */
  part(figure, shown, into) {
    const { name, small } = figure;
    for (const line of linesOf(shown)) line.hidden = shown.legend.length > 0 && this.hidden.has(hiding(name, line));
    const parts = create("div", { className: "charts", style: `--columns: ${small ? Math.min(shown.columns, 2) : shown.columns}` });
    const strip = create("div", "strip");
    const side = create("div", "side", shown.strip && strip, parts);
    into.append(...this.sliders(shown, small), create("div", "with-bar", side, shown.bar && colorBar(shown.bar, shown.barLabel, small ? 160 : 220)), this.legend(figure, shown));
    const place = (into, spec) => {
      const box = create("div", {}, spec.subtitle && create("h4", "", spec.subtitle));
      into.append(box);
      if (spec.aspect) box.style.maxWidth = `${Math.max(140, spec.aspect * (small ? 200 : spec.height))}px`;
      const chart = new Chart(box, { ...spec, title: shown.title, note: shown.note, of: spec, height: small ? Math.min(spec.height, 200) : spec.height }, this.shared);
      if (spec.chosen && !spec.large) box.addEventListener("click", () => this.choose(spec.chosen));
      figure.charts.push(chart);
    };
    if (!small || !shown.strip) shown.charts.forEach((spec) => place(parts, spec));
    shown.strip?.forEach((spec) => place(strip, spec));
  }

  choose = (change) => this.set({ chosen: { ...this.state.chosen, ...change } });

  sliders({ sliders }, small) {
    if (small) return [];
    return sliders.map(({ name, count, text, value, of = (i) => ({ [name]: i }) }) => {
      const now = value ?? placeOf(this.state.chosen, name, count);
      const label = create("output");
      const say = (place) => (slide.setAttribute("aria-valuetext", text(place)), (label.textContent = text(place)));
      const slide = input("range", name, { min: 0, max: count - 1, value: now, oninput: (event) => say(Number(event.target.value)), onchange: (event) => this.choose(of(Number(event.target.value))) });
      say(now);
      return create("label", "slider", slide, label);
    });
  }

  legend(figure, shown) {
    const { legend } = shown;
    const most = figure.small ? 8 : 40;
    const box = create("div", "legend");
    for (const line of legend.slice(0, most)) {
      const mark = () => item.setAttribute("aria-pressed", !line.hidden);
      const item = button("", () => {
        line.hidden = !line.hidden;
        this.hidden[line.hidden ? "add" : "delete"](hiding(figure.name, line));
        this.remember();
        mark();
        for (const each of linesOf(shown)) if (each.group === line.group) each.hidden = line.hidden;
        figure.charts.find(({ spec }) => spec.of === shown.charts[0]).draw();
      }, { className: "item" });
      item.append(create("i", { style: `background: ${dashed(line)}` }), line.name);
      box.append(item);
      mark();
    }
    if (legend.length > most) box.append(create("small", "", `and ${legend.length - most} more`));
    return box;
  }

  help() {
    const dialog = create("dialog", { onclose: () => dialog.remove() }, create("h2", "", "Keys"), create("table", {}, ...KEYS.map((key) => row(...key))), button("Close", () => dialog.close()));
    this.root.append(dialog);
    dialog.showModal();
  }

  onKey(event) {
    if (this.find("dialog[open]") || withKey(event) || event.target.matches("[type=text], [type=search], select")) return;
    const { state } = this;
    const shown = this.streams().filter((meta) => !meta.name.startsWith("probes/"));
    const move = (by) => shown.length && this.open(shown[Math.min(Math.max(shown.findIndex((meta) => meta.name === state.stream) + by, 0), shown.length - 1)].name);
    const next = (items, now) => items[(items.indexOf(now) + 1) % items.length];
    const acts = {
      "/": () => this.find("input[type=search]").focus(),
      j: () => move(1), k: () => move(-1), o: () => this.set({ stream: null }), "?": () => this.help(),
      l: () => this.set({ values: next(CHOICES, state.values) }), s: () => this.set({ steps: next(CHOICES, state.steps) }),
      d: () => this.toggle("difference"),
      v: () => {
        const meta = this.metaOf(state.stream);
        if (meta) this.set({ view: next(meta.views, viewOf(meta, state.view)) });
      },
      Escape: () => this.listed ? this.closeList() : [...this.shared.zoom.keys()].forEach((share) => this.shared.onZoom(share, null)),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }
}
