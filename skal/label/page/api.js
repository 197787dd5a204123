// Requests to the server.

import { createSaving, newId, Refused, SHUT_OUT } from "./saving.js";

const meta = (page, name) => page.querySelector(`meta[name="${name}"]`).content;
const link = meta(document, "link");
let token = meta(document, "write-token");

const GONE = `skal label has stopped or does not respond. Saved answers are on disk. To continue, start it again and open ${link}`;
const GONE_IMAGE = [404, 410];
const STARTED_AGAIN = `skal label was restarted. To continue here, open ${link} in this browser.`;

export const isAboutConnection = (message) => message === GONE || message === STARTED_AGAIN;

// A reload continues as the same tab. The id is stored only while the page is left, since a tab that is duplicated copies
// the storage and must have an id of its own.
export const tab = sessionStorage.getItem("skal-tab") || newId();
sessionStorage.removeItem("skal-tab");

// A reload is a new visit of the same tab. The end of the previous visit does not take back its questions.
const visit = newId();

async function answered(response) {
  if (response.ok) return response.json();
  let message = response.statusText;
  const text = await response.text();
  try {
    message = JSON.parse(text).error || message;
  } catch {
    message = text || message;
  }
  throw new Refused(response.status, response.status === SHUT_OUT ? STARTED_AGAIN : message);
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Error(GONE);
  }
}

export async function get(path, query = {}) {
  return answered(await send(`${path}?${new URLSearchParams({ tab, visit, ...query })}`));
}

async function post(path, body) {
  const headers = { "content-type": "application/json", "x-skal-token": token };
  const response = await send(path, { method: "POST", headers, body: JSON.stringify({ tab, visit, ...body }) });
  if (response.status === SHUT_OUT) await renew();
  return answered(response);
}

// The browser may already have the cookie of a restarted server, whose page then has another token.
async function renew() {
  const response = await send("/");
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (meta(page, "link") === link) token = meta(page, "write-token"); // else it is another project's
}

export function leave() {
  sessionStorage.setItem("skal-tab", tab);
  const headers = { "content-type": "application/json", "x-skal-token": token };
  fetch("/api/leave", { method: "POST", headers, body: JSON.stringify({ tab, visit }), keepalive: true }).catch(() => {});
}

export const { act, onSaving, settled, unsaved } = createSaving(post);

export function imageUrl(id, cssPixels) {
  const side = Math.ceil(cssPixels * (window.devicePixelRatio || 1));
  return `/image/${id}?side=${Math.min(Math.max(side, 64), 4096)}`;
}

// An image that is loaded before it is shown. Small ones are enlarged without blur. If the server says that the image no
// longer exists, `gone` is called. If it does not respond, the image is requested again.
export function picture(id, cssPixels, alt, gone = () => {}) {
  const image = new Image();
  image.alt = alt;
  image.dataset.id = id;
  image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth < 100));
  const url = imageUrl(id, cssPixels);
  image.addEventListener("error", async () => {
    const response = await fetch(url).catch(() => null);
    if (response && GONE_IMAGE.includes(response.status)) gone(id);
    else setTimeout(() => (image.src = url), 2000);
  });
  image.src = url;
  return image;
}
