"""Names in a recipe that stand for something else in it: what does not fit, as sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from infifusion.recipe.data import DataFile
from infifusion.recipe.elsewhere import engine_problems
from infifusion.recipe.fields import LONGEST_NAME, Fields
from infifusion.recipe.runs import held_out_problems, on_policy_problems
from infifusion.registry import nearest

RESERVED = ("pivot",)


def problems_of(recipe: Fields) -> Iterable[str]:
    """Every cross-reference in the recipe that does not fit, as a sentence."""
    yield from _name_problems(recipe)
    yield from _source_problems(recipe)
    for name in recipe.distill:
        yield from _run_problems(recipe, name)
    yield from _merge_problems(recipe)
    yield from _evaluate_problems(recipe)
    yield from _temperature_problems(recipe)
    yield from _tune_problems(recipe)
    yield from _domain_problems(recipe)
    yield from held_out_problems(recipe)
    yield from on_policy_problems(recipe)
    yield from engine_problems(recipe)


def _name_problems(recipe: Fields) -> Iterable[str]:
    """Names that stand twice, or that no folder can have. What `each` makes has names too."""
    groups = [name for name, distill in recipe.distill.items() if distill.each]
    models = [*groups, *recipe.merge, *RESERVED]
    models += [part for name in recipe.distill for part in _members(recipe, name)]
    for name in _repeated(models):
        yield f"'{name}' names two models; give each run and merge a name of its own"
    targets = [f"{name}{end}" for name in recipe.fuse for end in _endings(recipe, name)]
    for name in _repeated(targets):
        yield f"'{name}' names two fused targets; give each a name of its own"
    for name in RESERVED:
        if name in recipe.sources:
            yield f"sources.{name}: the name is taken; call the source something else"
    for name in [*recipe.distill, *recipe.merge, *recipe.fuse, *recipe.sources]:
        if not _names_a_folder(name):
            yield (
                f"{name!r:.60} cannot name a folder; use at most {LONGEST_NAME} letters, digits, "
                "'-' and '_'"
            )


def _source_problems(recipe: Fields) -> Iterable[str]:
    """Sources of targets and of write_responses that there are not, and gates without a cache."""
    asked = recipe.write_responses
    chosen_from = {f"fuse.{name}": fuse.sources for name, fuse in recipe.fuse.items()}
    chosen_from["write_responses"] = asked.sources if asked is not None else None
    for where, sources in chosen_from.items():
        for source in sources or []:
            if source not in recipe.sources:
                hint = nearest(source, recipe.sources)
                yield f"{where}.sources: there is no source '{source}'.{hint}"
        if sources is not None and not sources:
            yield f"{where}.sources: name a source, or leave it out for all of them"
        if _repeated(sources or []):
            yield f"{where}.sources: a source is named twice"
    for name, fuse in recipe.fuse.items():
        if fuse.gate == "domain" and fuse.teacher == "online":
            yield (
                f"fuse.{name}.gate: domain looks at all responses before any is taught, so it "
                "needs teacher: cached; or take gate: bits_per_byte"
            )


def _run_problems(recipe: Fields, name: str) -> Iterable[str]:
    """Target, start and way of training of one run."""
    distill = recipe.distill[name]
    if "doubt" in distill.model_fields_set and distill.gate != "pivot":
        yield f"distill.{name}.doubt: belongs to `gate: pivot`; set that, or leave doubt out"
    if distill.target is None:
        if "loss" in distill.model_fields_set and distill.loss != "cross_entropy":
            yield f"distill.{name}: the loss '{distill.loss}' needs a target"
        if distill.gate == "pivot":
            yield f"distill.{name}.gate: pivot compares with a target; name one, or leave it out"
        if distill.each:
            yield f"distill.{name}.each: needs a target that was made with each"
    elif distill.target not in recipe.fuse:
        hint = nearest(distill.target, recipe.fuse)
        yield f"distill.{name}.target: there is no fused target '{distill.target}'.{hint}"
    elif recipe.fuse[distill.target].each != distill.each:
        yield f"distill.{name}.each and fuse.{distill.target}.each must be the same"
    if distill.lora is not None and distill.parallel != "ddp":
        yield f"distill.{name}: lora needs parallel: ddp; found {distill.parallel}"
    if distill.lora is None and recipe.pivot.quantization is not None:
        yield (
            f"distill.{name}: all weights cannot be trained while pivot.quantization is "
            f"{recipe.pivot.quantization}; add lora, or remove quantization"
        )
    if distill.start == "previous" and not distill.each:
        yield f"distill.{name}.start: previous needs each: true"
    earlier = list(recipe.distill)[: list(recipe.distill).index(name)]
    earlier = [run for run in earlier if not recipe.distill[run].each]
    if distill.start not in ("pivot", "previous", *earlier):
        yield (
            f"distill.{name}.start: '{distill.start}' is not pivot, previous or an earlier run "
            f"({', '.join(earlier) or 'there is none'})"
        )


def _merge_problems(recipe: Fields) -> Iterable[str]:
    known = {"pivot", *(f"source:{source}" for source in recipe.sources), *recipe.distill}
    known |= {part for name in recipe.distill for part in _members(recipe, name)}
    for name, merge in recipe.merge.items():
        for model in merge.models:
            if model in recipe.merge and model not in known:
                yield (
                    f"merge.{name}.models: '{model}' is a merge that does not stand before this "
                    "one; put it there"
                )
            elif model not in known and "/" not in model:
                hint = nearest(model, known)
                yield (
                    f"merge.{name}.models: there is no run '{model}' in distill.{hint} Known: "
                    f"{', '.join(sorted(known))}; a folder is written ./{model}, a hub model "
                    "org/name"
                )
        known.add(name)
        members = [_members(recipe, m) if m in recipe.distill else [m] for m in merge.models]
        repeated = _repeated(merge.models) or _repeated([one for some in members for one in some])
        for model in repeated:
            yield f"merge.{name}.models: '{model}' is named twice"
        if merge.params.get("tau0") == "validate" and recipe.data.validation_share == 0:
            yield f"merge.{name}.params.tau0: validate needs data.validation_share above 0"


def _evaluate_problems(recipe: Fields) -> Iterable[str]:
    """Models to score or compare that there are not."""
    groups = {name for name, distill in recipe.distill.items() if distill.each}
    known = {"pivot", *(f"source:{s}" for s in recipe.sources), *recipe.distill, *recipe.merge}
    known |= {f"untuned:{n}" for n, source in recipe.sources.items() if source.tune is not None}
    known -= groups
    scored = set(recipe.evaluate.models or known)
    known |= {part for name in groups for part in _members(recipe, name)}
    for where, named in (("models", recipe.evaluate.models), ("tasks", recipe.evaluate.tasks)):
        for name in _repeated(named or []):
            yield f"evaluate.{where}: '{name}' is named twice"
    compared = [model for pair in recipe.evaluate.compare for model in pair]
    for model in [*(recipe.evaluate.models or []), *compared]:
        if model not in known:
            hint = nearest(model, known)
            yield f"evaluate: there is no model '{model}'.{hint} Known: {', '.join(sorted(known))}"
    for model in dict.fromkeys(compared):
        if model in known - scored:
            yield (
                f"evaluate.compare: '{model}' is not scored, so it cannot be compared; name all "
                "models to score in evaluate.models"
            )
    if any(len(pair) != 2 for pair in recipe.evaluate.compare):
        yield "evaluate.compare: expected pairs [a, b]"


def _members(recipe: Fields, name: str) -> list[str]:
    """Names of the models that a run of `distill` makes: its own, or with `each` one per member of
    its target, if there is such a target."""
    distill = recipe.distill[name]
    if not distill.each:
        return [name]
    if distill.target not in recipe.fuse:
        return []
    return [f"{name}{end}" for end in _endings(recipe, distill.target) if end]


def _endings(recipe: Fields, target: str) -> list[str]:
    """What follows a target's name in the names of its members; nothing without `each`."""
    fuse = recipe.fuse[target]
    return [f"-{s}" for s in fuse.sources or recipe.sources] if fuse.each else [""]


