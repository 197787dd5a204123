// The status of the session: counts, the accuracy with its interval, and the background work.

const aside = document.getElementById("status");
const SVG = "http://www.w3.org/2000/svg";

const percent = (share) => `${(100 * share).toFixed(1)} %`; // measured
const exact = (share) => `${Number((100 * share).toFixed(4))} %`; // chosen, such as a target

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function block(title, ...children) {
  const made = element("div");
  made.append(element("h2", title), ...children);
  return made;
}

export function showStatus(status) {
  const open = [...aside.querySelectorAll("details[open]")].map((list) => list.dataset.what);
  const focused = document.activeElement?.closest("#status details")?.dataset.what;
  aside.replaceChildren(
    block("Accuracy", ...accuracy(status)),
    block("When to stop", ...stop(status)),
    block("Labels", ...labels(status)),
    block("Background", ...background(status)),
    ...problems(status),
  );
  for (const list of aside.querySelectorAll("details")) {
    list.open = open.includes(list.dataset.what);
    if (list.dataset.what === focused) list.querySelector("summary").focus();
  }
}

function accuracy(status) {
  if (status.accuracy === null) {
    return [element("p", status.accuracy_hint, "quiet"), ...curve(status)];
  }
  const [low, high] = status.interval;
  const interval = element("p", `95 % interval ${percent(low)} to ${percent(high)}`);
  interval.title = "Valid for a single look, not if you label until it is high enough";
  const parts = [element("p", percent(status.accuracy), "big"), interval];
  if (status.bounds[0] !== status.bounds[1]) {
    parts.push(element("p", `counting unsure ones as wrong or right: ${percent(status.bounds[0])} to ${percent(status.bounds[1])}`));
  }
  const what = `Agreement with your labels on ${status.n_audit} images of this folder, drawn at random. No model learns these labels.`;
  parts.push(element("p", what, "quiet"));
  if (status.acceptance) {
    const { confidence, share } = status.acceptance;
    const often = `at least ${exact(status.target ?? 0.95)} are right, as the audit shows`;
    const they = `They are ${percent(share)} of the audit images.`;
    parts.push(element("p", `Of the predictions with a confidence above ${exact(confidence)}, ${often}. ${they}`));
  }
  return [...parts, ...curve(status)];
}

// Wilson's interval, as the server computes it.
function wilson(right, n) {
  const z = 1.959964;
  const share = right / n;
  const half = z * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  const centre = share + (z * z) / (2 * n);
  const scale = 1 + (z * z) / n;
  return [(centre - half) / scale, (centre + half) / scale];
}

// Models with an accuracy, the last one per number of labels. Labels for the audit are counted too, as above.
function curvePoints(models) {
  const found = new Map();
  for (const { n_labels, audit } of models) {
    const n = audit ? audit[0] + audit[1] : 0;
    if (n >= 30) found.set(n_labels + n, { n_labels: n_labels + n, audit });
  }
  return [...found.values()].sort((one, other) => one.n_labels - other.n_labels);
}

function curve(status) {
  const points = curvePoints(status.curve);
  if (points.length < 2) return [];
  const last = points.at(-1).n_labels;
  const first = points[0].n_labels;
  const [left, right] = [48, 294]; // the column of the percentages, and the plot
  const x = (n) => left + ((right - left) * (n - first)) / Math.max(last - first, 1);
  const bounds = points.map(({ audit }) => wilson(audit[0], audit[0] + audit[1]));
  const floor = Math.max(0, Math.floor(10 * Math.min(...bounds.map(([low]) => low), status.target || 1)) / 10);
  const y = (share) => 8 + (100 * (1 - share)) / Math.max(1 - floor, 0.1);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 300 130");
  svg.setAttribute("class", "curve");
  svg.setAttribute("role", "img");
  const shares = points.map(({ audit }) => audit[0] / (audit[0] + audit[1]));
  svg.setAttribute("aria-label", `Accuracy from ${percent(shares[0])} at ${first} labels to ${percent(shares.at(-1))} at ${last}`);
  const add = (tag, attributes, text) => {
    const part = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
    if (text) part.textContent = text;
    svg.append(part);
  };
  const upper = points.map((point, i) => `${x(point.n_labels)},${y(bounds[i][1])}`);
  const lower = points.map((point, i) => `${x(point.n_labels)},${y(bounds[i][0])}`).reverse();
  add("polygon", { class: "band", points: [...upper, ...lower].join(" ") });
  add("polyline", { class: "line", points: points.map((p, i) => `${x(p.n_labels)},${y(shares[i])}`).join(" ") });
  if (status.target) {
    add("line", { class: "target", x1: left, x2: right, y1: y(status.target), y2: y(status.target) });
    add("line", { class: "target", x1: 160, x2: 182, y1: 122, y2: 122 });
    add("text", { x: 187, y: 126 }, "target");
  }
  add("text", { x: 2, y: 16 }, "100 %");
  add("text", { x: 2, y: 108 }, `${Math.round(100 * floor)} %`);
  add("text", { x: left, y: 126 }, `${first} labels`);
  add("text", { x: right, y: 126, "text-anchor": "end" }, `${last}`);
  return [svg];
}

