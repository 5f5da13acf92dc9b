"use strict";
const [drop, file, preview, hint, topSelect, statusLine, list] =
  ["drop", "file", "preview", "hint", "top", "status", "hits"].map((id) => document.getElementById(id));
let query = null;
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

function card(hit) {
  const item = node("li");
  const image = node("img");
  image.alt = `Rank ${hit.rank}: ${hit.path}`;
  image.loading = "lazy";
  image.src = `gallery/${hit.index}`;
  image.onerror = () => image.replaceWith(node("span", "no picture", "lost"));
  const line = node("p");
  line.append(node("strong", `${hit.rank}.`), node("span", hit.score.toFixed(3)));
  const bar = node("meter");
  bar.value = Math.max(0, hit.score);
  bar.setAttribute("aria-label", "cosine");
  item.append(image, line, bar);
  if (hit.name) item.append(node("b", hit.name, "name"));
  item.append(node("span", hit.path, "path"));
  return item;
}

async function search() {
  if (!query) return;
  const number = ++latest;
  say("Searching\u2026");
  list.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(`search?top=${topSelect.value}`, {
      method: "POST", body: query, headers: { "Content-Type": query.type || "image/unknown" },
    });
    const found = await answer.json().catch(() => ({ error: `error ${answer.status}` }));
    if (number !== latest) return;
    if (!answer.ok) throw new Error(found.error);
    list.replaceChildren(...found.hits.map(card));
    const note = found.note ? `; query: ${found.note}` : "";
    say(`${found.hits.length} of ${found.gallery} images, ${found.seconds.toFixed(2)} s${note}`);
  } catch (error) {
    if (number !== latest) return;
    list.replaceChildren();
    say(error instanceof TypeError ? "The server does not answer." : error.message, true);
  } finally {
    if (number === latest) list.removeAttribute("aria-busy");
  }
}

function useImage(chosen) {
  if (!chosen) return;
  if (!chosen.type.startsWith("image/")) {
    latest++;
    list.replaceChildren();
    say(`${chosen.name || "This"} is not an image.`, true);
    return;
  }
  query = chosen;
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(query);
  preview.alt = `Query: ${query.name || "pasted image"}`;
  preview.hidden = false;
  hint.textContent = "Choose, drop or paste another image";
  search();
}

file.addEventListener("change", () => { useImage(file.files[0]); file.value = ""; });
topSelect.addEventListener("change", search);
document.addEventListener("paste", (event) => useImage(event.clipboardData.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") useImage(event.dataTransfer.files[0]);
  });
}
