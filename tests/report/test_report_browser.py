"""The report in a real browser: what a reader can do with it, and what hostile data cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_watch import chromium, watched_pages
from run_folder_maker import ATTACK, make_run_folder

from infifusion.report.pages.compare import write_comparison
from infifusion.report.pages.diff_page import diff_page
from infifusion.report.pages.page import write_report
from infifusion.report.pages.sweep import page_of
from infifusion.report.visible import HIDDEN, visible

TABS = ["better", "items", "taught", "training", "merge", "alignment", "cost", "use", "reproduce"]
NARROW = {"width": 360, "height": 740}
SHOWN = """() => [...document.querySelectorAll("main > section")]
    .filter((section) => section.offsetParent).map((section) => section.id)"""
CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as running:
        yield running


@pytest.fixture
def open_page(browser) -> Iterator:
    with watched_pages(browser) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run_folder(tmp_path_factory.mktemp("run")))


def test_every_tab_opens_by_mouse_and_shows_its_part_alone(report: Path, open_page) -> None:
    page = open_page(report)
    assert page.evaluate(SHOWN) == ["better"]
    tabs = page.get_by_role("tab", selected=None).and_(page.locator("nav a"))
    assert tabs.count() == len(TABS)
    for place, name in enumerate(TABS):
        tabs.nth(place).click()
        assert page.evaluate(SHOWN) == [name]
        assert page.url.endswith(f"#{name}")
        assert page.get_by_role("tabpanel").first.inner_text().strip()


def test_every_tab_opens_by_keyboard_with_one_tab_stop(report: Path, open_page) -> None:
    page = open_page(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    for name in [*TABS[1:], TABS[0]]:
        page.keyboard.press("ArrowRight")
        assert page.evaluate(SHOWN) == [name]
        assert page.evaluate("document.activeElement.id") == f"tab-{name}"
    page.keyboard.press("End")
    assert page.evaluate(SHOWN) == [TABS[-1]]
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('nav')") is None


def test_a_link_to_a_part_opens_it(report: Path, open_page) -> None:
    page = open_page(report, part="#merge")
    assert page.evaluate(SHOWN) == ["merge"]
    page.get_by_role("tab", name="skewness").click()
    assert page.locator("#merge-1-skewness").is_visible()
    assert not page.locator("#merge-1-ratio").is_visible()


def test_hostile_text_is_shown_and_does_nothing(report: Path, open_page) -> None:
    page = open_page(report, part="#items")
    for outcome in ("gained", "lost", "both right", "neither right"):
        page.locator("#item-outcomes button", has_text=outcome).click()
    page.get_by_label("Search").fill("<script>")
    page.locator("#item-outcomes button", has_text="gained").click()
    shown = page.locator("#items-shown pre").all_inner_texts()
    assert any(visible(ATTACK) in text for text in shown)
    page.locator("#tab-taught").click()
    for place in range(page.locator("#token-sample option").count()):
        page.get_by_label("Text").select_option(index=place)
    page.get_by_label("Text").select_option(index=0)
    page.locator("#token-1").hover()
    told = page.locator("#token-told").inner_text()
    assert "<script>alert('x')</script>" in told.replace("␣", " ") and not HIDDEN.search(told)
    for name in TABS:
        page.locator(f"#tab-{name}").click()
        assert not HIDDEN.search(page.locator("main").inner_text()), name
    page.locator("#tab-alignment").click()
    assert "⟨U+202E⟩" in page.locator("#alignment").inner_text()
    assert (
        page.evaluate(
            "document.querySelectorAll('img, svg[onload], main script:not([type])').length"
        )
        == 0
    )


def test_the_pages_script_shows_the_same_hidden_characters_as_its_templates(
    report: Path, open_page
) -> None:
    page = open_page(report)
    found = page.evaluate("""() => Array.from({ length: 0x110000 }, (_, code) => code)
        .filter((code) => visible(String.fromCodePoint(code)) !== String.fromCodePoint(code))""")
    assert found == [code for code in range(0x110000) if visible(chr(code)) != chr(code)]
    assert page.evaluate("visible('\\u202e')") == visible("\u202e")


def test_even_markup_that_got_into_the_page_could_not_run(report: Path, browser) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    text = report.read_text(encoding="utf-8")
    bad = "<script>alert(1)</script><img src=x onerror=alert(2)><p style='color:red' id=bad>x</p>"
    broken = report.parent / "broken.html"
    broken.write_text(text.replace('<main id="main">', f'<main id="main">{bad}'), encoding="utf-8")
    page.goto(broken.as_uri())
    page.locator("#bad").wait_for(state="attached")
    assert said == []
    assert (
        page.evaluate("getComputedStyle(document.querySelector('#bad')).color") != "rgb(255, 0, 0)"
    )
    assert page.evaluate(SHOWN) == ["better"], "our own script runs all the same"
    page.close()


def test_items_are_found_by_outcome_and_words_with_both_answers_side_by_side(
    report: Path, open_page
) -> None:
    page = open_page(report, part="#items")
    page.get_by_label("Compare").select_option(label="demo_sums: unified against pivot")
    first = page.locator(".item").first
    assert first.locator("h4").all_inner_texts()[1] == "✓ unified: right"
    assert "✗ pivot: wrong" in first.locator("h4").all_inner_texts()[0]
    boxes = [box.bounding_box() for box in first.locator(".answers > div").all()]
    assert boxes[0]["y"] == boxes[1]["y"], "side by side"
    page.locator("#item-outcomes button", has_text="lost").click()
    assert all("wrong" in h.inner_text() for h in page.locator(".item h4:nth-child(1)").all()[1::2])
    page.locator("#item-outcomes button", has_text="gained").click()
    before = page.locator(".item").count()
    page.get_by_role("button", name="Show more").click()
    assert page.locator(".item").count() > before
    name = page.locator(".item h3").first.inner_text().split()[-1]
    page.get_by_label("Search").fill(name.upper())
    assert page.locator(".item h3").first.inner_text().endswith(name)
    page.get_by_label("Search").fill("no such words")
    assert page.locator(".item").count() == 0
    assert "0 gained" in page.locator("#item-count").inner_text()


def test_a_token_tells_what_every_source_expected_by_pointer_and_by_key(
    report: Path, open_page
) -> None:
    page = open_page(report, part="#taught")
    told = page.locator("#token-told")
    page.locator("#token-2").hover()
    assert "Token 3 of" in told.inner_text()
    assert "arithmetician" in told.inner_text() and "uncertainty 0.50 nats" in told.inner_text()
    assert (
        "70.0\u00a0%" in told.inner_text() and "gives this token 80.0\u00a0%" in told.inner_text()
    )
    page.locator("#token-text").focus()
    page.keyboard.press("Home")
    assert "No source taught here" in told.inner_text()
    page.keyboard.press("ArrowRight")
    assert "Token 2 of" in told.inner_text()
    assert page.locator("#token-text").get_attribute("aria-activedescendant") == "token-1"
    page.keyboard.press("End")
    assert page.locator("#token-text [aria-selected=true]").count() == 1


def test_curves_are_read_by_pointer_and_by_key_and_hidden_by_their_legend(
    report: Path, open_page
) -> None:
    page = open_page(report, part="#training")
    figure = page.locator("#training figure").first
    figure.locator("svg").hover()
    assert "unified" in figure.locator(".readout").inner_text()
    page.mouse.move(0, 0)
    assert figure.locator(".readout").inner_text() == ""
    figure.locator(".plot").focus()
    page.keyboard.press("ArrowRight")
    assert figure.locator(".readout").inner_text().startswith("step")
    page.get_by_role("button", name="sft").click()
    assert page.get_by_role("button", name="sft").get_attribute("aria-pressed") == "false"
    assert page.locator("#training .line.c0:visible").count() == 0
    figure.locator(".plot").focus()
    page.keyboard.press("ArrowRight")
    assert "sft" not in figure.locator(".readout").inner_text()


def test_the_theme_follows_the_system_until_it_is_chosen_and_the_choice_stays(
    report: Path, open_page
) -> None:
    page = open_page(report, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    switch = page.get_by_role("button", name="Theme")
    switch.click()
    assert switch.inner_text() == "Theme: light"
    assert page.evaluate(ground) == "rgb(255, 255, 255)" != dark
    page.reload()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    switch.click()
    assert page.evaluate(ground) == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(report: Path, open_page, scheme: str) -> None:
    page = open_page(report, color_scheme=scheme)
    for name in TABS:
        page.locator(f"#tab-{name}").click()
        page.mouse.move(0, 0)
        count, weak = page.evaluate(CONTRAST)
        assert count > 20
        assert weak == [], name


def test_a_phone_scrolls_down_only(report: Path, open_page) -> None:
    page = open_page(report, viewport=NARROW)
    for name in TABS:
        page.locator(f"#tab-{name}").click()
        assert page.evaluate(SHOWN) == [name]
        assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"], name


def test_on_paper_every_part_is_there_in_light_colours_without_controls(
    report: Path, open_page
) -> None:
    page = open_page(report, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate(SHOWN) == TABS
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(26, 30, 34)"
    assert page.locator("#merge-1-skewness").is_visible()
    for gone in ("nav", "#theme", "#item-controls", "pre button"):
        assert not page.locator(gone).first.is_visible(), gone
    assert page.pdf().startswith(b"%PDF")


def test_without_scripts_the_whole_report_is_one_page_with_links(report: Path, browser) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    for name in TABS:
        assert page.locator(f"#{name}").is_visible()
    assert not page.locator("#theme").is_visible()
    assert page.locator("#items noscript").inner_text().startswith("The list of items needs")
    page.context.close()


def test_every_control_has_a_name_and_every_id_is_its_own(report: Path, open_page) -> None:
    page = open_page(report)
    nameless = """() => [...document.querySelectorAll("button, select, input")]
        .filter((c) => !c.textContent.trim() && !c.labels?.length && !c.ariaLabel).length"""
    assert page.evaluate(nameless) == 0
    twice = """() => { const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
        return ids.length - new Set(ids).size; }"""
    assert page.evaluate(twice) == 0
    dangling = """() => ["aria-controls", "aria-labelledby"].flatMap((name) =>
        [...document.querySelectorAll(`[${name}]`)].map((e) => e.getAttribute(name)))
        .filter((id) => !document.getElementById(id)).length"""
    assert page.evaluate(dangling) == 0


@pytest.mark.parametrize("context", [{}, {"viewport": NARROW, "color_scheme": "dark"}])
def test_a_comparison_opens_without_complaint(
    report: Path, open_page, tmp_path: Path, context
) -> None:
    other = make_run_folder(tmp_path / "other")
    page = open_page(write_comparison([report.parents[1], other], tmp_path / "c.html"), **context)
    assert page.get_by_role("heading", name="Settings that differ").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    count, weak = page.evaluate(CONTRAST)
    assert count > 20 and weak == []


def test_the_pages_of_a_sweep_and_of_a_diff_meet_their_policy_too(
    open_page, tmp_path: Path
) -> None:
    tensors = [
        {"name": "l.0.w", "numel": 4, "rms": [0.5]},
        {"name": "l.1.w", "numel": 4, "rms": [1]},
    ]
    values = {"base": "a", "models": [ATTACK], "measures": {"rms": ATTACK}, "tensors": tensors}
    row = {"setting": "", "arm": ATTACK, "seeds": [0], "accuracy": {}, "bits": {}, "against": {}}
    results = {"name": ATTACK, "seeds": [0], "settings": [""], "tasks": [], "against": ["a"]}
    results |= {
        "missing": [],
        "arms": [ATTACK],
        "rows": [{**row, "training_seconds": 1.0, "flops": 1e9}],
    }
    results["rows"][0]["against"] = {"a": {"difference": 3.0, "ci95": [1, 5], "bits": [0.1, None]}}
    for name, text in (("diff", diff_page(values)), ("sweep", page_of(results))):
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
        page = open_page(tmp_path / f"{name}.html")
        assert "<script>alert('x')</script>" in page.locator("h1").inner_text()
        assert page.locator("td, th").count() > 2
