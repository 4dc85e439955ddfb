"""Where a source (or the pivot, where it is scored) runs, when that is not in this process."""

from __future__ import annotations

import re
import shlex
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from infifusion.strict import Strict

NAMES_A_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(KEY|TOKEN|SECRET|PASSWORD)")
"""Names of variables whose values are taken out of all that is written (process.redact)."""
MODEL = "{model}"
"""In a command: the folder of the model."""
OURS = ("--host", "--port", "--api-key")
"""Options of a server's command that we give."""
PARALLEL = ("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp")


class Engine(Strict):
    """A vLLM server that runs somewhere (`url`), or one that is started and stopped (`command`)."""

    kind: Literal["vllm"]
    """The engine; vllm is any server with vLLM's OpenAI-compatible API."""
    url: str | list[str] | None = None
    """Address of a server that runs, such as http://node7:8000/v1; several share the work."""
    command: str | None = None
    """Starts a server on this machine, such as `vllm serve {model} --max-logprobs 20`; it is waited
    for, and stopped at the end. {model} stands for the model's folder. Host, port and a key of its
    own are added. Words are split as a shell does; no shell runs."""
    tensor_parallel_size: int | None = Field(default=None, ge=1)
    """GPUs that share each layer; added to the command."""
    pipeline_parallel_size: int | None = Field(default=None, ge=1)
    """Groups of GPUs that have the layers in turn; added to the command."""
    serves: str | None = None
    """Name under which the server has the model; the only one that it serves, where left out."""
    api_key_from: str | None = None
    """Name of the environment variable with the server's key; it must end in KEY, TOKEN, SECRET or
    PASSWORD. The key itself is never written anywhere."""
    logprobs: int = Field(default=20, ge=1)
    """Entries that are asked for at each position, from which entropies are estimated; fewer where
    the server allows fewer (--max-logprobs), and never fewer than teach.top_k."""
    in_flight: int = Field(default=64, ge=1)
    """Requests under way at each server at once."""
    patience: float = Field(default=900.0, gt=0)
    """Seconds that a server is waited for: to start, to come back, to answer one request."""

    @field_validator("url", mode="before")
    @classmethod
    def _are_addresses(cls, value: Any) -> Any:
        listed = value if isinstance(value, list) else [] if value is None else [value]
        if value == []:
            raise ValueError("name one address, or several")
        for one in listed:
            try:
                parts = urlsplit(one) if isinstance(one, str) else None
                fits = parts is not None and parts.scheme in ("http", "https") and parts.hostname
                fits = bool(fits) and (parts is None or parts.port is None or parts.port > 0)
            except ValueError:
                fits, parts = False, None
            if parts is None or not fits or parts.query or parts.fragment:
                raise ValueError("expected an address such as http://HOST:8000/v1")
        if len({str(one).rstrip("/") for one in listed}) < len(listed):
            raise ValueError("an address stands there twice")
        return value

    @field_validator("command")
    @classmethod
    def _can_be_split(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise ValueError(f"its words cannot be told apart: {error}") from None
        if not words:
            raise ValueError("expected a command such as `vllm serve {model}`")
        for word in words:
            option = word.partition("=")[0]
            if option in OURS:
                raise ValueError(f"leave out {option}: it is added")
            if option in PARALLEL:
                raise ValueError(
                    f"leave out {option}: set tensor_parallel_size, pipeline_parallel_size"
                )
        return value

    @model_validator(mode="before")
    @classmethod
    def _holds_no_key(cls, values: Any) -> Any:
        return without_secrets(values)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.url is None) == (self.command is None):
            raise ValueError("give either url (a server that runs) or command (one to be started)")
        if self.command is None:
            given = [key for key in PARALLEL_FIELDS if getattr(self, key) is not None]
            if given:
                raise ValueError(f"{given[0]} belongs to command; a server that runs has its own")
        elif self.api_key_from is not None:
            raise ValueError("api_key_from belongs to url; a server of ours has a key of its own")
        return self

    @property
    def takes_any_model(self) -> bool:
        """Whether it is started for the model that is asked for."""
        return self.command is not None and MODEL in self.command

    @property
    def urls(self) -> list[str]:
        """The addresses, without a slash at the end; none of a server that is to be started."""
        listed = self.url if isinstance(self.url, list) else [self.url]
        return [one.rstrip("/") for one in listed if one is not None]


PARALLEL_FIELDS = ("tensor_parallel_size", "pipeline_parallel_size")


def without_secrets(values: Any) -> Any:
    """ValueError where a secret itself is given, which must not stand in a file. Here, as what a
    single field refuses is shown in its message."""
    if not isinstance(values, dict):
        return values
    if "api_key" in values:
        raise ValueError(
            "a key does not belong into a file: put it into an environment variable, and give that "
            "variable's name as api_key_from"
        )
    name, url = values.get("api_key_from"), values.get("url")
    if isinstance(name, str) and not NAMES_A_SECRET.fullmatch(name):
        raise ValueError(
            "api_key_from: expected the name of an environment variable that ends in KEY, TOKEN, "
            "SECRET or PASSWORD, not the key itself"
        )
    listed = url if isinstance(url, list) else [url]
    if any(isinstance(one, str) and "@" in one for one in listed):
        raise ValueError("url: leave the password out of the address: api_key_from names a key")
    return values