def _repeated(names: Sequence[str]) -> list[str]:
    """The names that stand there more than once."""
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _names_a_folder(name: str) -> bool:
    """Not a path, not hidden, nothing that a terminal or a file system takes amiss."""
    fits = 0 < len(name.encode(errors="replace")) <= LONGEST_NAME and name.isprintable()
    return fits and not name.startswith(".") and not any(c in name for c in "/\\:")


def _temperature_problems(recipe: Fields) -> Iterable[str]:
    """Temperatures that cannot be used, as sentences."""
    if recipe.pivot.temperature != 1:
        yield "pivot.temperature: only sources have one; remove it"
    for name, source in recipe.sources.items():
        if source.temperature == "fit" and recipe.data.validation_share == 0:
            yield f"sources.{name}.temperature: fit needs data.validation_share above 0"


def _tune_problems(recipe: Fields) -> Iterable[str]:
    """Sources that cannot be tuned so, as sentences."""
    if recipe.pivot.tune is not None:
        yield "pivot.tune: only sources are tuned; the pivot's own training is a run in distill"
    known = list(dict.fromkeys(file.domain for file in recipe.data.train))
    for name, source in recipe.sources.items():
        if source.tune is None:
            continue
        where = f"sources.{name}.tune"
        if source.tune.lora is None and source.quantization is not None:
            yield (
                f"{where}: all weights cannot be trained while the source's quantization is "
                f"{source.quantization}; add lora, or remove quantization"
            )
        if source.tune.domains is not None:
            yield from _unknown_domains(f"{where}.domains", source.tune.domains, known)
        for key in ("num_train_epochs", "learning_rate"):
            if key in source.tune.training:
                yield f"{where}.training.{key}: write it as {where}.{key}"


def _domain_problems(recipe: Fields) -> Iterable[str]:
    """Domains of runs that no training data has, as sentences."""
    asked = recipe.write_responses
    for name, distill in recipe.distill.items():
        if distill.written is not True and asked is None:
            value = "only" if distill.written else "false"
            yield f"distill.{name}.written: {value} needs write_responses; remove it"
    files: list[DataFile] = [*recipe.data.train, *(asked.prompts if asked is not None else [])]
    known = list(dict.fromkeys(file.domain for file in files))
    listed = f"Known: {', '.join(known)}."
    for name, distill in recipe.distill.items():
        where = f"distill.{name}.domains"
        if distill.domains == "own":
            if not distill.each:
                yield f"{where}: own needs each: true; name the domains instead. {listed}"
            elif distill.target in recipe.fuse:
                for source in recipe.fuse[distill.target].sources or recipe.sources:
                    if source not in known:
                        what = f"own needs a domain with the name of the source '{source}'"
                        yield f"{where}: {what}.{nearest(source, known)} {listed}"
        elif distill.domains is not None:
            yield from _unknown_domains(where, distill.domains, known)


def _unknown_domains(where: str, domains: list[str], known: list[str]) -> Iterable[str]:
    """Domains that no data has, none, or one twice."""
    listed = f"Known: {', '.join(known)}."
    if not domains:
        yield f"{where}: name a domain, or leave it out for all. {listed}"
    for domain in dict.fromkeys(domains):
        if domain not in known:
            yield f"{where}: there is no domain '{domain}'.{nearest(domain, known)} {listed}"
    if _repeated(domains):
        yield f"{where}: a domain is named twice"
