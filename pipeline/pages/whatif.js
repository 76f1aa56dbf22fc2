"use strict";
/* What the decisions would do; live only. */
$("asked").append(...data.classes.map((name) => el("option", { value: name }, readable(name))));
$("asked").onchange = $("count").onchange = whatIf;
let asked = 0;
async function whatIf() {
  if (data.kind !== "shares") return; // it is the closed form of one class a picture
  const number = ++asked;
  await new Promise((wake) => setTimeout(wake, 400));
  const more = new URLSearchParams({ more: $("asked").value, count: $("count").value });
  const found = number === asked && await ask(`whatif?${more}`).catch((error) => error.status && { problem: error.message });
  if (!found || number !== asked) return; // another decision came
  const points = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(2)}`;
  $("what-if").hidden = false;
  if (found.problem) return ($("effect").textContent = found.problem);
  const guessed = `, ${found.added} test pictures as ${readable($("asked").value)} (what the head takes for it, unseen)`;
  const what = `${found.changed} relabelled, ${found.dropped} left out${found.added ? guessed : ""}: on the other ` +
    "pictures a closed-form head ";
  const none = !(found.changed + found.dropped + found.added);
  $("effect").textContent = none ? "No label is changed yet." : what + (found.won + found.lost
    ? `goes from ${percent(found.before, 2)} to ${percent(found.after, 2)} out of fold, ${points(found.delta)} ` +
      `points (95 %: ${points(found.low)} to ${points(found.high)}; ${found.won} won, ${found.lost} lost).`
    : "answers as before.");
}
