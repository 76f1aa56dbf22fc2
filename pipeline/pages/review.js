"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const KEPT = `review:${data.name}`; // in this browser: what is not saved yet, or a static page's all
const RETRY = 1500; // ms
let view = { view: "suspects" }, items = [], total = 0, at = -1, shown = null, mine = [];

function el(tag, props = {}, ...inside) {
  const made = Object.assign(document.createElement(tag), props);
  made.append(...inside.filter((one) => one !== null));
  return made;
}
const readable = (label) => label.replaceAll("_", " ");
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
const kept = () => JSON.parse(localStorage.getItem(KEPT) || "[]");
const keep = (lines) => localStorage.setItem(KEPT, JSON.stringify(lines));
const random = () => Array.from(crypto.getRandomValues(new Uint8Array(8)),
  (byte) => byte.toString(16).padStart(2, "0")).join("");

/* where pictures and lists come from: the server, or the page itself */
function source(row, small) {
  return data.live ? `image/${row}.webp${small ? "?small=1" : ""}` : data.pictures[row] || "";
}
async function ask(path, body) {
  const answer = await fetch(path, body && { method: "POST", body: JSON.stringify(body) });
  const found = await answer.json().catch(() => ({ error: `${answer.status}` }));
  if (!answer.ok) throw Object.assign(new Error(found.error), { status: answer.status });
  return found;
}
async function list(start) {
  if (data.live) return ask(`list?${new URLSearchParams({ ...view, start })}`);
  const chosen = data.items.filter((item) => !view.kind || item.kind === view.kind);
  return { items: chosen.slice(start), total: chosen.length };
}

/* the list */
async function open(next) {
  view = next;
  items = [];
  $("grid").replaceChildren();
  drawFilters();
  await more();
  go(Math.max(0, items.findIndex((item) => !item.now)));
}
async function more() {
  const wanted = view, found = await list(items.length);
  if (wanted !== view) return;
  total = found.total;
  items.push(...found.items);
  $("grid").append(...found.items.map(thumb));
  $("more").textContent = total ? `${items.length} of ${total}` : "Nothing here.";
}
function thumb(item) {
  const image = el("img", { src: source(item.row, true), alt: "", loading: "lazy", width: 96, height: 96 });
  const made = el("button", { className: "thumb", title: item.id }, image, el("span"));
  made.onclick = () => { go(items.indexOf(item)); $("stage").scrollIntoView({ block: "start" }); };
  item.button = made;
  mark(item);
  return made;
}
function mark(item) {
  const now = item.now, text = item.suggested ? `${readable(item.label)} → ${readable(item.suggested)}` : "";
  item.button.dataset.action = now ? now.action : "";
  item.button.lastChild.textContent = now ? said(now) : text || readable(item.label || item.id);
}
const said = (now) => ({ label: readable(now.new), keep: "kept", drop: "dropped", twin: "twin" })[now.action];
function drawFilters() {
  const choose = (label, options, value, next) => {
    const made = el("select", { ariaLabel: label }, ...options.map(([text, of]) => el("option", { value: of }, text)));
    made.value = value;
    made.onchange = () => open(next(made.value));
    return made;
  };
  const names = { suspects: "Suspects", all: "All", pair: "Pairs", test: "Test by doubt" };
  $("views").replaceChildren(...Object.keys(data.live ? names : { suspects: 0 }).map((name) => {
    const made = el("button", { className: "plain", ariaPressed: name === view.view }, names[name]);
    const [a, b] = data.pairs[0] || ["", ""];
    made.onclick = () => open(name === "pair" ? { view: name, a, b } : { view: name });
    return made;
  }));
  const kinds = Object.entries(data.kinds).map(([kind, n]) => [`${kind} (${n})`, kind]);
  const pairs = data.pairs.map(([a, b, n]) => [`${readable(a)} ↔ ${readable(b)} (${n})`, JSON.stringify([a, b])]);
  if (view.view === "pair" && !data.pairs.some(([a, b]) => a === view.a && b === view.b)) {
    pairs.unshift([`${readable(view.a)} ↔ ${readable(view.b)}`, JSON.stringify([view.a, view.b])]);
  }
  const made = {
    suspects: () => choose("Kind", [["all kinds", ""], ...kinds], view.kind || "", (kind) => ({ view: "suspects", kind })),
    all: () => choose("Class", [["all classes", ""], ...data.classes.map((name) => [readable(name), name])],
      view.a || "", (a) => ({ view: "all", a })),
    pair: () => choose("Pair", pairs, JSON.stringify([view.a, view.b]), (pair) => {
      const [a, b] = JSON.parse(pair);
      return { view: "pair", a, b };
    }),
    test: () => el("span", { className: "soft" }, "To look at only: labels for test pictures would be cheating."),
  };
  $("filters").replaceChildren(made[view.view]());
}

