// Labels to review: conflicts, images the person was unsure about, and labels the model doubts most.

import { act, get, picture } from "./api.js";
import { classOf, markSuggested, onClick, showButtons } from "./choices.js";
import { classes } from "./classes.js";
import { isBindable } from "./keys.js";
import { nearDuplicates } from "./labelling.js";
import { say, showBanner } from "./main.js";
import { undo as undoLast } from "./single.js";

const stage = document.getElementById("review-stage");
const about = document.getElementById("review-about");
const buttons = document.getElementById("review-classes");
const keep = document.getElementById("keep");
let queue = [];
let shownAt = 0;

const WORDS = {
  conflict: (doubt) => `Labels disagree: ${doubt.labels.map((name) => name || "unsure").join(" or ")}`,
  unsure: () => "You were unsure",
  doubt: (doubt) => `Labelled ${doubt.labels[0]}; the model says ${doubt.suggestion}`,
};

export function refreshClasses() {
  showButtons(buttons, classes, answer);
  if (queue.length) start(); // labels under the new names
}

export async function start() {
  try {
    queue = (await get("/api/review", { n: 48 })).questions;
  } catch (error) {
    showBanner(error.message);
  }
  show();
}

function show() {
  const doubt = queue[0];
  keep.disabled = !doubt || doubt.kind !== "doubt";
  if (!doubt) {
    const text = document.createElement("p");
    text.textContent = "Nothing to review.";
    stage.replaceChildren(text);
    about.textContent = "";
    markSuggested(buttons, null);
    return;
  }
  const side = Math.max(stage.clientWidth, stage.clientHeight, 256);
  stage.replaceChildren(picture(doubt.id, side, `Image to review: ${doubt.path}`, start));
  about.textContent = described(doubt);
  markSuggested(buttons, doubt.labels.length === 1 ? doubt.labels[0] : null);
  shownAt = performance.now();
}

function described(doubt) {
  const near = doubt.group.length ? `, with ${nearDuplicates(doubt)}` : "";
  return `${WORDS[doubt.kind](doubt)} – ${doubt.path}${near} (${queue.length} left)`;
}

// Show why a key does nothing, until the next image.
function showProblem(words) {
  about.textContent = `${words}. ${described(queue[0])}`;
}

async function decide(path, body, words) {
  const doubt = queue.shift();
  if (!doubt) return;
  queue = queue.filter((other) => !doubt.group.includes(other.id)); // decided with it; shown again if doubted
  const seconds = Math.round(performance.now() - shownAt) / 1000;
  show();
  say(words);
  try {
    await act(path, { image: doubt.id, seconds, why: "review", ...body });
    if (!queue.length) await start(); // there may be more than were sent
  } catch {
    await start(); // the banner says why; the image comes back
  }
}

function answer(label) {
  decide("/api/answer", { label }, `Labelled ${label}`);
}

export async function undo() {
  await undoLast();
  await start();
}

export function onKey(key) {
  if (key === "Enter" && !keep.disabled) answer(queue[0].labels[0]);
  else if (key === " ") decide("/api/unsure", {}, "Unsure");
  else if (key === "Backspace") undo();
  else if (classOf(classes, key) !== null) answer(classOf(classes, key));
  else if (key === "Enter" && queue[0]) showProblem("There is no single label to keep: press a class's key");
  else if (isBindable(key) && queue[0]) showProblem(`No class has the key ${key}`);
  else return false;
  return true;
}

onClick(keep, () => answer(queue[0].labels[0]));
onClick(document.getElementById("review-unsure"), () => decide("/api/unsure", {}, "Unsure"));
document.getElementById("review-undo").addEventListener("click", undo);
