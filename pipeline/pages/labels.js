"use strict";
/* What a label is by the task: one class, several labels, a level, or numbers. */
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const readable = (label) => label.replaceAll("_", " ");
function el(tag, props = {}, ...inside) {
  const made = Object.assign(document.createElement(tag), props);
  made.append(...inside.filter((one) => one));
  return made;
}
const several = data.kind === "chances", numbers = data.task === "regression";
const partsOf = (label) => label.split(data.joint || " ").map((part) => data.some ? part.trim() : part).filter(Boolean);
const named = (label) => several ? partsOf(label).map(readable).join(", ") || "no label" : readable(label);
const held = (item) => (item.now?.action === "label" ? item.now.new : item.label); // as decided
function toggle(label) { // one of several: the picture stays, for others may be wrong, too
  const parts = partsOf(held(items[at]));
  const now = parts.includes(label) ? parts.filter((one) => one !== label) : [...parts, label];
  if (now.length || !data.some) decide("label", now.join(data.joint) || data.joint, "", true);
  else $("trouble").textContent = "A picture has one label at least here: drop it, or give it another first.";
}
