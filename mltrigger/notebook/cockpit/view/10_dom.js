// Elements from plain values: texts become text nodes, attributes are set one by one. Nothing is read as markup.

const SVG_SPACE = "http://www.w3.org/2000/svg";
const IMAGE = /^data:image\/(png|jpeg|gif|webp);base64,[a-z0-9+/=\s]+$/i;

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false).map(asNode));
  return node;
}

const asNode = (child) => (child instanceof Node ? child : document.createTextNode(String(child)));
const h = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG_SPACE, tag), attributes, children);

// Patches: the page changes only where a value did.
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  if (value == null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

function show(node, shown) {
  if (node.hidden === shown) node.hidden = !shown;
}

function whenChanged(pick, draw) {
  let before;
  return (state) => {
    const now = JSON.stringify(pick(state) ?? null);
    if (now === before) return;
    before = now;
    draw(state);
  };
}

let named = 0;
const newId = (what) => `mlt-${what}-${(named += 1)}-${Math.random().toString(36).slice(2, 8)}`;

// -- numbers, times and texts -----------------------------------------------------------------------------------------

const grouped = new Intl.NumberFormat("en-US");
const digits = (n, least, most = least) =>
  n.toLocaleString("en-US", { minimumFractionDigits: least, maximumFractionDigits: most });
const whole = (n) => (n == null ? "0" : grouped.format(n));
const rate = (n) => `${n >= 100 ? whole(Math.round(n)) : digits(n ?? 0, 0, 1)}/s`;
// A number and its unit stay on one line.
const bound = (text) => text.replaceAll(" ", "\u00a0");
const percent = (share) => bound(`${digits(100 * share, 0, 1)} %`);
const plural = (n, word) => `${whole(n)}\u00a0${word}${n === 1 ? "" : "s"}`;

// A duration in the unit in which people say it, so that it always has room.
const duration = (ms) => bound(durationText(ms));

function durationText(ms) {
  if (ms == null) return "–";
  if (ms < 0) return `−${durationText(-ms)}`;
  if (ms < 9.995) return `${digits(ms, 2)} ms`;
  if (ms < 999.5) return `${digits(ms, ms < 99.95 ? 1 : 0)} ms`;
  if (ms < 59_995) return `${digits(ms / 1000, 2)} s`;
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 60) return `${minutes} min ${Math.floor((ms % 60_000) / 1000)} s`;
  if (minutes < 2880) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${whole(Math.floor(minutes / 1440))} days`;
}

const two = (n) => String(n).padStart(2, "0");
const clock = (at) => `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
const day = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;

function moment(iso) {
  const at = new Date(iso ?? "");
  if (Number.isNaN(at.getTime())) return "–";
  return day(at) === day(new Date()) ? clock(at) : `${day(at)} ${clock(at)}`;
}

// JSON is shown with one value a line; anything else as it is.
function spread(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null ? indented(text) : text;
  } catch {
    return text;
  }
}

const PIECES = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

// Letters instead of their escapes. What nobody could see stays an escape.
const readable = (string) => JSON.stringify(JSON.parse(string)).replace(UNSEEN, (found) =>
  found.split("").map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`).join(""));

// Numbers stay as they are written: a number of JavaScript holds 15 digits.
function indented(text) {
  const parts = [];
  let depth = 0;
  let before = "";
  const line = () => `\n${"  ".repeat(depth)}`;
  for (const [piece] of text.matchAll(PIECES)) {
    const closes = piece === "}" || piece === "]";
    if (closes) depth -= 1;
    const opened = before === "{" || before === "[";
    if (opened !== closes || before === ",") parts.push(line());
    parts.push(piece[0] === '"' ? readable(piece) : piece === ":" ? ": " : piece);
    if (piece === "{" || piece === "[") depth += 1;
    before = piece;
  }
  return parts.join("");
}

const isJson = (mediaType) => /(^|[/+])json($|;)/.test(mediaType ?? "application/json");

function picture(data, label) {
  return IMAGE.test(data ?? "") ? h("img", { class: "mlt-image", src: data, alt: label }) : null;
}

// -- small parts ------------------------------------------------------------------------------------------------------

const button = (text, click, attributes = {}) => h("button", { type: "button", class: "mlt-button", click, ...attributes }, text);
const chip = (outcome) => h("span", { class: "mlt-chip", "data-key": outcome }, h("span", {}, String(outcome).replaceAll("_", " ")));

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { class: "mlt-offscreen" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

// A line of Python with its copy button.
function codeLine(label = "The same in Python") {
  const code = h("code");
  const pre = h("pre", { tabindex: "0", "aria-label": label }, code);
  const copy = button("Copy", async () => {
    put(copy, (await copied(code.textContent)) ? "Copied" : "Select it and copy");
    setTimeout(() => put(copy, "Copy"), 1500);
  }, { class: "mlt-button mlt-small", "aria-label": `Copy: ${label}` });
  const node = h("div", { class: "mlt-code" }, pre, copy);
  return {
    node,
    set(text) {
      put(code, text ?? "");
      show(node, Boolean(text));
    },
  };
}

// A cut is said: ", the newest 200 of 1,234".
const cutOf = (which, n, all) => (all > n ? `, the ${which} ${whole(n)} of ${whole(all)}` : "");

function dataTable(caption, heads, rows, numeric = []) {
  const cell = (value, i) => h(i === 0 ? "th" : "td", { ...(i === 0 ? { scope: "row" } : {}), class: numeric.includes(i) ? "mlt-number" : null }, value);
  return h("div", { class: "mlt-scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", { class: "mlt-table" },
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, heads.map((head, i) => h("th", { scope: "col", class: numeric.includes(i) ? "mlt-number" : null }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell))))));
}
