// Requests to the server. Actions are sent one after the other, each under a name of its own, so that an action that
// is sent again counts once.

const token = document.querySelector('meta[name="write-token"]').content;

export const tab = sessionStorage.getItem("skal-tab") || newId();
sessionStorage.setItem("skal-tab", tab);

// A reload is another visit of the same tab: what it was given is not taken back by the end of the visit before.
const visit = newId();

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function answered(response) {
  if (response.ok) return response.json();
  let message = response.statusText;
  const text = await response.text();
  try {
    message = JSON.parse(text).error || message;
  } catch {
    message = text || message;
  }
  throw new Refused(response.status, message);
}

export async function get(path, query = {}) {
  return answered(await fetch(`${path}?${new URLSearchParams({ tab, visit, ...query })}`));
}

async function post(path, body) {
  const headers = { "content-type": "application/json", "x-skal-token": token };
  return answered(await fetch(path, { method: "POST", headers, body: JSON.stringify({ tab, visit, ...body }) }));
}

export function leave() {
  const headers = { "content-type": "application/json", "x-skal-token": token };
  fetch("/api/leave", { method: "POST", headers, body: JSON.stringify({ tab, visit }), keepalive: true }).catch(() => {});
}

// What is not saved yet, in order; the page shows how much it is.
let last = Promise.resolve();
let waiting = 0;
const listeners = [];

export function onSaving(listener) {
  listeners.push(listener);
}

export function unsaved() {
  return waiting;
}

function tell(problem) {
  for (const listener of listeners) listener(waiting, problem);
}

const RETRIES = [300, 1000, 3000];

async function persist(path, body) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await post(path, body);
    } catch (error) {
      const isLost = !(error instanceof Refused) || error.status === 503;
      if (!isLost) throw error;
      tell("The server does not answer. Trying again …");
      await new Promise((resolve) => setTimeout(resolve, RETRIES[Math.min(attempt, RETRIES.length - 1)]));
    }
  }
}

// Send an action after those before it; the promise is rejected if it is refused.
export function act(path, body) {
  const named = { event: newId(), ...body };
  waiting += 1;
  tell(null);
  const done = last.then(() => persist(path, named));
  last = done.then(
    () => {
      waiting -= 1;
      tell(null);
    },
    (error) => {
      waiting -= 1;
      tell(error.message);
    },
  );
  return done;
}

// After all that is on its way.
export function settled() {
  return last;
}

export function imageUrl(id, cssPixels) {
  const side = Math.ceil(cssPixels * (window.devicePixelRatio || 1));
  return `/image/${id}?side=${Math.min(Math.max(side, 64), 4096)}`;
}

// An image that is loaded before it is shown; small ones are enlarged without blur. Where there is none any more, `gone`
// is called.
export function picture(id, cssPixels, alt, gone = () => {}) {
  const image = new Image();
  image.alt = alt;
  image.dataset.id = id;
  image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth < 100));
  image.addEventListener("error", () => gone(id));
  image.src = imageUrl(id, cssPixels);
  return image;
}
