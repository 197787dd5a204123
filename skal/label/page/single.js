// The labelling mode of the page.

import { act, get, picture, settled } from "./api.js";
import { classes } from "./classes.js";
import { createLabelling } from "./labelling.js";
import { say, showBanner } from "./main.js";

const element = (id) => document.getElementById(id);
const labelling = createLabelling(
  {
    stage: element("stage"),
    path: element("path"),
    suggestion: element("suggestion"),
    group: element("group"),
    buttons: element("classes"),
  },
  {
    act,
    get,
    picture,
    settled,
    say: (words) => say(words),
    showBanner: (words) => showBanner(words),
    classes,
  },
);

export const { start, refreshClasses, undo, onKey, isEmpty } = labelling;

element("unsure").addEventListener("click", labelling.unsure);
element("undo").addEventListener("click", undo);
