"use strict";
// Everything is there without this script: it hides what is not asked for, and shows more of it.
const STEP = 8; // lists at a time

for (const form of document.querySelectorAll("form.filters")) {
  const section = form.closest("section");
  const cards = [...section.querySelectorAll("article.card")];
  const more = section.querySelector("button.more");
  const nothing = section.querySelector(".nothing");
  const output = form.querySelector("output");
  let most = STEP;

  const asked = () => [...form.querySelectorAll("[data-filter]")]
    .filter((input) => input.type !== "radio" || input.checked)
    .map((input) => [input.dataset.filter, input.value.trim()])
    .filter(([, value]) => value);

  const show = () => {
    const wanted = asked();
    const fits = (card) => wanted.every(([name, value]) =>
      card.dataset[name].split(" ").includes(value));
    let found = 0;
    for (const card of cards) card.hidden = !fits(card) || ++found > most;
    const shown = Math.min(found, most);
    output.textContent = `${shown} of ${found} fitting lists shown, ${cards.length} in all`;
    more.hidden = found <= most;
    nothing.hidden = found > 0;
  };

  form.addEventListener("input", () => { most = STEP; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => { most = STEP; setTimeout(show); });
  more.addEventListener("click", () => {
    const shown = cards.filter((card) => !card.hidden);
    most += STEP;
    show();
    // The focus moves on to what is new, else a reader by keyboard would stand behind it.
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
      const fits = row.textContent.toLowerCase().includes(wanted)
        && (!changed.checked || row.classList.contains("is-changed"));
      row.hidden = !fits;
      found += fits;
    }
    output.textContent = `${found} of ${rows.length} fields`;
  };

  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
}
