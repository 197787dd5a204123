// The labelling mode in a notebook. The session is reached through the widget's messages.

import { onClick } from "./choices.js";
import { keyOf, keysOf } from "./keys.js";
import { createLabelling } from "./labelling.js";
import { createSaving, newId, Refused } from "./saving.js";

function make(tag, parent, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  parent.append(made);
  return made;
}

// Requests over messages. Each has an id, which its answer carries too.
function createChannel(model) {
  const open = new Map();
  const receive = (message, buffers) => {
    const done = open.get(message.id);
    open.delete(message.id);
    if (done) done({ ...message, buffers });
  };
  model.on("msg:custom", receive);
  return {
    send: (content) =>
      new Promise((resolve) => {
        const id = newId();
        open.set(id, resolve);
        model.send({ id, ...content });
      }),
    close: () => model.off("msg:custom", receive),
  };
}

function render({ model, el }) {
  const tab = newId();
  const channel = createChannel(model);
  const root = make("div", el, "skal-label");
  root.tabIndex = 0;
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Label one image");
  root.dataset.lmSuppressShortcuts = "true"; // keys are classes here, not the notebook's commands
  const banner = make("p", root, "banner");
  banner.setAttribute("role", "alert");
  const stage = make("div", root, "stage");
  const about = make("div", root, "row");
  const path = make("span", about, "quiet");
  const suggestion = make("span", about, "");
  const group = make("div", root, "row");
  const buttons = make("div", root, "row");
  const row = make("div", root, "row");
  const unsure = make("button", row, "", "Unsure (Space)");
  const undo = make("button", row, "", "Undo (Backspace)");
  const field = make("input", row, "");
  field.placeholder = "New class, then Enter";
  field.setAttribute("aria-label", "New class");
  const status = make("p", root, "quiet");
  const spoken = make("p", root, "spoken");
  spoken.setAttribute("aria-live", "polite");

  async function ask(kind, where, body) {
    const answer = await channel.send({ kind, path: where, body: { tab, ...body } });
    if (answer.status !== 200) throw new Refused(answer.status, answer.body.error);
    return answer.body;
  }
  const get = (where, body = {}) => ask("read", where, body);
  const saving = createSaving((where, body) => ask("act", where, body));
  const classes = { names: [], keys: new Map() };

  function picture(id, cssPixels, alt, gone = () => {}) {
    const image = new Image();
    image.alt = alt;
    image.dataset.id = id;
    const side = Math.ceil(cssPixels * (window.devicePixelRatio || 1));
    channel.send({ kind: "image", image: id, side: String(side) }).then((answer) => {
      if (answer.status !== 200) return gone(id);
      const url = URL.createObjectURL(new Blob(answer.buffers, { type: "image/jpeg" }));
      image.addEventListener("load", () => {
        URL.revokeObjectURL(url);
        image.classList.toggle("tiny", image.naturalWidth < 100);
      });
      image.src = url;
    });
    return image;
  }

  const labelling = createLabelling(
    { stage, path, suggestion, group, buttons },
    {
      act: saving.act,
      get,
      picture,
      settled: saving.settled,
      say: (words) => (spoken.textContent = words),
      showBanner: (words) => (banner.textContent = words),
      classes,
      replaceClasses,
    },
  );

  function replaceClasses(names) {
    if (names.join("\n") !== classes.names.join("\n")) setClasses(names);
  }

  function setClasses(names) {
    classes.names = names;
    classes.keys = keysOf(names);
    labelling.refreshClasses();
  }

  async function refresh() {
    const found = await get("/api/status");
    replaceClasses(found.classes);
    const percent = (share) => `${(100 * share).toFixed(1)} %`;
    const [low, high] = found.interval || [];
    const accuracy = found.accuracy === null ? "" : `; accuracy ${percent(found.accuracy)} (${percent(low)} to ${percent(high)})`;
    status.textContent = `${found.n_labels} labels of ${found.n_images} images${accuracy}`;
  }

  saving.onSaving((waiting, problem) => {
    if (problem) banner.textContent = problem;
    else if (!waiting) refresh();
  });
  root.addEventListener("keydown", (event) => {
    if (event.target === field) {
      if (event.key !== "Enter" || event.isComposing || !field.value.trim()) return;
      saving.act("/api/class", { name: field.value }).then(
        (answer) => {
          field.value = "";
          setClasses(answer.classes);
          root.focus();
        },
        () => {}, // the banner says why
      );
    } else {
      const isControl = event.target.tagName === "BUTTON" && (event.key === "Enter" || event.key === " ");
      if (isControl || event.repeat || !labelling.onKey(keyOf(event))) return;
      event.preventDefault();
    }
    event.stopPropagation();
  });
  onClick(unsure, labelling.unsure);
  undo.addEventListener("click", labelling.undo);
  refresh().then(() => labelling.start(true));
  return () => {
    channel.send({ kind: "act", path: "/api/leave", body: { tab } });
    channel.close();
  };
}

export default { render };
