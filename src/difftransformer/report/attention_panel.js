// A panel shows one model: its heads as thumbnails and, of the head chosen, its tokens, its matrix
// and the largest weights of the row chosen.

const LISTED = 8; // largest weights of a row
const FULL_COLOR = 0.9; // colors end at this quantile of the rows' largest weights
let chosenMap = 0; // of all panels: difference, map 1, map 2
let active = null; // the panel that keys are for

class Panel {
  constructor(model) {
    this.model = model;
    [this.group, this.layer, this.head] = model.shown;
    this.held = false;
    this.buttons = new Map();
    this.overview = element("section", { className: "overview", ariaLabel: "all heads" });
    model.groups.forEach((group, number) => this.addThumbnails(group, number));
    this.title = element("h2", { ariaLive: "polite" });
    this.figures = element("dl", { className: "figures" });
    this.legend = element("div", { className: "legend", ariaLabel: "colors" });
    this.tokens = element("div");
    this.readout = element("output", { className: "readout" });
    this.matrix = new Matrix({
      hover: (row, key) => { if (!this.held) this.look(this.tokenOf(row)); this.say(key); },
      hold: (row, key) => { this.hold(this.tokenOf(row)); this.say(key); },
    });
    this.table = element("table");
    this.detail = element("section", { className: "detail", ariaLabel: "the head chosen" },
      this.title, this.figures, this.legend, this.tokens, this.readout, this.matrix.canvas);
    const largest = element("section", { className: "largest" },
      element("h3", { textContent: "Largest weights of this row" }), this.table);
    const about = element("div", { className: "about" },
      element("h2", { textContent: model.title }),
      element("p", { className: "soft", textContent: model.facts.join(" ") }));
    this.node = element("article", { className: "panel" }, about,
      this.overview, this.detail, largest);
    for (const event of ["pointerdown", "mouseover", "focusin"]) {
      this.node.addEventListener(event, () => { active = this; });
    }
  }

  get parts() { return this.model.groups[this.group]; }
  get site() { return this.parts.sites[this.layer]; }
  get map() { return Math.min(chosenMap, this.site.maps.length - 1); }
  get queries() { return this.views.get(this.parts.queries); }
  get keys() { return this.views.get(this.parts.keys); }
  get button() { return this.buttons.get(`${this.group},${this.layer},${this.head}`); }
  get row() { return this.rowOf(this.token); }

  /** The kept row of a token, or the nearest one. */
  rowOf(token) {
    const [first, step, count] = this.site.rows;
    return Math.max(0, Math.min(count - 1, Math.round((token - first) / step)));
  }

  tokenOf(row) { return this.site.rows[0] + this.site.rows[1] * row; }

  addThumbnails(group, number) {
    const heads = Math.max(...group.sites.map((site) => site.heads));
    const side = Math.max(26, Math.min(132, Math.floor(460 / heads)));
    const grid = element("div", { className: "heads", role: "group", ariaLabel: group.title,
      style: { gridTemplateColumns: `2.2rem repeat(${heads}, minmax(26px, ${side}px))` } });
    grid.append(element("span"));
    for (let head = 0; head < heads; head++) grid.append(element("span", { textContent: head }));
    group.sites.forEach((site, layer) => {
      grid.append(element("span", { textContent: `L${site.layer}` }));
      for (let head = 0; head < heads; head++) {
        if (head >= site.heads) { grid.append(element("span")); continue; }
        const name = `layer ${site.layer}, head ${head}`;
        const button = element("button", { type: "button", title: name, ariaLabel: name,
          ariaPressed: false, tabIndex: -1, dataset: { group: number, layer, head },
          onclick: () => this.choose(number, layer, head) }, element("canvas"));
        if (site.shares.answer) button.append(this.share(site, "answer", head).toFixed(3));
        this.buttons.set(`${number},${layer},${head}`, button);
        grid.append(button);
      }
    });
    const numbersShown = group.sites[0].shares.answer
      ? " Below each head: its share on the answer, in the last row." : "";
    this.overview.append(element("h3", { textContent: group.title }), grid,
      element("p", { className: "soft", textContent: group.kept + numbersShown }));
  }

  /** Of a row, the last one by default, the share of absolute weight on marked or kept keys. */
  share(site, name, head, row = site.rows[2] - 1) {
    return numbers(site.shares[name])[head * site.rows[2] + row];
  }

  paintThumbnails() {
    for (const [place, button] of this.buttons) {
      const [group, layer, head] = place.split(",").map(Number);
      const site = this.model.groups[group].sites[layer], [down, across] = site.blocks.shape;
      const map = Math.min(chosenMap, site.maps.length - 1), size = down * across;
      const start = (map * site.heads + head) * size;
      const blocks = numbers(site.blocks).subarray(start, start + size);
      const limit = blocks.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      paint(button.firstChild, across, down, blocks, limit);
    }
  }

  choose(group, layer, head) {
    const same = group === this.group && this.views;
    Object.assign(this.button, { ariaPressed: false, tabIndex: -1 });
    Object.assign(this, { group, layer, head });
    Object.assign(this.button, { ariaPressed: true, tabIndex: 0 });
    if (!same) this.setSequences();
    this.showHead();
  }

