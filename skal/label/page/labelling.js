// One large image, one key per answer. The next image is shown before the answer is on disk. If the answer cannot be
// saved, the page reports it and returns to the image. The page and the notebook's widget share this module: `elements`
// is where it is displayed, `services` how it reaches the session.

import { classOf, markSuggested, showButtons } from "./choices.js";
import { isBindable } from "./keys.js";

const AHEAD = 8;

// How many near-duplicates are decided together with an image, in words.
export function nearDuplicates({ group }) {
  return `${group.length} near-duplicate${group.length > 1 ? "s" : ""}`;
}

export function createLabelling(elements, services) {
  const { stage, path, suggestion, group, buttons } = elements;
  const { act, get, picture, settled, say, showBanner, classes, replaceClasses } = services;
  let queue = [];
  let pictures = new Map();
  let alone = false;
  let shownAt = 0;
  let busy = new Set(); // images whose answer is on its way
  let asking = false;
  let isLost = false; // the last request for questions failed
  let side = 256; // of the stage, which may be hidden when an image is loaded
  const decided = new Set(); // images decided since the last request for questions

  function refreshClasses() {
    showButtons(buttons, classes, answer);
    markSuggested(buttons, queue[0] && queue[0].suggestion);
    if (queue.length) start(true); // suggestions under the new names
  }

  // Take questions from the server. Those on the screen and in the queue stay.
  function take(questions, anew = false) {
    isLost = false;
    const before = queue[0] && queue[0].id;
    const fresh = questions.filter((question) => !busy.has(question.id));
    if (anew) queue = fresh;
    else {
      const known = new Set(queue.map((question) => question.id));
      queue.push(...fresh.filter((question) => !known.has(question.id)));
    }
    for (const question of queue.slice(0, AHEAD)) load(question);
    for (const id of pictures.keys()) if (!queue.some((question) => question.id === id)) pictures.delete(id);
    if (!before || !queue[0] || queue[0].id !== before) show();
    else if (anew) showSuggestion(queue[0]);
  }

  function load(question) {
    if (pictures.has(question.id)) return pictures.get(question.id);
    if (stage.clientWidth) side = Math.max(stage.clientWidth, stage.clientHeight, 256);
    const image = picture(question.id, side, `Image to label: ${question.path}`, drop);
    pictures.set(question.id, image);
    if (image.decode) image.decode().catch(() => {});
    return image;
  }

  async function start(anew = false) {
    if (asking) return;
    asking = true;
    decided.clear();
    try {
      const { questions } = await get("/api/questions", { n: AHEAD });
      take(questions.filter((question) => !decided.has(question.id)), anew);
    } catch (error) {
      isLost = true;
      showBanner(error.message);
    } finally {
      asking = false;
      if (!queue.length) show();
    }
  }

  // The file is gone or has changed: the server has set it aside.
  function drop(id) {
    pictures.delete(id);
    const isShown = queue[0] && queue[0].id === id;
    queue = queue.filter((question) => question.id !== id);
    say("A file was removed or changed; it is left out");
    if (isShown) show();
    start();
  }

  function show() {
    alone = false;
    const question = queue[0];
    if (!question) {
      stage.replaceChildren(!asking && busy.size === 0 && !isLost ? done() : "One moment …");
      path.textContent = suggestion.textContent = "";
      group.hidden = true;
      markSuggested(buttons, null);
      return;
    }
    stage.replaceChildren(load(question));
    shownAt = performance.now();
    path.textContent = question.path;
    showSuggestion(question);
    showGroup(question);
  }

  function showSuggestion(question) {
    suggestion.textContent = suggested(question);
    markSuggested(buttons, question.suggestion);
  }

  function suggested(question) {
    if (question.suggestion) return `${question.suggestion}? ${Math.round(100 * question.probability)} % – Enter accepts`;
    return question.why === "audit" ? "For the accuracy, so without a suggestion" : "";
  }

  // Show why a key does nothing, until the next image. The suggestion stays on the screen.
  function showProblem(words) {
    suggestion.textContent = queue[0].suggestion ? `${words}. ${suggested(queue[0])}` : words;
    say(words);
  }

  // The next step. The page names the command, the notebook's widget does not.
  function done() {
    const text = document.createElement("p");
    text.append("Done: nothing is left to label. The review shows labels that may be wrong. ");
    if (stage.dataset.next) {
      const command = document.createElement("code");
      command.textContent = stage.dataset.next;
      text.append("To use the model, run in a terminal: ", command);
    }
    return text;
  }

  function showGroup(question) {
    group.hidden = question.group.length === 0;
    if (group.hidden) return;
    const text = document.createElement("button");
    text.type = "button";
    text.id = "alone";
    text.setAttribute("aria-pressed", String(alone));
    text.textContent = alone
      ? "This image only ;"
      : `With ${nearDuplicates(question)} ;`;
    text.addEventListener("click", toggleAlone);
    const images = alone ? [] : question.group.slice(0, 6).map((id) => picture(id, 64, "Near-duplicate"));
    group.replaceChildren(text, ...images);
  }

  function toggleAlone() {
    if (queue[0] && queue[0].group.length) {
      const isFocused = group.contains(document.activeElement);
      alone = !alone;
      showGroup(queue[0]);
      if (isFocused) group.firstChild.focus();
    }
  }

  function decide(path_, body, words) {
    const question = queue[0];
    if (!question) return;
    const seconds = Math.round(performance.now() - shownAt) / 1000;
    queue.shift();
    busy.add(question.id);
    decided.add(question.id);
    show();
    say(words);
    act(path_, { image: question.id, seconds, n: AHEAD, ...body }).then(
      (answer_) => {
        busy.delete(question.id);
        take(answer_.questions);
        if (!queue.length) show();
      },
      () => {
        busy.delete(question.id); // the banner says why; the image comes back
        settled().then(() => start(true));
      },
    );
    if (queue.length < 2) settled().then(() => start());
  }

  function answer(label) {
    decide("/api/answer", { label, alone }, `Labelled ${label}`);
  }

  async function undo() {
    try {
      const { undone, questions, classes: names } = await act("/api/undo", { n: AHEAD });
      replaceClasses(names);
      say(undone ? `Undone: ${undone}` : "Nothing to undo");
      take(questions, true);
      return undone;
    } catch {
      return null; // the banner says why
    }
  }

  function onKey(key) {
    if (key === "Enter" && queue[0]) accept(queue[0]);
    else if (key === " ") unsure();
    else if (key === "Backspace") undo();
    else if (key === ";") toggleAlone();
    else if (classOf(classes, key) !== null) answer(classOf(classes, key));
    else if (isBindable(key) && queue[0]) showProblem(`No class has the key ${key}`);
    else return false;
    return true;
  }

  function accept(question) {
    if (question.suggestion) answer(question.suggestion);
    else showProblem("No suggestion for this image: press a class's key");
  }

  function unsure() {
    decide("/api/unsure", {}, "Unsure");
  }

  function isEmpty() {
    return queue.length === 0;
  }

  return { start, refreshClasses, answer, unsure, undo, onKey, isEmpty };
}
