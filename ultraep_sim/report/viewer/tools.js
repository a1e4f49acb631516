"use strict";
// What pages of tables and figures share: elements, numbers, CSV, and a table one can sort.

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Four digits that count; nothing for what is not there.
function digits(value, count = 4) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1e4 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(count)));
}

function percent(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  return size >= 9.5 || size === 0 ? `${Math.round(value)} %` : `${Number(value.toPrecision(2))} %`;
}

function banded(center, low, high, show = digits) {
  if (center === null || center === undefined) return "";
  return low === null || low === undefined ? show(center) : `${show(center)} [${show(low)} to ${show(high)}]`;
}

function csvCell(value) {
  if (value === null || value === undefined) return "";
  const text = String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function toCsv({ columns, rows }) {
  return [columns, ...rows].map((row) => row.map(csvCell).join(",")).join("\n") + "\n";
}

function download(name, data) {
  const url = URL.createObjectURL(new Blob([toCsv(data)], { type: "text/csv" }));
  const link = element("a", { href: url, download: `${name}.csv` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Steps of an axis that people like, about `count` of them.
function ticks(low, high, count = 5) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(Number((at * step).toPrecision(12)));
  return found;
}

// A table that is sorted by a click on a head and filtered by words; a page at a time.
class RowTable {
  constructor(place, { columns, rows }, size = 50) {
    Object.assign(this, { columns, rows, size, page: 0, sort: null, down: false, words: [] });
    this.names = columns.map((_, at) => rows.some((row) => typeof row[at] === "string"));
    this.filter = element("input", { type: "search", placeholder: "filter: words, or column=value", "aria-label": "filter rows",
      oninput: () => this.search(this.filter.value) });
    this.count = element("span", { class: "quiet" });
    this.earlier = element("button", { onclick: () => this.turn(-1) }, "back");
    this.later = element("button", { onclick: () => this.turn(1) }, "on");
    this.head = element("tr");
    this.body = element("tbody");
    this.heads = columns.map((name, at) => {
      const head = element("th", { scope: "col", tabindex: 0, class: this.names[at] ? "name" : "",
        onclick: () => this.order(at), onkeydown: (event) => { if (event.key === "Enter") this.order(at); } }, name);
      this.head.append(head);
      return head;
    });
    place.replaceChildren(
      element("div", { class: "rows-bar" }, this.filter, this.count, this.earlier, this.later),
      element("div", { class: "scroll" }, element("table", { class: "rows" }, element("thead", {}, this.head), this.body)),
    );
    this.search("");
  }

  search(text) {
    this.words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const lower = this.columns.map((name) => name.toLowerCase());
    const tests = this.words.map((word) => {
      const cut = word.indexOf("=");
      const column = cut > 0 ? lower.indexOf(word.slice(0, cut)) : -1;
      const wanted = word.slice(cut + 1);
      return column >= 0
        ? (row) => String(row[column] ?? "").toLowerCase() === wanted
        : (row) => row.some((value) => String(value ?? "").toLowerCase().includes(word));
    });
    this.kept = this.rows.filter((row) => tests.every((test) => test(row)));
    this.page = 0;
    this.arrange();
  }

  order(column) {
    this.down = this.sort === column ? !this.down : false;
    this.sort = column;
    this.page = 0;
    this.arrange();
  }

  arrange() {
    this.shown = [...this.kept];
    if (this.sort !== null) {
      const way = this.down ? -1 : 1;
      this.shown.sort((a, b) => compareValues(a[this.sort], b[this.sort], way));
    }
    this.draw();
  }

  turn(by) {
    this.page += by;
    this.draw();
  }

  draw() {
    const pages = Math.max(1, Math.ceil(this.shown.length / this.size));
    this.page = Math.max(0, Math.min(pages - 1, this.page));
    const start = this.page * this.size;
    const here = this.shown.slice(start, start + this.size);
    this.body.replaceChildren(...here.map((row) => element("tr", {}, ...row.map((value, at) =>
      element("td", { class: this.names[at] ? "name" : "", title: typeof value === "string" && value.length > 40 ? value : null }, digits(value, 6))))));
    this.heads.forEach((head, at) => {
      head.setAttribute("aria-sort", at !== this.sort ? "none" : this.down ? "descending" : "ascending");
      head.textContent = this.columns[at] + (at !== this.sort ? "" : this.down ? " ▼" : " ▲");
    });
    const range = here.length ? `rows ${start + 1} to ${start + here.length} of ${this.shown.length}` : "no row";
    this.count.textContent = this.shown.length === this.rows.length ? range : `${range} (${this.rows.length} in all)`;
    this.earlier.disabled = this.page === 0;
    this.later.disabled = this.page >= pages - 1;
  }

  get data() {
    return { columns: this.columns, rows: this.shown };
  }
}

// Numbers before text, and what is not there last, whichever way.
function compareValues(a, b, way) {
  const none = (value) => value === null || value === undefined;
  if (none(a) || none(b)) return none(a) - none(b);
  if (typeof a === "number" && typeof b === "number") return way * (a - b);
  if (typeof a === "number") return -way;
  if (typeof b === "number") return way;
  return way * String(a).localeCompare(String(b));
}

// Make the page's app of its manifest, or say why the figures are missing.
function begin(App) {
  try {
    const app = new App(JSON.parse(document.getElementById("manifest").textContent));
    document.body.dataset.ready = "";
    return app;
  } catch (error) {
    const place = document.getElementById("failure");
    place.hidden = false;
    place.textContent = `The figures cannot be drawn: ${error.message}. The text above stands.`;
    throw error;
  }
}
