"use strict";
const KEPT = `review:${data.name}`; // in this browser: what is not saved yet, or a static page's log
const RETRY = 1500; // ms
let view = {}, items = [], loaded = 0, total = 0, at = -1, shown = null, turn = 0, looking = 0, mine = [];

const newClick = () => crypto.getRandomValues(new BigUint64Array(1))[0].toString(16).padStart(16, "0");
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
const kept = () => JSON.parse(localStorage.getItem(KEPT) || "[]");
const keep = (lines) => localStorage.setItem(KEPT, JSON.stringify(lines));
const WORDS = { label: "relabelled", keep: "kept", drop: "dropped", twin: "twin" };
const said = (now) => (now.action === "label" ? named(now.new) : WORDS[now.action]);
/* from the server, or from the page itself */
const source = (row, small) =>
  data.live ? `image/${row}.webp${small ? "?small" : ""}` : data.pictures[row] || "";
async function ask(path, body) {
  const answer = await fetch(path, body && { method: "POST", body: JSON.stringify(body) });
  const found = await answer.json().catch(() => ({ error: `answer ${answer.status}` }));
  if (!answer.ok) throw Object.assign(new Error(found.error), { status: answer.status });
  return found;
}
async function list(start) {
  if (data.live) return ask(`list?${new URLSearchParams({ ...view, start })}`);
  const chosen = data.items.filter((item) => !view.a || item.kind === view.a);
  return { items: chosen.slice(start), total: chosen.length };
}

async function open(name) {
  for (const one of document.querySelectorAll("#filters [data-view]")) one.hidden = one.dataset.view !== name;
  for (const one of document.querySelectorAll("#views button")) one.ariaPressed = one.dataset.view === name;
  const value = document.querySelector(`#filters [data-view=${name}]`).value || "";
  const [a, b] = name === "pair" ? data.pairs[value] || [""] : [value];
  const wanted = view = { view: name, a, b: b || "" };
  [items, shown, loaded] = [[], null, 0];
  turn += 1;
  $("grid").replaceChildren();
  do await more(); // on to where somebody left it
  while (view === wanted && loaded < total && items.every((item) => item.now));
  if (view === wanted) go(Math.max(0, items.findIndex((item) => !item.now)));
}
async function more() {
  const wanted = view, start = loaded, found = await list(start);
  if (wanted !== view || start !== loaded) return;
  [loaded, total] = [start + found.items.length, found.total];
  items.push(...found.items);
  $("grid").append(...found.items.map(thumb));
  $("more").textContent = total ? `${loaded} of ${total}` : "Nothing here.";
  watch.disconnect(); // so that it looks again: the end may still be in sight
  watch.observe($("more"));
}
function picture(row, text, title, onclick) {
  const image = el("img", { src: source(row, true), alt: "", loading: "lazy", width: 96, height: 96 });
  return el("button", { className: "thumb", title, onclick }, image, el("span", {}, text));
}
function thumb(item) {
  item.button = picture(item.row, "", item.id, () => {
    go(items.indexOf(item));
    $("stage").scrollIntoView({ block: "start" });
  });
  return mark(item);
}
function mark(item) {
  const plain = (item.kind === "test" ? item.said : named(item.label)) + (item.suggested ? ` → ${readable(item.suggested)}` : "");
  item.button.dataset.action = item.now ? item.now.action : "";
  item.button.lastChild.textContent = item.now ? said(item.now) : plain;
  return item.button;
}

