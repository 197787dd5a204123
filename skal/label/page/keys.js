// Which key means which class: digits, then letters, unless the person has chosen another.

const DEFAULTS = [..."1234567890", ..."qwertyuiopasdfghjklzxcvbnm"];
const STORE = "skal-keys";

function chosen() {
  try {
    return JSON.parse(localStorage.getItem(STORE)) || {};
  } catch {
    return {};
  }
}

export function bind(name, key) {
  const all = chosen();
  for (const other of Object.keys(all)) if (all[other] === key) delete all[other];
  if (key) all[name] = key;
  else delete all[name];
  localStorage.setItem(STORE, JSON.stringify(all));
}

// Map from class names to keys. Classes beyond the last key have none.
export function keysOf(names) {
  const all = chosen();
  const taken = new Set(names.map((name) => all[name]).filter(Boolean));
  const free = DEFAULTS.filter((key) => !taken.has(key));
  return new Map(names.map((name) => [name, all[name] || free.shift() || ""]));
}

export function isBindable(key) {
  return DEFAULTS.includes(key);
}

// The key of an event. Number pad and digit row are equivalent, and case is ignored.
export function keyOf(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return "";
  const pad = /^Numpad([0-9])$/.exec(event.code);
  if (pad) return pad[1];
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}
