"""Training runs of a recipe: what does not go together in how they are scored while they train, and
in text that the pivot writes itself, as sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from infifusion.recipe.data import DataFile
from infifusion.recipe.fields import Fields
from infifusion.recipe.steps import Distill

ON_POLICY_LOSSES = ("kl", "reverse_kl", "jsd")
OWN_ORDER = ("train_sampling_strategy", "auto_find_batch_size")


def held_out_problems(recipe: Fields) -> Iterable[str]:
    """Runs that are to be scored while they train, on nothing; or on what there is not."""
    known = list(dict.fromkeys(source.domain for source in held_out_of(recipe)))
    for name, distill in recipe.distill.items():
        training = {**recipe.training, **distill.training}
        evaluates = training.get("eval_strategy", "no") not in ("no", None, False)
        wants = [key for key in ("load_best_model_at_end",) if training.get(key)]
        wants += ["early_stopping"] if distill.early_stopping else []
        if wants and not evaluates:
            yield (
                f"distill.{name}: {' and '.join(wants)} needs training.eval_strategy: steps, or "
                "epoch"
            )
        if evaluates and not known:
            yield (
                f"distill.{name}: training.eval_strategy scores examples that are not trained on: "
                "give data.validation_share, or data.held_out"
            )
        metric = training.get("metric_for_best_model")
        metrics = ["bits_per_byte", *(f"{domain}_bits_per_byte" for domain in known)]
        if evaluates and metric and str(metric).removeprefix("eval_") not in metrics:
            yield (
                f"distill.{name}: training.metric_for_best_model: there is no {metric!r}; known: "
                f"{', '.join(metrics)}"
            )


def held_out_of(recipe: Fields) -> Sequence[DataFile]:
    """What runs are scored on while they train: the validation share, or else data.held_out, so
    that nothing is chosen on examples that are reported where others are kept apart for it."""
    of = {"validation": recipe.data.train, "held_out": recipe.data.held_out}
    return of[split_of_scores(recipe)]


def split_of_scores(recipe: Fields) -> str:
    """The split that it is."""
    return "validation" if recipe.data.validation_share > 0 else "held_out"


def _form(distill: Distill) -> str | None:
    return None if distill.on_policy is None else distill.on_policy.form


def _longest_answer(distill: Distill) -> int:
    return 0 if distill.on_policy is None else distill.on_policy.max_new_tokens


def on_policy_problems(recipe: Fields) -> Iterable[str]:
    """What does not go together with text that the pivot writes, as sentences."""
    runs = {
        name: distill
        for name, distill in recipe.distill.items()
        if distill.on_policy is not None and distill.on_policy.share > 0
    }
    if recipe.data.prompts and not runs:
        yield "data.prompts: no run in distill has on_policy, which alone reads them; remove them"
    written = recipe.write_responses
    files: list[DataFile] = [*recipe.data.train, *(written.prompts if written is not None else [])]
    trained = {file.domain for file in files}
    asked = {file.domain for file in recipe.data.prompts}
    for name, distill in runs.items():
        where = f"distill.{name}.on_policy"
        if distill.target is None:
            yield f"{where}: nobody corrects the pivot; name a target, whose sources are to"
            continue
        if distill.loss not in ON_POLICY_LOSSES:
            yield f"{where}: expected a loss of {', '.join(ON_POLICY_LOSSES)}; found {distill.loss}"
        if (longest := _longest_answer(distill)) >= recipe.data.max_length:
            yield (
                f"{where}.max_new_tokens: {longest} leaves no room for a prompt within "
                f"data.max_length ({recipe.data.max_length}); raise that, or lower this"
            )
        if distill.packing:
            yield f"{where}: answers are not packed; remove packing"
        if distill.gate == "pivot":
            yield f"{where}: gate: pivot compares on labels, which such text has not; remove it"
        if distill.parallel != "ddp":
            yield (
                f"{where}: every process writes answers by itself, so it needs the whole model: "
                f"parallel: ddp; found {distill.parallel}"
            )
        for key in OWN_ORDER:
            if key in {**recipe.training, **distill.training}:
                yield f"{where}: it has an order of its own; remove training.{key}"
        if asked and isinstance(distill.domains, list) and not asked & {*distill.domains}:
            yield f"{where}: none of data.prompts is of distill.{name}.domains"
        fuse = recipe.fuse.get(distill.target)
        if fuse is None:
            continue
        if fuse.gate == "bits_per_byte":
            yield (
                f"{where}: fuse.{distill.target}.gate: bits_per_byte would let nobody speak, as "
                "the pivot predicts its own text best; take gate: domain or none"
            )
        if fuse.alignment != "bytes" and _form(distill) == "policy_gradient":
            yield f"{where}: form: policy_gradient compares bytes, so it needs alignment: bytes"
        if fuse.gate == "domain" and (unknown := sorted(asked - trained)):
            yield (
                f"{where}: fuse.{distill.target}.gate: domain compares on data.train, which has no "
                f"{', '.join(unknown)} of data.prompts; add examples, or take gate: none"
            )
