"""Memory by hand."""

from __future__ import annotations

from test_shapes import shape

from infifusion.estimate.costs.lengths import Lengths
from infifusion.estimate.costs.memory import LOSS_COPIES, Place, prepare_memory, train_memory
from infifusion.estimate.costs.schedule import schedule_of

LENGTHS = Lengths(8, 80, 40, [10] * 8)
BIG = 1e9  # parameters: large against everything else here


def trained(
    place: Place,
    training: dict,
    *,
    trainable: float = BIG,
    loss_rows: int = 4,
    sharded: bool = False,
) -> float:
    steps = schedule_of(training, examples=8, devices=place.devices, sharded=sharded)
    return train_memory(
        place,
        shape(),
        LENGTHS,
        steps,
        parameters=BIG,
        trainable=trainable,
        loss_rows=loss_rows,
        distils=True,
        saved_width=4,
    )


def test_full_training_holds_sixteen_bytes_a_parameter() -> None:
    found = trained(Place(0, 4, True, 1), {})
    assert round(found / BIG) == 16  # weight, gradient, two moments: four bytes each


def test_accelerators_add_the_bfloat16_copies_and_ddp_its_buckets() -> None:
    assert round(trained(Place(0, 2, False, 1), {}) / BIG) == 18
    assert round(trained(Place(0, 2, False, 4), {}) / BIG) == 22
    assert round(trained(Place(0, 2, False, 4), {}, sharded=True) * 4 / BIG) == 18


def test_adapters_and_plain_sgd_take_less() -> None:
    assert round(trained(Place(0, 4, True, 1), {}, trainable=0) / BIG) == 4
    assert round(trained(Place(0, 4, True, 1), {"optim": "sgd"}) / BIG) == 8


def test_a_chunk_of_logits_costs_its_copies() -> None:
    for place in (Place(0, 4, True, 1), Place(0, 2, False, 1)):
        more = trained(place, {}, loss_rows=14) - trained(place, {}, loss_rows=4)
        # Ten rows more, five tokens, float32.
        assert more == 10 * 5 * 4 * LOSS_COPIES[place.on_cpu]


def test_recomputation_keeps_one_layer() -> None:
    place = Place(0, 4, True, 1)
    saved = trained(place, {}) - trained(place, {"gradient_checkpointing": True})
    # One of the two layers is not kept: 8 examples of 10 tokens, elements and the attention's.
    assert saved == 4 * 80 * (shape().elements + 2)


def test_prepare_keeps_python_integers() -> None:
    assert prepare_memory(Place(1, 4, True, 1), [LENGTHS, LENGTHS]) == 1 + 40 * 2 * (80 + 40)
