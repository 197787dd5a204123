// Which key means which class: digits, then letters, unless the person has chosen another.

const DEFAULTS = [..."1234567890", ..."qwertyuiopasdfghjklzxcvbnm"];
const STORE = "skal-keys";

function chosen() {
  try {
    return new Map(Object.entries(JSON.parse(localStorage.getItem(STORE)) || {}));
  } catch {
    return new Map();
  }
}

export function bind(name, key) {
  const all = chosen();
  for (const [other, own] of all) if (own === key) all.delete(other);
  if (key) all.set(name, key);
  else all.delete(name);
  localStorage.setItem(STORE, JSON.stringify(Object.fromEntries(all)));
}

// A class that is renamed keeps the key that was chosen for it.
export function rebind(name, to) {
  const key = chosen().get(name);
  if (key) bind(to, key);
}

// Map from class names to keys. Classes beyond the last key have none.
export function keysOf(names) {
  const all = chosen();
  const taken = new Set(names.map((name) => all.get(name)).filter(Boolean));
  const free = DEFAULTS.filter((key) => !taken.has(key));
  return new Map(names.map((name) => [name, all.get(name) || free.shift() || ""]));
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
