// The classes: their buttons, and the dialog in which they are added, renamed, merged and given keys.

import { act } from "./api.js";
import { bind, isBindable, keysOf } from "./keys.js";

export const classes = { names: [], keys: new Map(), changes: 0 };
const listeners = [];

export function onClasses(listener) {
  listeners.push(listener);
}

export function setClasses(names) {
  const same = names.length === classes.names.length && names.every((name, i) => name === classes.names[i]);
  if (same && classes.keys.size === names.length) return;
  refresh(names);
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

async function change(path, body) {
  problem.textContent = "";
  try {
    const { classes: names } = await act(path, body);
    classes.changes += 1;
    refresh(names);
    return true;
  } catch (error) {
    problem.textContent = error.message;
    return false;
  } finally {
    fillRows();
  }
}

async function add() {
  if (input.value.trim() && (await change("/api/class", { name: input.value }))) input.value = "";
  input.focus();
}

function fillRows() {
  rows.replaceChildren(
    ...classes.names.map((name) => {
      const row = document.createElement("tr");
      const key = field(classes.keys.get(name), `Key of ${name}`);
      key.maxLength = 1;
      key.addEventListener("change", () => {
        const wanted = key.value.toLowerCase();
        if (wanted && !isBindable(wanted)) problem.textContent = `${wanted} cannot be a key: use a digit or a letter`;
        else bind(name, wanted);
        refresh(classes.names);
        fillRows();
      });
      const label = field(name, `Name of ${name}`);
      let isSent = false; // Enter sends it; leaving the field would send it again
      label.addEventListener("change", () => {
        if (isSent || label.value === name) return;
        isSent = true;
        change("/api/rename", { name, to: label.value });
      });
      for (const control of [key, label]) {
        const cell = document.createElement("td");
        cell.append(control);
        row.append(cell);
      }
      return row;
    }),
  );
}

function field(value, label) {
  const control = document.createElement("input");
  control.value = value;
  control.autocomplete = "off";
  control.setAttribute("aria-label", label);
  return control;
}

document.getElementById("add-class").addEventListener("click", add);
dialog.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.target.tagName === "BUTTON") return;
  event.preventDefault();
  if (event.target === input) add();
  else event.target.dispatchEvent(new Event("change"));
});
