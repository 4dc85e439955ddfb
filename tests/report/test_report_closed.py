"""The page lets nothing in: what data and models hold is text, and nothing loads."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from page_reader import Page
from run_folder_maker import make_run_folder

from infifusion.report.document import script_json
from infifusion.report.pages.page import write_report


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = make_run_folder(tmp_path_factory.mktemp("run"))
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_a_script_in_data_or_output_is_text(text: str, page: Page) -> None:
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text, "a token that holds the tag should show it as text"
    run = [attributes for name, attributes in page.tags if name == "script" and not attributes]
    assert len(run) == 1, "our own script, once; the others are JSON"
    types = {
        attributes["type"] for name, attributes in page.tags if name == "script" and attributes
    }
    assert types == {"application/json"}
    assert "img" not in [name for name, _ in page.tags]
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)


def test_characters_that_hide_are_shown(text: str) -> None:
    assert "⟨U+202E⟩" in text and "⟨U+2028⟩" in text
    shown = text.partition("<main")[2].partition("<script>")[0]
    outside = re.sub(r"<script type.*?</script>", "", shown, flags=re.DOTALL)
    assert not re.search("[\u2028\u2029\u202a-\u202e\u2066-\u2069]", outside)


def test_the_policy_allows_the_pages_own_style_and_script_alone(text: str) -> None:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert found
    allowed = dict(part.strip().split(" ", 1) for part in found[1].split(";"))
    assert allowed["default-src"] == "'none'"
    assert allowed["img-src"] == "data:"
    for tag in ("style", "script"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert body
        digest = base64.b64encode(hashlib.sha256(body[1].encode()).digest()).decode()
        assert allowed[f"{tag}-src"] == f"'sha256-{digest}'"
    assert " style=" not in text, "the policy forbids style attributes"


def test_nothing_in_the_page_loads_from_the_network(text: str, page: Page) -> None:
    for tag, attributes in page.tags:
        for key in ("src", "href", "action", "data", "poster"):
            value = attributes.get(key) or ""
            assert value.startswith(("#", "data:,")) or not value, f"<{tag} {key}={value}>"
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style and "url(" not in style[1] and "@import" not in style[1]
    script = page.scripts[-1]
    assert "fetch(" not in script and "innerHTML" not in script and "eval(" not in script
    assert script.count("http") == script.count("http://www.w3.org/2000/svg") == 1


def test_json_in_a_script_cannot_end_the_script() -> None:
    value = {"text": "</script><!-- & \u2028 \ud800", "n": 1}
    written = str(script_json(value))
    assert "<" not in written and "&" not in written and "\u2028" not in written
    assert written.encode("utf-8"), "half a surrogate pair can be written"
    assert json.loads(written) == value
