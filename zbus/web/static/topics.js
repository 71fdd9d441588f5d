// The topics of the bus, and the tree that they make: a branch for each part of a system, a leaf for each kind.

const COLUMNS = ["id", "system", "kind", "received", "missed", "rate", "bytes", "time", "path", "value", "whole",
  "size", "publishers", "subscribers", "lost", "lag"];
const OPEN_UP_TO = 300;

export class Topics {
  constructor() {
    this.byId = new Map();
    this.opened = new Map(); // what the user has opened or closed, by key
    this.clear();
  }

  clear() {
    this.byId.clear();
    this.root = branch("", "");
  }

  update(rows, gone) {
    for (const row of rows) {
      const topic = this.byId.get(row[0]) ?? this.add(row);
      for (let index = 3; index < COLUMNS.length; index++) topic[COLUMNS[index]] = row[index];
    }
    for (const id of gone) this.remove(id);
  }

  add(row) {
    const [id, system, kind] = row;
    const topic = { id, system, kind, key: `${system}\0${kind}` };
    this.byId.set(id, topic);
    let node = this.root;
    for (const part of system.split(".")) {
      let next = node.branches.get(part);
      if (!next) node.branches.set(part, (next = branch(node === this.root ? part : `${node.key}.${part}`, part)));
      node = next;
    }
    node.leaves.set(kind, topic);
    return topic;
  }

  remove(id) {
    const topic = this.byId.get(id);
    if (!topic) return;
    this.byId.delete(id);
    const path = [this.root];
    for (const part of topic.system.split(".")) path.push(path.at(-1).branches.get(part));
    path.at(-1).leaves.delete(topic.kind);
    while (path.length > 1) {
      const node = path.pop();
      if (node.leaves.size || node.branches.size) break;
      path.at(-1).branches.delete(node.name);
    }
  }

  // Returns the rows to show, from top to bottom: those that are open, and if `text` is not empty, have it.
  rows(text, order) {
    const all = this.byId.size <= OPEN_UP_TO;
    const isOpen = (node) => text !== "" || (this.opened.get(node.key) ?? all);
    const rows = [];
    const walk = (node, level) => {
      for (const child of sorted(node, text, order)) {
        if (child.topic) {
          rows.push({ ...child, key: child.topic.key, level, branch: false });
          continue;
        }
        // Branches without a fork are one row, and so is a branch with its only topic.
        let [name, inner] = [child.name, child.node];
        while (inner.branches.size === 1 && !inner.leaves.size) {
          inner = inner.branches.values().next().value;
          name += `.${inner.name}`;
        }
        const only = child.topics === 1 && [...inner.leaves.values()].find((topic) => matches(topic, text));
        if (only) {
          rows.push({ ...child, topic: only, name: only.kind, under: name, key: only.key, level, branch: false, ...own(only) });
          continue;
        }
        const open = isOpen(inner);
        rows.push({ ...child, name, key: inner.key, level, branch: true, open });
        if (open) walk(inner, level + 1);
      }
    };
    walk(this.root, 1);
    return rows;
  }

  shown(text) {
    return [...this.byId.values()].filter((topic) => matches(topic, text));
  }
}

function branch(key, name) {
  return { key, name, branches: new Map(), leaves: new Map() };
}

function matches(topic, text) {
  return text === "" || `${topic.system} ${topic.kind}`.toLowerCase().includes(text);
}

function sorted(node, text, order) {
  const found = [];
  for (const inner of node.branches.values()) {
    const sums = sum(inner, text);
    if (sums.topics) found.push({ ...sums, node: inner, name: inner.name });
  }
  for (const topic of node.leaves.values()) {
    if (matches(topic, text)) found.push({ ...own(topic), topic, name: topic.kind });
  }
  const byName = (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
  return found.sort(order === "name" ? byName : (a, b) => (b[order] ?? 0) - (a[order] ?? 0) || byName(a, b));
}

function own({ rate, bytes, received, missed, time, publishers, subscribers, lost }) {
  return { topics: 1, rate, bytes, received, missed, time, publishers, subscribers, lost };
}

// Of a branch there are no publishers and subscribers: the same ones would count once for each topic.
function sum(node, text) {
  const total = { topics: 0, rate: null, bytes: null, received: 0, missed: 0, time: null };
  const add = (one) => {
    total.topics += one.topics;
    total.received += one.received;
    total.missed += one.missed;
    for (const name of ["rate", "bytes"]) if (one[name] !== null) total[name] = (total[name] ?? 0) + one[name];
    if (one.time !== null && !(total.time > one.time)) total.time = one.time;
  };
  for (const inner of node.branches.values()) add(sum(inner, text));
  for (const topic of node.leaves.values()) if (matches(topic, text)) add(own(topic));
  return total;
}
