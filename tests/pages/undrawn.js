"use strict";
/* The review page without a browser: its own scripts on a page of which nothing is drawn.
   node undrawn.js ADDRESS STEPS prints what the steps return, code that sees the page's names. */
const [address, steps] = process.argv.slice(2);
const held = {}, listeners = {};
class Element {
  children = [];
  style = {};
  dataset = {};
  value = "";
  tagName = "BODY";
  append(...some) { this.children.push(...some); }
  replaceChildren(...some) { this.children = some; }
  querySelector() { return new Element(); }
  get firstElementChild() { return this.children[0] ?? new Element(); }
  get lastElementChild() { return this.children.at(-1) ?? new Element(); }
  get lastChild() { return this.lastElementChild; }
}
for (const name of ["after", "setAttribute", "removeAttribute", "scrollIntoView"]) Element.prototype[name] = () => {};
const named = {}, kept = {};
const browser = {
  document: {
    getElementById: (id) => (named[id] ??= new Element()),
    createElement: () => new Element(),
    querySelector: (what) => (what.startsWith("dialog") ? null : new Element()),
    querySelectorAll: () => [],
    addEventListener: (name, act) => { listeners[name] = act; },
  },
  addEventListener: (name, act) => { listeners[name] = act; },
  localStorage: { getItem: (name) => kept[name] ?? null, setItem: (name, text) => { kept[name] = text; } },
  IntersectionObserver: class { observe() {} disconnect() {} },
  fetch: async (path, how) => {
    await held[path.match(/^\w+/)[0]];
    return request(new URL(path, address), how);
  },
  /* for the steps: a key, until something holds, an answer that is slow until the returned is called */
  press: (key) => listeners.keydown({ key, target: new Element(), preventDefault() {} }),
  until: async (holds) => { while (!holds()) await new Promise((wake) => setTimeout(wake, 5)); },
  hold: (path) => {
    let release;
    held[path] = new Promise((wake) => { release = wake; });
    return release;
  },
};
const request = globalThis.fetch;
process.on("unhandledRejection", (reason) => listeners.unhandledrejection({ reason }));
for (const [name, value] of Object.entries(browser)) Object.defineProperty(globalThis, name, { value });

(async () => {
  const page = await (await request(address)).text(), { runInThisContext } = require("node:vm");
  document.getElementById("data").textContent = /id="data">(.*?)<\/script>/s.exec(page)[1];
  for (const [, src] of page.matchAll(/<script src="(\w+\.js)"/g))
    runInThisContext(await (await request(new URL(src, address))).text());
  console.log(JSON.stringify(await runInThisContext(`(async () => {${steps}})()`) ?? null));
  process.exit();
})();
