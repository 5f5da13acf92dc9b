// An image of a list in a window, beside the list's query. Arrow keys go along a list.
const zoom = document.getElementById("zoom");
const zoomTitle = document.getElementById("zoom-title");
let opened = null;

function zoomFigure(button, head) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const title = document.createElement("b");
  title.textContent = head;
  caption.append(title);
  for (const text of button.dataset.about.split("\n")) {
    caption.append(document.createElement("br"), text);
  }
  figure.append(button.querySelector(".thumb").cloneNode(), caption);
  return figure;
}

const row = (button) => [...button.closest("[data-zooms]").querySelectorAll(".zoom")];
const isShown = (button) => button.getClientRects().length > 0;

function showZoom(button) {
  opened = button;
  const buttons = row(button);
  const place = buttons.indexOf(button);
  const query = buttons.find((one) => one.dataset.head === "query");
  zoomTitle.textContent = button.closest("[data-zooms]").dataset.zooms;
  const figures = [zoomFigure(button, button.dataset.head)];
  if (query && query !== button) figures.unshift(zoomFigure(query, "query"));
  zoom.querySelector(".pair").replaceChildren(...figures);
  for (const step of zoom.querySelectorAll("[data-step]")) {
    const by = Number(step.dataset.step);
    step.disabled = by !== 0 && !buttons[place + by];
  }
  if (!zoom.open) zoom.showModal();
}

function step(by) {
  const next = row(opened)[row(opened).indexOf(opened) + by];
  if (next) showZoom(next);
}

for (const list of document.querySelectorAll("[data-zooms]")) {
  const buttons = [...list.querySelectorAll(".zoom")];
  // One stop of the Tab key for each list; arrow keys go along it.
  buttons.forEach((button, place) => { button.tabIndex = place ? -1 : 0; });
  list.addEventListener("click", (event) => {
    const button = event.target.closest(".zoom");
    if (button) showZoom(button);
  });
  list.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = by && buttons[buttons.indexOf(document.activeElement) + by];
    if (!next) return;
    event.preventDefault();
    buttons.forEach((button) => { button.tabIndex = button === next ? 0 : -1; });
    next.focus();
  });
}

for (const button of zoom.querySelectorAll("[data-step]")) {
  button.addEventListener("click", () => {
    const by = Number(button.dataset.step);
    if (by) step(by);
    else zoom.close();
  });
}
zoom.addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (by) step(by);
});
zoom.addEventListener("click", (event) => { if (event.target === zoom) zoom.close(); });
zoom.addEventListener("close", () => {
  if (!isShown(opened)) return;
  row(opened).forEach((button) => { button.tabIndex = button === opened ? 0 : -1; });
  opened.focus();
});
