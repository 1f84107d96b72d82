"""The view of the cockpit in a browser, with a kernel in the page: what it shows, asks and announces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.needs("chromium", "playwright", "axe_playwright_python"),
    pytest.mark.xdist_group("cockpit view"),
]

HOSTILE = "<img src=x onerror=window.hit=1><script>window.hit=1</script>"


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    from browser import chromium

    with chromium() as running:
        yield running


@pytest.fixture
def opened(chrome: Browser) -> Iterator[Any]:
    from cockpit_page import open_page

    pages: list[Page] = []
    problems: list[str] = []

    def start(**options: Any) -> Page:
        page = open_page(chrome, **{"chosen": "ocr", **options})
        page.on("pageerror", lambda error: problems.append(str(error)))
        pages.append(page)
        return page

    yield start
    for page in pages:
        page.close()
    assert problems == []


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def rows(page: Page) -> Any:
    return page.locator(".mlt-space .mlt-row")


def acted(page: Page) -> list[dict[str, Any]]:
    return page.evaluate("fake.acted")


def first_row(page: Page) -> Any:
    """Return the row at the top of the table, whatever its place among the elements is."""
    return page.locator('.mlt-space .mlt-row[aria-rowindex="2"]')


def violations(page: Page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for one in found
        for node in one["nodes"]
    ]


def walk_through(page: Page) -> Iterator[str]:
    """Show all that the cockpit has, one thing after the other."""
    yield "overview"
    tab(page, "Invocations")
    rows(page).first.wait_for()
    page.get_by_role("button", name="More filters").click()
    yield "invocations"
    page.get_by_label("Outcome", exact=True).select_option("dead")
    page.locator('.mlt-row .mlt-chip[data-key="succeeded"]').first.wait_for(state="detached")
    first_row(page).click()
    page.locator(".mlt-lanes").wait_for()
    yield "an attempt"
    page.get_by_role("button", name="Redrive", exact=True).click()
    page.locator("dialog .mlt-code code").wait_for()
    yield "a dialog"
    page.keyboard.press("Escape")
    tab(page, "Compare")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator(".mlt-flip").first.wait_for()
    yield "a comparison"
    tab(page, "Versions")
    yield "versions"


# -- how it looks and reads ------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (400, "dark")])
def test_axe_finds_nothing_anywhere(opened: Any, width: int, scheme: str) -> None:
    page = opened(width=width, scheme=scheme)

    found = {place: violations(page) for place in walk_through(page)}

    assert {place: list_ for place, list_ in found.items() if list_} == {}


@pytest.mark.parametrize("width", [400, 620, 900, 1280])
def test_no_number_is_cut_and_nothing_is_wider_than_the_page(opened: Any, width: int) -> None:
    from cockpit_page import NUMBERS, cut_texts

    page = opened(width=width)
    for place in walk_through(page):
        assert cut_texts(page, NUMBERS) == [], place
        assert page.evaluate("document.documentElement.scrollWidth") <= width, place


def test_two_hundred_subscriptions_stand_side_by_side_and_none_covers_another(opened: Any) -> None:
    page = opened(chosen=None)
    page.evaluate(
        """() => {
            const { picture } = window.fake.state;
            const one = picture.subscriptions[0];
            const all = Array.from({ length: 200 }, (_, i) => ({ ...one, name: `reader-${i}`, topic: `topic-${i % 20}`, emits: i === 7 ? ["out"] : [] }));
            window.fake.change({ picture: { topics: [], subscriptions: all } });
        }"""
    )
    page.locator(".mlt-node", has_text="reader-199").wait_for(state="attached")
    boxes = page.evaluate(
        """() => [...document.querySelectorAll(".mlt-node")].map((node) => node.getBoundingClientRect().toJSON())"""
    )

    assert len(boxes) == 221
    assert len({round(box["left"]) for box in boxes}) >= 6  # topics and readers of three columns
    top = min(box["top"] for box in boxes)
    assert len({box["left"] for box in boxes if box["top"] == top}) == 3  # no column is empty
    ordered = sorted(boxes, key=lambda box: box["top"])
    assert not [
        (one, other)
        for i, one in enumerate(ordered)
        for other in ordered[i + 1 :]
        if other["top"] < one["bottom"]
        and one["left"] < other["right"]
        and other["left"] < one["right"]
    ]


def test_hostile_text_in_every_field_stays_text(opened: Any) -> None:
    page = opened(hostile=HOSTILE, chosen=None)
    page.locator(".mlt-subscription").nth(1).click()
    for _ in walk_through(page):
        pass
    tab(page, "Invocations")

    assert page.evaluate("window.hit") is None
    assert page.locator(".mltrigger-cockpit script").count() == 0
    assert page.locator('.mltrigger-cockpit img:not([src^="data:image/png"])').count() == 0
    assert HOSTILE in page.locator(".mlt-drawer").inner_text()


def test_image_that_is_no_picture_is_not_shown(opened: Any) -> None:
    page = opened()
    page.evaluate(
        """() => { const row = fake.row.bind(fake); fake.row = (args) => ({ ...row(args), image: "data:image/svg+xml;base64,PHN2Zy8+" }); }"""
    )
    tab(page, "Invocations")
    first_row(page).click()
    page.locator(".mlt-lanes").wait_for()

    assert page.locator(".mlt-drawer img").count() == 0


def test_texts_can_be_read_where_colours_are_forced_and_with_more_contrast(opened: Any) -> None:
    page = opened()
    page.emulate_media(forced_colors="active")
    assert violations(page) == []
    page.emulate_media(forced_colors="none", contrast="more")
    assert violations(page) == []


def test_bars_and_dots_are_seen_where_colours_are_forced(opened: Any) -> None:
    page = opened()
    page.emulate_media(forced_colors="active")
    tab(page, "Invocations")
    page.locator('.mlt-space .mlt-row[aria-rowindex="2"]').click()
    page.locator(".mlt-model").first.wait_for()
    colours = page.evaluate(
        """() => {
            const colour = (query, part) => getComputedStyle(document.querySelector(query), part).backgroundColor;
            return [colour(".mltrigger-cockpit"), colour(".mlt-model"), colour(".mlt-pill", "::before"),
                colour('.mlt-tile[data-key="dead"] dt', "::before"), colour(".mlt-node-state", "::before")];
        }"""
    )

    assert colours[0] not in colours[1:]


# -- the table -------------------------------------------------------------------------------------


def test_table_of_a_million_rows_holds_a_window_of_them(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    expect(page.locator(".mlt-count")).to_have_text("1,000,000 attempts")
    first_row(page).focus()
    for _ in range(3):
        page.keyboard.press("End")
        page.wait_for_timeout(150)

    assert rows(page).count() < 60
    asked = page.evaluate(
        "fake.sent.filter(({ what }) => what === 'rows').map(({ args }) => args.before)"
    )
    assert len(asked) == len(set(asked))
    assert asked[:3] == [None, 999_900, 999_800]


def test_selection_focus_and_scroll_stay_when_new_attempts_come(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened(width=1400)
    tab(page, "Invocations")
    body = page.locator(".mlt-body")
    first_row(page).focus()
    for _ in range(30):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".mlt-drawer-title")).to_be_focused()
    page.keyboard.press("Escape")
    before = page.evaluate("document.activeElement.querySelector('.mlt-cell-event').textContent")
    top = body.evaluate("node => node.scrollTop")
    page.evaluate("fake.grow(7)")

    expect(page.get_by_role("button", name="Show 7 newer attempts")).to_be_visible()
    assert body.evaluate("node => node.scrollTop") == top > 0
    after = page.evaluate("document.activeElement.querySelector('.mlt-cell-event').textContent")
    assert after == before
    page.get_by_role("button", name="Show 7 newer attempts").click()
    expect(first_row(page)).to_contain_text("1000006")


def test_table_that_nobody_reads_shows_new_attempts_by_itself(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    expect(first_row(page)).to_contain_text("999999")
    page.evaluate("fake.grow(250)")

    expect(first_row(page)).to_contain_text("1000249")
    expect(page.locator(".mlt-count")).to_have_text("1,000,250 attempts")


def test_filter_is_sent_to_the_kernel_and_shown_as_python(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    page.get_by_label("Outcome", exact=True).select_option("dead")
    page.get_by_label("Text", exact=True).fill("scans")

    expect(page.locator(".mlt-count")).to_contain_text("at least")
    expect(page.locator(".mlt-foot code")).to_contain_text('outcome="dead", text="scans"')
    expect(page.locator('.mlt-space .mlt-chip:not([data-key="dead"])')).to_have_count(0)


def test_everything_can_be_reached_with_the_keyboard_alone(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    page.get_by_role("tab", name="Overview").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Invocations")).to_be_focused()
    rows(page).first.wait_for()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "row":
            break
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".mlt-drawer-title")).to_be_focused()
    page.locator(".mlt-lanes").wait_for()
    page.keyboard.press("Escape")
    expect(page.locator(".mlt-drawer")).to_be_hidden()
    assert page.evaluate("document.activeElement.getAttribute('aria-rowindex')") == "3"


# -- actions ---------------------------------------------------------------------------------------


def test_bulk_action_says_its_number_and_asks_before_it_acts(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    page.get_by_label("Outcome", exact=True).select_option("dead")
    page.get_by_role("button", name="Redrive all").click()
    dialog = page.get_by_role("dialog", name="Redrive all")
    expect(dialog.locator(".mlt-number-line")).to_have_text("34,482 events")
    assert acted(page) == []
    dialog.get_by_label("Events per second").fill("50")
    expect(dialog.locator("code")).to_contain_text("rate_per_s=50")
    for _ in range(12):  # the focus does not leave the dialog
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
        )
    dialog.get_by_role("button", name="Redrive 34,482 events").click()

    expect(page.locator('.mlt-notice[role="status"]')).to_have_text("bulk_redrive is done")
    assert acted(page) == [
        {
            "action": "bulk_redrive",
            "args": {
                "filter": {"subscription": "ocr", "outcome": "dead"},
                "rate_per_s": 50,
                "up_to": 1_000_000,
            },
        }
    ]
    expect(page.locator(".mlt-foot code")).to_contain_text("rate_per_s=50")


def test_escape_leaves_a_confirmation_and_nothing_is_done(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    page.get_by_role("button", name="Discard all").click()
    page.keyboard.press("Escape")

    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Discard all")).to_be_focused()
    assert acted(page) == []


def test_edited_payload_is_sent_and_an_unchanged_one_is_not(opened: Any) -> None:
    page = opened()
    tab(page, "Invocations")
    page.get_by_label("Outcome", exact=True).select_option("dead")
    for edit in (None, '{"page": 7}'):
        first_row(page).click()
        page.get_by_role("button", name="Redrive", exact=True).click()
        dialog = page.get_by_role("dialog")
        if edit is not None:
            dialog.get_by_label("Payload").fill("{broken")
            dialog.get_by_role("alert").filter(has_text="This is no JSON").wait_for()
            assert dialog.get_by_role("button", name="Redrive").is_disabled()
            dialog.get_by_label("Payload").fill(edit)
        dialog.locator(".mlt-primary:enabled").click()
        dialog.wait_for(state="detached")

    assert [one["args"].get("json") for one in acted(page)] == [None, '{"page": 7}']
    assert "data" not in acted(page)[0]["args"]


def test_dry_run_shows_its_answer_beside_the_recorded_one_with_differences_marked(
    opened: Any,
) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    page.get_by_label("Outcome", exact=True).select_option("succeeded")
    page.locator('.mlt-row .mlt-chip[data-key="dead"]').first.wait_for(state="detached")
    first_row(page).click()
    page.get_by_role("button", name="Dry run", exact=True).click()
    dialog = page.get_by_role("dialog", name="Dry run")
    for version in ("1.5.0", "1.4.0"):  # one version after the other
        dialog.get_by_label("Version").select_option(version)
        dialog.get_by_role("button", name="Run", exact=True).click()
        expect(dialog.locator(".mlt-trial h4")).to_have_text(["recorded", f"ocr:{version}"])
        assert dialog.locator("del").all_text_contents() == ["invoice"]
        assert dialog.locator("ins").all_text_contents() == ["receipt"]
    expect(dialog.get_by_text("Not the same as recorded")).to_be_visible()
    assert violations(page) == []
    assert {*acted(page)[0]["args"]["recorded"]} == {"attempt", "role", "version"}


def test_a_row_shows_the_payload_that_answered_and_the_published_one(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    page.evaluate(
        """() => { fake.edited = { at: fake.at(0), used: true, original: '{"page": "old"}' }; }"""
    )
    tab(page, "Invocations")
    first_row(page).click()
    expect(page.locator(".mlt-note")).to_contain_text(
        "Answered with the payload edited at 2026-01-05"
    )
    page.get_by_text("The payload as published").click()
    expect(page.get_by_label("Payload as published")).to_contain_text('"old"')
    page.evaluate("() => { fake.edited.used = null; }")
    page.keyboard.press("Escape")
    first_row(page).click()
    expect(page.locator(".mlt-note")).to_contain_text("sent again several times, the last time at")
    expect(page.get_by_text("This attempt got it, or an edited one")).to_be_visible()


def test_a_payload_is_fired_again_as_it_is_or_edited(opened: Any) -> None:
    page = opened()
    tab(page, "Invocations")
    first_row(page).click()
    for edit in (None, '{"page": 7}'):
        page.get_by_role("button", name="Fire again", exact=True).click()
        dialog = page.get_by_role("dialog", name="Fire again")
        if edit is not None:
            dialog.get_by_label("Payload").fill(edit)
        dialog.locator(".mlt-primary:enabled").click()
        dialog.wait_for(state="detached")
    assert [(one["action"], one["args"].get("json")) for one in acted(page)] == [
        ("fire", None),
        ("fire", '{"page": 7}'),
    ]
    assert acted(page)[0]["args"]["seq"] == 999_999


def test_refused_action_says_why_and_can_be_mended(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    page.get_by_label("Outcome", exact=True).select_option("dead")
    first_row(page).click()
    page.get_by_role("button", name="Discard", exact=True).click()
    dialog = page.get_by_role("dialog", name="Discard")

    expect(dialog.get_by_role("alert")).to_have_text("write a reason: it is kept in the record")
    expect(dialog.get_by_role("button", name="Discard")).to_be_disabled()
    dialog.get_by_label("Reason").fill("a blank page")
    expect(dialog.get_by_role("button", name="Discard")).to_be_enabled()


def test_a_form_shows_the_usual_settings_and_an_error_beside_its_field(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Versions")
    page.get_by_role("button", name="Canary …").click()
    dialog = page.get_by_role("dialog", name="Canary")
    confirm = dialog.get_by_role("button", name="Start canary")
    expect(confirm).to_be_enabled()
    errors = dialog.get_by_label("Errors, times those of now")
    assert errors.input_value() == "1.5"

    errors.fill("0.5")
    expect(errors).to_have_attribute("aria-invalid", "true")
    expect(errors).to_have_accessible_description(
        "write a number from 1 on, or None More: roll back. Empty: no such rule."
    )
    expect(confirm).to_be_disabled()
    errors.fill("many")
    expect(dialog.get_by_role("alert")).to_have_text("many is no number")
    errors.fill("")
    dialog.get_by_text("More settings").click()
    dialog.get_by_label("Figures of mt.report").fill("cost: less")
    expect(dialog.get_by_role("alert")).to_have_text("cost: write cost: higher, or cost: lower")
    dialog.get_by_label("Figures of mt.report").fill("cost: lower")
    dialog.get_by_label("After the last step").select_option("promote")
    dialog.get_by_label("Note for the history").fill("cheaper")
    expect(confirm).to_be_enabled()
    confirm.click()

    dialog.wait_for(state="detached")
    (done,) = acted(page)
    assert done["args"] == {
        "subscription": "ocr",
        "version": "1.5.0",
        "steps": [0.01, 0.05, 0.2, 0.5],
        "guard": {"errors": None, "p95": 1.3, "measures": {"cost": "lower"}, "alpha": 0.05},
        "min_events": 200,
        "min_s": 60,
        "then": "promote",
        "why": "cheaper",
    }


def test_pause_acts_at_once_and_becomes_resume(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    page.get_by_role("button", name="Pause", exact=True).click()

    expect(page.get_by_role("button", name="Resume", exact=True)).to_be_visible()
    expect(page.locator(".mlt-pill")).to_have_text("paused")
    expect(page.locator(".mlt-foot code")).to_have_text("sub.pause()")
    assert page.evaluate("fake.sent.filter(({ what }) => what === 'act').length") <= 2


def test_recorded_clicks_are_shown_to_copy_where_no_cell_can_be_made(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    page.get_by_role("button", name="Record clicks").click()
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("button", name="Resume", exact=True).click()
    page.get_by_role("button", name="Stop recording and write the cell (2 actions)").click()

    expect(page.get_by_label("The recorded actions in Python", exact=True)).to_have_text(
        "sub.pause()\nsub.resume()"
    )


def test_promotion_of_a_comparison_shows_the_verdict(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Compare")
    page.get_by_role("button", name="Compare", exact=True).click()
    first = page.locator(".mlt-flip").first
    assert first.locator("del").all_text_contents() == ["invoice"]
    assert first.locator("ins").all_text_contents() == ["receipt"]
    page.get_by_role("button", name="Promote 1.5.0").click()
    dialog = page.get_by_role("dialog", name="Promote")
    expect(dialog.locator(".mlt-verdict")).to_contain_text("errors: 0.7 % against 0.8 %, p = 0.62")
    expect(dialog.locator(".mlt-says")).to_have_text("promote will be done")  # no verdict again
    dialog.get_by_role("button", name="Promote").click()

    dialog.wait_for(state="detached")
    assert acted(page) == [
        {
            "action": "promote",
            "args": {
                "subscription": "ocr",
                "version": "1.5.0",
                "backlog": "new",
                "move_alias": False,
            },
        }
    ]


def test_a_flip_on_which_one_version_failed_says_so_and_marks_nothing(opened: Any) -> None:
    page = opened()
    page.evaluate(
        """() => {
            const compare = fake.compare.bind(fake);
            const flips = [{ seq: 1, event: "page 1", state: "new_failed", old_output: '{"n": 1}', new_output: null, worse: 2 },
                { seq: 2, event: "page 2", state: "old_failed", old_output: null, new_output: '{"n": 2}', worse: -1 }];
            fake.compare = (args) => ({ ...compare(args), flips });
        }"""
    )
    tab(page, "Compare")
    page.get_by_role("button", name="Compare", exact=True).click()
    sides = page.locator(".mlt-flip .mlt-side")
    sides.first.wait_for()

    failed = "No output: it failed."
    assert [failed in text for text in sides.all_inner_texts()] == [False, True, True, False]
    assert page.locator(".mlt-flip :is(del, ins)").count() == 0
    assert "distance" not in page.locator(".mlt-flips").inner_text()


def test_flips_are_one_number_made_of_parts_and_a_cut_is_said(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Compare")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("heading", name="518 flips, the 130 worst of them")).to_be_visible()
    tiles = page.locator(".mlt-tile[data-count]")
    assert tiles.locator("dt").all_text_contents() == [
        "events that both got",
        "agree",
        "flips",
        "outputs differ",
        "only the new one failed",
        "only the old one failed",
        "only the old one got",
    ]
    numbers = [int(n.replace(",", "")) for n in tiles.locator("dd").all_text_contents()]
    assert numbers[2] == sum(numbers[3:6]) == 518
    assert numbers[0] == numbers[1] + numbers[2]
    expect(page.get_by_text("All of them: comparison.flips()")).to_be_visible()
    expect(page.get_by_text("Agreement by slice, the first 3 of 7")).to_be_visible()
    tab(page, "Invocations")
    first_row(page).click()
    expect(page.get_by_text("Attempts, the newest 2 of 1,234")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    tab(page, "Overview")
    page.evaluate("fake.change({ window: { attempts: 2000, is_cut: true, versions_left_out: 3 } })")
    expect(
        page.get_by_text(
            "those of the newest 2,000\u00a0attempts. 3\u00a0older versions of them have no line."
        )
    ).to_be_visible()


def test_read_only_view_has_no_button_that_changes_anything(opened: Any) -> None:
    page = opened(readOnly=True)
    for place in ("Overview", "Invocations", "Versions"):
        tab(page, place)
        enabled = page.locator("[data-action]:enabled:visible").evaluate_all(
            "nodes => nodes.map((node) => node.dataset.action)"
        )
        assert enabled == [], place


# -- life ------------------------------------------------------------------------------------------


def test_silent_kernel_is_said_and_comes_back(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    expect(page.locator(".mlt-pill")).to_have_text("listening")
    page.evaluate("fake.alive = false")
    expect(page.locator(".mlt-pill")).to_have_text("kernel gone", timeout=9000)
    expect(page.locator(".mltrigger-cockpit")).to_have_attribute("data-gone", "yes")
    expect(page.locator(".mlt-updated")).to_contain_text("last updated 20")
    assert page.locator("[data-action]:enabled").count() == 0

    page.evaluate("fake.alive = true")
    expect(page.locator(".mlt-pill")).to_have_text("listening", timeout=4000)
    expect(page.get_by_role("button", name="Pause", exact=True)).to_be_enabled()


@pytest.mark.parametrize("state", ["closed", "stopped by the store"])
def test_bus_that_is_over_is_said(opened: Any, state: str) -> None:
    from playwright.sync_api import expect

    page = opened()
    page.evaluate(f"fake.change({{ bus: {{ title: 'memory', state: {json.dumps(state)} }} }})")

    expect(page.locator(".mlt-pill")).to_have_text(f"bus {state}")
    expect(page.locator(".mltrigger-cockpit")).to_have_attribute("data-gone", "yes")
    expect(page.locator("[data-action]:enabled")).to_have_count(0)


COUNTED = """async (changes) => {
    let touched = 0;
    const watcher = new MutationObserver((found) => { touched += found.length; });
    watcher.observe(document.querySelector(".mltrigger-cockpit"), { subtree: true, childList: true, attributes: true, characterData: true });
    for (let i = 0; i < 100; i += 1) {
        fake.change(changes ? { counts: { ...fake.state.counts, succeeded: 2000 + i } } : { at: new Date().toISOString() });
        await new Promise((done) => setTimeout(done, 10));
    }
    await new Promise((done) => setTimeout(done, 250));
    watcher.disconnect();
    return touched;
}"""


def test_view_changes_at_most_ten_times_a_second_and_only_where_a_value_did(opened: Any) -> None:
    page = opened()
    page.wait_for_timeout(300)

    assert page.evaluate(COUNTED, False) == 0
    touched = page.evaluate(COUNTED, True)
    assert 0 < touched <= 40  # one text, ten times a second, for a second and some


def test_view_that_nobody_sees_asks_and_draws_nothing(opened: Any) -> None:
    page = opened()
    tab(page, "Invocations")
    rows(page).first.wait_for()
    page.evaluate(
        "document.querySelector('main').prepend(Object.assign(document.createElement('div'), { style: 'height: 5000px' }))"
    )
    page.wait_for_timeout(300)
    asked = page.evaluate("fake.sent.length")
    page.evaluate("fake.grow(5)")

    assert page.evaluate(COUNTED, True) == 0
    page.wait_for_timeout(1200)
    assert page.evaluate("fake.sent.length") == asked
    page.evaluate("document.querySelector('main > div').remove()")
    first_row(page).get_by_text("1000004").wait_for()


def test_view_that_is_removed_leaves_no_listener_and_no_timer(opened: Any) -> None:
    page = opened()
    page.evaluate("stop()")

    assert page.evaluate("Object.values(fake.handlers).reduce((n, all) => n + all.size, 0)") == 0


# -- what it must not change -----------------------------------------------------------------------


def test_large_numbers_and_unseen_characters_stay_as_they_are_written(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    page.evaluate(
        r"""() => {
            const row = fake.row.bind(fake);
            const payload = String.raw`{"id":12345678901234567890,"to":[1.0,{}],"note":"\u202e\u00e9"}`;
            fake.row = (args) => ({ ...row(args), payload, output: payload });
        }"""
    )
    tab(page, "Invocations")
    page.get_by_label("Outcome", exact=True).select_option("dead")
    first_row(page).click()
    written = (
        '{\n  "id": 12345678901234567890,\n  "to": [\n    1.0,\n    {}\n  ],\n'
        '  "note": "\\u202eé"\n}'
    )
    for name in ("Payload", "Output"):
        expect(page.get_by_label(name, exact=True)).to_have_text(written)
    page.get_by_role("button", name="Redrive", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Payload").fill(written.replace("1.0", "2.0"))
    dialog.locator(".mlt-primary:enabled").click()
    dialog.wait_for(state="detached")

    assert acted(page)[0]["args"]["json"] == written.replace("1.0", "2.0")


def test_attempts_of_two_lanes_are_two_rows_and_open_as_themselves(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    page.evaluate(
        """() => {
            const one = fake.one.bind(fake);
            fake.one = (i) => ({ ...one(i - (i % 2)), role: "replay", version: `2.${i % 2}.0` });
        }"""
    )
    tab(page, "Invocations")
    for index, version in ((2, "2.1.0"), (3, "2.0.0")):
        row = page.locator(f'.mlt-space .mlt-row[aria-rowindex="{index}"]')
        expect(row).to_contain_text(f"{version} replay")
        row.click()
        page.locator(".mlt-lanes").wait_for()
        asked = page.evaluate("fake.sent.filter(({ what }) => what === 'row').at(-1).args")
        assert (asked["role"], asked["version"]) == ("replay", version)


def test_an_action_is_about_the_subscription_that_its_dialog_was_opened_for(opened: Any) -> None:
    page = opened()
    tab(page, "Versions")
    page.get_by_role("button", name="Roll back …").click()
    dialog = page.get_by_role("dialog", name="Roll back")
    dialog.locator(".mlt-primary:enabled").wait_for()
    page.evaluate("fake.change({ chosen: 'archive' })")
    dialog.locator(".mlt-primary:enabled").click()
    dialog.wait_for(state="detached")

    assert acted(page) == [{"action": "rollback", "args": {"subscription": "ocr"}}]


def test_a_refused_bulk_action_says_why_and_counts_again(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    page.get_by_role("button", name="Discard all").click()
    dialog = page.get_by_role("dialog", name="Discard all")
    confirm = dialog.get_by_role("button", name="Discard 1,000,000 events")
    expect(confirm).to_be_enabled()
    page.evaluate(
        """() => {
            const act = fake.act.bind(fake);
            fake.act = (args) => {
                if (args.go && args.args.up_to !== fake.total) throw new Error("try again");
                return act(args);
            };
            fake.total += 7;
        }"""
    )
    confirm.click()

    expect(dialog.get_by_role("alert")).to_have_text("try again")
    again = dialog.get_by_role("button", name="Discard 1,000,007 events")
    expect(again).to_be_enabled()
    assert acted(page) == []
    again.click()
    dialog.wait_for(state="detached")
    assert [one["args"]["up_to"] for one in acted(page)] == [1_000_007]


def test_a_long_bulk_action_shows_how_far_it_is(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    page.evaluate("fake.numberIs = 'at least'")
    page.get_by_role("button", name="Discard all").click()
    dialog = page.get_by_role("dialog", name="Discard all")
    confirm = dialog.get_by_role("button", name="Discard at least 1,000,000 events")
    expect(confirm).to_be_enabled()
    page.evaluate("fake.slow = 12_000")
    confirm.click()

    expect(dialog.locator(".mlt-number-line")).to_have_text(
        "12,000 of at least 1,000,000 events done"
    )
    expect(confirm).to_be_disabled()


def test_a_field_that_is_edited_during_a_long_action_disturbs_nothing(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    page.get_by_role("button", name="Redrive all").click()
    dialog = page.get_by_role("dialog", name="Redrive all")
    confirm = dialog.get_by_role("button", name="Redrive 1,000,000 events")
    expect(confirm).to_be_enabled()
    page.evaluate("fake.slow = 12_000")
    confirm.click()
    line = dialog.locator(".mlt-number-line")
    expect(line).to_have_text("12,000 of 1,000,000 events done")
    asked = page.evaluate("fake.sent.length")
    dialog.get_by_label("Events per second").fill("7")
    page.wait_for_timeout(500)
    page.evaluate(
        "fake.emit('msg:custom', { type: 'progress', id: fake.lastId, done: 13_000 })",
    )

    expect(line).to_have_text("13,000 of 1,000,000 events done")
    assert page.evaluate("fake.sent.length") == asked


def test_an_action_goes_on_when_its_dialog_is_closed_and_its_error_is_said(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    page.get_by_role("button", name="Redrive all").click()
    dialog = page.get_by_role("dialog", name="Redrive all")
    confirm = dialog.get_by_role("button", name="Redrive 1,000,000 events")
    expect(confirm).to_be_enabled()
    page.evaluate("fake.slow = 12_000")
    confirm.click()
    dialog.get_by_role("button", name="Close").click()
    dialog.wait_for(state="detached")
    page.evaluate(
        "fake.emit('msg:custom', { type: 'answer', id: fake.lastId, error: 'the store is away' })"
    )

    expect(page.locator(".mlt-urgent").get_by_text("the store is away")).to_be_visible()


def test_a_comma_that_would_make_another_number_is_refused(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Versions")
    page.get_by_role("button", name="Canary …").click()
    dialog = page.get_by_role("dialog", name="Canary")
    errors, code = dialog.get_by_label("Errors, times those of now"), dialog.locator(".mlt-code")
    expect(code).to_be_visible()
    for text, said in (
        ("1,5", "Write 1.5 with a point: a comma stands between thousands"),
        ("1e999", "1e999 is no number"),
        ("5x%", "5x% is no number"),
    ):
        errors.fill(text)
        expect(dialog.get_by_role("alert")).to_have_text(said)
        expect(code).to_be_hidden()  # a line of before is not that of this form
    errors.fill("1,500")
    expect(code).to_contain_text('"errors":1500')


def test_a_correction_is_tried_before_it_is_made(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Versions")
    page.get_by_role("button", name="Correct …").click()
    dialog = page.get_by_role("dialog", name="Correct")
    dialog.get_by_role("button", name="Try").click()
    expect(dialog.locator(".mlt-says")).to_have_text("correct is done")
    dialog.get_by_label("Dry run").uncheck()
    dialog.get_by_role("button", name="Correct").click()
    expect(dialog.get_by_role("button", name="Correct")).to_be_hidden()

    assert [one["args"]["dry"] for one in acted(page)] == [True, False]


def test_a_slice_without_a_figure_is_not_zero(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    page.evaluate(
        """() => {
            const compare = fake.compare.bind(fake);
            fake.compare = (args) => ({ ...compare(args), slices: [{ slice: "de", n: 0, agree: null, interval: [null, null] }] });
        }"""
    )
    tab(page, "Compare")
    page.get_by_role("button", name="Compare", exact=True).click()

    expect(page.get_by_role("row", name="de")).to_have_text("de0–– to –")


ROWS_KEPT = "Math.round(document.querySelector('.mlt-space').offsetHeight / document.querySelector('.mlt-space .mlt-row').offsetHeight)"


def scrolled(page: Page, top: int) -> None:
    """Scroll the table, and wait until the pages that this asked for are there."""
    page.locator(".mlt-body").evaluate("(node, top) => { node.scrollTop = top; }", top)
    page.wait_for_timeout(60)


def test_a_log_of_any_length_is_scrolled_to_its_first_attempt_and_back(opened: Any) -> None:
    page = opened(rows=6_000)
    tab(page, "Invocations")
    rows(page).first.wait_for()
    most = 0
    for _ in range(200):
        scrolled(page, 10**9)
        most = max(most, page.evaluate(ROWS_KEPT))
        if page.locator(".mlt-space").get_by_text('"page": 0,').count():
            break
    assert page.locator(".mlt-space").get_by_text('"page": 0,').count() == 1
    assert (1_900 < most <= 2_100, page.evaluate(ROWS_KEPT) <= 2_000) == (True, True)
    assert page.locator(".mlt-space .mlt-row").count() < 60
    assert "to 6,000" in page.locator(".mlt-place").inner_text()

    for _ in range(200):
        scrolled(page, 0)
        assert page.evaluate(ROWS_KEPT) <= 2_100
        if "1 to" in page.locator(".mlt-place").inner_text()[:9]:
            break
    assert "5999" in first_row(page).inner_text()
    asked = page.evaluate("fake.sent.filter(({ what }) => what === 'rows').map(({ args }) => args)")
    assert any(args.get("after") for args in asked)
    assert all(args["limit"] == 100 for args in asked)


def test_rows_stay_where_they_are_while_pages_come_and_leave(opened: Any) -> None:
    page = opened(rows=9_000)
    tab(page, "Invocations")
    rows(page).first.wait_for()
    for _ in range(22):
        scrolled(page, 10**9)
    page.locator(".mlt-body").evaluate("(node) => { node.scrollTop = node.scrollHeight / 2; }")
    page.wait_for_timeout(200)
    at_top = """() => {
        const edge = document.querySelector(".mlt-body").getBoundingClientRect().top + 40;
        const rows = [...document.querySelectorAll(".mlt-space .mlt-row")];
        return rows.map((row) => [row.getBoundingClientRect().top - edge, row.textContent])
            .filter(([top]) => top >= 0).sort((a, b) => a[0] - b[0])[0];
    }"""
    scrolled(page, 1_900)  # near the upper end: the page above comes
    before = page.evaluate(at_top)
    page.wait_for_timeout(300)
    assert page.evaluate(at_top) == before


def test_selection_and_focus_outlast_the_leaving_of_their_row(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened(rows=9_000, width=1400)
    tab(page, "Invocations")
    first_row(page).click()
    page.locator(".mlt-lanes").wait_for()
    chosen = page.locator('.mlt-space [aria-selected="true"] .mlt-cell-event').inner_text()
    first_row(page).focus()
    for _ in range(45):
        scrolled(page, 10**9)
    assert page.locator('.mlt-space [aria-selected="true"]').count() == 0
    assert page.evaluate("document.activeElement.getAttribute('role')") == "grid"
    expect(page.locator(".mlt-drawer-title")).to_have_text(chosen)
    for _ in range(45):
        scrolled(page, 0)
    back = page.locator('.mlt-space [aria-selected="true"]')
    expect(back.locator(".mlt-cell-event")).to_have_text(chosen)
    expect(back).to_be_focused()


def test_a_rare_text_is_looked_for_up_from_the_oldest_attempt_without_beginning_anew(
    opened: Any,
) -> None:
    from playwright.sync_api import expect

    page = opened(rows=5_000)
    page.evaluate(
        """() => {
            const all = fake.rows.bind(fake);
            fake.rows = (args) => {
                if (args.after == null) return all(args);
                const at = Math.min(args.after + 2_000, fake.total);
                const rows = at < fake.total ? [] : [fake.one(fake.total - 1)];
                const looked = at < fake.total ? { looked: fake.at(at) } : {};
                return { rows, next: at < fake.total ? at : null, ...looked, count: null, count_is: "at least" };
            };
        }"""
    )
    tab(page, "Invocations")
    rows(page).first.wait_for()
    page.get_by_role("button", name="Oldest").click()
    further = page.get_by_role("button", name="look further")
    expect(further).to_contain_text("Looked up to")
    further.click()
    page.wait_for_function("fake.sent.filter(({ args }) => args.after != null).length === 2")
    page.wait_for_timeout(100)
    further.click()

    expect(first_row(page)).to_contain_text("4999")
    assert page.evaluate(
        "fake.sent.filter(({ args }) => args.after != null).map(({ args }) => args.after)"
    ) == [0, 2_000, 4_000]


def test_running_attempts_at_the_edge_of_the_window_ask_for_no_page_twice(opened: Any) -> None:
    page = opened(rows=2_050)
    page.evaluate(
        """() => {
            const one = fake.one.bind(fake);
            fake.one = (i) => (i >= fake.total - 90 ? { ...one(i), row: null, outcome: "running" } : one(i));
        }"""
    )
    tab(page, "Invocations")
    rows(page).first.wait_for()
    for _ in range(60):
        scrolled(page, 10**9)
        if page.locator(".mlt-space").get_by_text('"page": 0,').count():
            break
    for _ in range(5):
        scrolled(page, 0)

    asked = page.evaluate(
        "fake.sent.filter(({ args }) => args.after != null).map(({ args }) => args.after)"
    )
    assert 0 not in asked
    assert len(asked) == len(set(asked))
    assert "rows 1 to" in page.locator(".mlt-place").inner_text()


def test_a_page_that_overtakes_the_new_attempts_does_not_hide_them(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened(width=1400)
    tab(page, "Invocations")
    first_row(page).focus()
    page.wait_for_timeout(1_100)
    page.evaluate(
        """() => {
            const send = fake.send.bind(fake);
            let held = null;
            fake.send = (ask) => {
                const isFirst = ask.what === "rows" && ask.args.before === null;
                if (isFirst && held === null) return void (held = ask);  // overtaken
                send(ask);
            };
            window.held = () => held !== null;
            window.release = () => send(held);
            fake.grow(7);
        }"""
    )
    page.wait_for_function("held()")
    scrolled(page, 10**9)
    page.evaluate("release()")

    expect(page.get_by_role("button", name="Show 7 newer attempts")).to_be_visible()


def test_rows_of_the_filter_before_are_not_shown_under_one_that_failed(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    rows(page).first.wait_for()
    page.evaluate("fake.errors.rows = 'the store is away'")
    page.get_by_label("Outcome", exact=True).select_option("dead")

    expect(page.locator(".mlt-empty", has_text="the store is away")).to_be_visible()
    expect(rows(page)).to_have_count(0)
    page.evaluate("() => { delete fake.errors.rows; fake.grow(1); }")
    expect(first_row(page)).to_contain_text("dead")


def test_both_ends_of_a_million_rows_are_one_key_away(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    tab(page, "Invocations")
    first_row(page).focus()
    page.keyboard.press("Control+End")
    last = page.locator('.mlt-space .mlt-row[aria-rowindex="1000001"]')
    expect(last).to_contain_text('"page": 0,')
    expect(last).to_be_focused()
    page.keyboard.press("PageUp")
    page.evaluate("fake.grow(3)")
    expect(page.get_by_role("button", name="Show the newest attempts")).to_be_visible()
    page.keyboard.press("Control+Home")
    expect(first_row(page)).to_contain_text("1000002")
    expect(first_row(page)).to_be_focused()
    page.get_by_role("button", name="Oldest").click()
    last = page.locator('.mlt-space .mlt-row[aria-rowindex="1000004"]')
    expect(last).to_contain_text('"page": 0,')


def test_a_chart_of_many_days_names_the_days(opened: Any) -> None:
    page = opened()
    page.evaluate(
        """fake.change({ throughput: { step_s: 86400, start: "2026-01-05T00:00:00Z",
            versions: { "1.4.0": Array.from({ length: 60 }, (_, i) => i) }, failed: [] } })"""
    )
    page.get_by_role("img", name="in 60 days").wait_for()
    said = page.get_by_role("img", name="in 60 days").locator("text").all_text_contents()

    assert any(text.startswith("01-") for text in said)
    assert not any(":" in text for text in said)
