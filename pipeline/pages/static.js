/* The page without a server: its log lies in this browser, and is downloaded. */
function log(line, item) {
  const before = standing(item), old = before?.action === "label" ? before.new : item.label;
  const when = `${new Date().toISOString().slice(0, 19)}Z`, who = $("who").lastElementChild.value;
  keep([...kept(), { ...line, when, who, id: item.id, pixel_hash: item.hash, old }]);
  restore();
}
function standing(item) {
  const lines = kept(), back = new Set(lines.filter((one) => one.action === "undo").map((one) => one.note));
  return lines.filter((one) => one.id === item.id && one.pixel_hash === item.hash && one.action !== "undo" && !back.has(one.click)).at(-1);
}
function restore() {
  const actions = {};
  for (const item of data.items) {
    item.now = standing(item) || null;
    if (item.now) actions[item.now.action] = (actions[item.now.action] || 0) + 1;
  }
  drawProgress({ done: data.items.filter((item) => item.now).length, queue: data.items.length, actions });
}
$("download").onclick = () => {
  const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const rows = kept().map((line) => data.columns.map((name) => quoted(line[name])).join(","));
  const file = new Blob([[data.columns.join(","), ...rows, ""].join("\n")], { type: "text/csv" });
  el("a", { href: URL.createObjectURL(file), download: "decisions.csv" }).click();
};
restore();
