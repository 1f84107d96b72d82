// Two versions side by side on the events where they differ: worst first, with the differences marked word by word.

const WORDS = 400;
const FLIPS_SHOWN = 25;
const RULE_WORDS = { true: "holds", false: "fails" };
// A flip is an event on which the versions do not agree, for one of four reasons. All of them together are the flips.
const TILE_WORDS = {
  pairs: "events that both got", same: "agree", flip: "outputs differ", new_failed: "only the new one failed", old_failed: "only the old one failed",
  not_comparable: "cannot be compared", both_failed: "both failed",
  unfinished: "skipped, or not finished", missing_new: "only the old one got", missing_old: "only the new one got",
};
const STATES = { new_failed: "the new version failed", old_failed: "the old version failed", not_comparable: "cannot be compared" };

const tokens = (text) => text.match(/\w+|\s+|[^\w\s]/gu) ?? [];

// Pairs of [kind, text]: kept, old (only on the left), new (only on the right).
function wordDiff(before, after) {
  const [a, b] = [tokens(before), tokens(after)];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const [left, right] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
  const middle = left.length > WORDS || right.length > WORDS ? [["old", left.join("")], ["new", right.join("")]] : common(left, right);
  return [["kept", a.slice(0, start).join("")], ...middle, ["kept", end ? a.slice(-end).join("") : ""]].filter(([, text]) => text);
}

