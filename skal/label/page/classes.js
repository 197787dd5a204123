// The classes: their buttons, and the dialog in which they are added, renamed, merged and given keys.

import { act } from "./api.js";
import { bind, isBindable, keysOf, rebind } from "./keys.js";
import { showBanner } from "./main.js";

export const classes = { names: [], keys: new Map(), changes: 0 };
const listeners = [];

export function onClasses(listener) {
  listeners.push(listener);
}

export function setClasses(names) {
  const before = classes.names;
  const places = [...names.keys()].filter((i) => names[i] !== before[i]);
  if (names.length === before.length) {
    if (!places.length) return;
    if (places.length === 1) rebind(before[places[0]], names[places[0]]); // it was renamed
  }
  refresh(names);
}

// After an action that may have changed the classes.
export function replaceClasses(names) {
  classes.changes += 1;
  setClasses(names);
}

function refresh(names) {
  classes.names = names;
  classes.keys = keysOf(names);
  for (const listener of listeners) listener();
}

const dialog = document.getElementById("class-dialog");
const input = document.getElementById("new-class");
const problem = document.getElementById("class-problem");
const rows = document.getElementById("class-rows");

export function openDialog() {
  problem.textContent = "";
  input.value = "";
  fillRows();
  dialog.showModal();
  input.focus();
}

// Send a change of the classes. Returns the name of the class, or null if the change is refused.
async function change(path, body) {
  problem.textContent = "";
  try {
    const { name, classes: names } = await act(path, body);
    replaceClasses(names);
    return name;
  } catch (error) {
    if (dialog.open) {
      problem.textContent = error.message;
      showBanner("");
    }
    return null;
  }
}

async function add() {
  if (input.value.trim() && (await change("/api/class", { name: input.value })) !== null) input.value = "";
  fillRows();
  input.focus();
}

// One row per class. Rows that stay are not replaced, so that the focus and half-typed names in them stay too.
function fillRows() {
  const shown = new Map([...rows.children].map((row) => [row.dataset.name, row]));
  for (const [name, row] of shown) if (!classes.keys.has(name)) row.remove();
  let next = rows.firstElementChild;
  for (const name of classes.names) {
    const row = shown.get(name) || createRow(name);
    if (row === next) next = row.nextElementSibling;
    else rows.insertBefore(row, next);
    const key = row.querySelector("input");
    if (key !== document.activeElement) key.value = classes.keys.get(name);
  }
  if (dialog.open && !dialog.contains(document.activeElement)) input.focus();
}

function createRow(name) {
  const row = document.createElement("tr");
  const [key, label] = [field(), field()];
  call(name);
  label.value = name;

  function call(own) {
    row.dataset.name = own;
    key.setAttribute("aria-label", `Key of ${own}`);
    label.setAttribute("aria-label", `Name of ${own}`);
  }

  key.maxLength = 1;
  key.addEventListener("change", () => {
    const wanted = key.value.toLowerCase();
    if (wanted && !isBindable(wanted)) problem.textContent = `${wanted} cannot be a key: use a digit or a letter`;
    else bind(row.dataset.name, wanted);
    refresh(classes.names);
    key.value = classes.keys.get(row.dataset.name);
    fillRows();
  });
  let sent = null; // Enter sends it; leaving the field would send it again
  label.addEventListener("change", async () => {
    const [from, to] = [row.dataset.name, label.value];
    if (to === from || to === sent) return;
    sent = to;
    const isKnown = (own) => [...rows.children].some((other) => other !== row && other.dataset.name === own);
    const renamed = await change("/api/rename", { name: from, to });
    sent = null;
    if (renamed !== null && !isKnown(renamed)) call(renamed);
    if (label.value === to) label.value = row.dataset.name;
    fillRows();
  });
  for (const control of [key, label]) {
    const cell = document.createElement("td");
    cell.append(control);
    row.append(cell);
  }
  return row;
}

function field() {
  const control = document.createElement("input");
  control.autocomplete = "off";
  return control;
}

document.getElementById("add-class").addEventListener("click", add);
// Escape discards half-typed names and keys, which the fields would otherwise send as they lose the focus.
dialog.addEventListener("cancel", () => {
  for (const row of rows.children) {
    const [key, label] = row.querySelectorAll("input");
    key.value = classes.keys.get(row.dataset.name);
    label.value = row.dataset.name;
  }
});
dialog.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing || event.target.tagName === "BUTTON") return;
  event.preventDefault();
  if (event.target === input) add();
  else event.target.dispatchEvent(new Event("change"));
});