/* one picture */
async function go(number) {
  if (number >= items.length && items.length < total) await more();
  if (!items.length) { $("one").hidden = true; $("empty").hidden = false; return; }
  items[at]?.button.removeAttribute("aria-current");
  at = Math.min(Math.max(number, 0), items.length - 1);
  const item = items[at];
  item.button.setAttribute("aria-current", "true");
  item.button.scrollIntoView({ block: "nearest", inline: "nearest" });
  const found = data.live ? await ask(`picture/${item.row}`) : item;
  if (items[at] !== item) return; // a faster key
  if (data.live) item.now = found.now;
  shown = found;
  draw(item);
}
function draw(item) {
  $("one").hidden = false;
  $("empty").hidden = true;
  look(0);
  $("title").textContent = item.kind || item.id;
  $("reason").textContent = [item.kind ? item.id : "", item.reason].filter(Boolean).join(" · ");
  const test = item.kind === "test", now = item.now;
  $("verdict").textContent = test ? "" : `label: ${readable(item.label)}${now ? `, now: ${said(now)} (${now.who || "you"})` : ""}`;
  $("classes").replaceChildren(...shown.top.map((one, number) => classLine(item, one, number)));
  $("actions").hidden = test;
  $("attention").hidden = !data.live;
  $("near").replaceChildren(...shown.near.map(looksLike));
  mark(item);
}
function classLine(item, one, number) {
  const bar = el("i");
  bar.style.width = `${100 * one.prob}%`;
  const members = Object.entries(one.members).map(([name, prob]) => `${name} ${prob.toFixed(2)}`).join(", ");
  const made = el("button", { className: "class", title: members, disabled: item.kind === "test" },
    el("kbd", {}, `${number + 1}`), el("span", { className: "name" }, readable(one.class),
      one.class === item.label ? el("small", {}, " its label") : null,
      members ? el("small", { className: "members" }, members) : null),
    el("span", { className: "meter" }, bar), el("span", { className: "n" }, percent(one.prob, 1)));
  made.onclick = () => take(one.class);
  return el("li", {}, made);
}
function looksLike(side) {
  const pictures = side.pictures.map((one) => {
    const made = el("button", { className: "thumb", title: "look at it" },
      el("img", { src: source(one.row, true), alt: "", width: 96, height: 96 }), el("span", {}, percent(one.similarity)));
    made.onclick = () => visit(one.row);
    return made;
  });
  return el("div", {}, el("h3", {}, `Most alike of ${readable(side.class)}`),
    el("div", { className: "strip" }, ...pictures, pictures.length ? null : "none"));
}
async function visit(row) {
  let number = items.findIndex((item) => item.row === row);
  if (number < 0 && data.live) {
    const item = await ask(`picture/${row}`);
    number = at + 1;
    items.splice(number, 0, item);
    $("grid").children[at].after(thumb(item));
    total += 1;
  }
  if (number >= 0) go(number);
}
/* `step` 0: the picture; 1: what speaks for the model's answer; 2: for the label */
let looking = 0;
function look(step) {
  const item = items[at], answer = shown.top[0], own = shown.top.find((one) => one.class === item.label);
  const sides = [null, answer, ...(own && own !== answer ? [own] : [])];
  looking = data.live ? step % sides.length : 0;
  const side = sides[looking];
  $("looking").textContent = side ? `for ${readable(side.class)}` : "";
  $("large").src = side ? `attention/${item.row}/${side.target}.webp` : source(item.row);
  $("large").alt = `picture ${item.id}`;
}

/* decisions */
function take(label) {
  decide(...(label === items[at].label ? ["keep"] : ["label", label]));
}
function decide(action, label = "", note = "") {
  const item = items[at];
  if (!item || item.kind === "test") return;
  const line = { row: item.row, click: random(), action, new: label, note };
  mine.push({ item, click: line.click });
  item.now = { action, new: label, click: line.click, who: "" };
  mark(item);
  save(line, item);
  const rest = items.slice(at + 1).findIndex((one) => !one.now);
  go(rest < 0 ? at + 1 : at + 1 + rest);
}
function undo() {
  const last = mine.pop() || (items[at]?.now && { item: items[at], click: items[at].now.click });
  if (!last) return;
  last.item.now = null;
  save({ row: last.item.row, click: random(), action: "undo", new: "", note: last.click }, last.item);
  go(items.indexOf(last.item));
}
function save(line, item) {
  if (!data.live) {
    const when = `${new Date().toISOString().slice(0, 19)}Z`, before = standing(item.id);
    const old = before?.action === "label" ? before.new : item.label;
    line = { ...line, when, who: $("who").lastChild.value, id: item.id, pixel_hash: item.hash, old };
  }
  keep([...kept(), line]);
  if (data.live) send();
  else restore();
}