function common(left, right) {
  const longest = Array.from({ length: left.length + 1 }, () => new Uint16Array(right.length + 1));
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      longest[i][j] = left[i] === right[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const parts = [];
  const add = (kind, text) => (parts.at(-1)?.[0] === kind ? (parts.at(-1)[1] += text) : parts.push([kind, text]));
  let [i, j] = [0, 0];
  while (i < left.length || j < right.length) {
    if (i < left.length && j < right.length && left[i] === right[j]) { add("kept", left[i]); i += 1; j += 1; }
    else if (j >= right.length || (i < left.length && longest[i + 1][j] >= longest[i][j + 1])) { add("old", left[i]); i += 1; }
    else { add("new", right[j]); j += 1; }
  }
  return parts;
}

const SILENT = { new_failed: "new", old_failed: "old" };

// Where one failed there is nothing to mark: its side says so.
function sides(flip, old, fresh) {
  const failed = SILENT[flip.state];
  const parts = failed ? [[failed === "old" ? "new" : "old", spread(flip.old_output || flip.new_output || "")]] : wordDiff(spread(flip.old_output ?? ""), spread(flip.new_output ?? ""));
  const side = (kind, tag, name) => h("div", { class: "mlt-side" }, h("h4", {}, name),
    kind === failed ? h("p", { class: "mlt-muted" }, "No output: it failed.") : h("pre", { class: "mlt-text", tabindex: "0", "aria-label": `Output of ${name}` }, parts.filter(([one]) => one === "kept" || one === kind).map(([one, text]) => (one === "kept" || failed ? text : h(tag, {}, text)))));
  return h("div", { class: "mlt-sides" }, side("old", "del", old), side("new", "ins", fresh));
}

// A dry run beside the recorded attempt: outputs or errors, with the differences marked.
function trialBlock(found) {
  const said = (output, error) => (error ? error : spread(output));
  const [before, after] = [said(found.recorded, found.recorded_error), said(found.output, found.error)];
  const word = !found.is_recorded ? "No recorded attempt to compare with" : before === after ? "The same as recorded" : "Not the same as recorded";
  return h("div", {}, h("p", { class: "mlt-trial-word" }, word), sides({ old_output: before, new_output: after }, "recorded", found.version));
}

function flipItem(flip, old, fresh) {
  const facts = [STATES[flip.state] ?? "", flip.slice == null || flip.slice === "" ? "" : `slice ${flip.slice}`, flip.worse == null || STATES[flip.state] ? "" : `distance ${digits(flip.worse, 0, 3)}`].filter(Boolean).join(" · ");
  return h("li", { class: "mlt-flip" }, h("p", { class: "mlt-flip-head" }, h("strong", {}, flip.event || `event ${flip.seq}`), h("span", { class: "mlt-muted" }, ` ${facts}`)), flip.error ? h("p", { class: "mlt-problem" }, flip.error) : null, sides(flip, old, fresh));
}

const intervalText = (interval) => (Array.isArray(interval) ? interval.map((n) => (n == null ? "–" : percent(n))).join(" to ") : String(interval ?? "–"));

function verdictBlock(found) {
  const word = String(found.verdict ?? "");
  const lines = found.rules?.length
    ? found.rules.map(({ name, passed, text }) => h("li", {}, h("strong", {}, `${name} ${RULE_WORDS[String(passed)] ?? "is open"}`), `: ${text}`))
    : (found.arithmetic ?? []).map((one) => h("li", {}, one));
  return h("section", { class: "mlt-verdict", "data-word": word.split(/[\s:]/)[0].toLowerCase(), "aria-label": "Verdict" },
    h("h3", {}, word),
    lines.length ? h("ul", {}, lines) : null);
}

const madeOf = (counts) => ["flip", "new_failed", "old_failed", "not_comparable"].filter((name) => counts[name]).map((name) => `${whole(counts[name])} ${TILE_WORDS[name]}`).join(", ");

function compareTab(cockpit) {
  const old = choices({}, "choose");
  const fresh = choices({}, "choose");
  const by = h("input", { type: "text", autocomplete: "off", spellcheck: "false", placeholder: "a column, for example worker" });
  const start = button("Compare", () => compare(), { class: "mlt-button mlt-primary" });
  const result = h("div", { class: "mlt-result", "aria-live": "polite" });
  const code = codeLine();
  code.set("");
  const form = h("form", { class: "mlt-fields", submit: (event) => { event.preventDefault(); compare(); } },
    field("Old version", old.node), field("New version", fresh.node), field("Slices by", by), h("div", { class: "mlt-buttons" }, start));
  let turn = 0;

  async function compare() {
    const args = { subscription: cockpit.state.chosen, old: old.node.value, new: fresh.node.value, by: by.value.trim() || null };
    if (!args.old || !args.new) return result.replaceChildren(h("p", { class: "mlt-problem" }, "Choose an old and a new version first."));
    const mine = (turn += 1);
    start.setAttribute("aria-busy", "true");
    result.replaceChildren(h("p", { class: "mlt-muted" }, "Comparing …"));
    try {
      const found = await cockpit.talk.ask("compare", args, ACT_MS);
      if (mine === turn) fill(found, args);
    } catch (error) {
      if (mine === turn) result.replaceChildren(h("p", { class: "mlt-problem", role: "alert" }, error.message));
    } finally {
      start.removeAttribute("aria-busy");
    }
  }

  function fill(found, args) {
    const verdict = verdictBlock(found);
    const names = { subscription: args.subscription, old: args.old, new: args.new, ...(args.by ? { by: args.by } : {}) };
    const promote = { ...ACTIONS.promote, fields: ACTIONS.promote.fields.slice(1), extra: verdictBlock(found), label: `Promote ${args.new}` };
    code.set(found.code);
    const all = found.flips_in_all ?? found.flips?.length ?? 0;
    // The first count is that of all pairs; of the others those that are not zero.
    const counts = Object.entries(found.counts ?? {}).filter(([, n], i) => i === 0 || n !== 0).flatMap(([name, n]) => (name === "flip" ? [["flips", all], [name, n]] : [[name, n]])).map(([name, n]) => h("div", { class: "mlt-tile", "data-count": name }, h("dt", {}, TILE_WORDS[name] ?? name.replaceAll("_", " ")), h("dd", {}, typeof n === "number" ? plain(n) : String(n))));
    const flips = found.flips ?? [];
    const list = h("ol", { class: "mlt-flips" });
    const rest = button("", () => grow());
    const grow = () => {
      list.append(...flips.slice(list.children.length, list.children.length + FLIPS_SHOWN).map((flip) => flipItem(flip, args.old, args.new)));
      show(rest, list.children.length < flips.length);
      put(rest, `Show ${plural(Math.min(FLIPS_SHOWN, flips.length - list.children.length), "more flip")}`);
    };
    grow();
    result.replaceChildren(...[verdict,
      h("div", { class: "mlt-buttons" }, cockpit.control("promote", { subscription: args.subscription, version: args.new }, promote), cockpit.control("report", names, ACTIONS.report, {})),
      counts.length ? h("dl", { class: "mlt-tiles" }, counts) : null,
      found.slices?.length ? dataTable(`Agreement by slice${cutOf("first", found.slices.length, found.slices_in_all)}`, ["slice", "events", "agree", "interval"], found.slices.map((one) => [String(one.slice), whole(one.n), one.agree == null ? "–" : percent(one.agree), intervalText(one.interval)]), [1, 2, 3]) : null,
      h("h3", {}, flips.length ? `${plural(all, "flip")}, ${all > flips.length ? `the ${whole(flips.length)} worst of them` : "worst first"}` : "No flips: the versions agree"),
      flips.length ? h("p", { class: "mlt-muted" }, `Events on which the versions do not agree: ${madeOf(found.counts ?? {})}.`, all > flips.length ? h("span", {}, " All of them: ", h("code", {}, "comparison.flips()")) : null) : null,
      list, rest].filter(Boolean));
  }

  const versions = whenChanged(({ names }) => names?.versions, ({ names }) => {
    old.fill(names?.versions ?? []);
    fresh.fill(names?.versions ?? []);
    if (!old.node.value && names?.versions?.length > 1) [old.node.value, fresh.node.value] = names.versions.slice(0, 2);
  });
  return {
    node: h("div", { class: "mlt-compare" }, form, code.node, result),
    patch(state) {
      versions(state);
      start.disabled = !cockpit.talk.live;
    },
  };
}
