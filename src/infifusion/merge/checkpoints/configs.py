"""Whether the configs of models that are merged say that they calculate alike.

Weights of equal names and shapes can belong to models that do other things with them. What decides
the calculation is an error where it differs; what shifts it is a note that names both values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.architecture import Architecture, config_object
from infifusion.merge.checkpoints.reader import text_config
from infifusion.merge.checkpoints.subject import Subject

# Differing values of these make another model of the same weights.
DECIDES = re.compile(
    r"^(model_type|num_attention_heads|num_key_value_heads|n_head|num_heads|n_heads|head_dim|"
    r"hidden_act|hidden_activation|activation_function|activation|mlp_hidden_act|"
    r"position_embedding_type|parallel_attn|parallel_residual|use_parallel_residual|alibi|"
    r"num_experts_per_tok|num_experts_per_token|moe_topk|top_k_experts|scoring_func|norm_topk_prob|"
    r"topk_method|n_group|topk_group|attention_type|state_size|conv_kernel|"
    r"do_layer_norm_before|is_decoder|is_encoder_decoder)$"
)
# A language model inside of one that sees or hears: qwen2_5_vl_text has the layers of qwen2.
INSIDE = re.compile(r"((_\d+)?_(vl|omni|audio|vision)(?=_|$)|_(text|thinker|language)(?=_|$))")
# What does not reach the calculation, or is the result's own.
HARMLESS = re.compile(
    r"token|dtype|^transformers_|^_|name_or_path|use_cache|vocab|dropout|initializer|pdrop|"
    r"^architectures$|auto_map|max_position|^n_positions$|^n_ctx$|original_max|tie_|output_|return_|"
    r"problem_type|label|aux_loss|z_loss|quantization|chunk_size|finetuning|gradient|init_std|"
    r"initializer_range|pretraining_tp|use_mamba_kernels|attn_implementation|task_specific|"
    r"^torchscript$|^bad_|^num_beams|generation|language|suppress|^num_labels$|jitter|"
    r"seq_length|bos_|eos_|pad_|summary_|unsloth|use_bfloat16|reorder_and_upcast"
)
MOST_NOTED = 6
# Of a config, what a model of another type has of its own.
OWN = {"architectures", "model_type", "dtype", "transformers_version", "_name_or_path"}


def same_calculation(donor: Subject, models: list[Subject]) -> list[str]:
    """Notes on what differs. CheckpointError where models cannot be merged for it."""
    notes = []
    for model in models:
        if model.folder == donor.folder:
            continue
        found = list(_differences(donor, model))
        for key, ours, theirs in found:
            if None not in (ours, theirs) and DECIDES.search(key.rpartition(".")[2]):
                raise CheckpointError(
                    f"{donor.folder}/config.json says {key}: {ours!r:.100}, but "
                    f"{model.folder}/config.json ({model.name}) says {theirs!r:.100}: these "
                    "models do other things with weights of the same names. Leave this model out, "
                    "or distil it into the pivot (infifusion run); correct a config that is wrong."
                )
        notes += [
            f"{model.name} has {key}: {theirs!r:.100}, {donor.name} has {ours!r:.100}; the result "
            "has the latter."
            for key, ours, theirs in found[:MOST_NOTED]
        ]
        if len(found) > MOST_NOTED:
            more = ", ".join(key for key, _, _ in found[MOST_NOTED:])
            notes.append(f"{model.name} and {donor.name} differ in {more} as well (config.json).")
    return notes


def _differences(donor: Subject, model: Subject) -> Iterator[tuple[str, Any, Any]]:
    """Keys of the language models' configs whose values differ, with both values."""
    one, other = donor.architecture, model.architecture
    if isinstance(one, Architecture) and isinstance(other, Architecture):
        yield from _of_towers(one, other)
        if not model.text:
            return
        ours, theirs = one.text.to_dict(), other.text.to_dict()
        for values in (ours, theirs):
            values["model_type"] = INSIDE.sub("", str(values.get("model_type")))
    else:  # as they are written; what is lacking may have the same default
        ours, theirs = text_config(donor.config), text_config(model.config)
        if ours is not donor.config:
            ours = {"model_type": donor.config.get("model_type"), **ours}
        both = ours.keys() & theirs.keys()
        ours, theirs = ({k: d[k] for k in both} for d in (ours, theirs))
    ours, theirs = _plain(ours), _plain(theirs)
    for key in sorted(ours.keys() | theirs.keys(), key=_first):
        if HARMLESS.search(key) and not DECIDES.search(key):
            continue
        if not _equal(ours.get(key), theirs.get(key)):
            yield key, ours.get(key), theirs.get(key)


def _of_towers(one: Architecture, other: Architecture) -> Iterator[tuple[str, Any, Any]]:
    """What the configs say otherwise of the towers that both have and that are of one size."""
    texts = (one.text, other.text)
    for part in sorted(one.config.sub_configs.keys() & other.config.sub_configs.keys()):
        ours, theirs = (getattr(known.config, part, None) for known in (one, other))
        if ours is None or theirs is None or ours is texts[0] or theirs is texts[1]:
            continue
        ours, theirs = _plain(ours.to_dict()), _plain(theirs.to_dict())
        for key in sorted(ours.keys() & theirs.keys()):
            if DECIDES.search(key) and not _equal(ours[key], theirs[key]):
                yield f"{part}.{key}", ours[key], theirs[key]


def _first(key: str) -> tuple[bool, bool, str]:
    """rope and windows before the rest."""
    return not re.search(r"rope|rotary", key), not re.search(r"eps|window", key), key


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values of the config, those of rope one by one; no configs of other parts, no sizes that the
    tensors' shapes show."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key.startswith("rope") and isinstance(value, dict):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif not isinstance(value, dict):
            found[key] = value
    return found


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return float(one) == float(other)
    return one == other


def said_by_default(dense: Mapping[str, Any], mixture: dict[str, Any], *, where: str) -> dict:
    """What a dense model's config leaves to its model type, where the type of the mixture that is
    made of it has another default: rope's base, epsilon, heads of keys. mixture: its config.

    Raises CheckpointError where only some of the layers have a window, which no Qwen3-MoE can have.
    """
    one, other = config_object(dense), config_object(mixture)
    if isinstance(one, str) or isinstance(other, str):
        return {}
    ours, theirs = one.to_dict(), other.to_dict()
    given = mixture.keys() | OWN
    found = {
        key: value
        for key, value in ours.items()
        if key in theirs and key not in given and value != theirs[key]
    }
    kinds = set(ours.get("layer_types") or ())
    if "use_sliding_window" in ours:
        if len(kinds) > 1:
            raise CheckpointError(
                f"{where}: some of its layers have a window and others have not "
                "(use_sliding_window, max_window_layers), which no Qwen3-MoE can have. Write "
                "use_sliding_window: false into its config.json, if texts are to be short."
            )
        found["use_sliding_window"] = kinds == {"sliding_attention"}
    return found
