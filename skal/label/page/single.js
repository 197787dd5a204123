// The labelling mode of the page.

import { act, get, picture, settled } from "./api.js";
import { onClick } from "./choices.js";
import { classes, replaceClasses } from "./classes.js";
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
    replaceClasses,
  },
);

export const { start, refreshClasses, undo, onKey, isEmpty } = labelling;

onClick(element("unsure"), labelling.unsure);
element("undo").addEventListener("click", undo);
