// The invocations: a window of rows over a log of any length. Pages come at one end and leave at the
// other. Rows are known by their key, so that selection, focus and scroll stay where they are.

const PAGE = 100;
const SPARE = 8;
const FRESH_MS = 1000;
// The most rows that are kept, twenty pages.
const KEEP = 2000;

function invocationTable(cockpit, filter, opened) {
  const count = h("p", { class: "mlt-count", role: "status" });
  const newer = button("", () => reload(), { class: "mlt-button mlt-small mlt-newer" });
  const further = button("", () => (upwards ? before() : more()), { class: "mlt-button mlt-small" });
  const newest = button("Newest", () => leap(() => reload()), { class: "mlt-button mlt-small", title: "The newest attempt that matches: Ctrl+Home" });
  const oldest = button("Oldest", () => leap(() => toOldest()), { class: "mlt-button mlt-small", title: "The oldest attempt that matches: Ctrl+End" });
  const place = h("span", { class: "mlt-place" });
  const space = h("div", { class: "mlt-space", role: "rowgroup" });
  const head = h("div", { role: "rowgroup", class: "mlt-table-head" }, h("div", { role: "row", class: "mlt-row" }, HEADS.map(([name, text]) =>
    h("span", { role: "columnheader", class: `mlt-cell mlt-cell-${name}` }, text))));
  const body = h("div", { class: "mlt-body" }, head, space);
  const grid = h("div", { role: "grid", class: "mlt-rows", tabindex: "-1", "aria-label": "Invocations" }, body);
  const empty = h("p", { class: "mlt-empty" });
  const node = h("div", { class: "mlt-invocations" }, h("div", { class: "mlt-bar" }, count, place, newer, further, h("span", { class: "mlt-buttons mlt-ends" }, newest, oldest)), grid, empty);

  let rows = [];
  let places = new Map();
  // The cursors of older and of newer rows (null: the first row that has one), the number of rows above (null: unknown),
  // and whether the window begins with the newest.
  let next = null;
  let up = null;
  let above = 0;
  let atTop = true;
  let upwards = false;
  let asked = 0;
  let loading = false;
  let active = null;
  let away = null;
  let total = null;
  let selected = null;
  let generation = null;
  let freshAt = 0;
  let timer = null;
  let code = "";
  const shown = new Map();
  show(newer, false);
  show(further, false);
  show(empty, false);

  const height = () => parseFloat(getComputedStyle(grid).getPropertyValue("--mlt-row")) || 36;

  function index() {
    places = new Map(rows.map((row, i) => [keyOf(row), i]));
  }

  function draw() {
    const tall = height();
    space.style.height = `${rows.length * tall}px`;
    const top = Math.max(0, Math.floor(body.scrollTop / tall) - SPARE);
    const bottom = Math.min(rows.length, Math.ceil((body.scrollTop + (body.clientHeight || 460)) / tall) + SPARE);
    const wanted = new Map();
    for (let i = top; i < bottom; i += 1) wanted.set(keyOf(rows[i]), i);
    // The row that has the focus stays in the page, also outside of the window.
    const focused = document.activeElement?.mltKey;
    for (const key of [focused, active]) if (places.has(key) && shown.has(key)) wanted.set(key, places.get(key));
    if (!wanted.size) active = null;
    else if (!wanted.has(active)) active = keyOf(rows[top]);
    // The focus waits at the table for a row that has left.
    if (focused && !places.has(focused)) {
      away = focused;
      grid.focus({ preventScroll: true });
    }
    const spare = [];
    for (const [key, view] of shown) if (!wanted.has(key)) { spare.push(view); shown.delete(key); }
    for (const [key, i] of wanted) {
      let view = shown.get(key);
      if (!view) {
        view = spare.pop() ?? rowView(choose);
        shown.set(key, view);
        if (!view.node.isConnected) space.append(view.node);
      }
      view.patch(rows[i], key);
      view.node.style.transform = `translateY(${i * tall}px)`;
      mark(view.node, "aria-rowindex", (above ?? 0) + i + 2);
      mark(view.node, "aria-selected", String(key === selected));
      mark(view.node, "tabindex", key === active ? "0" : "-1");
    }
    for (const { node: old } of spare) old.remove();
    if (away && document.activeElement === grid && wanted.has(away)) {
      active = away;
      away = null;
      shown.get(active).node.focus({ preventScroll: true });
    }
    tellPlace();
    const stuck = !further.hidden;
    if (next !== null && !(stuck && !upwards) && bottom > rows.length - PAGE / 2) more();
    else if (!atTop && !(stuck && upwards) && top < PAGE / 2) before();
  }

  // Which rows of how many are on the screen.
  function tellPlace() {
    const tall = height();
    const first = Math.min(rows.length, Math.floor(body.scrollTop / tall) + 1);
    const last = Math.min(rows.length, Math.round((body.scrollTop + (body.clientHeight || 460) - head.offsetHeight) / tall));
    const isAll = atTop && next === null && last - first + 1 >= rows.length;
    put(place, !rows.length || isAll ? "" : above === null ? `back to ${moment(rows[Math.max(first, last) - 1].started)}` : `rows ${whole(above + first)} to ${whole(above + Math.max(first, last))}`);
    show(newest, !isAll);
    show(oldest, !isAll);
  }

  // A search for a text stops after a while, and says how far it has looked.
  function searched({ looked, next: rest }, up = false) {
    show(further, Boolean(looked) && rest !== null);
    upwards = up;
    if (looked) put(further, `Looked ${up ? "up" : "back"} to ${moment(looked)}: look further`);
  }

  function say(found) {
    total = found.count_is === "exact" ? found.count : null;
    put(count, `${found.count_is === "at least" ? "at least " : ""}${plural(found.count ?? rows.length, "attempt")}`);
    searched(found);
    mark(grid, "aria-rowcount", found.count_is === "exact" ? found.count + 1 : -1);
    show(empty, rows.length === 0);
    show(grid, rows.length > 0);
    put(empty, "No attempt matches this filter.");
    code = found.code ?? code;
    if (selected === null) cockpit.code(code);
  }

  async function ask(from) {
    const mine = (asked += 1);
    const found = await cockpit.talk.ask("rows", { filter: filter.value, limit: PAGE, ...from });
    return mine === asked ? found : null;
  }

  // A leap to an end takes the focus along.
  async function leap(there) {
    const inside = grid.contains(document.activeElement);
    await there();
    if (!inside || !rows.length) return;
    active = keyOf(atTop ? rows[0] : rows.at(-1));
    reveal(places.get(active));
    shown.get(active)?.node.focus({ preventScroll: true });
  }

  // The last page of the log, from its other end.
  async function toOldest() {
    loading = true;
    try {
      const found = await ask({ after: 0 });
      if (!found) return;
      rows = found.rows;
      [next, up, above, atTop] = [null, found.next, total === null ? null : Math.max(0, total - rows.length), found.next === null];
      if (atTop) return void (await reload());
      loading = false;
      index();
      searched(found, true);
      space.style.height = `${rows.length * height()}px`;
      body.scrollTop = space.offsetHeight;
      draw();
    } catch (error) {
      loading = false;
      cockpit.notice(error.message, true);
    }
  }

  // Those that run have no place in the log yet, and are no cursor.
  const rowOf = (row, other) => row?.row ?? other;
  const newerThan = () => up ?? rowOf(rows.find(({ row }) => row != null), 0);

  async function reload() {
    loading = true;
    [up, above, atTop] = [null, 0, true];
    show(newer, false);
    generation = cockpit.state.log?.generation;
    freshAt = performance.now();
    try {
      const found = await ask({ before: null });
      if (!found) return;
      rows = found.rows;
      next = found.next;
      loading = false;
      index();
      body.scrollTop = 0;
      say(found);
      draw();
    } catch (error) {
      loading = false;
      generation = -1; // asked again with the next state
      // Rows of the filter before are not shown under this one.
      [rows, next] = [[], null];
      index();
      draw();
      show(grid, false);
      show(empty, true);
      put(empty, error.message);
    }
  }

  async function more() {
    if (loading) return;
    loading = true;
    try {
      const found = await ask({ before: next });
      if (!found) return;
      const page = found.rows.filter((row) => !places.has(keyOf(row)));
      rows = rows.concat(page);
      next = found.next;
      searched(found);
      leave(rows.length - KEEP);
      show(empty, rows.length === 0);
      show(grid, rows.length > 0);
      index();
      loading = false;
      draw();
    } catch {
      loading = false; // asked again at the next scroll
    }
  }

  // The rows above leave, and those that are on the screen stay where they are.
  function leave(n) {
    if (n <= 0) return;
    rows = rows.slice(n);
    [up, atTop] = [null, false];
    above = above === null ? null : above + n;
    shift(-n);
  }

  function shift(n) {
    const tall = height();
    const top = body.scrollTop;
    space.style.height = `${Math.max(rows.length, rows.length + n) * tall}px`;
    topRow += n;
    body.scrollTop = top + n * tall;
  }

  // The page above comes back, and rows leave at the end.
  async function before() {
    if (loading || atTop) return;
    loading = true;
    try {
      const found = await ask({ after: newerThan() });
      if (!found) return;
      const page = found.rows.filter((row) => !places.has(keyOf(row)));
      searched(found, true);
      up = found.next;
      rows = page.concat(rows);
      above = above === null ? null : Math.max(0, above - page.length);
      shift(page.length);
      if (rows.length > KEEP) {
        rows = rows.slice(0, KEEP);
        next = rowOf(rows.at(-1), next);
      }
      index();
      loading = false;
      if (found.next !== null) return void draw();
      // The newest one is there. Those that run come with the first page.
      [atTop, above] = [true, 0];
      draw();
      await refresh();
    } catch {
      loading = false; // asked again at the next scroll
    }
  }

  // New rows come by themselves only to a table that nobody reads: at its top, with nothing chosen in it.
  const unread = () => atTop && body.scrollTop < 4 && selected === null && !grid.contains(document.activeElement);

  async function refresh() {
    if (loading) return;
    const seen = cockpit.state.log?.generation;
    freshAt = performance.now();
    if (!atTop) {
      generation = seen;
      put(newer, "Show the newest attempts");
      return void show(newer, true);
    }
    try {
      const found = await ask({ before: null });
      if (!found) return void later();
      generation = seen;
      const fresh = found.rows.filter((row) => !places.has(keyOf(row))).length;
      if (fresh && !unread() && rows.length) {
        put(newer, found.rows.length === fresh ? "Show the newer attempts" : `Show ${plural(fresh, "newer attempt")}`);
        show(newer, true);
        return;
      }
      merge(found);
      say(found);
      draw();
    } catch {
      // the kernel is busy or gone: the header says so
    }
  }

  // At most once a second. It waits for a page that is under way: that would overtake it.
  function later() {
    if (cockpit.state.log?.generation === generation || timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      if (cockpit.seen) void (loading ? later() : refresh());
    }, Math.max(loading ? 2 * TYPING_MS : 0, FRESH_MS - (performance.now() - freshAt)));
  }

  function merge(found) {
    const last = found.rows.at(-1);
    const at = last === undefined ? -1 : (places.get(keyOf(last)) ?? -1);
    const fresh = new Set(found.rows.map(keyOf));
    const older = at < 0 ? [] : rows.slice(at + 1).filter((row) => !fresh.has(keyOf(row)));
    // At the top of the table the rows far below can be asked for again.
    const all = at >= 0 && found.rows.length + older.length <= KEEP;
    if (!all) next = found.next;
    rows = all ? found.rows.concat(older) : found.rows;
    index();
  }

  function choose(key) {
    const row = rows[places.get(key)];
    if (!row) return;
    selected = active = key;
    draw();
    opened(row);
  }

  function reveal(i) {
    const tall = height();
    const top = i * tall;
    const room = body.clientHeight - head.offsetHeight;
    if (room > 0 && top < body.scrollTop) body.scrollTop = top;
    else if (room > 0 && top + tall > body.scrollTop + room) body.scrollTop = top + tall - room;
    draw();
  }

  function move(to) {
    const i = Math.min(rows.length - 1, Math.max(0, to));
    if (i < 0) return;
    active = keyOf(rows[i]);
    reveal(i);
    shown.get(active)?.node.focus({ preventScroll: true });
  }

  grid.addEventListener("keydown", (event) => {
    if (event.ctrlKey && (event.key === "Home" || event.key === "End")) {
      event.preventDefault();
      event.stopPropagation();
      return void leap(() => (event.key === "End" ? toOldest() : reload()));
    }
    const now = places.get(active) ?? 0;
    const page = Math.max(1, Math.floor(body.clientHeight / height()) - 2);
    const to = { ArrowDown: now + 1, ArrowUp: now - 1, PageDown: now + page, PageUp: now - page, Home: 0, End: rows.length - 1 }[event.key];
    if (to !== undefined) move(to);
    else if (event.key === "Enter" || event.key === " ") choose(active);
    else return;
    event.preventDefault();
  });
  space.addEventListener("focusin", ({ target }) => { if (target.mltKey) [active, away] = [target.mltKey, null]; });
  body.addEventListener("scroll", () => draw(), { passive: true });
  // Another width may have rows of another height, or hide the table for a while: the same row stays at the top.
  let tallBefore = 0;
  let topRow = 0;
  body.addEventListener("scroll", () => { if (tallBefore === height()) topRow = body.scrollTop / tallBefore; }, { passive: true });
  const sizes = new ResizeObserver(() => {
    if (!rows.length || !body.clientHeight) return;
    const tall = height();
    tallBefore = tall;
    draw();
    body.scrollTop = topRow * tall;
    if (selected !== null || grid.contains(document.activeElement)) reveal(places.get(active) ?? 0);
  });
  sizes.observe(grid);

  return {
    node,
    reload,
    release() {
      selected = null;
      cockpit.code(code);
      draw();
    },
    focusRow() {
      (shown.get(active)?.node ?? grid).focus({ preventScroll: true });
    },
    reveal: () => reveal(places.get(active)),
    patch(state) {
      mark(grid, "data-bus", state.chosen === null ? "yes" : "no");
      if (generation === null) return void reload();
      later();
    },
    stop() {
      clearTimeout(timer);
      sizes.disconnect();
    },
  };
}
