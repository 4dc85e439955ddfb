"""FLOPs and units by hand."""

from __future__ import annotations

import pytest
from test_shapes import shape

from infifusion.errors import RecipeError
from infifusion.estimate.costs.devices import DEVICES, device_called
from infifusion.estimate.costs.lengths import Batches, Lengths
from infifusion.estimate.costs.rates import CPU_UNITS, Rates, flops_per_second, of_cpu, of_device
from infifusion.estimate.costs.schedule import DEFAULTS, lora_parameters, schedule_of
from infifusion.estimate.costs.work import (
    PER_PROCESS,
    UNITS,
    Work,
    decode_work,
    forward_work,
    train_work,
)
from infifusion.recipe import Lora
from infifusion.train import arguments

LENGTHS = Lengths(8, 80, 40, [10] * 8)  # eight examples of 10 tokens, 5 of them the response


def train(**changes: object) -> Work:
    values = {
        "devices": 1,
        "distils": True,
        "parameters": 100.0,
        "trainable": 100.0,
        "load_bytes": 0.0,
        "model_bytes": 0.0,
        "state_bytes": 0.0,
    }
    training = {"per_device_train_batch_size": 4, **changes.pop("training", {})}  # type: ignore
    steps = schedule_of(training, examples=8, devices=1)
    return train_work(shape(), LENGTHS, steps, **{**values, **changes})  # type: ignore[arg-type]


def test_a_pass_by_hand() -> None:
    found = forward_work(shape(), LENGTHS, Batches(2, 80, 800))
    # Body: 2 x 2 layers x 34 x 80 tokens, 4 x 2 layers x 2 channels x 800 pairs; head: 2 x 10 x 40.
    assert found.all_flops == 2 * 2 * 34 * 80 + 4 * 2 * 2 * 800 + 2 * 10 * 40
    assert found.units["forward_call"] == 2 and found.units["forward_layer"] == 4
    assert found.units["teach_logit"] == 40 * 5


def test_training_takes_three_times_the_flops_of_a_pass() -> None:
    one = forward_work(shape(), LENGTHS, Batches(2, 80, 800))
    assert train().all_flops == 3 * one.all_flops  # one epoch, two steps of four examples
    body, head = shape().body_flops(80, 800), shape().head_flops(40)
    assert train(trainable=10.0).all_flops == 2 * body + 2 * head  # adapters: no weight gradients
    checkpointed = train(training={"gradient_checkpointing": True})
    assert checkpointed.all_flops == 4 * body + 3 * head


def test_steps_are_counted_as_the_trainer_does() -> None:
    training = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    steps = schedule_of({**training, "num_train_epochs": 3}, examples=17, devices=2)
    # Eight examples a step, three steps an epoch (the last one short), three epochs.
    assert (steps.steps, steps.passes, steps.saves) == (9, 3.0, 1)
    assert schedule_of({**training, "max_steps": 1200}, examples=17, devices=1).saves == 3
    assert schedule_of({"save_strategy": "no"}, examples=17, devices=1).saves == 0


def test_defaults_are_those_of_training() -> None:
    assert {key: arguments.DEFAULTS[key] for key in DEFAULTS} == DEFAULTS


def test_adapters_are_counted_by_hand() -> None:
    # r (in + out): q, k, v, o: 4 x (2 + 2); gate, up, down: 3 x (2 + 3); r 3, two layers.
    assert lora_parameters(shape(), Lora(r=3)) == 3 * 2 * (16 + 15)
    assert lora_parameters(shape(), Lora(r=3, target_modules=["q_proj"])) == 3 * 2 * 4


def test_answers_by_hand() -> None:
    found = decode_work(shape(), items=5, prompt=10, new=4, batch=2, weight_bytes=7.0)
    # Three batches of four steps, each of which reads the weights.
    assert found.units["decode_call"] == 12 and found.units["decode_byte"] == 84
    assert found.units["decode_logit"] == 5 * 4 * 5
    # A token: 2 x 2 x 34, attention over 12 tokens of context, one row of the head.
    assert found.flops["decode", 2] == 5 * 4 * (2 * 2 * 34 + 4 * 2 * 2 * 12 + 20)


def test_spreading_shares_what_is_per_example_and_not_what_is_per_process() -> None:
    work = Work({("forward", 8): 10.0}, {"teach": 1, "teach_logit": 10})
    shared = work.shared(2)
    assert shared.all_flops == 5 and shared.units == {"teach": 1, "teach_logit": 5}


def test_seconds_are_the_sum_of_flops_and_units() -> None:
    rates = Rates({"teach": 2.0, "teach_logit": 0.5}, {"forward": ((8, 10.0),)})
    work = Work({("forward", 8): 30.0}, {"teach": 1, "teach_logit": 4})
    assert rates.seconds(work) == pytest.approx(3 + 2 + 2)


def test_matrix_products_between_two_measured_widths() -> None:
    table = ((10, 1.0), (1000, 100.0))
    assert flops_per_second(table, 100) == pytest.approx(10)  # halfway on both logarithmic scales
    assert flops_per_second(table, 5000) == 100 and flops_per_second(table, 5) == 0.5


def test_every_unit_has_a_rate_on_every_device() -> None:
    assert CPU_UNITS.keys() == UNITS.keys() and UNITS.keys() >= PER_PROCESS
    for device in DEVICES.values():
        assert of_device(device, of_cpu(None)).units.keys() == UNITS.keys()


def test_an_unknown_device_gets_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="no device 'h20'.*Did you mean 'h200'.*a100-80"):
        device_called("h20")