/* live: what the server has not confirmed is sent again, and counts once by the name of its click */
let sending = false;
async function send() {
  if (sending) return;
  sending = true;
  for (let line = kept()[0]; line; line = kept()[0]) {
    const done = () => keep(kept().filter((one) => one.click !== line.click));
    try {
      const found = await ask("decide", line);
      done();
      trouble("");
      drawProgress(found.progress);
      const item = items.find((one) => one.row === line.row);
      if (item && !kept().some((one) => one.row === line.row)) {
        item.now = found.now;
        item === items[at] ? draw(item) : mark(item);
      }
    } catch (error) {
      if (error.status === 400) done();
      trouble(error.status ? `Not saved: ${error.message}` : "Not saved yet: the server does not answer. It is sent again.");
      if (error.status === 403) trouble("The server was started anew: open the address it shows. Nothing is lost.");
      if (error.status !== 400) await new Promise((wake) => setTimeout(wake, RETRY));
    }
  }
  sending = false;
  whatIf();
}
function trouble(text) {
  $("trouble").hidden = !text;
  $("trouble").textContent = text;
}
let asked = 0;
async function whatIf() {
  const mineNow = ++asked;
  await new Promise((wake) => setTimeout(wake, 400));
  if (mineNow !== asked) return; // another decision came
  const found = await ask("whatif").catch(() => null);
  if (mineNow !== asked || !found) return;
  const n = found.changed + found.dropped, points = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(2)}`;
  $("what-if").hidden = false;
  $("effect").textContent = !n ? "Nothing is changed yet." :
    `${found.changed} labels changed, ${found.dropped} pictures left out: out-of-fold accuracy of a ` +
    `closed-form head on the other pictures ${percent(found.before, 2)} → ${percent(found.after, 2)}, ` +
    `${points(found.delta)} points (95 %: ${points(found.low)} to ${points(found.high)}). ` +
    "This head is no fine-tuned model: it tells the direction at best.";
}

/* static: the log lies in this browser and is downloaded */
function standing(id) {
  const lines = kept(), back = new Set(lines.filter((one) => one.action === "undo").map((one) => one.note));
  return lines.filter((one) => one.id === id && one.action !== "undo" && !back.has(one.click)).at(-1);
}
function restore() {
  const actions = {};
  for (const item of data.items) {
    item.now = standing(item.id) || null;
    if (item.now) actions[item.now.action] = (actions[item.now.action] || 0) + 1;
    if (item.button) mark(item);
  }
  drawProgress({ done: data.items.filter((item) => item.now).length, queue: data.items.length, actions });
}
function download() {
  const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const lines = kept().map((line) => data.columns.map((name) => quoted(line[name])).join(","));
  const file = new Blob([[data.columns.join(","), ...lines, ""].join("\n")], { type: "text/csv" });
  const link = el("a", { href: URL.createObjectURL(file), download: "decisions.csv" });
  link.click();
}
function drawProgress(found) {
  const parts = Object.entries(found.actions).map(([action, n]) => `${n} ${action}`);
  $("progress").firstChild.max = found.queue || 1;
  $("progress").firstChild.value = found.done;
  $("progress").lastChild.textContent = [`${found.done} of ${found.queue} suspects`, ...parts].join(" · ");
}

/* keys, search, help */
const keys = {
  k: () => decide("keep"),
  d: () => decide("drop"),
  t: () => shown?.twin && decide("twin", "", shown.twin),
  u: undo,
  a: () => shown && look(looking + 1),
  "/": () => items[at]?.kind !== "test" && search(),
  "?": () => $("help").showModal(),
  j: () => go(at + 1), ArrowRight: () => go(at + 1), ArrowDown: () => go(at + 1),
  ArrowLeft: () => go(at - 1), ArrowUp: () => go(at - 1),
};
document.addEventListener("keydown", (event) => {
  if (event.repeat && !event.key.startsWith("Arrow")) return;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (/^(input|select|textarea)$/i.test(event.target.tagName)) return;
  const number = Number(event.key) - 1, found = keys[event.key];
  if (found) found();
  else if (shown?.top[number] && items[at]) take(shown.top[number].class);
  else return;
  event.preventDefault();
});
function search() {
  const field = $("search").querySelector("input"), hits = $("search").querySelector("ul");
  const chosen = (name) => { $("search").close(); take(name); };
  const matching = () => data.classes.filter((name) => readable(name).toLowerCase().includes(readable(field.value).toLowerCase()));
  field.oninput = () => hits.replaceChildren(...matching().slice(0, 12).map((name) =>
    el("li", {}, el("button", { className: "plain", onclick: () => chosen(name) }, readable(name)))));
  field.onkeydown = (event) => {
    const first = matching()[0];
    if (event.key === "Enter" && first !== undefined) { event.preventDefault(); chosen(first); }
  };
  field.value = "";
  field.oninput();
  $("search").showModal();
}
for (const button of document.querySelectorAll("[data-key]")) button.onclick = () => keys[button.dataset.key]();
$("open-help").onclick = keys["?"];
$("attention").onclick = keys.a;
$("download").onclick = download;
if (data.live) {
  new IntersectionObserver((seen) => {
    if (seen[0].isIntersecting && items.length && items.length < total) more();
  }, { root: null, rootMargin: "800px" }).observe($("more"));
  drawProgress(data.progress);
  send();
} else {
  $("who").hidden = $("download").hidden = false;
  restore();
}
open({ view: "suspects", kind: "" });