function stop(status) {
  const parts = [element("p", status.stop_hint)];
  if (status.seconds_left !== null) {
    const minutes = Math.max(1, Math.round(status.seconds_left / 60));
    parts.push(element("p", `About ${minutes} min of labelling until then.`, "quiet"));
  }
  if (status.model) parts.push(element("p", "Ctrl-C in the terminal ends the session and prints how to use the model.", "quiet"));
  return parts;
}

function labels(status) {
  const recalls = new Map(status.recalls.map((recall) => [recall.label, recall]));
  const table = element("table");
  const head = element("tr");
  const columns = ["Class", "Labels", ...(status.recalls.length ? ["Right in the audit"] : [])];
  for (const title of columns) {
    const cell = element("th", title);
    cell.scope = "col";
    head.append(cell);
  }
  const body = status.classes.map((name) => {
    const row = element("tr");
    const recall = recalls.get(name);
    const found = recall ? `${recall.n_right} of ${recall.n}` : "";
    row.append(element("td", name), element("td", status.per_class[name]));
    if (columns.length > 2) row.append(element("td", recall && !recall.is_known ? "audit only" : found));
    if (recall) row.title = `${percent(recall.recall)}, 95 % interval ${percent(recall.interval[0])} to ${percent(recall.interval[1])}`;
    return row;
  });
  const thead = element("thead");
  thead.append(head);
  const tbody = element("tbody");
  tbody.append(...body);
  table.append(thead, tbody);
  const more = [`${status.n_labels} labels of ${status.n_images} images`, `${status.n_audit} for the audit`];
  if (status.n_unsure) more.push(`${status.n_unsure} unsure`);
  if (status.n_conflicts) more.push(`${status.n_conflicts} conflicts`);
  const imports = Object.entries(status.not_used).map(([why, n]) => `${n} ${why}`);
  const unused = imports.length ? [element("p", `Imported labels not used: ${imports.join(", ")}`, "quiet")] : [];
  return [element("p", more.join(", ")), ...unused, table];
}

function background(status) {
  const parts = [element("p", status.background || waiting(status))];
  if (status.progress !== null && status.progress < 1) {
    const bar = element("progress");
    bar.max = 1;
    bar.value = status.progress;
    bar.setAttribute("aria-label", "Images processed by the network");
    parts.push(bar);
  }
  if (status.failure) parts.push(element("p", status.failure));
  return parts;
}

function waiting({ model, n_newer: newer }) {
  if (!model) return "Waiting for labels.";
  const answers = newer === 1 ? "1 newer answer" : `${newer} newer answers`;
  return newer ? `Model ${model}; ${answers} will be in the next one.` : `Model ${model} is up to date.`;
}

function problems(status) {
  const lists = [
    [status.n_unreadable, "Files that cannot be labelled", status.unreadable.map(([path, why]) => `${path}: ${why}`)],
    [status.n_links, "Links that leave the folder, left out", status.links],
    [status.n_duplicates, "Duplicates", status.duplicates.map(([path, first]) => `${path} is the same as ${first}`)],
    [status.set_aside.length, "Damaged lines in the log", status.set_aside],
  ];
  return lists
    .filter(([n]) => n)
    .map(([n, what, items]) => {
      const made = element("details");
      made.dataset.what = what;
      const list = element("ul");
      list.append(...items.map((item) => element("li", item)));
      made.append(element("summary", `${what}: ${n}`), list);
      return made;
    });
}
