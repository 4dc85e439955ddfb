"""A mixture of experts made of dense models: each expert's feed-forward layers are those of one
model, everything else is the base's, and a router per layer chooses among them.

Axes: E experts, L layers, H width of the hidden states.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.checkpoints.configs import said_by_default
from infifusion.merge.checkpoints.dtypes import BY_NAME, FLOATS
from infifusion.merge.checkpoints.hidden_states import HiddenStates
from infifusion.merge.checkpoints.tokens import same_tokens
from infifusion.merge.checkpoints.writer import SHARD_BYTES, Spec
from infifusion.merge.engine.beside import side_files
from infifusion.merge.engine.checks import answered, described
from infifusion.merge.engine.file import Dtype, ModelName
from infifusion.merge.engine.layout import for_torch
from infifusion.merge.engine.model import TIED_HEAD, Model
from infifusion.merge.engine.models import open_model
from infifusion.merge.engine.walker import (
    Task,
    carry_out,
    copying,
    require_free,
    usable_threads,
    writing,
)
from infifusion.merge.engine.weights import stamps
from infifusion.store.records import write_json
from infifusion.strict import Strict, as_json, read_yaml

DETAILS = "merge_details.json"
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
SHORTEST = 1e-6  # of a router's row before it gets length 1, beside the length of its prompts'


class Expert(Strict):
    """One expert."""

    source_model: ModelName
    """The model whose feed-forward layers it has; name+adapter too."""
    positive_prompts: list[str] = []
    """Texts that it is to be chosen for."""
    negative_prompts: list[str] = []
    """Texts that it is not to be chosen for."""


class MoeFile(Strict):
    """A mixture of experts, in mergekit-moe's form."""

    base_model: ModelName
    """The model that gives attention, norms, embeddings and tokenizer."""
    experts: list[Expert] = Field(min_length=2)
    """At least as many as are asked for each token."""
    gate_mode: Literal["hidden", "cheap_embed", "random"] = "hidden"
    """hidden: what the base's layers make of the prompts; cheap_embed: the mean of the prompts'
    embeddings, the same in all layers; random: to be trained."""
    experts_per_token: int = Field(default=2, ge=1)
    """How many experts each token goes through."""
    dtype: Dtype | None = None
    """dtype of the result; the base's by default."""
    seed: int = 0
    """Decides random routers."""

    @model_validator(mode="after")
    def _enough(self) -> MoeFile:
        if self.experts_per_token > len(self.experts):
            raise ValueError(
                f"experts_per_token is {self.experts_per_token}, but there are "
                f"{len(self.experts)} experts"
            )
        if self.gate_mode != "random":
            lacking = [e.source_model for e in self.experts if not e.positive_prompts]
            if lacking:
                raise ValueError(
                    f"{lacking[0]} has no positive_prompts, which gate_mode {self.gate_mode} "
                    "needs; or write gate_mode: random and train the routers"
                )
            prompts = {(*e.positive_prompts, "", *e.negative_prompts) for e in self.experts}
            if len(prompts) == 1:
                raise ValueError("all experts have the same prompts: no router can tell them apart")
        return self


@dataclass(frozen=True)
class Family:
    """How an architecture of dense models becomes one of experts. part: the name of an expert's
    matrix in the stored layout."""

    config: Mapping[str, Any]
    count: str
    router: str
    part: Mapping[str, str]
    width: str | None = None


