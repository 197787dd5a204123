// The classes as buttons, each with its key. `classes` holds their names and a Map from name to key.

export function classOf(classes, key) {
  for (const [name, own] of classes.keys) if (own === key) return name;
  return null;
}

const DOUBLE_CLICK = 300; // milliseconds
let clickedAt = -Infinity;

// Act on clicks, except the second one of a double click: it would answer the next image, which nobody has seen yet.
export function onClick(button, act) {
  button.addEventListener("click", (event) => {
    const isSecond = event.detail > 1 && event.timeStamp - clickedAt < DOUBLE_CLICK;
    clickedAt = event.timeStamp;
    if (!isSecond) act();
  });
}

// Fill a group with one button per class.
export function showButtons(group, classes, choose) {
  group.replaceChildren(
    ...classes.names.map((name) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.label = name;
      const key = document.createElement("kbd");
      key.textContent = classes.keys.get(name);
      button.append(`${name} `, ...(key.textContent ? [key] : []));
      onClick(button, () => choose(name));
      return button;
    }),
  );
}

export function markSuggested(group, name) {
  for (const button of group.children) button.classList.toggle("suggested", button.dataset.label === name);
}
