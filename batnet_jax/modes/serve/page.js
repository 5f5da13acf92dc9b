"use strict";
const byId = (id) => document.getElementById(id);
const [drop, file, figure, preview, hint, about, topSelect, statusLine, list, samples, title] =
  ["drop", "file", "query", "preview", "hint", "about", "top", "status", "hits", "samples", "results"]
    .map(byId);
const [where, whereError, large] = ["where", "where-error", "large"].map(byId);
const WORDS = { same: "likely the same", unsure: "unsure", different: "likely not" };
const FILE_FACTS = new Set(["bytes", "modified", "digest", "x0", "y0", "x1", "y1"]);
const WRONG_FILTER = "where: "; /* begins the server's answers about filters */
let query = null; /* { image: a file } or { like: a gallery image } */
let shown = []; /* the hits on the page */
let opened = 0; /* the place in `shown` of the hit that is shown large */
let accept = null; /* the score below which the server leaves hits out */
let latest = 0; /* number of the latest search; answers to earlier ones are ignored */

function say(text, bad = false) {
  statusLine.textContent = text;
  statusLine.classList.toggle("bad", bad);
}

function node(name, text, className) {
  const element = document.createElement(name);
  element.textContent = text || "";
  if (className) element.className = className;
  return element;
}

function button(text, className, work) {
  const made = node("button", text, className);
  made.type = "button";
  made.addEventListener("click", work);
  return made;
}

function picture(hit, label, work) {
  const made = button("", "show", work);
  const image = node("img");
  image.alt = label;
  image.loading = "lazy";
  image.src = itemOf(hit);
  image.onerror = () => image.replaceWith(node("span", `no picture: ${label}`, "lost"));
  made.append(image);
  return made;
}

const itemOf = (hit, end = "") => `gallery/${hit.index}${end}?changes=${hit.changes}`;

const named = (hit) => (hit.name ? `${hit.name}, ${hit.path}` : hit.path);

function verdict(hit) {
  return hit.verdict ? [node("p", WORDS[hit.verdict], `verdict ${hit.verdict}`)] : [];
}

/* What the gallery keeps of an image, but for the facts of its file. */
function known(hit) {
  return Object.entries(hit.columns || {})
    .filter(([name, value]) => !FILE_FACTS.has(name) && value !== null && value !== "")
    .map(([name, value]) => `${name} ${value}`);
}

function card(hit, place) {
  const item = node("li");
  const line = node("p", "", "line");
  line.append(node("strong", `${hit.rank}.`), node("span", hit.score.toFixed(3), "score"));
  item.append(picture(hit, `Rank ${hit.rank}: ${named(hit)}`, () => enlarge(place)), line);
  item.append(...verdict(hit));
  if (hit.name) item.append(node("p", hit.name, "name"));
  item.append(node("p", hit.path, "path"));
  const again = button("Search with this one", "again", () => searchLike(hit));
  again.setAttribute("aria-label", `Search with this one: ${named(hit)}`);
  item.append(again);
  return item;
}

function skeleton() {
  const item = node("li", "", "skeleton");
  item.setAttribute("aria-hidden", "true");
  item.append(node("span"), node("span"), node("span"));
  return item;
}

function enlarge(place) {
  const hit = shown[place];
  opened = place;
  byId("large-title").textContent = `${hit.rank}. ${named(hit)}`;
  byId("large-image").src = `${itemOf(hit)}&size=large`;
  byId("large-image").alt = named(hit);
  byId("large-about").replaceChildren(
    [`cosine ${hit.score.toFixed(3)}`, ...known(hit)].join(" \u00b7 "), ...verdict(hit));
  for (const step of large.querySelectorAll("[data-step]")) {
    const by = Number(step.dataset.step);
    step.disabled = by !== 0 && !shown[place + by];
  }
  if (!large.open) large.showModal();
}

const filterOf = () => (where.value.trim() ? `&${new URLSearchParams({ where: where.value })}` : "");

/* What all requests for a list ask for, as a part of an address. */
const wishes = () => `top=${topSelect.value}${filterOf()}`;

async function ask() {
  if (query.like !== undefined) return fetch(`${itemOf(query.like, "/similar")}&${wishes()}`);
  const box = cropped();
  return fetch(`search?${wishes()}${box ? `&box=${box.join(",")}` : ""}`, {
    method: "POST", body: query.image, headers: { "Content-Type": query.image.type || "image/unknown" },
  });
}

/* Show what is wrong with the filter beside its field; return whether something is. */
function refuseFilter(text) {
  const isWrong = text.startsWith(WRONG_FILTER);
  whereError.textContent = isWrong ? text.slice(WRONG_FILTER.length) : "";
  if (isWrong) where.setAttribute("aria-invalid", "true");
  else where.removeAttribute("aria-invalid");
  return isWrong;
}

/* A filter that the gallery's columns allow. */
function exampleOf(columns) {
  if (columns.includes("camera")) return "camera=3";
  return columns.includes("path") ? 'path like "*night*"' : `${columns[0]}=1`;
}

/* Check the filter while there is no query, and say how many images pass it. */
async function countPassing() {
  const number = ++latest;
  refuseFilter("");
  if (!where.value.trim()) return say("");
  try {
    const answer = await fetch(`gallery?samples=0${filterOf()}`);
    const found = await answer.json().catch(() => ({ error: `error ${answer.status}` }));
    if (number !== latest) return;
    if (answer.ok) say(`${found.passing} of ${found.gallery} images pass the filter`);
    else say(refuseFilter(found.error) ? "" : found.error, true);
  } catch {
    if (number === latest) say("The server does not answer.", true);
  }
}

