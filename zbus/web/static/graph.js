// Who sends what to whom, as three columns: publishers, topics, subscribers.

import { count, has } from "./text.js";

const [HEIGHT, GAP, HEAD] = [42, 12, 26];
const [NARROWEST, WIDEST] = [640, 1100]; // in less no name can be read: it scrolls
const CHARACTER = 7.4; // about as wide as one is

let found = null;
let asked = 0;

// Draws what is known, and asks for what is new once a second.
export function drawGraph(place, get, text, paused) {
  const due = performance.now() - asked > 900;
  if (due && !(paused && found)) {
    asked = performance.now();
    get("/graph").then((answer) => {
      if (!answer) return;
      found = answer;
      draw(place, text);
    }, () => {});
  }
  if (found) draw(place, text);
}

function draw(place, text) {
  const topics = found.topics.filter((topic) => concerns(topic, text));
  if (!topics.length) {
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.append(text ? "No topic or member has it in its name." : "Nobody has sent anything yet.");
    return place.replaceChildren(empty);
  }
  const style = getComputedStyle(place);
  const room = place.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const width = Math.max(NARROWEST, Math.min(WIDEST, room)) - 2; // and the strokes of the outermost
  const senders = ordered(topics, "publishers");
  const readers = ordered(topics, "subscribers");
  const rows = Math.max(senders.length, topics.length, readers.length);
  const height = HEAD + rows * (HEIGHT + GAP);
  const svg = make("svg", { width: width + 2, height, viewBox: `-1 0 ${width + 2} ${height}`, role: "img",
    "aria-label": describe(topics) });
  const gap = Math.max(26, width * 0.13);
  const box = (width - 2 * gap) / 3;
  const columns = [senders, topics, readers].map((list, index) => placed(list, index * (box + gap), rows));
  ["Publishers", "Topics", "Subscribers"].forEach((title, index) =>
    svg.append(label(title, { x: index * (box + gap), y: 13, class: "note" })));
  topics.forEach((topic, index) => {
    const at = columns[1][index];
    for (const id of topic.publishers) link(svg, columns[0][senders.indexOf(id)], at, box, topic.rate > 0, false);
    for (const id of topic.subscribers) {
      link(svg, at, columns[2][readers.indexOf(id)], box, topic.rate > 0, found.members[id].lost > 0);
    }
  });
  senders.forEach((id, index) => member(svg, id, columns[0][index], box, false));
  topics.forEach(({ name, note, faint }, index) => node(svg, columns[1][index], box, name, note, faint ? "faint" : ""));
  readers.forEach((id, index) => member(svg, id, columns[2][index], box, true));
  place.replaceChildren(svg);
}

function concerns(topic, text) {
  const names = [...topic.publishers, ...topic.subscribers].map((id) => found.members[id].name);
  return has(text, topic.name, ...names);
}

// Members in the order of the topics that they have to do with, so that few lines cross.
function ordered(topics, side) {
  const places = new Map();
  topics.forEach((topic, index) => topic[side].forEach((id) => places.set(id, [...(places.get(id) ?? []), index])));
  const mean = (id) => places.get(id).reduce((sum, one) => sum + one, 0) / places.get(id).length;
  return [...places.keys()].sort((a, b) => mean(a) - mean(b) || (a < b ? -1 : 1));
}

function placed(list, x, rows) {
  const top = HEAD + ((rows - list.length) * (HEIGHT + GAP)) / 2;
  return list.map((_, index) => ({ x, y: top + index * (HEIGHT + GAP) }));
}

function member(svg, id, at, box, reads) {
  const { name, note, lost, alive } = found.members[id];
  const more = reads && lost ? `${note} · lost ${count(lost)}` : note;
  node(svg, at, box, name, more, reads && lost ? "bad" : alive ? "" : "faint");
}

function node(svg, { x, y }, width, name, note, is) {
  const group = make("g", { transform: `translate(${x} ${y})` });
  const most = Math.floor((width - 18) / CHARACTER);
  const title = make("title", {});
  title.textContent = `${name}\n${note}`;
  group.append(title, make("rect", { width, height: HEIGHT, rx: 7, class: is }), label(short(name, most), { x: 10, y: 17 }),
    label(short(note, most), { x: 10, y: 33, class: is === "bad" ? "note lost" : "note" }));
  svg.append(group);
}

function short(text, most) {
  return text.length > most ? `${text.slice(0, Math.max(1, most - 1))}…` : text;
}

function link(svg, from, to, box, live, bad) {
  const [x1, y1, x2, y2] = [from.x + box, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
  const middle = (x1 + x2) / 2;
  svg.append(make("path", { d: `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`,
    class: `${live ? "live" : ""} ${bad ? "lost" : ""}` }));
}

function describe(topics) {
  const names = (ids) => ids.map((id) => found.members[id].name).join(", ") || "nobody";
  return topics.map((topic) => `${names(topic.publishers)} to ${names(topic.subscribers)}: ${topic.name}`).join("; ");
}

function label(text, attributes) {
  const made = make("text", attributes);
  made.textContent = text;
  return made;
}

function make(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
