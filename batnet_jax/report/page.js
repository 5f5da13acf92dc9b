"use strict";
// Without this script the page shows everything; the script filters lists and fields, and folds
// sections on a phone.
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

// A link to lists sets their filters, as in data-set="pid=ann".
for (const link of document.querySelectorAll("a[data-set]")) {
  link.addEventListener("click", () => {
    const form = document.querySelector(link.hash).querySelector("form.filters");
    form.reset();
    for (const [name, value] of new URLSearchParams(link.dataset.set)) {
      form.querySelector(`[data-filter="${name}"]`).value = value;
    }
    setTimeout(() => form.dispatchEvent(new Event("input")));  // after the reset's own turn
  });
}

const folds = [...document.querySelectorAll(".fold")];
const unfold = (hash) => {
  const own = hash.length > 1 && document.getElementById(decodeURIComponent(hash.slice(1)));
  const fold = own && (own.querySelector(".fold") || own.closest(".fold"));
  if (fold) fold.open = true;
};
if (matchMedia("(max-width: 40rem)").matches) folds.slice(1).forEach((fold) => { fold.open = false; });
unfold(location.hash);
for (const link of document.querySelectorAll("a[href^='#']")) {
  link.addEventListener("click", () => unfold(link.hash));
}
addEventListener("beforeprint", () => folds.forEach((fold) => { fold.open = true; }));

// A map of features: all marks of an identity light up with one of them, or with the list's choice.
for (const form of document.querySelectorAll("form.light")) {
  const section = form.closest("section");
  const [choice, output] = [form.querySelector("select"), form.querySelector("output")];
  const light = (who, text) => {
    for (const drawing of section.querySelectorAll(".scatter")) {
      drawing.classList.toggle("lit", who !== "");
      for (const mark of drawing.querySelectorAll(".mark")) {
        mark.classList.toggle("lit", mark.dataset.who === who);
      }
    }
    output.textContent = text;
  };
  const chosen = () => light(choice.value, choice.value && choice.selectedOptions[0].text);
  choice.addEventListener("input", chosen);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const mark of section.querySelectorAll(".mark")) {
    mark.addEventListener("pointerenter", () =>
      light(mark.dataset.who, mark.querySelector("title").textContent));
    mark.addEventListener("pointerleave", chosen);
  }
  form.hidden = false;
}

for (const form of document.querySelectorAll("form.search")) {
  const rows = [...form.parentElement.querySelectorAll("tbody tr")];
  const text = form.querySelector("input");
  const output = form.querySelector("output");

  const show = () => {
    const wanted = text.value.trim().toLowerCase();
    let found = 0;
    for (const row of rows) {
      const matches = row.textContent.toLowerCase().includes(wanted);
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
