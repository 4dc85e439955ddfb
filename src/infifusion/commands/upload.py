"""push: a model folder to the Hugging Face hub, private unless asked otherwise. No torch."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of httpx or httpx2, as the hub's client has it  # pyright: ignore
)
from huggingface_hub.utils import validate_repo_id

from infifusion.errors import CheckpointError, RecipeError, RunError
from infifusion.recipe import Recipe

LEFT_OUT = ["merge_details.json", ".*", "**/.*", "*.tmp"]
"""Not uploaded: figures of the merge, which hold local paths, and hidden files."""
WHAT_TO_DO = {
    401: "The token is missing or not good: run `hf auth login`, or set HF_TOKEN.",
    403: "Your token may not write there: give it the right to write to this organisation, or "
    "choose another name.",
    404: "There is no such organisation, or your token may not see it: check the name.",
    409: "Somebody else is writing to it: wait, then try again.",
    412: "Somebody else has written to it meanwhile: try again.",
    413: "A file is too large for the hub.",
    429: "Too many requests: wait a few minutes, then try again.",
}
"""What to do about an answer of the hub."""
LATER = "The folder is whole; upload it later with: infifusion push {folder} {repo}"


def push_model(folder: Path, repo: str, *, public: bool = False) -> str:
    """Upload a model folder to the hub repository `repo` (ORG/NAME), which is made where it is not
    there, and return its address. What is there already and not in the folder stays.

    Private unless `public`; a repository that is already public is refused without it. The token is
    that of `hf auth login` or HF_TOKEN. Raises CheckpointError where the folder holds no model, and
    RunError that says what the hub answered and what to do.
    """
    check_repo(repo)
    _check_folder(folder)
    api = huggingface_hub.HfApi()
    with _said_clearly(repo, folder):
        address = api.create_repo(repo, private=not public, exist_ok=True)
        if not public and not api.model_info(address.repo_id).private:
            raise RunError(
                f"{address.repo_id} is there already and public; the model would be visible to "
                "everyone. Give --public if that is meant, or another name."
            )
        api.upload_folder(
            repo_id=address.repo_id,
            folder_path=folder,
            ignore_patterns=LEFT_OUT,
            commit_message="Upload with InfiFusion",
        )
    return str(address)


def check_repo(repo: str) -> None:
    """RecipeError where `repo` cannot name a repository of the hub."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        said = str(error).partition(" Use `")[0]  # an argument of the hub's client follows
        raise RecipeError(f"{repo!r} is no name of a hub repository (ORG/NAME): {said}") from None


def check_login() -> str:
    """The user's name on the hub; RunError where the hub is out of reach or the token is not good.
    Asked before hours of work whose result is to be uploaded."""
    with _said_clearly("your account", None):
        return huggingface_hub.HfApi().whoami()["name"]


def models_to_push(asked: list[str], recipe: Recipe) -> dict[str, str]:
    """Model of the run -> repository, from MODEL=ORG/NAME, or ORG/NAME where the recipe makes one
    fused model. RecipeError names the models there are."""
    runs = recipe.resolve().runs
    models = [*(run.name for run in runs), *recipe.merge]
    fused = [*(run.name for run in runs if run.target and run.name == run.group), *recipe.merge]
    wanted: dict[str, str] = {}
    for text in asked:
        name, equals, repo = text.rpartition("=")
        if not equals and len(fused) == 1:
            name = fused[0]
        if name not in models or repo in models:
            raise RecipeError(
                f"--push-to-hub {text}: expected MODEL=ORG/NAME with a model of this recipe: "
                f"{', '.join(models) or 'it makes none'}."
            )
        check_repo(repo)
        if name in wanted or repo in wanted.values():
            raise RecipeError(f"--push-to-hub {text}: a model or repository is named twice.")
        wanted[name] = repo
    return wanted


def _check_folder(folder: Path) -> None:
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return
    within = sorted(path.parent for path in folder.glob("**/model/config.json"))
    hint = f" It holds these models: {', '.join(map(str, within))}." if within else ""
    raise CheckpointError(
        f"{folder} is no model folder: expected config.json and .safetensors weights.{hint} Give "
        "the folder of a model, such as RUN_DIR/distill/unified/model."
    )


@contextmanager
def _said_clearly(repo: str, folder: Path | None) -> Iterator[None]:
    """RunError in place of the hub client's errors."""
    later = "" if folder is None else " " + LATER.format(folder=shlex.quote(str(folder)), repo=repo)
    where = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        yield
    except huggingface_hub.errors.OfflineModeIsEnabled:
        raise RunError(
            f"{where} is not asked while HF_HUB_OFFLINE is set. Unset it to upload.{later}"
        ) from None
    except huggingface_hub.errors.LocalTokenNotFoundError:
        raise RunError(
            f"You are not logged in to {where}. Run `hf auth login`, or set HF_TOKEN, with a token "
            f"that may write.{later}"
        ) from None
    except HfHubHTTPError as error:
        said = (error.server_message or str(error)).strip().partition("\n")[0]
        status = error.response.status_code
        todo = WHAT_TO_DO.get(status, "Try again in a while.")
        raise RunError(f"{where} answered {status} for {repo}: {said} {todo}{later}") from error
    except (HTTPError, OSError) as error:
        raise RunError(
            f"{where} cannot be reached: {error}. Check the network and HF_ENDPOINT.{later}"
        ) from error
