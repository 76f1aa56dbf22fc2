"use strict";
// No network: pictures open large, tables sort and filter, the map shows what lies where.
const one = (name, inside = document) => inside.querySelector(name);
const all = (name, inside = document) => [...inside.querySelectorAll(name)];
const data = (name) => JSON.parse(one(name)?.textContent ?? "null");
const sources = data("#sources");
const element = (name, values) => Object.assign(document.createElement(name), values);

// Pictures: each is kept once in the page, however often it is shown
for (const frame of all(".frame[data-key]")) {
  one("img", frame).src = sources[frame.dataset.key];
  if (frame.dataset.heat)
    frame.append(element("img", { className: "heat", alt: "", src: frame.dataset.heat }));
}
for (const box of all("[data-heat-of]"))
  box.onchange = () => one(box.dataset.heatOf).classList.toggle("hot", box.checked);

// One picture, large: Esc and a click beside it close, arrows go to its neighbours
const large = one("dialog.large");
let opened = null;
function show(pictures, title, text, id) {
  one(".frame", large).replaceChildren(...pictures);
  one("h3", large).textContent = title;
  one("p", large).textContent = text;
  one("code", large).textContent = id;
  large.classList.toggle("hot", opened?.closest(".hot") != null);
  if (!large.open) large.showModal();
}
function open(frame) {
  opened = frame;
  const caption = one("figcaption", frame.parentElement);
  const text = one("small", caption)?.textContent ?? "";
  const pictures = all("img", frame).map((image) => image.cloneNode());
  show(pictures, one("span", caption).textContent, text, frame.dataset.id);
}
function step(by) {
  if (!opened) return;
  const frames = all(".frame[data-key]", opened.closest("section"));
  open(frames[(frames.indexOf(opened) + by + frames.length) % frames.length]);
}
document.addEventListener("click", (event) => {
  const frame = event.target.closest(".frame[data-key]");
  if (frame) open(frame);
  else if (event.target === large || event.target.closest(".close")) large.close();
  else if (event.target.closest("[data-step]")) step(+event.target.closest("[data-step]").dataset.step);
});
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") step(1);
  if (event.key === "ArrowLeft") step(-1);
});
large.addEventListener("close", () => opened?.focus());

// Tables: a click on a head sorts, a second one turns it round; what is unknown stays last
for (const head of all("th button")) {
  head.onclick = () => {
    const cell = head.closest("th"), body = one("tbody", cell.closest("table"));
    const down = cell.ariaSort === "ascending" || (!cell.ariaSort && cell.classList.contains("n"));
    const value = (row) => row.cells[cell.cellIndex].dataset.v ?? row.cells[cell.cellIndex].innerText;
    const compare = (a, b) => {
      if (!cell.classList.contains("n")) return a.localeCompare(b, undefined, { numeric: true });
      return a - b;
    };
    const known = (row) => value(row) !== "nan" && value(row) !== "";
    const rows = all("tr", body);
    const sorted = rows.filter(known).sort((a, b) => compare(value(a), value(b)) * (down ? -1 : 1));
    for (const other of all("th", cell.parentElement)) other.ariaSort = null;
    cell.ariaSort = down ? "descending" : "ascending";
    body.append(...sorted, ...rows.filter((row) => !known(row)));
  };
}
for (const input of all("input[data-rows]")) {
  input.oninput = () => {
    const text = input.value.trim().toLowerCase();
    for (const row of all(`${input.dataset.rows} tbody tr`))
      row.hidden = !row.textContent.toLowerCase().includes(text);
  };
}

// The map: a point is a picture; near the pointer it shows, a click opens it
const map = data("#map-data");
if (map) {
  const canvas = one("#map canvas"), tip = one("#map .tip"), find = one("#map input");
  const tiles = element("img", { src: map.tiles.src });
  const { side, columns } = map.tiles, pad = 14;
  let wide = 0, high = 0;
  const name = (i) => (i < 0 ? "test picture" : map.classes[i]);
  const wrong = (i) => map.wrong[i];
  const place = (i) => [
    pad + (map.x[i] / 1000) * (wide - 2 * pad), pad + (map.y[i] / 1000) * (high - 2 * pad),
  ];
  const told = (i) => `${name(map.label[i])} ${map.classes[map.answer[i]]}`.toLowerCase();
  function draw() {
    const style = getComputedStyle(document.body), ratio = devicePixelRatio || 1;
    [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    [canvas.width, canvas.height] = [wide * ratio, high * ratio];
    const brush = canvas.getContext("2d"), text = find.value.trim().toLowerCase();
    brush.scale(ratio, ratio);
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const order = map.x.map((_, i) => i).sort((a, b) => wrong(a) - wrong(b));
    for (const i of order) {
      const [x, y] = place(i);
      brush.globalAlpha = text && !told(i).includes(text) ? 0.06 : 1;
      brush.fillStyle = `hsl(${map.hue[i]} ${dark ? "55% 62%" : "52% 45%"})`;
      brush.strokeStyle = style.getPropertyValue(wrong(i) ? "--bad" : "--soft");
      brush.lineWidth = wrong(i) ? 2.5 : 1;
      brush.beginPath();
      brush.arc(x, y, wrong(i) ? 5 : 3, 0, 7);
      if (map.label[i] >= 0) brush.fill();
      if (map.label[i] < 0 || wrong(i)) brush.stroke();
    }
  }
  function tile(i) {
    const cut = element("canvas", { width: side, height: side });
    const from = [(i % columns) * side, Math.floor(i / columns) * side, side, side];
    cut.getContext("2d").drawImage(tiles, ...from, 0, 0, side, side);
    return element("img", { src: cut.toDataURL(), alt: "" });
  }
  function nearest(event) {
    const box = canvas.getBoundingClientRect(), far = map.x.map((_, i) => {
      const [x, y] = place(i);
      return Math.hypot(x - event.clientX + box.left, y - event.clientY + box.top);
    });
    const best = far.indexOf(Math.min(...far));
    return far[best] < 24 ? best : -1;
  }
  const words = (i) => (map.label[i] === map.answer[i] ? "" : `${map.verb} ${map.classes[map.answer[i]]}`);
  canvas.onpointermove = (event) => {
    const i = nearest(event);
    tip.hidden = i < 0;
    if (i < 0) return;
    const [x, y] = place(i);
    tip.replaceChildren(tile(i), element("b", { textContent: name(map.label[i]) }), words(i));
    tip.style.left = `${Math.min(Math.max(x - 70, 0), Math.max(wide - 140, 0))}px`;
    tip.style.top = y > high / 2 ? `${y - 12 - tip.offsetHeight}px` : `${y + 12}px`;
  };
  canvas.onpointerleave = () => { tip.hidden = true; };
  canvas.onclick = (event) => {
    const i = nearest(event);
    opened = null;
    if (i < 0) return;
    const src = sources[map.key[i]];  // larger than a tile, where another part shows it
    show([src ? element("img", { src, alt: "" }) : tile(i)], name(map.label[i]), words(i), map.id[i]);
  };
  find.oninput = draw;
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