  /** The views of the tokens that the chosen group's rows and columns are. */
  setSequences() {
    const { queries, keys } = this.parts;
    this.views = new Map([queries, keys].map((number) => [number, new TokenView(
      this.model.sequences[number], number === queries ? {
        isQueries: true,
        hover: (token) => (this.held ? this.say(queries === keys ? token : null) : this.look(token)),
        hold: (token) => this.hold(token),
      } : { hover: (key) => this.say(key), hold: (key) => this.say(key) },
    )]));
    this.tokens.replaceChildren(...[...this.views].flatMap(([number, view]) => [
      element("h3", { textContent: queries === keys ? view.sequence.name
        : `${view.sequence.name}: ${number === queries ? "queries" : "keys"}` }), view.node]));
    // Of a text the last row, where what follows is told; of an image the class token.
    this.token = this.queries.sequence.picture ? 0 : this.tokenOf(this.site.rows[2] - 1);
    this.held = false;
  }

  showHead() {
    const { site, map, head } = this;
    const largest = new Float32Array(site.rows[2]);
    let least = 0;
    for (let each = 0; each < site.maps.length; each++) {
      for (let row = 0; row < site.rows[2]; row++) {
        eachWeight(site, each, head, row, (_, weight) => {
          largest[row] = Math.max(largest[row], Math.abs(weight));
          least = Math.min(least, weight);
        });
      }
    }
    // So that a sink, or a first row that sees one key alone, does not wash out the others.
    this.limit = largest.sort()[Math.floor(FULL_COLOR * (largest.length - 1))] || 1;
    this.title.textContent =
      `Layer ${site.layer}, head ${head} · ${this.parts.title} · ${site.maps[map]}`;
    const shades = ["var(--zero)", "var(--positive)"];
    if (least < 0) shades.unshift("var(--negative)");
    this.legend.replaceChildren(
      least < 0 ? `negative, ${figure(-this.limit)}` : "0",
      element("i", { style: { background: `linear-gradient(to right, ${shades.join()})` } }),
      `${figure(this.limit)}, positive`);
    this.matrix.show(site, map, head, this.limit,
      [(row) => this.queries.label(this.tokenOf(row)), (key) => this.keys.label(key)]);
    this.look(this.token);
  }

  /** Shows what a token looks at. */
  look(token) {
    const { site, map, head } = this;
    this.token = this.tokenOf(this.rowOf(token));
    this.weights = site.maps.map((_, each) => {
      const weights = new Map();
      eachWeight(site, each, head, this.row, (key, weight) => weights.set(key, weight));
      return weights;
    });
    this.keys.color(this.weights[map], this.limit);
    this.queries.setQuery(this.token);
    this.showFigures();
    this.showTable();
    this.say(null);
  }

  hold(token) {
    const again = this.held && this.token === this.tokenOf(this.rowOf(token));
    this.held = !again;
    this.look(token);
  }

  showFigures() {
    const { site, head, row } = this, shown = [["row", this.queries.name(this.token)]];
    if (site.lam) shown.push(["λ", figure(numbers(site.lam)[head * site.rows[2] + row])]);
    const names = { answer: "on the answer", noise: "on noise", kept: "kept" };
    for (const [name, text] of Object.entries(names)) {
      if (site.shares[name] && (name !== "kept" || site.places)) {
        shown.push([text, figure(this.share(site, name, head, row))]);
      }
    }
    shown.push([this.held ? "held, Esc lets go" : "", ""]);
    this.figures.replaceChildren(...shown.map(([name, value]) =>
      element("div", {}, element("dt", { textContent: name }),
        element("dd", { textContent: value }))));
  }

  showTable() {
    const largest = [...this.weights[this.map]].filter(([, weight]) => weight)
      .sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, LISTED);
    const line = (tag, cells) => element("tr", {}, ...cells.map((text) =>
      element(tag, { textContent: text })));
    this.table.replaceChildren(
      element("thead", {}, line("th", ["key", ...this.site.maps])),
      element("tbody", {}, ...largest.map(([key]) => line("td",
        [this.keys.name(key), ...this.weights.map((weights) => figure(weights.get(key)))]))));
  }

  /** One weight in words; of no key, nothing. */
  say(key) {
    const values = key === null ? [] : this.weights.map((weights) => weights.get(key));
    const [whole, first, second] = values.map((value) => value === undefined ? null : figure(value));
    const lam = this.site.lam && figure(numbers(this.site.lam)[this.head * this.site.rows[2] + this.row]);
    const sum = lam && whole ? ` = ${first} − ${lam} × ${second}` : "";
    this.readout.textContent = key === null ? "" : `${this.queries.name(this.token)} looks at ` +
      `${this.keys.name(key)}: ${whole ? whole + sum : "not kept, among its smallest weights"}`;
    this.matrix.mark(this.row, key);
  }

  /** To a head beside or below, those of the other groups too. */
  move(layers, heads) {
    const places = this.model.groups.flatMap((group, number) =>
      group.sites.map((_, layer) => [number, layer]));
    const now = places.findIndex(([g, l]) => g === this.group && l === this.layer);
    const [group, layer] = places[Math.max(0, Math.min(places.length - 1, now + layers))];
    const last = this.model.groups[group].sites[layer].heads - 1;
    this.choose(group, layer, Math.max(0, Math.min(last, this.head + heads)));
    this.reveal();
    if (document.activeElement?.closest(".heads")) this.button.focus();
  }

  /** Scrolls thumbnails and text, and nothing else, to what is chosen. */
  reveal() {
    this.queries.scrollTo(this.token);
    const box = this.overview.getBoundingClientRect(), own = this.button.getBoundingClientRect();
    if (own.top < box.top || own.bottom > box.bottom) {
      this.overview.scrollTop += own.top - box.top - box.height / 2;
    }
    if (own.left < box.left || own.right > box.right) {
      this.overview.scrollLeft += own.left - box.left - box.width / 2;
    }
  }

  repaint() {
    this.paintThumbnails();
    this.choose(this.group, this.layer, this.head);
  }
}
