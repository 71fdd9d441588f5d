// One topic: its latest value, and who sends and selects it. Fetched when the topic has changed, one at a time.

import { age, count, element, put, since, size } from "./text.js";

const LATE = 3; // seconds of lag

export class Detail {
  constructor(place, get) {
    this.place = place;
    this.get = get;
    this.key = null;
    this.found = null;
    this.changed = this.asking = false;
  }

  get isOpen() {
    return this.key !== null;
  }

  open(topic) {
    if (!this.hasFocus) this.from = document.activeElement;
    this.key = topic.key;
    this.id = topic.id;
    this.found = null;
    this.build(topic);
    this.ask();
  }

  close() {
    this.key = null;
    const back = this.hasFocus; // to where it was: a hidden element loses it
    this.place.hidden = true;
    if (back) this.from.focus();
  }

  build(topic) {
    const close = element("button", { type: "button", "aria-label": "Close" }, "×");
    close.addEventListener("click", () => this.close());
    this.parts = Object.fromEntries(["facts", "value", "publishers", "subscribers"].map((name) => [name, null]));
    this.parts.facts = element("dl", { class: "facts" });
    this.parts.value = element("pre", { tabindex: "0", role: "group", "aria-label": "Latest value" });
    this.parts.cut = element("p", { class: "note" });
    this.parts.publishers = element("ul");
    this.parts.subscribers = element("ul");
    this.place.replaceChildren(
      element("header", {}, element("h2", {}, element("small", {}, topic.system), topic.kind), close),
      this.parts.facts, element("h3", {}, "Latest value"), this.parts.value, this.parts.cut,
      element("h3", {}, "Publishers"), this.parts.publishers,
      element("h3", {}, "Subscribers"), this.parts.subscribers);
    this.place.hidden = false;
  }

  get hasFocus() {
    return this.place.contains(document.activeElement);
  }

  note(rows) {
    if (!this.isOpen || !rows.some((row) => `${row[1]}\0${row[2]}` === this.key)) return;
    this.id = rows.find((row) => `${row[1]}\0${row[2]}` === this.key)[0];
    this.changed = true;
    this.ask();
  }

  async ask() {
    if (this.asking) return;
    this.asking = true;
    this.changed = false;
    const found = await this.get(`/topics/${this.id}`).catch(() => null);
    this.asking = false;
    if (found && found.id === this.id) this.found = found;
    if (this.changed) this.ask();
  }

  draw(topics, members, now) {
    const topic = this.isOpen && topics.byId.get(this.id);
    if (!topic) return;
    const found = this.found;
    this.facts([
      ["Path", topic.path], ["Rate", `${count(topic.rate)}/s`], ["Size", size(topic.size)],
      ["Sent", topic.time === null ? "–" : `${new Date(topic.time * 1000).toLocaleTimeString()} · ${since(now - topic.time)}`],
      ["Received", count(topic.received)], ["Missed here", count(topic.missed)],
    ]);
    if (!found) return;
    put(this.parts.value, pretty(found));
    put(this.parts.cut, found.whole ? "" : `Only the beginning: the value has ${size(found.size)}.`);
    const byId = new Map(members.map((row) => [row.id, row]));
    people(this.parts.publishers, found.publishers, byId, () => "");
    people(this.parts.subscribers, found.subscribers, byId, (row) =>
      [row.lost ? `lost ${count(row.lost)}` : "", row.lag ? `lag ${age(row.lag)}` : ""].filter(Boolean).join(", "));
  }

  facts(pairs) {
    const list = this.parts.facts;
    if (!list.children.length) for (const [name] of pairs) list.append(element("div", {}, element("dt", {}, name), element("dd")));
    pairs.forEach(([, value], index) => put(list.children[index].lastChild, value));
  }
}

function people(list, ids, byId, note) {
  const rows = ids.map((id) => byId.get(id)).filter(Boolean);
  const lines = rows.map((row) => [`${row.process} ${row.pid}`, note(row), row.lost > 0 || row.lag > LATE]);
  if (!lines.length) lines.push(["nobody", "", false]);
  while (list.children.length > lines.length) list.lastChild.remove();
  while (list.children.length < lines.length) list.append(element("li", {}, element("span"), element("em")));
  lines.forEach(([name, more, bad], index) => {
    put(list.children[index].firstChild, name);
    put(list.children[index].lastChild, more);
    list.children[index].lastChild.classList.toggle("lost", bad);
  });
}

function pretty({ value, whole }) {
  if (value === "") return "no data";
  try {
    return whole ? JSON.stringify(JSON.parse(value), null, 2) : value;
  } catch {
    return value; // bytes, or not JSON
  }
}
