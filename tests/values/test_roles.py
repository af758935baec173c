"""A policy carried over by what its choices are."""

from __future__ import annotations

import dataclasses

import pytest

from autoprune.values.roles import Placed, Role, carried

ROLE = Role("conv", shared=False, stage=0, position=0.5, depth=0.0, width=1.0, channels=16, kernel=3)


def placed(name: str, sparsity: float = 0.0, kind: str = "channel", **role: object) -> Placed:
    return Placed(name, kind, dataclasses.replace(ROLE, **role), sparsity)  # type: ignore[arg-type]


def row(sparsities: list[float], **role: object) -> list[Placed]:
    places = [at / max(len(sparsities) - 1, 1) for at in range(len(sparsities))]
    return [
        placed(f"{role.get('stage', 0)}.{at}", s, position=p, **role)
        for at, (s, p) in enumerate(zip(sparsities, places, strict=True))
    ]


def test_a_network_gets_its_own_policy_back() -> None:
    policy = [*row([0.1, 0.2, 0.6]), *row([0.3, 0.5], stage=1, width=0.5)]
    found = carried(policy, policy)
    assert [one.sparsity for one in found] == [one.sparsity for one in policy]
    assert [one.sources for one in found] == [(one.name,) for one in policy]


def test_a_longer_row_lies_in_between() -> None:
    found = carried(row([0.0, 0.4, 0.8]), row([0.0] * 5))
    assert [one.sparsity for one in found] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert found[1].sources == ("0.0", "0.1")
    assert found[2].sources == ("0.1",)


def test_a_single_choice_serves_a_whole_row_and_a_row_gives_its_middle() -> None:
    assert [one.sparsity for one in carried([placed("a", 0.3)], row([0.0] * 3))] == [0.3] * 3
    assert carried(row([0.0, 0.6]), [placed("a")])[0].sparsity == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("near", "far"),
    [
        ({"stage": 1}, {"stage": 0}),
        ({"stage": 1, "kernel": 3}, {"stage": 1, "kernel": 1}),
        ({"stage": 1, "width": 0.5}, {"stage": 1, "width": 0.125}),
        ({"stage": 1, "stride": 1}, {"stage": 1, "stride": 2}),
        ({"stage": 1, "shared": False}, {"stage": 1, "shared": True}),
    ],
)
def test_the_row_that_is_most_alike_is_taken(near: dict[str, object], far: dict[str, object]) -> None:
    policy = [placed("far", 0.9, **far), placed("near", 0.1, **near), placed("last", 0.5, stage=2, kernel=7)]
    wanted = [placed("a", stage=2, width=0.5), placed("z", stage=4)]
    assert carried(policy, wanted)[0].sources == ("near",)


def test_stages_are_compared_by_how_many_there_are() -> None:
    policy = [placed("first", 0.1), placed("middle", 0.5, stage=1), placed("last", 0.9, stage=2)]
    found = carried(policy, [placed(str(stage), stage=stage) for stage in range(5)])
    assert [found[at].sparsity for at in (0, 2, 4)] == [0.1, 0.5, 0.9]


def test_what_does_not_correspond_says_why_and_gets_the_mean_or_stays_dense() -> None:
    policy = [placed("a", 0.2), placed("b", 0.4, stage=1)]
    wanted = [placed("a"), placed("b", stage=1), placed("l", layer="linear"), placed("h", kind="head", layer="linear")]
    *_, linear, head = carried(policy, wanted)
    assert linear.sparsity == pytest.approx(0.3)
    assert linear.why == "the policy has no channel choice of a linear layer"
    assert head.sparsity == 0.0
    assert head.why == "the policy decides nothing of the kind head"
    assert not linear.sources + head.sources


def test_nothing_that_corresponds_is_a_dense_network() -> None:
    assert [one.sparsity for one in carried([placed("a", 0.2)], [placed("l", layer="linear")])] == [0.0]