/* one picture */
async function go(number) {
  const ours = ++turn;
  shown = null; // no key acts on a picture that nobody sees yet
  if (number >= items.length && loaded < total) await more();
  if (ours !== turn) return; // a faster key
  $("one").hidden = !items.length;
  items[at]?.button.removeAttribute("aria-current");
  at = Math.min(Math.max(number, 0), items.length - 1);
  const item = items[at];
  if (!item) return;
  item.button.setAttribute("aria-current", "true");
  if ($("list").scrollHeight > $("list").clientHeight + 1) item.button.scrollIntoView({ block: "nearest" });
  const found = data.live ? await ask(`picture/${item.row}`) : item;
  if (ours !== turn) return;
  if (!kept().some((line) => line.row === item.row)) item.now = found.now;
  shown = found;
  draw(item);
}
function draw(item) {
  const test = item.kind === "test", now = item.now;
  look(0);
  $("kind").textContent = [item.kind || "not suspected", item.id].join(" · ");
  $("title").textContent = test ? `${readable(shown.said)}?` : named(item.label);
  if (item.suggested) $("title").append(el("span", {}, ` → ${readable(item.suggested)}?`));
  $("reason").textContent = item.reason || "";
  $("verdict").textContent = now ? `Decided: ${said(now)}${now.who ? ` (${now.who})` : ""}` : "";
  $("classes").replaceChildren(...shown.top.map((one, number) => classLine(item, one, number)));
  $("actions").hidden = test;
  $("near").replaceChildren(...shown.near.map((side) => el("div", {},
    el("h3", {}, `Most alike ${readable(side.of)}`),
    el("div", { className: "strip" }, ...side.pictures.map((one) =>
      picture(one.row, one.label ? `${one.label} · ${percent(one.similarity)}` : percent(one.similarity), "look at it", () => visit(one.row)))))));
  mark(item);
}
function classLine(item, one, number) {
  const members = Object.entries(one.members).map(([name, prob]) => `${name} ${prob.toFixed(2)}`).join(", ");
  const bar = el("i");
  bar.style.width = `${100 * (one.prob || 0)}%`;
  const its = several ? partsOf(held(item)).includes(one.class) : one.class === item.label;
  const name = el("span", {}, readable(one.class), its && el("small", {}, several ? " is labelled" : " its label"),
    members && el("small", { className: "members" }, members));
  const made = el("button", { className: numbers ? "class number" : "class", disabled: numbers || item.kind === "test", onclick: () => take(one.class) },
    !numbers && el("kbd", {}, `${number + 1}`), name, !numbers && el("span", { className: "meter" }, bar),
    el("span", { className: "n" }, one.text || percent(one.prob, 1)));
  made.ariaPressed = several ? its : null;
  return el("li", {}, made);
}
async function visit(row) {
  let number = items.findIndex((item) => item.row === row);
  if (number < 0 && data.live) {
    number = at + 1;
    items.splice(number, 0, await ask(`picture/${row}`));
    $("grid").children[at].after(thumb(items[number]));
  }
  if (number >= 0) go(number);
}
function look(step) { // 0: the picture; then what speaks for the model's answer, and for the label
  const own = shown.top.find((one) => one.class === shown.label);
  const sides = [null, ...(data.live ? new Set([shown.top[0], own].filter(Boolean)) : [])];
  looking = step % sides.length;
  const side = sides[looking];
  const what = data.kind === "numbers" ? "a larger number" : readable(side?.class || "");
  $("looking").textContent = side ? `for ${what}` : "";
  const src = side ? `attention/${shown.row}/${side.target}.webp` : source(shown.row);
  Object.assign($("large"), { src, alt: `picture ${shown.id}` });
}

