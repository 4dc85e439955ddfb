"""What mkdocs does beyond its configuration: pages from the root, and nothing from other hosts.

Used by mkdocs.yml. Warnings stop `mkdocs build --strict`.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.plugins.infifusion")

ROOT_PAGES = {"changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}
"""Page of the site -> file of the repository that it shows, where there is one."""
ELSEWHERE = r"[\"']?((?:https?:)?//[^\"'\s>]+)"
LOADED = re.compile(rf"<(?:script|img|iframe|source|video)\b[^>]*?\bsrc={ELSEWHERE}", re.IGNORECASE)
LINKED = re.compile(
    rf"<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|icon))[^>]*?\bhref={ELSEWHERE}",
    re.IGNORECASE,
)
ANCHOR = re.compile(r"<a\b[^>]*?\bhref=[\"']?(https?://[^\"'\s>]+)", re.IGNORECASE)

external: dict[str, set[str]] = {}
"""Link to another host -> pages that have it."""


def fetched(html: str) -> list[str]:
    """What a browser would fetch from other hosts when it opens the page."""
    return [*LOADED.findall(html), *LINKED.findall(html)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie at the root of the repository."""
    from mkdocs.structure.files import File

    external.clear()
    root = Path(config.config_file_path).parent
    for page, source in ROOT_PAGES.items():
        if (root / source).exists():
            text = (root / source).read_text(encoding="utf-8").replace("](docs/", "](")
            files.append(File.generated(config, page, content=text))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse what would be fetched from another host; collect the links that lead to one."""
    for address in fetched(output):
        log.warning("%s fetches from another host: %s", page.file.src_uri, address)
    for address in ANCHOR.findall(output):
        external.setdefault(address, set()).add(page.file.src_uri)
    return output


def on_post_build(config: MkDocsConfig) -> None:
    """Write the links to other hosts beside the site; they are listed, not fetched."""
    lines = [f"{address}  {' '.join(sorted(pages))}" for address, pages in sorted(external.items())]
    path = Path(config.site_dir).parent / "external_links.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    log.info("%d links lead to other hosts, listed in %s", len(lines), path)