MIXTRAL = Family(
    config={"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
    count="num_local_experts",
    router="block_sparse_moe.gate.weight",
    part={
        "gate_proj": "block_sparse_moe.experts.{}.w1.weight",
        "up_proj": "block_sparse_moe.experts.{}.w3.weight",
        "down_proj": "block_sparse_moe.experts.{}.w2.weight",
    },
)
QWEN3 = Family(
    config={
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    },
    count="num_experts",
    router="mlp.gate.weight",
    part={name: f"mlp.experts.{{}}.{name}.weight" for name in FEED_FORWARD},
    width="moe_intermediate_size",
)
FAMILIES = {"llama": MIXTRAL, "mistral": MIXTRAL, "qwen3": QWEN3}


def read_moe_file(path: Path) -> MoeFile:
    """Read and check."""
    return MoeFile.from_mapping(read_yaml(path), where=str(path))


def make_moe(
    file: MoeFile,
    path: Path,
    out: Path,
    *,
    threads: int | None = None,
    pickle: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> tuple[dict[str, Any], list[str]]:
    """Write the mixture into the new folder `out`; what merge_details.json holds, and notes.

    Raises CheckpointError for dense models that no known architecture of experts can hold, for
    models that do not belong together, and where the result would not load.
    """
    require_free(out)
    base = open_model(file.base_model, path.parent, allow_pickle=pickle)
    experts = [
        open_model(expert.source_model, path.parent, allow_pickle=pickle, like=base)
        for expert in file.experts
    ]
    family = _family(base)
    everyone = list({model.key: model for model in [base, *experts]}.values())
    notes = same_tokens(base, everyone)
    sources = _sources(base, experts, family)
    dtype = BY_NAME[file.dtype] if file.dtype else None
    specs = {}
    for name, (model, inner) in sources.items():
        stored = model.checkpoint.dtype(inner)
        specs[name] = Spec(dtype if dtype and stored in FLOATS else stored, model.shape(inner))
    routers = {f"{base.stack}{n}.{family.router}": n for n in range(base.layers)}
    width = base.config["hidden_size"]
    kind = dtype or base.checkpoint.dtype(base.embedding or next(iter(base.checkpoint)))
    specs |= {name: Spec(kind, (len(experts), width)) for name in routers}
    config = _config(base, family, file, specs)
    question = {
        "models": [described(model) for model in everyone],
        "config": config,
        "specs": {name: (spec.dtype, spec.shape) for name, spec in specs.items()},
        "layers": [],
    }
    notes += answered(question)["notes"]
    gates_LEH = _gates(file, base)
    tasks = {n: Task(specs[n], copying(*sources[n], specs[n].dtype)) for n in sources}
    tasks |= {
        n: Task(specs[n], writing(gates_LEH[layer], specs[n].dtype)) for n, layer in routers.items()
    }
    details = {
        "method": "moe",
        "params": as_json(file),
        "base": str(base.folder),
        "models": [model.name for model in experts],
    }

    def finish(folder: Path, _: dict[str, Any]) -> None:
        for one in side_files(base.folder):
            (folder / one).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base.folder / one, folder / one)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_json(folder / DETAILS, details)

    files = {str(model.folder): stamps(model) for model in everyone}
    routed = hashlib.sha256(np.ascontiguousarray(gates_LEH).tobytes()).hexdigest()
    carry_out(
        dict(sorted(tasks.items())),
        out,
        identity={"moe": as_json(file), "files": files, "routers": routed},
        finish=finish,
        threads=threads or usable_threads(),
        shard_bytes=shard_bytes,
    )
    return details, notes


def _family(base: Model) -> Family:
    kind = base.config.get("model_type")
    family = FAMILIES.get(str(kind))
    biased = [name for name in base.checkpoint if name.endswith("proj.bias")]
    if family is None or biased:
        found = f"{kind!r:.60}" if family is None else f"{kind} with {biased[0]}"
        raise CheckpointError(
            f"{base.folder} is {found}: a mixture of experts is made of "
            f"{', '.join(FAMILIES)} models without biases, which become Mixtral or Qwen3-MoE."
        )
    return family


def _sources(base: Model, experts: list[Model], family: Family) -> dict[str, tuple[Model, str]]:
    """Where every tensor but the routers comes from."""
    found: dict[str, tuple[Model, str]] = {}
    for name in base.checkpoint.names:
        place = base.layer_of(name)
        part = next((p for p in FEED_FORWARD if place and place[1] == f".mlp.{p}.weight"), None)
        if place is None or part is None:
            found[name] = (base, name)
            continue
        for number, expert in enumerate(experts):
            if name not in expert.checkpoint or expert.shape(name) != base.shape(name):
                has = list(expert.shape(name)) if name in expert.checkpoint else "missing"
                raise CheckpointError(
                    f"The tensor {name} is {has} in {expert.folder}, but {list(base.shape(name))} "
                    f"in {base.folder}. Experts are models of the base's architecture and size."
                )
            made = family.part[part].format(number)
            found[f"{base.stack}{place[0]}.{made}"] = (expert, name)
    return found


def _config(
    base: Model, family: Family, file: MoeFile, specs: Mapping[str, Spec]
) -> dict[str, Any]:
    config = {**base.config, **family.config}
    config[family.count] = len(file.experts)
    config["num_experts_per_tok"] = file.experts_per_token
    if family.width:
        config[family.width] = base.config["intermediate_size"]
    if TIED_HEAD in base.checkpoint and base.has_own_head:
        config["tie_word_embeddings"] = False
    config |= said_by_default(base.config, config, where=str(base.folder))
    config.pop("torch_dtype", None)
    names = {stored: name for name, stored in BY_NAME.items()}
    kinds = [spec.dtype for spec in specs.values() if spec.dtype in FLOATS]
    config["dtype"] = names[max(set(kinds), key=kinds.count)]
    return config


def _gates(file: MoeFile, base: Model) -> np.ndarray:
    """The routers, [L, E, H]: rows of length 1."""
    shape = (base.layers, len(file.experts), base.config["hidden_size"])
    if file.gate_mode == "random":
        rows = np.random.default_rng(file.seed).standard_normal(shape).astype(np.float32)
    else:
        rows = _of_prompts(file, base)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / np.maximum(length, 1e-8)).astype(np.float32)


def _of_prompts(file: MoeFile, base: Model) -> np.ndarray:
    """The rows before they have length 1. Raises for prompts that are the same, and for NaN."""
    known = base.architecture
    if isinstance(known, str):
        raise CheckpointError(f"{base.folder}: {known}. Write gate_mode: random.")
    tensors = {name: for_torch(base, name) for name in base.checkpoint.names}
    cheap = file.gate_mode == "cheap_embed"
    states = HiddenStates(base.home, known, tensors, cheap=cheap)
    found = []
    for expert in file.experts:
        row_LH = for_LH = states.mean(expert.positive_prompts)
        if expert.negative_prompts:
            row_LH = for_LH - states.mean(expert.negative_prompts)
        if not np.isfinite(row_LH).all():
            raise CheckpointError(
                f"{base.folder} makes NaN or Inf of the prompts of {expert.source_model}. Take a "
                "base in bfloat16 or float32, or write gate_mode: random."
            )
        if np.linalg.norm(row_LH) <= SHORTEST * np.linalg.norm(for_LH):
            raise RecipeError(
                f"The positive and negative prompts of {expert.source_model} are the same to the "
                "base: no router can tell them apart. Change one of them."
            )
        found.append(row_LH)
    return np.stack(found, axis=1)
