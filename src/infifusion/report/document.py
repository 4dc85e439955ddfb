"""One HTML file from templates, styles and scripts, closed to everything that is not in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from infifusion.process.wording import counted
from infifusion.recipe.variants import file_word
from infifusion.report.visible import visible
from infifusion.store.durable import atomic_write

WEB = Path(__file__).parent / "web"
UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def document(
    template: str, *, styles: Sequence[str], scripts: Sequence[str] = (), **values: Any
) -> str:
    """The template as a page that needs no network and allows none.

    styles and scripts are files of report/web, inlined in their order as one element each. The
    page's Content-Security-Policy allows these two by their SHA-256 and images in data: addresses;
    everything else, other scripts above all, is refused by the browser whatever the values hold.
    The values are escaped, and characters that hide are shown.
    """
    style, script = _joined(styles), _joined(scripts)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(WEB),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = script_json
    environment.filters["shade"] = shade
    environment.filters["counted"] = counted
    return environment.get_template(template).render(
        policy=policy(style, script), style=Markup(style), script=Markup(script), **values
    )


def plain_text(template: str, **values: Any) -> str:
    """A template of report/web that is no HTML, with its values as they are."""
    return jinja2.Template(
        (WEB / template).read_text(encoding="utf-8"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    ).render(values)


def file_name(name: str) -> str:
    """A name of a model, target or chart as the name of a file."""
    return file_word(name).strip("-")


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole or not at all; returns its path."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def policy(style: str, script: str) -> Markup:
    """The page's Content-Security-Policy: nothing but this style and this script."""
    return Markup(
        "default-src 'none'; "
        f"style-src {_source(style)}; script-src {_source(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def script_json(value: object) -> Markup:
    """JSON that can stand inside a script element: no `<` that could end it, nothing that cannot
    be written as UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def size_in_page(value: object) -> int:
    """Bytes that a value takes as `script_json`."""
    return len(script_json(value).encode("utf-8"))


def shade(per_cent: float | None) -> str:
    """The class of a shaded cell. The policy forbids style attributes, so shades come in steps of
    five per cent."""
    return f"h{5 * round((per_cent or 0) / 5)}"


def _joined(names: Sequence[str]) -> str:
    return "\n".join((WEB / name).read_text(encoding="utf-8").strip() for name in names)


def _source(text: str) -> str:
    if not text:
        return "'none'"
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
