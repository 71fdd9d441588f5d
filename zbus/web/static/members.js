// The members as a table.

import { age, count, element, has, put, size } from "./text.js";

const COLUMNS = [
  ["Process", (row) => row.process],
  ["PID", (row) => String(row.pid)],
  ["User", (row) => row.user],
  ["Out/s", (row) => count(row.out)],
  ["Bytes/s", (row) => size(row.out_bytes)],
  ["In/s", (row) => count(row.received)],
  ["Bytes/s", (row) => size(row.received_bytes)],
  ["Lost", (row) => (row.lost ? count(row.lost) : "")],
  ["Lag", (row) => (row.lag ? age(row.lag) : "")],
  ["Listens to", (row) => row.patterns.map(([system, kind]) => (kind === "*" ? system : `${system} ${kind}`)).join(", ")],
];

export function membersShown(members, text) {
  const found = members.filter((row) => has(text, row.process, row.user, String(row.pid), ...row.patterns.flat()));
  return found.sort((a, b) => (a.process < b.process ? -1 : a.process > b.process ? 1 : a.pid - b.pid));
}

export function drawMembers(section, members, me) {
  const [head, body] = [section.querySelector("thead tr"), section.querySelector("tbody")];
  if (!head.children.length) for (const [title] of COLUMNS) head.append(element("th", { scope: "col" }, title));
  while (body.children.length > members.length) body.lastChild.remove();
  while (body.children.length < members.length) body.append(makeRow());
  members.forEach((row, index) => fillRow(body.children[index], row, me));
  const empty = section.querySelector(".empty");
  empty.hidden = members.length > 0;
  put(empty, "No member has it in its name, user, process id or patterns.");
}

function makeRow() {
  const line = element("tr");
  for (const [title] of COLUMNS) line.append(element("td", { "data-title": title }));
  line.firstChild.append(element("span"), element("small"));
  return line;
}

function fillRow(line, row, me) {
  line.classList.toggle("dead", !row.alive);
  put(line.firstChild.firstChild, row.process);
  put(line.firstChild.lastChild, row.pid === me ? "this page" : row.alive ? "" : "dead");
  for (let at = 1; at < COLUMNS.length; at++) put(line.children[at], COLUMNS[at][1](row));
  line.children[7].classList.toggle("lost", row.lost > 0);
  line.children[8].classList.toggle("lost", row.lag > 3);
}