/* decisions: each has a click of its own, so that one that is sent again counts once */
const take = (label) => several ? toggle(label) : decide(...(label === items[at].label ? ["keep"] : ["label", label]));
function decide(action, label = "", note = "", stay = false) {
  const item = items[at], click = newClick();
  if (!shown || item.kind === "test") return;
  mine.push({ item, click });
  item.now = { action, new: label, click };
  mark(item);
  save({ row: item.row, id: item.id, click, action, new: label, note }, item);
  if (stay) draw(item);
  else go(at + 1 + Math.max(items.slice(at + 1).findIndex((one) => !one.now), 0));
}
function undo() {
  const now = shown && items[at].now, last = mine.pop() || (now && { item: items[at], click: now.click });
  if (!last) return;
  last.item.now = null;
  mark(last.item);
  save({ row: last.item.row, id: last.item.id, click: newClick(), action: "undo", new: "", note: last.click }, last.item);
  if (items.includes(last.item)) go(items.indexOf(last.item));
}
function save(line, item) {
  if (!data.live) return log(line, item); // of static.js
  keep([...kept(), line]);
  send();
}
/* live: what the server has not confirmed is sent again */
let sending = false;
async function send() {
  if (sending) return;
  sending = true;
  for (let line = kept()[0]; line; line = kept()[0]) {
    const problem = await ask("decide", line).then(confirm, (error) => error);
    $("trouble").textContent = problem ? told(problem) : "";
    if (problem?.status === 422) await takeBack(line.row);
    if (!problem || problem.status === 422) keep(kept().filter((one) => one.click !== line.click));
    else await new Promise((wake) => setTimeout(wake, RETRY));
  }
  sending = false;
  whatIf();
}
async function takeBack(row) { // what was refused is not decided
  const item = items.find((one) => one.row === row), found = await ask(`picture/${row}`).catch(() => null);
  if (!item || !found) return;
  item.now = found.now;
  mark(item);
}
function confirm(found) {
  const item = items.find((one) => one.row === found.row);
  drawProgress(found.progress);
  if (!item || kept().filter((line) => line.row === found.row).length > 1) return;
  item.now = found.now;
  item === items[at] && shown ? draw(item) : mark(item);
}
const ANEW = "The server was started anew: open the address that it shows. Nothing is lost.";
function told(problem) {
  if (problem.status === 403) return ANEW;
  return problem.status ? `Not saved: ${problem.message}` : "Not saved yet: the server does not answer. It is sent again.";
}
function drawProgress(found) {
  const parts = Object.entries(found.actions).map(([action, n]) => `${n} ${WORDS[action]}`);
  Object.assign($("progress").firstElementChild, { max: found.queue || 1, value: found.done });
  $("progress").lastElementChild.textContent = [`${found.done} of ${found.queue} suspects`, ...parts].join(" · ");
}

/* keys, search, buttons */
const keys = {
  k: () => (several && items[at]?.now?.action === "label" ? go(at + 1) : decide("keep")),
  d: () => decide("drop"),
  t: () => shown?.twin && decide("twin", "", shown.twin),
  u: undo,
  a: () => shown && look(looking + 1),
  "/": () => shown && shown.kind !== "test" && search(),
  "?": () => $("help").showModal(),
  ArrowRight: () => go(at + 1),
  ArrowLeft: () => go(at - 1),
};
Object.assign(keys, { j: keys.ArrowRight, ArrowDown: keys.ArrowRight, ArrowUp: keys.ArrowLeft });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (/^(input|select)$/i.test(event.target.tagName)) return;
  const one = shown?.top[Number(event.key) - 1], act = keys[event.key] || (one && !numbers && (() => take(one.class)));
  if (!act) return;
  event.preventDefault();
  if (!event.repeat || act === keys.ArrowRight || act === keys.ArrowLeft) act();
});
function search() {
  const field = $("search").querySelector("input"), plain = (text) => readable(text).toLowerCase();
  const hits = () => numbers ? [field.value.trim()].filter((text) => /\d/.test(text)) : data.classes.filter((name) => plain(name).includes(plain(field.value))).slice(0, 12);
  const chosen = (name) => { $("search").close(); take(name); };
  field.oninput = () => $("search").querySelector("ul").replaceChildren(...hits().map((name) =>
    el("li", {}, el("button", { className: "plain", onclick: () => chosen(name) }, readable(name)))));
  field.onkeydown = (event) => {
    if (event.key === "Escape") $("search").close(); // at once, not after the text
    if (event.key === "Enter" && hits().length) { event.preventDefault(); chosen(hits()[0]); }
  };
  field.value = "";
  field.oninput();
  $("search").showModal();
}
$("large").onerror = () => { $("looking").textContent = "cannot be shown for this backbone"; };
for (const one of document.querySelectorAll("[data-key]")) one.onclick = () => keys[one.dataset.key]();
for (const one of document.querySelectorAll("#views button")) one.onclick = () => open(one.dataset.view);
for (const one of document.querySelectorAll("#filters select")) one.onchange = () => open(one.dataset.view);
addEventListener("unhandledrejection", ({ reason }) => { // of a list or a picture
  $("trouble").textContent = reason.status === 403 ? ANEW : reason.status ? reason.message : "The server does not answer.";
});
const watch = new IntersectionObserver((seen) => seen.at(-1).isIntersecting && loaded < total && more()); // of several the latest
if (data.live) {
  drawProgress(data.progress);
  send();
}
open("suspects");
