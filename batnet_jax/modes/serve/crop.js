/* The part of the query to search: drawn with the pointer, moved and resized by keys. */
const frame = byId("frame");
const crop = byId("crop");
const STEP = 0.02; /* of the image, a key */
let part = null; /* x0, y0, x1, y1 as shares of the image; null for the whole image */
let anchor = null; /* where the pointer went down */

const within = (value) => Math.min(1, Math.max(0, value));

/* The box in pixels of the upright image, as the server wants it; null for the whole image. */
function cropped() {
  if (!part) return null;
  const sizes = [preview.naturalWidth, preview.naturalHeight];
  return part.map((share, i) => Math.round(share * sizes[i % 2]));
}

function showCrop() {
  crop.hidden = !part;
  frame.classList.toggle("cutting", !byId("whole").hidden);
  if (!part) return;
  const [x0, y0, x1, y1] = part;
  const places = { left: x0, top: y0, width: x1 - x0, height: y1 - y0 };
  for (const [name, share] of Object.entries(places)) crop.style[name] = `${100 * share}%`;
}

function dropCrop() {
  part = null;
  byId("whole").hidden = true;
  byId("cut").hidden = false;
  showCrop();
}

function at(event) {
  const area = preview.getBoundingClientRect();
  return [within((event.clientX - area.left) / area.width), within((event.clientY - area.top) / area.height)];
}

byId("cut").addEventListener("click", () => {
  part = [0.2, 0.1, 0.8, 0.9];
  byId("cut").hidden = true;
  byId("whole").hidden = false;
  showCrop();
  crop.focus();
  search();
});
byId("whole").addEventListener("click", () => {
  dropCrop();
  byId("cut").focus();
  search();
});
frame.addEventListener("pointerdown", (event) => {
  if (byId("whole").hidden) return;
  event.preventDefault();
  frame.setPointerCapture(event.pointerId);
  anchor = at(event);
});
frame.addEventListener("pointermove", (event) => {
  if (!anchor) return;
  const [x, y] = at(event);
  part = [Math.min(x, anchor[0]), Math.min(y, anchor[1]), Math.max(x, anchor[0]), Math.max(y, anchor[1])];
  showCrop();
});
frame.addEventListener("pointerup", () => {
  if (!anchor) return;
  anchor = null;
  const [x0, y0, x1, y1] = part;
  if (x1 - x0 < STEP || y1 - y0 < STEP) part = [0.2, 0.1, 0.8, 0.9]; /* a click draws no box */
  showCrop();
  search();
});
crop.addEventListener("keydown", (event) => {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!way) return;
  event.preventDefault();
  const [dx, dy] = way.map((direction) => direction * STEP);
  const [x0, y0, x1, y1] = part;
  if (event.shiftKey) {
    part = [x0, y0, within(Math.max(x1 + dx, x0 + STEP)), within(Math.max(y1 + dy, y0 + STEP))];
  } else {
    const x = Math.min(Math.max(dx, -x0), 1 - x1);
    const y = Math.min(Math.max(dy, -y0), 1 - y1);
    part = [x0 + x, y0 + y, x1 + x, y1 + y];
  }
  showCrop();
});
crop.addEventListener("keyup", (event) => { if (event.key.startsWith("Arrow")) search(); });
