"use strict";
const [drop, file, preview, hint, top_, status_, list] =
  ["drop", "file", "preview", "hint", "top", "status", "hits"].map((id) => document.getElementById(id));
let query = null;
let last = 0; // of the searches that were begun: answers to earlier ones are passed over

function say(text, bad = false) {
  status_.textContent = text;
  status_.classList.toggle("bad", bad);
}

function node(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text || "";
  if (className) made.className = className;
  return made;
}

function card(hit) {
  const item = node("li");
  const image = node("img");
  image.alt = `Place ${hit.rank}: ${hit.path}`;
  image.loading = "lazy";
  image.src = `gallery/${hit.index}`;
  image.onerror = () => image.replaceWith(node("span", "no picture", "lost"));
  const line = node("p");
  line.append(node("strong", `${hit.rank}.`), node("span", hit.score.toFixed(3)));
  const bar = node("meter");
  bar.value = Math.max(0, hit.score);
  bar.setAttribute("aria-label", "cosine");
  item.append(image, line, bar, node("span", hit.path, "path"));
  return item;
}

async function search() {
  if (!query) return;
  const own = ++last;
  say("Searching\u2026");
  list.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(`search?top=${top_.value}`, {
      method: "POST", body: query, headers: { "Content-Type": query.type || "image/unknown" },
    });
    const found = await answer.json().catch(() => ({ error: `error ${answer.status}` }));
    if (own !== last) return;
    if (!answer.ok) throw new Error(found.error);
    list.replaceChildren(...found.hits.map(card));
    say(`${found.hits.length} of ${found.gallery} images, ${found.seconds.toFixed(2)} s`);
  } catch (error) {
    if (own !== last) return;
    list.replaceChildren();
    say(error instanceof TypeError ? "The server does not answer." : error.message, true);
  } finally {
    if (own === last) list.removeAttribute("aria-busy");
  }
}

function take(given) {
  if (!given) return;
  if (!given.type.startsWith("image/")) {
    last++;
    list.replaceChildren();
    say(`${given.name || "This"} is no image.`, true);
    return;
  }
  query = given;
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(query);
  preview.alt = `Query: ${query.name || "pasted image"}`;
  preview.hidden = false;
  hint.textContent = "Choose, drop or paste another";
  search();
}

file.addEventListener("change", () => { take(file.files[0]); file.value = ""; });
top_.addEventListener("change", search);
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
}
