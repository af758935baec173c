"""Latency as a cost: what is learnt from timings, what is kept of them, and what is said of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprune.costs.arithmetic import Macs
from autoprune.costs.latency.fit import Blocks, Fit, Work, chosen, fitted
from autoprune.costs.latency.model import AGAIN, BUILD, UNSEEN, Latency, accuracy, drawn
from autoprune.costs.latency.timings import Store, Timing
from autoprune.errors import CacheError, ConfigError, TargetError
from autoprune.files.cache import folder, named
from autoprune.structure.prune import prune
from autoprune.testing.evaluators import toy_setting
from autoprune.testing.targets import Arithmetic
from autoprune.values.space import Policy, SearchSpace

FEW: dict[str, Any] = {"policies": 30, "unseen": 8}


def model(target: Any = None, **over: Any) -> Latency:
    task, traced, space = toy_setting()
    return Latency(space, traced, task, target or Arithmetic(), **{**FEW, **over})


class Counting(Arithmetic):
    """A target that counts the networks that it made ready, and may fail at one."""

    made = 0
    fails_at = 10**9

    def ready(self, model: Any, example: Any) -> Any:
        Counting.made += 1
        if Counting.made == Counting.fails_at:
            raise KeyboardInterrupt
        return super().ready(model, example)


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "made", 0)
    monkeypatch.setattr(Counting, "fails_at", 10**9)


def cache_file() -> Path:
    (found,) = (folder() / "latency").glob("*.jsonl")
    return found


class TestLearning:
    def test_predicts_networks_that_were_never_timed(self) -> None:
        cost = model()
        cost.learn()
        assert cost.accuracy is not None
        assert cost.accuracy.mape < 0.01
        assert cost.accuracy.spearman > 0.99
        assert cost.accuracy.noise == 0
        assert cost.predict(cost.space.dense()) == pytest.approx(cost.dense, rel=1e-12)

    def test_measures_beside_the_dense_network(self) -> None:
        cost = model()
        policy = cost.space.snap([0.5] * len(cost.space))
        units = [np.arange(kept) for kept in policy.levels]
        thin = prune(cost.task.model, cost.trace, units)
        assert cost.measure(thin, cost.task.example) == pytest.approx(cost.predict(policy), rel=0.02)
        assert cost.measure(cost.task.model, cost.task.example) == pytest.approx(cost.dense)

    def test_a_second_model_times_nothing(self) -> None:
        first, second = model(Counting()), model(Counting())
        first.learn()
        made = Counting.made
        second.learn()
        assert Counting.made == made
        rows = np.array(drawn(first.space, 20, np.random.default_rng(3)))
        assert first.predict_many(rows).tolist() == second.predict_many(rows).tolist()

    def test_an_interrupted_one_goes_on_where_it_stopped(self) -> None:
        Counting.fails_at = 25
        with pytest.raises(KeyboardInterrupt, match="goes on"):
            model(Counting()).learn()
        Counting.fails_at = 10**9
        before = Counting.made
        cost = model(Counting())
        cost.learn()
        whole = cost.policies + 2 * cost.unseen
        assert Counting.made - before < whole
        assert [len(cost.timings[part]) for part in (BUILD, UNSEEN, AGAIN)] == [30, 8, 8]

    def test_time_that_is_up_leaves_some_of_every_part_and_is_told(self) -> None:
        cost = model(policies=100, unseen=24, seconds=1e-9)
        cost.learn()
        assert 20 <= len(cost.timings[BUILD]) < 100
        assert len(cost.timings[UNSEEN]) == len(cost.timings[AGAIN]) >= 8
        assert "timings were made" in cost.notes[0]

    def test_a_run_that_is_continued_predicts_the_same_without_timing(self) -> None:
        cost = model()
        state = json.loads(json.dumps(cost.state()))
        again = model(Counting(), known=state)
        rows = np.array(drawn(cost.space, 20, np.random.default_rng(3)))
        assert cost.predict_many(rows).tolist() == again.predict_many(rows).tolist()
        assert Counting.made == 0
        assert again.sentence().partition(":")[2] == cost.sentence().partition(":")[2]

    @pytest.mark.parametrize("over", [{"policies": 19}, {"unseen": 7}, {"seconds": 0.0}])
    def test_too_few_are_refused(self, over: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(over))):
            model(**over)

    def test_what_the_target_cannot_is_told(self) -> None:
        class Unable(Arithmetic):
            def ready(self, model: Any, example: Any) -> Any:
                raise TargetError("target unable cannot run this network")

        with pytest.raises(TargetError, match="unable"):
            model(Unable()).learn()


class TestDrawn:
    def test_are_spread_over_the_macs_and_possible(self) -> None:
        _, _, space = toy_setting()
        found = np.array(drawn(space, 200, np.random.default_rng(0)))
        shares = Macs(space).predict_many(found) / Macs(space).predict(space.dense())
        assert shares.min() < 0.3
        assert shares.max() > 0.9
        assert all(space.contains(Policy.of(row)) for row in found)

    def test_at_one_share_differ_in_what_they_keep(self) -> None:
        _, traced, _ = toy_setting()
        space = SearchSpace("toy", traced.choices, traced.ops, traced.parameters)
        found = np.array(drawn(space, 50, np.random.default_rng(0), 0.5))
        shares = Macs(space).predict_many(found) / Macs(space).predict(space.dense())
        assert shares.max() <= 0.5
        assert shares.min() > 0.35  # one channel of eight is much
        assert len(np.unique(found, axis=0)) > 5


class TestFit:
    def timed(self, block: int, count: int = 120) -> tuple[SearchSpace, Any, Any]:
        """Policies of a network whose runtime computes in blocks: half by multiplications, some whatever is pruned."""
        _, _, space = toy_setting()
        kept = np.array(drawn(space, count, np.random.default_rng(1)))
        work = Work(space, Blocks(block))
        spent = np.array([[term[2] == "m" for term in work.terms]]) * work.products(kept)
        whole = (np.array([[term[2] == "m" for term in work.terms]]) * work.products(work.whole)).sum()
        return space, kept, 0.3 + 0.7 * spent.sum(1) / whole

    @pytest.mark.parametrize("block", [1, 4])
    def test_finds_the_block_that_a_runtime_computes_in(self, block: int) -> None:
        space, kept, ratios = self.timed(block)
        assert chosen(space, kept, ratios)[0] == Blocks(block)

    def test_finds_widths_that_leave_the_fast_path(self) -> None:
        space, kept, ratios = self.timed(1)
        slow = (kept % 4 != 0).mean(axis=1)
        ratios = ratios * (1 + slow)
        blocks, strength = chosen(space, kept, ratios)
        assert 4 in blocks.whole
        fit = fitted(Work(space, blocks), kept, ratios, strength)
        aligned = np.array([[8, 12], [7, 12], [8, 8], [8, 7]])
        whole, off, narrow, odd = fit(aligned)
        assert off > whole
        assert odd > narrow

    def test_finds_the_rates(self) -> None:
        space, kept, ratios = self.timed(4)
        fit = fitted(Work(space, Blocks(4)), kept, ratios, 1e-6)
        np.testing.assert_allclose(fit(kept), ratios, rtol=5e-3)
        dense = fit.by_layer(np.array([space.dense().levels]))
        assert dense[""] == pytest.approx(0.3, abs=0.02)
        assert sum(dense.values()) == pytest.approx(1.0)

    def test_a_wider_network_never_costs_less(self) -> None:
        space, kept, ratios = self.timed(4)
        noisy = ratios * np.random.default_rng(0).normal(1, 0.1, len(ratios))
        fit = fitted(Work(space), kept, noisy, 1e-5)
        wider = np.minimum(kept + 1, [g.dense for g in space])
        assert (fit(wider) >= fit(kept) - 1e-12).all()
        assert (fit.coefficients >= 0).all()

    def test_many_are_as_one_by_one(self) -> None:
        space, kept, ratios = self.timed(4)
        fit = Fit(Work(space, Blocks(4)), fitted(Work(space, Blocks(4)), kept, ratios, 1e-5).coefficients)
        assert fit(kept).tolist() == [fit(row[None])[0] for row in kept]


def test_accuracy_says_what_happened() -> None:
    truth = np.array([1.0, 2.0, 4.0])
    found = accuracy(truth * [1.04, 0.92, 1.2], truth * 1.01, truth * 0.99, truth * 2)
    assert found.mape == pytest.approx((0.04 + 0.08 + 0.2) / 3)
    assert (found.within_5, found.within_10) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert found.noise == pytest.approx(0.02)
    assert found.mape_macs == pytest.approx(1.0)
    assert "3 unseen policies" in found.sentence()


class TestStore:
    FACTS = {"runtime": "x", "threads": 2}  # noqa: RUF012

    def timing(self, kept: int, part: str = BUILD) -> Timing:
        return Timing(part, (kept, 2 * kept), kept / 10, 0.01, 3.5)

    def filled(self, path: Path, count: int = 4) -> Store:
        store = Store(path, self.FACTS)
        for kept in range(1, count + 1):
            store.put(self.timing(kept))
        return store

    def test_holds_what_was_put(self, tmp_path: Path) -> None:
        self.filled(tmp_path / "x.jsonl")
        again = Store(tmp_path / "x.jsonl", self.FACTS)
        assert len(again) == 4
        assert again.get(BUILD, (3, 6)) == self.timing(3)
        assert again.get(UNSEEN, (3, 6)) is None
        assert not again.notes

    def test_a_damaged_line_is_not_used(self, tmp_path: Path) -> None:
        path = tmp_path / "x.jsonl"
        self.filled(path)
        path.write_bytes(path.read_bytes().replace(b'"ratio": 0.2', b'"ratio": 0.9'))
        again = Store(path, self.FACTS)
        assert again.get(BUILD, (2, 4)) is None
        assert len(again) == 3
        assert "1 damaged" in again.notes[0]
        assert not Store(path, self.FACTS).notes  # it is gone

    def test_a_torn_last_line_is_cut_off(self, tmp_path: Path) -> None:
        path = tmp_path / "x.jsonl"
        self.filled(path)
        path.write_bytes(path.read_bytes()[:-20])
        store = Store(path, self.FACTS)
        store.put(self.timing(9))
        assert {t for t in range(1, 10) if Store(path, self.FACTS).get(BUILD, (t, 2 * t))} == {1, 2, 3, 9}

    @pytest.mark.parametrize("content", [b"", b"nonsense\n", b"\x00\xff" * 50])
    def test_an_empty_or_foreign_file_is_set_aside(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "x.jsonl"
        path.write_bytes(content)
        store = Store(path, self.FACTS)
        assert len(store) == 0
        assert "another" in store.notes[0]
        assert path.with_name("x.jsonl.other").read_bytes() == content
        store.put(self.timing(1))
        assert len(Store(path, self.FACTS)) == 1

    def test_timings_of_another_device_are_not_used(self, tmp_path: Path) -> None:
        self.filled(tmp_path / "x.jsonl")
        store = Store(tmp_path / "x.jsonl", {**self.FACTS, "threads": 1})
        assert len(store) == 0
        assert "another device" in store.notes[0]

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(CacheError, match="AUTOPRUNE_CACHE"):
            Store(tmp_path / "file" / "x.jsonl", self.FACTS)

    def test_a_damaged_timing_is_measured_again(self) -> None:
        model().learn()
        lines = cache_file().read_bytes().splitlines(keepends=True)
        lines[5] = lines[5].replace(b"build", b"BUILD").replace(b"unseen", b"UNSEEN").replace(b"again", b"AGAIN")
        cache_file().write_bytes(b"".join(lines))
        cost = model(Counting())
        cost.learn()
        assert Counting.made == 4  # the dense network, that one, and two anchors
        assert "damaged" in cost.notes[0]

    def test_other_settings_have_other_names(self) -> None:
        assert named(self.FACTS) != named({**self.FACTS, "threads": 1})
