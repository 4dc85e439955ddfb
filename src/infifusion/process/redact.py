"""Secrets and home folders are taken out of all that is written: tokens, passwords, paths.

One place for everything that a run writes or says: records.plain applies it to every JSON file
(manifests, settings, scores), runtime to every line of the log, stages.run to the copy of the
recipe, report.card to model cards. A redacted path still works: a recipe and a shell read `~` as
the home folder. Redacting twice changes nothing, so a fingerprint that lies in a manifest and one
that is made anew are compared in the same words.

Redacted are: what looks like a token of a known kind (Hugging Face, OpenAI, GitHub, AWS, Slack,
Google, a Bearer header), user and password in a URL, the value of a key such as hub_token or
api_key, and the values of the environment's variables whose names end in TOKEN, KEY, SECRET or
PASSWORD. A secret of no known shape under an ordinary name is not recognised.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

GONE = "REDACTED"
SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}"
    r"|sk-[A-Za-z0-9_-]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}"
    r"|AIza[A-Za-z0-9_-]{30,})"
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}"
    r"|(?<=://)[^\s/@'\":]+:[^\s/@'\"]+(?=@)"
)
SECRET_KEYS = (
    r"(?:hf_token|hub_token|push_to_hub_token|use_auth_token|auth_token|access_token|api_token"
    r"|api_?key|client_secret|secret|passwd|password)"
)
KEY = re.compile(rf"{SECRET_KEYS}$", re.IGNORECASE)
ASSIGNED = re.compile(
    rf"({SECRET_KEYS}[\"']?\s*[=:]\s*)(\"[^\"\n]*\"|'[^'\n]*'|[^\s\"',}}]+)", re.IGNORECASE
)
SECRET_VARIABLE = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$")
SHORTEST = 8  # characters; shorter values of such variables are no secrets, but words of a text


def redact(value: Any) -> Any:
    """A value of JSON without secrets and home paths."""
    return _redact(value, _secrets(), _home(os.environ.get("HOME")))


def redact_text(text: str) -> str:
    """A text without secrets, the home folder as `~`."""
    return _redact(text, _secrets(), _home(os.environ.get("HOME")))


def _redact(value: Any, secrets: tuple[str, ...], home: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, GONE)
        value = SHAPES.sub(GONE, value)
        if "=" in value or ":" in value:
            value = ASSIGNED.sub(rf"\1{GONE}", value)
        return value if home is None else home.sub("~", value)
    if isinstance(value, list):
        return [_redact(one, secrets, home) for one in value]
    if isinstance(value, dict):
        return {
            _redact(key, secrets, home): GONE if _secret(key, one) else _redact(one, secrets, home)
            for key, one in value.items()
        }
    return value


def _secret(key: str, value: Any) -> bool:
    return KEY.search(key) is not None and isinstance(value, str) and bool(value)


def _secrets() -> tuple[str, ...]:
    """The values of the environment's variables with the names of secrets, longest first."""
    values = {v for k, v in os.environ.items() if SECRET_VARIABLE.search(k) and len(v) >= SHORTEST}
    return tuple(sorted((v for v in values if not v.startswith("/")), key=lambda v: (-len(v), v)))


@cache
def _home(variable: str | None) -> re.Pattern[str] | None:
    """The home folder, as it is called and as it is, where it is a part of a path of its own."""
    try:
        home = Path(variable) if variable else Path.home()
        names = {str(home), str(home.resolve())}
    except (OSError, RuntimeError):
        return None
    named = sorted((re.escape(name) for name in names if len(name) > 1), key=len, reverse=True)
    if not named:
        return None
    return re.compile(rf"(?<![\w.~-])(?:{'|'.join(named)})(?![\w.-])")
