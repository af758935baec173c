"""What the page shows beyond the comparison: intervals, bars, curves, layers, hovering; and what it warns of."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from autoprune.report import bars as rows, facts as stored, page as pages, warnings, words
from autoprune.report.detail import Alone, Curve, Detail, Interval, Layers
from autoprune.report.facts import Report
from tests.report.test_report import facts, of_latency, only


def detailed() -> Report:
    """As `facts`, with all that there may be."""
    made = facts(limits=False)
    trials = tuple(dataclasses.replace(t, kept=(8, 60 - t.number)) for t in made.trials)
    detail = Detail(
        intervals=(
            Interval("uniform", 0.0044, -0.001, 0.009, 0.95, 5),
            Interval("random", 0.0033, 0.001, 0.005, 0.95, 5),
        ),
        curves={"ours": Curve((1, 2), (0.5, 0.25)), "uniform": Curve((1, 2), (0.625, 0.5))},
        layers=(Layers("macs", "MAC", {"a": 3e6, "b": 1e6, "": 500.0}, {"a": 1e6, "b": 1e6, "": 500.0}),),
        alone=(Alone(8, 0.03), Alone(32, -0.001)),
        chance=0.1,
    )
    return dataclasses.replace(made, trials=trials, detail=detail)


def test_details_survive_the_disk(tmp_path: Path) -> None:
    pages.write(detailed(), tmp_path)
    assert stored.read(tmp_path) == detailed()


def test_the_page_shows_intervals_curves_layers_and_what_choices_cost() -> None:
    page = pages.render(detailed())
    for said in (
        "95% interval −0.10 points to +0.90 points",  # noqa: RUF001
        "Against uniform: +0.44 points, 95% interval −0.10 points to +0.90 points; not told apart.",  # noqa: RUF001
        "Against random: +0.33 points, 95% interval +0.10 points to +0.50 points; better beyond chance of the samples.",
        "Where the MACs went",
        "whatever is pruned",
        "33%",
        "−3.00 points at 8",  # noqa: RUF001
        "+0.10 points at 32",
        "<small>a, bn_a</small>",
        "training loss",
        "onnxruntime.InferenceSession",
        "<dt>budget</dt>",
    ):
        assert said in page, said
    assert page.count("<svg ") == 3
    plain = pages.render(facts())
    assert "Where the MACs went" not in plain
    assert "How sure" not in plain


def test_an_interval_of_a_metric_where_lower_is_better_says_which_is_better() -> None:
    made = detailed()
    lower = dataclasses.replace(made, lower_is_better=True, in_percent=False)
    assert "Against random: +0.00330, 95% interval +0.00100 to +0.00500; worse beyond" in " ".join(rows.sure(lower))
    (first, second) = rows.choices(lower)
    assert (first.alone, second.alone) == ("+0.0300 at 8", "−0.00100 at 32")  # noqa: RUF001


def test_every_trial_that_is_drawn_can_be_hovered_over_and_names_cannot_end_the_script() -> None:
    made = detailed()
    evil = dataclasses.replace(made.choices[0], name="</script><b>")
    page = pages.render(dataclasses.replace(made, choices=(evil, *made.choices[1:])))
    (held,) = re.findall(r'<script type="application/json" id="trials">(.*?)</script>', page)
    known = json.loads(held)
    assert known["choices"][0] == ["</script><b>", 16]
    assert known["trials"]["3"] == ["top-1 83.00 %, MACs 49.6%", 8, 57]
    assert known["trials"]["2"][0] == "NaN"
    drawn = set(re.findall(r'class="hit" data-t="(\d+)"', page))
    assert drawn <= set(known["trials"])
    assert len(drawn) > 8


def test_many_layers_are_summed_and_widths_stay_within_the_bar() -> None:
    many = {f"l{n}": float(n) for n in range(100)}
    found = rows.layers(Layers("latency", "ms", many, {**many, "l99": 300.0}))
    assert len(found) == rows.MOST + 1
    assert found[-1].name == "70 others"
    assert found[-1].dense == words.valued(sum(range(70)), "ms")
    assert all(0 <= width <= 1 for row in found for width in (row.dense_width, row.ours_width))


class TestWarnings:
    """Each with what provokes it, and what does not."""

    def test_of_a_layer_that_collapses(self) -> None:
        (said,) = warnings.of_policy(["a", "b"], [2, 32], [64, 64])
        assert said == "Layer collapse: a keeps 2 of 64 units; [[space.group]] match = 'a', floor = 8 keeps more."
        assert not list(warnings.of_policy(["a", "b"], [4, 2], [64, 8]))

    def test_of_imbalance_between_layers(self) -> None:
        (said,) = warnings.of_policy(["a", "b", "c", "d"], [6, 32, 8, 30], [32] * 4)
        assert said.startswith("Imbalance: a loses 81% of its units and b 0% (standard deviation over choices 0.38)")
        assert not list(warnings.of_policy(["a", "b", "c", "d"], [16, 20, 12, 24], [32] * 4))

    def test_of_a_choice_at_its_floor_that_costs_most(self) -> None:
        made = detailed()
        network = dataclasses.replace(made.ours, kept=(4, 60))  # 4 is the lowest
        over = dataclasses.replace(made, networks={**made.networks, "ours": network})
        (said,) = warnings.of_end(over)
        assert said.startswith("Over-pruning: a is at its floor, 4 of 16 units, and is the choice that costs most")
        assert "(−3.00 points alone at half)" in said  # noqa: RUF001
        assert not list(warnings.of_end(made))

    @pytest.mark.parametrize(("latency", "warns"), [(0.0606, True), (0.0436, False)])
    def test_of_latency_that_does_not_follow_the_macs(self, latency: float, warns: bool) -> None:
        made = of_latency()
        networks = {
            role: dataclasses.replace(
                n, costs={"macs": 3e7 if role == "dense" else 1.5e7, "latency": n.costs["latency"]}
            )
            for role, n in made.networks.items()
        }
        networks["ours"] = dataclasses.replace(networks["ours"], costs={"macs": 1.5e7, "latency": latency})
        said = list(
            warnings.of_end(dataclasses.replace(made, networks=networks, units={"macs": "MAC", "latency": "ms"}))
        )
        assert [line.startswith("Hardware mismatch: MACs fell to 50%, latency to 99%") for line in said] == [
            True
        ] * warns

    def test_of_scores_near_chance(self) -> None:
        (said,) = warnings.near_chance("top-1", 0.17, 0.94, 0.1)
        assert said.startswith("Near chance: the best network has 17.0% top-1 before any finetune, a guess 10.0%")
        assert not list(warnings.near_chance("top-1", 0.3, 0.94, 0.1))

    def test_are_gathered_and_shown_first(self) -> None:
        made = detailed()
        network = dataclasses.replace(made.ours, kept=(4, 2), searched=0.12)
        found = warnings.warned(dataclasses.replace(made, networks={**made.networks, "ours": network}))
        kinds = [line.partition(":")[0] for line in found.detail.warnings]
        assert kinds == ["Near chance", "Layer collapse", "Over-pruning"]
        page = pages.render(found)
        assert page.index("What to look into") < page.index("To know when reading this")
        assert all(line.partition("[")[0].replace("'", "&#39;") in page for line in found.detail.warnings)
        assert not warnings.warned(facts()).detail.warnings

    def test_need_no_baselines(self) -> None:
        assert warnings.warned(dataclasses.replace(facts(), networks=only("dense", "ours"))).detail.warnings == ()
