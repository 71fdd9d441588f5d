// The tree as a table. Only the rows in sight are in the document, so 5,000 topics cost no more than 50.

import { age, count, element, put, since, size } from "./text.js";

export const COLUMNS = [
  { name: "topic", title: "Topic", order: "name" },
  { name: "rate", title: "Events/s", order: "rate", text: (row) => count(row.rate) },
  { name: "bytes", title: "Bytes/s", order: "bytes", text: (row) => size(row.bytes) },
  { name: "received", title: "Events", order: "received", text: (row) => count(row.received) },
  { name: "missed", title: "Missed", order: "missed", text: (row) => (row.missed ? count(row.missed) : "") },
  { name: "ends", title: "Pub → Sub", text: ends },
  { name: "value", title: "Latest value", text: (row) => (row.topic ? row.topic.value : `${count(row.topics)} ${row.topics === 1 ? "topic" : "topics"}`) },
  { name: "age", title: "Age", order: "time", text: (row, now) => (row.time === null ? "–" : since(now - row.time)) },
];
const MARGIN = 6;

function ends(row) {
  if (!row.topic) return "";
  return `${row.publishers} → ${row.subscribers}${row.lost ? ` −${count(row.lost)}` : ""}`;
}

export class Grid {
  // `calls` has `open(key, isOpen)`, `choose(topic)` and `sort(order)`.
  constructor(grid, calls) {
    this.grid = grid;
    this.calls = calls;
    this.body = grid.querySelector("#rows");
    this.drawn = [];
    this.rows = [];
    this.now = 0;
    this.cursor = null; // the key of the row that the keyboard is at
    this.head(grid.querySelector("#columns"));
    grid.addEventListener("scroll", () => this.draw(), { passive: true });
    grid.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => this.click(event));
    new ResizeObserver(() => this.draw()).observe(grid);
  }

  head(head) {
    for (const column of COLUMNS) {
      const cell = element("span", { role: "columnheader", class: column.name });
      if (column.order) {
        const button = element("button", { type: "button", tabindex: "-1" }, column.title);
        button.addEventListener("click", () => this.calls.sort(column.order));
        cell.append(button);
      } else {
        cell.append(column.title);
      }
      head.append(cell);
    }
  }

  sorted(order) {
    COLUMNS.forEach((column, index) => {
      const cell = this.grid.querySelector("#columns").children[index];
      if (column.order === order) cell.setAttribute("aria-sort", order === "name" ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
  }

  show(rows, now) {
    this.rows = rows;
    this.now = now;
    if (!rows.some((row) => row.key === this.cursor)) this.cursor = rows[0]?.key ?? null;
    this.draw();
  }

  draw() {
    const height = this.height();
    const first = Math.max(0, Math.floor(this.grid.scrollTop / height) - MARGIN);
    const end = Math.min(this.rows.length, Math.ceil((this.grid.scrollTop + this.grid.clientHeight) / height) + MARGIN);
    this.body.style.height = `${this.rows.length * height}px`;
    this.grid.setAttribute("aria-rowcount", String(this.rows.length + 1));
    while (this.drawn.length < end - first) this.drawn.push(this.make());
    while (this.drawn.length > end - first) this.drawn.pop().remove();
    this.drawn.forEach((line, index) => this.fill(line, first + index, height));
    const at = this.drawn.find((line) => line.ariaSelected === "true");
    if (at) this.grid.setAttribute("aria-activedescendant", at.id);
    else this.grid.removeAttribute("aria-activedescendant");
  }

  height() {
    return parseFloat(getComputedStyle(this.grid).getPropertyValue("--row"));
  }

  make() {
    const line = element("div", { role: "row", class: "row", id: `row-${this.drawn.length}` });
    for (const column of COLUMNS) line.append(element("span", { role: "gridcell", class: column.name }));
    line.firstChild.append(element("i", { class: "toggle", "aria-hidden": "true" }), element("span"), element("span"));
    this.body.append(line);
    return line;
  }

  fill(line, index, height) {
    const row = this.rows[index];
    line.style.transform = `translateY(${index * height}px)`;
    line.dataset.index = index;
    line.style.setProperty("--level", row.level - 1);
    line.setAttribute("aria-rowindex", index + 2);
    line.setAttribute("aria-level", row.level);
    line.setAttribute("aria-selected", row.key === this.cursor);
    if (row.branch) line.setAttribute("aria-expanded", row.open);
    else line.removeAttribute("aria-expanded");
    line.classList.toggle("branch", row.branch);
    line.classList.toggle("silent", !row.rate);
    line.classList.toggle("lossy", Boolean(row.missed));
    put(line.firstChild.children[1], row.under ?? "");
    put(line.firstChild.children[2], row.name);
    for (let at = 1; at < COLUMNS.length; at++) put(line.children[at], COLUMNS[at].text(row, this.now));
    const [concerned, value] = [line.children[5], line.children[6]];
    concerned.classList.toggle("lost", Boolean(row.lost));
    concerned.title = row.lost ? `its subscribers have lost ${count(row.lost)} events, of this or other topics` +
      (row.topic.lag ? `; the oldest unread has waited ${age(row.topic.lag)}` : "") : "";
    value.title = row.topic ? row.topic.path : "";
  }

  click(event) {
    const line = event.target.closest(".row");
    if (!line) return;
    const row = this.rows[line.dataset.index];
    this.cursor = row.key;
    this.act(row);
  }

  act(row) {
    if (row.branch) this.calls.open(row.key, !row.open);
    else this.calls.choose(row.topic);
    this.draw();
  }

  move(index) {
    const at = Math.max(0, Math.min(this.rows.length - 1, index));
    this.cursor = this.rows[at].key;
    const [height, top] = [this.height(), this.grid.scrollTop];
    const room = this.grid.clientHeight - this.grid.querySelector("#columns").offsetHeight;
    if (at * height < top) this.grid.scrollTop = at * height;
    else if ((at + 1) * height > top + room) this.grid.scrollTop = (at + 1) * height - room;
    this.draw();
  }

  key(event) {
    const at = this.rows.findIndex((row) => row.key === this.cursor);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const row = this.rows[at];
    const page = Math.max(1, Math.floor(this.grid.clientHeight / this.height()) - 2);
    const parent = this.rows.findLastIndex((one, index) => index < at && one.level < row.level);
    const act = {
      ArrowDown: () => this.move(at + 1),
      ArrowUp: () => this.move(at - 1),
      PageDown: () => this.move(at + page),
      PageUp: () => this.move(at - page),
      Home: () => this.move(0),
      End: () => this.move(this.rows.length - 1),
      ArrowRight: () => (row.branch && !row.open ? this.act(row) : this.move(at + (row.branch ? 1 : 0))),
      ArrowLeft: () => (row.branch && row.open ? this.act(row) : this.move(parent < 0 ? at : parent)),
      Enter: () => this.act(row),
    }[event.key];
    if (!act || event.target !== this.grid) return;
    event.preventDefault();
    act();
  }
}