/* Say what was found in a gallery. */
function sayFound(found) {
  const time = `${found.seconds.toFixed(2)} s${found.note ? `; query: ${found.note}` : ""}`;
  if (shown.length) return say(`${shown.length} of ${found.gallery} images, ${time}`);
  if (accept !== null && found.best !== null) {
    const needed = `${accept.toFixed(3)} is needed`;
    const best = `the best scores ${found.best.toFixed(3)}`;
    return say(`No image is similar enough: ${best}, and ${needed}; ${time}`);
  }
  const why = where.value.trim() ? "passes the filter" : "is left";
  return say(`None of ${found.gallery} images ${why}, ${time}`);
}

async function search() {
  if (!query) return;
  const number = ++latest;
  refuseFilter("");
  say("Searching\u2026");
  title.textContent = "Most similar first";
  samples.hidden = true;
  shown = [];
  list.setAttribute("aria-busy", "true");
  list.replaceChildren(...Array.from({ length: Math.min(topSelect.value, 10) }, skeleton));
  try {
    const answer = await ask();
    const found = await answer.json().catch(() => ({ error: `error ${answer.status}` }));
    if (number !== latest) return;
    if (!answer.ok) throw new Error(found.error);
    shown = found.hits.map((hit) => ({ ...hit, changes: found.changes }));
    list.replaceChildren(...shown.map(card));
    sayFound(found);
  } catch (error) {
    if (number !== latest) return;
    list.replaceChildren();
    if (error instanceof TypeError) say("The server does not answer.", true);
    else say(refuseFilter(error.message) ? "" : error.message, true);
  } finally {
    if (number === latest) list.removeAttribute("aria-busy");
  }
}

function showQuery(source, label, canCrop) {
  if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
  preview.src = source;
  preview.alt = `Query: ${label}`;
  about.textContent = label;
  figure.hidden = false;
  hint.textContent = "Choose, drop or paste another image";
  byId("croppers").hidden = !canCrop;
  dropCrop();
}

function useImage(chosen) {
  if (!chosen) return;
  if (!chosen.type.startsWith("image/")) {
    latest++;
    list.replaceChildren();
    say(`${chosen.name || "This"} is not an image.`, true);
    return;
  }
  query = { image: chosen };
  showQuery(URL.createObjectURL(chosen), chosen.name || "pasted image", true);
  search();
}

function searchLike(hit) {
  query = { like: hit };
  large.close();
  showQuery(`${itemOf(hit)}&size=large`, named(hit), false);
  search();
  title.focus();
  scrollTo({ top: 0 });
}

async function begin() {
  const [health, gallery] = await Promise.all(
    ["health", "gallery?samples=12"].map((path) => fetch(path).then((answer) => answer.json())));
  const model = health.model;
  const facts = {
    gallery: `${health.gallery.toLocaleString("en")} images`, model: model.name,
    step: model.step.toLocaleString("en"), input: `${model.input} pixels`, feature: `${model.dim} numbers`,
  };
  for (const [name, value] of Object.entries(facts)) {
    const pair = node("div");
    pair.append(node("dt", name), node("dd", value));
    byId("facts").append(pair);
  }
  if (health.bands) {
    const { same, different, rate } = health.bands;
    byId("words").textContent = `"${WORDS.same}" means ${same.toFixed(3)} or more, which ${rate * 100} % of the `
      + `test's pairs of two identities reach. "${WORDS.different}" means below ${different.toFixed(3)}.`;
  }
  accept = health.accept;
  if (accept !== null) byId("words").append(` Images below ${accept.toFixed(3)} are left out.`);
  byId("filter").hidden = !gallery.columns.length;
  byId("where-help").textContent = `Search only what passes, as in ${exampleOf(gallery.columns)}; `
    + `columns: ${gallery.columns.join(", ")}`;
  samples.replaceChildren(...gallery.samples.map((sample) => {
    const hit = { ...sample, changes: gallery.changes };
    const item = node("li");
    item.append(picture(hit, `Search with ${named(hit)}`, () => searchLike(hit)));
    item.append(node("p", hit.name || hit.path, hit.name ? "name" : "path"));
    return item;
  }));
}

file.addEventListener("change", () => { useImage(file.files[0]); file.value = ""; });
topSelect.addEventListener("change", search);
where.addEventListener("change", () => (query ? search() : countPassing()));
where.addEventListener("input", () => { if (!where.value) where.dispatchEvent(new Event("change")); });
document.addEventListener("paste", (event) => useImage(event.clipboardData.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") useImage(event.dataTransfer.files[0]);
  });
}
for (const step of large.querySelectorAll("[data-step]")) {
  step.addEventListener("click", () => {
    const by = Number(step.dataset.step);
    if (by) enlarge(opened + by);
    else large.close();
  });
}
byId("large-search").addEventListener("click", () => searchLike(shown[opened]));
large.addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (by && shown[opened + by]) enlarge(opened + by);
});
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
large.addEventListener("close", () => {
  if (shown[opened]) list.children[opened]?.querySelector(".show").focus();
});
begin().catch(() => say("The server does not answer.", true));
