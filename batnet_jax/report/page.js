"use strict";
// Without this script the page shows everything; the script filters lists and fields.
const STEP = 8; // lists shown at a time

for (const form of document.querySelectorAll("form.filters")) {
  const section = form.closest("section");
  const cards = [...section.querySelectorAll("article.card")];
  const more = section.querySelector("button.more");
  const nothing = section.querySelector(".nothing");
  const output = form.querySelector("output");
  let limit = STEP;

  const filters = () => [...form.querySelectorAll("[data-filter]")]
    .filter((input) => input.type !== "radio" || input.checked)
    .map((input) => [input.dataset.filter, input.value.trim()])
    .filter(([, value]) => value);

  const show = () => {
    const wanted = filters();
    const matches = (card) => wanted.every(([name, value]) =>
      card.dataset[name] === value || card.dataset[name].split(" ").includes(value));
    let found = 0;
    for (const card of cards) card.hidden = !matches(card) || ++found > limit;
    const shown = Math.min(found, limit);
    output.textContent = `${shown} of ${found} matching lists shown, ${cards.length} in total`;
    more.hidden = found <= limit;
    nothing.hidden = found > 0;
  };

  form.addEventListener("input", () => { limit = STEP; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => { limit = STEP; setTimeout(show); });
  more.addEventListener("click", () => {
    const shown = cards.filter((card) => !card.hidden);
    limit += STEP;
    show();
    // Focus the first new list; otherwise a keyboard user would continue behind all of them.
    const next = cards.find((card) => !card.hidden && !shown.includes(card));
    next.tabIndex = -1;
    next.focus({ preventScroll: true });
  });
  form.hidden = false;
  show();
}

for (const form of document.querySelectorAll("form.search")) {
  const rows = [...form.closest("section").querySelectorAll("tbody tr")];
  const [text, changed] = form.querySelectorAll("input");
  const output = form.querySelector("output");

  const show = () => {
    const wanted = text.value.trim().toLowerCase();
    let found = 0;
    for (const row of rows) {
      const matches = row.textContent.toLowerCase().includes(wanted)
        && (!changed.checked || row.classList.contains("is-changed"));
      row.hidden = !matches;
      found += matches;
    }
    output.textContent = `${found} of ${rows.length} fields`;
  };

  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
}
