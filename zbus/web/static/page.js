// The page: connects to the server, keeps what it is told, and draws what is in sight.

import { csv, jsonLines, memberRow, save, topicRow } from "./export.js";
import { drawGraph } from "./graph.js";
import { COLUMNS, Grid } from "./grid.js";
import { drawMembers, membersShown } from "./members.js";
import { Topics } from "./topics.js";
import { Detail } from "./detail.js";
import { count, element, put } from "./text.js";

const VIEWS = ["topics", "members", "graph"];
const ORDERS = COLUMNS.map((column) => column.order).filter(Boolean);
const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token");
const topics = new Topics();
const detail = new Detail($("detail"), get);
const grid = new Grid($("grid"), { open, choose, sort });
let bus = { members: [], rate: null, missed: 0, malformed: 0, full: false, trouble: "" };
let about = {};
let view = "topics";
let order = "name";
let search = "";
let paused = false;
let source = null;
let skew = 0; // of the server's clock against this one
let due = false;

function address(path) {
  return token === null ? path : `${path}?token=${encodeURIComponent(token)}`;
}

async function get(path) {
  const answer = await fetch(address(path));
  return answer.ok ? answer.json() : null;
}

function connect() {
  source = new EventSource(address("/events"));
  source.onopen = () => status("live");
  source.onmessage = (event) => hear(JSON.parse(event.data));
  source.onerror = () => status(source.readyState === EventSource.CLOSED ? "ended" : "silent");
}

const STATES = { live: "live", waiting: "connecting", silent: "no answer: has zbus web ended?", paused: "paused", ended: "ended: start zbus web again" };

function status(is) {
  $("status").dataset.is = is;
  put($("status"), STATES[is]);
}

function hear(message) {
  skew = message.now - Date.now() / 1000;
  if (message.about) {
    about = message.about; // everything follows anew
    topics.clear();
    put($("bus"), about.bus);
    document.title = `${about.bus} – zbus`;
    $("bus").title = about.path;
  }
  if (message.bus) bus = message.bus;
  topics.update(message.topics, message.gone ?? []);
  detail.note(message.topics);
  redraw();
}

// However often it is called, and whatever comes meanwhile, the page is drawn once a frame, if it is in sight.
function redraw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    draw();
  });
}

function now() {
  return Date.now() / 1000 + skew;
}

function draw() {
  drawTotals();
  if (view === "topics") drawTopics();
  if (view === "members") drawMembers($("members"), membersShown(bus.members, search), about.pid);
  if (view === "graph") drawGraph($("graph"), get, search, paused);
  detail.draw(topics, bus.members, pausedAt ?? now());
}

let pausedAt = null;

function drawTopics() {
  const rows = topics.rows(search, order);
  grid.show(rows, pausedAt ?? now());
  $("no-topics").hidden = rows.length > 0;
  const every = about.system === "*" && !about.kind ? "" : ` that ${about.system} ${about.kind ?? ""} selects`;
  put($("no-topics"), search ? "No topic has it in its name." : `Nobody has sent a topic${every} yet.`);
}

function drawTotals() {
  const lost = bus.members.reduce((sum, row) => sum + row.lost, 0);
  const shown = [
    ["events/s", count(bus.rate), false],
    [bus.full ? "topics, the latest" : "topics", count(topics.byId.size), bus.full],
    ["members", count(bus.members.filter((row) => row.alive).length), false],
    ["lost by members", count(lost), lost > 0],
    ["missed by this page", count(bus.missed), bus.missed > 0],
  ];
  if (bus.malformed) shown.push(["malformed", count(bus.malformed), true]);
  const list = $("totals");
  while (list.children.length > shown.length) list.lastChild.remove();
  while (list.children.length < shown.length) list.append(element("div", {}, element("dd"), element("dt")));
  shown.forEach(([name, value, bad], index) => {
    const pair = list.children[index];
    put(pair.firstChild, value);
    put(pair.lastChild, name);
    pair.classList.toggle("lost", bad);
  });
  $("trouble").hidden = !bus.trouble;
  put($("trouble"), bus.trouble);
}

function open(key, isOpen) {
  topics.opened.set(key, isOpen);
  draw();
}

function choose(topic) {
  detail.open(topic);
  redraw();
}

function sort(by) {
  order = by;
  grid.sorted(order);
  draw();
}

function pause() {
  paused = !paused;
  pausedAt = paused ? now() : null;
  $("pause").setAttribute("aria-pressed", paused);
  put($("pause"), paused ? "Go on" : "Pause");
  source.close();
  if (paused) status("paused");
  else connect();
}

function show(name) {
  view = name;
  for (const one of VIEWS) {
    $(one).hidden = one !== name;
    $(`tab-${one}`).setAttribute("aria-selected", one === name);
    $(`tab-${one}`).tabIndex = one === name ? 0 : -1;
  }
  redraw();
}

function exported() {
  if (view === "members") return membersShown(bus.members, search).map(memberRow);
  return topics.shown(search).map(topicRow);
}

function exportAs(name, type, write) {
  $("export").open = false;
  save(`zbus-${about.bus ?? "bus"}-${view === "members" ? "members" : "topics"}.${name}`, type, write(exported()));
}

function escape() {
  if ($("export").open) $("export").open = false;
  else if (detail.isOpen) detail.close();
  else if (document.activeElement === $("search")) {
    $("search").value = search = "";
    redraw();
  } else return;
  if (view === "topics") $("grid").focus();
}

function key(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || $("keys").open) return;
  if (event.key === "Escape") return escape();
  const target = event.target;
  if (target instanceof HTMLInputElement) {
    if (event.key === "Enter" || event.key === "ArrowDown") $("grid").focus();
    return;
  }
  const onButton = target instanceof HTMLButtonElement || target.tagName === "SUMMARY";
  const act = {
    "/": () => $("search").focus(),
    "?": () => $("keys").showModal(),
    1: () => show("topics"),
    2: () => show("members"),
    3: () => show("graph"),
    s: () => view === "topics" && sort(ORDERS[(ORDERS.indexOf(order) + 1) % ORDERS.length]),
    " ": onButton ? null : pause,
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function tabs(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  show(VIEWS[(VIEWS.indexOf(view) + step + VIEWS.length) % VIEWS.length]);
  $(`tab-${view}`).focus();
}

for (const name of VIEWS) $(`tab-${name}`).addEventListener("click", () => show(name));
document.querySelector("[role=tablist]").addEventListener("keydown", tabs);
$("pause").addEventListener("click", pause);
$("help").addEventListener("click", () => $("keys").showModal());
$("export-json").addEventListener("click", () => exportAs("jsonl", "application/jsonl", jsonLines));
$("export-csv").addEventListener("click", () => exportAs("csv", "text/csv", csv));
$("search").addEventListener("input", (event) => {
  search = event.target.value.trim().toLowerCase();
  redraw();
});
document.addEventListener("keydown", key);
setInterval(() => paused || redraw(), 1000); // ages grow
grid.sorted(order);
connect();
