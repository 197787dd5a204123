// Images predicted as one class, most confident first. The wrong ones are marked, the rest are accepted at once.

import { act, get, picture } from "./api.js";
import { onClick } from "./choices.js";
import { classes } from "./classes.js";
import { say, showBanner } from "./main.js";
import { undo as undoLast } from "./single.js";

const cells = document.getElementById("cells");
const select = document.getElementById("grid-class");
const accept = document.getElementById("accept");
const hint = document.getElementById("grid-hint");
const N = 24;
let shownAt = 0;
let label = ""; // of the images that are shown
let requests = 0;

export function refreshClasses() {
  const { value: kept, selectedIndex: place, length: n } = select;
  select.replaceChildren(...classes.names.map((name) => new Option(name, name)));
  if (classes.names.includes(kept)) select.value = kept;
  else if (n === select.length) select.selectedIndex = place; // it was renamed
  if (label && label !== select.value) start(); // the class of the grid was renamed or merged
}

export async function start() {
  const wanted = select.value;
  const request = (requests += 1);
  accept.disabled = true;
  let questions = [];
  try {
    if (wanted) questions = (await get("/api/grid", { label: wanted, n: N })).questions;
  } catch (error) {
    showBanner(error.message);
  }
  if (request !== requests) return; // another class was selected meanwhile
  label = wanted;
  cells.replaceChildren(...questions.map(cell));
  accept.disabled = questions.length === 0;
  count();
  hint.textContent = questions.length
    ? `${questions.length} images predicted as ${label}, most confident first. Mark the wrong ones, accept the rest.`
    : "No unlabelled image is predicted as this class yet. Choose another class, or keep labelling.";
  shownAt = performance.now();
  if (questions.length) cells.firstChild.focus();
}

function cell(question) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.id = question.id;
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", `${question.path}, mark as wrong`);
  const text = document.createElement("span");
  text.textContent = `${Math.round(100 * question.probability)} %`;
  button.append(picture(question.id, 240, "", () => {
    button.remove();
    count();
  }), text);
  button.addEventListener("click", () => toggle(button));
  return button;
}

function toggle(button) {
  const wrong = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(wrong));
  count();
  say(wrong ? "Wrong" : "Right");
}

// Ids of the images in the grid that are marked as wrong, or not.
function ids(isWrong) {
  return [...cells.children]
    .filter((button) => (button.getAttribute("aria-pressed") === "true") === isWrong)
    .map((button) => button.dataset.id);
}

function count() {
  const n = ids(false).length;
  accept.firstChild.data = n ? `Accept ${n} ` : "Accept ";
}

async function send() {
  if (accept.disabled || !cells.children.length) return;
  const [images, rejected] = [ids(false), ids(true)];
  const seconds = Math.round(performance.now() - shownAt) / 1000;
  accept.disabled = true;
  try {
    await act("/api/grid", { label, images, rejected, seconds });
    say(`Labelled ${images.length} images ${label}`);
  } catch {
    // the banner says why
  }
  await start();
}

export async function undo() {
  await undoLast();
  await start();
}

function move(by) {
  const all = [...cells.children];
  const at = all.indexOf(document.activeElement);
  const to = all[Math.min(Math.max(at + by, 0), all.length - 1)];
  if (to) to.focus();
}

function columns() {
  return getComputedStyle(cells).gridTemplateColumns.split(" ").length;
}

export function onKey(key) {
  if (document.activeElement === select && key !== "Enter" && key !== "Backspace") return false;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() };
  if (key in steps) move(steps[key]);
  else if (key === "Enter") send();
  else if (key === "Backspace") undo();
  else if (key === " " && document.activeElement.parentNode === cells) toggle(document.activeElement);
  else return false;
  return true;
}

select.addEventListener("change", start);
onClick(accept, send);
document.getElementById("grid-undo").addEventListener("click", undo);
