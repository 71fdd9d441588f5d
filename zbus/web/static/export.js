// What is shown, as a file.

export function jsonLines(rows) {
  return rows.map((row) => JSON.stringify(row) + "\n").join("");
}

export function csv(rows) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const lines = [names, ...rows.map((row) => names.map((name) => row[name] ?? ""))];
  return lines.map((line) => line.map(field).join(",") + "\r\n").join("");
}

// A spreadsheet would take text that begins so for a formula, and anybody may send such text.
function field(value) {
  let text = typeof value === "object" ? JSON.stringify(value) : String(value);
  if (typeof value !== "number" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function topicRow(topic) {
  const { system, kind, path, time, rate, bytes, received, missed, publishers, subscribers } = topic;
  return { system, kind, path, time, events_per_second: rate, bytes_per_second: bytes, received, missed, publishers,
    subscribers, ...value(topic) };
}

function value({ value, whole }) {
  try {
    if (whole) return value === "" ? { data: null } : { data: JSON.parse(value) };
  } catch {
    // bytes, or not JSON
  }
  return { data_text: value };
}

export function memberRow({ process, pid, user, language, alive, out, out_bytes, received, received_bytes, lost, lag,
  patterns }) {
  return { process, pid, user, language, alive, out, out_bytes, received, received_bytes, lost, lag, patterns };
}

export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
