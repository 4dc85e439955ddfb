"""A page as its tags, its cells and the JSON in it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """Tags with their attributes, and the cells of every row; those of charts apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.chart_rows: list[list[str]] = []
        self._found = self.rows
        self._of_chart = False
        self.scripts: list[str] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "details":
            self._of_chart = dict(attrs).get("class") == "figures"
        if tag == "tr":
            self._found = self.chart_rows if self._of_chart else self.rows
            self._found.append([])
        if tag in ("td", "th"):
            self._found[-1].append("")
            self._cell = True
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False
        if tag == "details":
            self._of_chart = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self._found[-1][-1] += data
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data

    def data(self, name: str) -> Any:
        """The JSON of the script element with this id."""
        scripts = [attributes for tag, attributes in self.tags if tag == "script"]
        places = [n for n, attributes in enumerate(scripts) if attributes.get("id") == name]
        return json.loads(self.scripts[places[0]])

    def row(self, *start: str) -> list[str]:
        """The first row that begins with these cells."""
        return next(row for row in self.rows if row[: len(start)] == list(start))
