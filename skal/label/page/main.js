// The page: its modes, its keys, and its messages.

import { act, get, isAboutConnection, leave, onSaving, unsaved } from "./api.js";
import { classes, onClasses, openDialog, setClasses } from "./classes.js";
import { keyOf } from "./keys.js";
import * as grid from "./grid.js";
import * as review from "./review.js";
import * as single from "./single.js";
import { showStatus } from "./status.js";

const modes = { single, grid, review };
const names = Object.keys(modes);
let mode = "single";

const banner = document.getElementById("banner");
const saved = document.getElementById("saved");
const spoken = document.getElementById("spoken");

export function say(words) {
  spoken.textContent = words;
}

export function showBanner(message, canReopen = false) {
  banner.replaceChildren(message);
  if (canReopen) banner.append(bannerButton("Check the log and continue", reopen));
  else if (message && !isAboutConnection(message)) banner.append(bannerButton("Close", () => showBanner("")));
  banner.hidden = !message;
}

function bannerButton(text, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", act);
  return button;
}

// The server has answered.
function answers() {
  if (isAboutConnection(banner.textContent)) showBanner("");
}

async function reopen() {
  try {
    await act("/api/reopen", {});
    showBanner("");
    await single.start(true);
  } catch {
    // the banner says why
  }
}

function setMode(name) {
  mode = name;
  for (const other of names) document.getElementById(other).hidden = other !== name;
  for (const button of document.querySelectorAll("nav button")) {
    button.setAttribute("aria-pressed", String(button.dataset.mode === name));
  }
  modes[name].start(true); // again, so that decisions of another mode are not asked again
}

for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => setMode(button.dataset.mode));
}

document.getElementById("edit-classes").addEventListener("click", openDialog);
document.getElementById("open-help").addEventListener("click", () => document.getElementById("help").showModal());

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
  const key = keyOf(event);
  if (!key) return; // a field of a dialog just closed may have the focus briefly: keys mean classes anyway
  if (event.repeat && !key.startsWith("Arrow") && key !== "Tab") {
    event.preventDefault(); // a held key answers once
    return;
  }
  // A focused control takes the keys that operate it, as usual.
  const control = event.target.closest("button, select, a, summary");
  const isCell = control && control.closest("#cells");
  if (control && !isCell && (key === "Enter" || key === " ")) return;
  if (key === "," || key === ".") {
    const to = (names.indexOf(mode) + (key === "." ? 1 : names.length - 1)) % names.length;
    setMode(names[to]);
  } else if (key === "/") openDialog();
  else if (key === "?") document.getElementById("help").showModal();
  else if (!modes[mode].onKey(key)) return;
  event.preventDefault();
});

// After a click the focus returns to the page, so that keys mean classes again.
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button && event.detail > 0 && !button.closest("dialog, #cells")) button.blur();
});

onSaving((waiting, problem) => {
  saved.textContent = waiting ? `${waiting} not saved yet` : "All saved";
  if (problem) showBanner(problem, problem.includes("cannot be written") || problem.includes("nothing is recorded"));
  else if (!waiting) answers();
});

window.addEventListener("beforeunload", (event) => {
  if (unsaved()) event.preventDefault();
});

// When this tab is closed, its questions go to others.
window.addEventListener("pagehide", leave);

onClasses(() => {
  for (const one of Object.values(modes)) one.refreshClasses();
});

let first = true;
async function poll() {
  try {
    const { changes } = classes;
    const status = await get("/api/status", { polls: 1 });
    if (!unsaved()) answers();
    if (changes === classes.changes) setClasses(status.classes); // else it may be from before the change
    showStatus(status);
    if (!status.is_writable) showBanner(status.failure, true);
    if (first && !status.classes.length) openDialog();
    first = false;
    if (mode === "single" && single.isEmpty()) single.start();
  } catch (error) {
    showBanner(error.message);
  } finally {
    setTimeout(poll, 2000);
  }
}

setMode("single");
poll();
