// Numbers, ages and elements. What comes from the bus becomes text nodes, never HTML.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export function count(value) {
  if (value === null || value === undefined) return "–";
  return value < 10 ? tenths.format(value) : whole.format(value);
}

export function size(value) {
  if (value === null || value === undefined) return "–";
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 999.5 || unit === "GB") return `${value < 9.95 ? tenths.format(value) : whole.format(value)} ${unit}`;
    value /= 1000;
  }
}

export function age(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.9995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 99.5) return `${seconds < 9.95 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 5970) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

// Since an event. Tenths of a second would only flicker.
export function since(seconds) {
  return seconds < 1 ? "now" : age(Math.floor(seconds));
}

export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function has(text, ...names) {
  return names.some((name) => name.toLowerCase().includes(text));
}
