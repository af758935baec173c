"""After the search: the comparison is fair, the test split is read once, and the page shows the facts."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from autoprune import config
from autoprune.errors import ModelError, PolicyError, RunError
from autoprune.evaluators.recalibrate import Recalibrate
from autoprune.files import export, policy_file, programs
from autoprune.files.compared import Exported
from autoprune.protocols import Evaluator, Score, silent
from autoprune.report import facts as report, page as pages, plots, words
from autoprune.report.facts import BEFORE, Agreement, ChoiceFacts, FrozenFacts, Limit, Network, Report, Role, TrialFacts
from autoprune.runs import compare, lifecycle, loop, study
from autoprune.runs.apply import apply_policy
from autoprune.runs.baselines import Baselines
from autoprune.runs.deliver import finish
from autoprune.runs.journal import Run
from autoprune.runs.study import Study
from autoprune.structure.prune import Candidate
from autoprune.task import Images, Split, Task, top1
from autoprune.values.space import Policy
from tests.making import done


def facts(trials: int = 12, *, limits: bool = True, metric_name: str = "top-1", reward: str = "metric") -> Report:
    """A report made up by hand: the third trial failed, the fifth is hopeless, the last is best."""
    metrics = [None if i == 2 else 0.2 if i == 4 else 0.8 + 0.01 * i for i in range(trials)]
    costs = {"macs": 15.4e6, "params": 140e3}
    tried = tuple(
        TrialFacts(i, m, m, {**costs, "params": 140e3 + 1e3 * i}, "" if m else "NaN") for i, m in enumerate(metrics)
    )
    dense = {"macs": 31_021_952.0, "params": 269_722.0}
    rows = {
        "dense": Network(0.94, 0.94, 0.9364, dense, 1_090_000, (16, 64)),
        "ours": Network(0.91, 0.936, 0.9312, costs, 640_000, (8, 60)),
        "uniform": Network(0.84, 0.929, 0.9268, costs, 560_000, (11, 45)),
        "rule": Network(0.85, 0.930, 0.9270, costs, 590_000, (12, 44)),
        "random": Network(0.86, 0.931, 0.9279, costs, 600_000, (14, 40)),
    }
    ceiling = Limit("macs", "MAC", "50%", 15_510_976, 31_021_952, 15.4e6, 15.4e6)
    return Report(
        name="demo <space>",
        task="demo",
        metric_name=metric_name,
        in_percent=metric_name == "top-1",
        images={"train": 10, "holdout": 5, "test": 5},
        plugins={"controller": "evolution", "evaluator": "recalibrate", "criterion": "l1", "reward": reward},
        units={"macs": "MAC", "params": "param"},
        networks=rows,  # type: ignore[arg-type]
        limits=(ceiling,) if limits else (),
        choices=(
            ChoiceFacts("a", "channel", ("a", "bn_a"), 16, 4, "exact"),
            ChoiceFacts("b" * 60, "channel", ("b",), 64, 13, "shapes"),
        ),
        frozen=(FrozenFacts("stem", 16, "a padded shortcut & more"),),
        trials=tried,
        random_trials=tried[:4],
        rules={"deep": tried[0], "taylor <b>": tried[-1]},
        rule="taylor <b>",
        best=trials - 1,
        seconds={"search: score": 61.0, "search: journal": 1.0, "search: ask": 3.0, "finetune": 120.0},
        exports=(Exported("model.onnx", 2**20, 3e-7, 32),),
        finetune={"steps": 3, "lr": 0.1},
        seed=0,
        versions={"torch": "2"},
        machine={"threads": "2"},
        command="autoprune search demo.toml --seed 0",
        made="2026-01-01 00:00 UTC",
        notes=("A note.",),
        policies_per_second=0.25,
        fidelity=Agreement(0.75, 0.5, 0.875, 0.5, 18, 2),
    )


def only(*roles: Role) -> dict[Role, Network]:
    return {role: facts().networks[role] for role in roles}


def test_a_network_without_multiplications_has_a_page() -> None:
    """As the thinnest MiniLM without its blocks: "float division by zero" before the first trial."""
    made = facts()
    none = dataclasses.replace(made.ours, costs={"macs": 0.0, "params": 10.0})
    bare = dataclasses.replace(made, networks={**made.networks, "ours": none})
    assert (words.times(made), words.times(bare)) == ("2.01", "∞")
    assert f"<b>∞ \u00d7</b><span>{words.lessened(bare)}</span>" in pages.render(bare)


def test_facts_survive_the_disk_and_damage_is_named(tmp_path: Path) -> None:
    pages.write(facts(), tmp_path)
    assert report.read(tmp_path) == facts()
    path = tmp_path / report.FACTS
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": "x"}))
    with pytest.raises(RunError, match=r"report\.json is damaged at seed"):
        report.read(tmp_path)
    path.write_text(json.dumps({**facts().plain(), "schema_version": 99}))
    with pytest.raises(RunError, match=r"report\.json is a report of format 99; 1 and 2 can be read"):
        report.read(tmp_path)
    path.unlink()
    with pytest.raises(RunError, match=r"has no report\.json"):
        report.read(tmp_path)


def test_facts_of_format_1_are_read_for_ever(tmp_path: Path) -> None:
    """Networks were a list, and choices were called groups and had no kind."""
    plain = json.loads(json.dumps(facts().plain()))
    networks = [{"role": role, **network} for role, network in plain.pop("networks").items()]
    groups = [{key: value for key, value in one.items() if key != "kind"} for one in plain.pop("choices")]
    before = {**plain, "schema_version": 1, "networks": networks, "groups": groups}
    (tmp_path / report.FACTS).write_text(json.dumps(before))
    assert report.read(tmp_path) == facts()


def test_the_sentence_and_the_table_say_the_result() -> None:
    said = words.sentence(facts())
    assert said.startswith("49.6% of the MACs (15.40 M of 31.02 M): test top-1 93.12 %, dense 93.64 %")
    assert "uniform pruning at equal finetuning 92.68 %" in said
    head, *rows = words.table(facts())
    assert [row[0] for row in rows] == [
        "dense",
        "found by evolution",
        "uniform",
        "best of 2 rules, taylor <b>",
        "best of 4 random",
    ]
    assert {len(row) for row in rows} == {len(head)}
    assert "269.7 k (100.0%)" in rows[0]
    gains = [row[head.index("over uniform, searched → test")] for row in rows]
    assert gains == [
        "-",
        "+7.00 → +0.44 points",
        "-",
        "+1.00 → +0.02 points",
        "+2.00 → +0.11 points",
    ]


def test_what_is_delivered_is_what_is_spoken_of() -> None:
    made = dataclasses.replace(facts(), delivered="rule")
    assert "test top-1 92.70 %" in words.sentence(made)
    assert words.remarks(made)[0] == (
        "Delivered is the network of a baseline, best of 2 rules, taylor <b>: after the finetune it was the best on "
        "the holdout, 93.00 % against 93.60 % for the policy that was found by evolution."
    )
    page = pages.render(made)
    assert "Delivered is the network of a baseline" in page
    assert page.count("delivered: the best on the holdout") == 1
    assert "<b>576 KiB</b>" in page  # in the tiles
    assert "against uniform" not in pages.render(dataclasses.replace(facts(), delivered="uniform"))
    assert "uniform pruning" not in words.sentence(dataclasses.replace(facts(), delivered="uniform"))


def test_rules_that_were_scored_are_listed_by_name() -> None:
    page = pages.render(facts())
    assert "Rules of thumb, scored as the search scores" in page
    assert "<tr><td>taylor &lt;b&gt;</td><td>91.00 %</td></tr>" in page
    assert "Rules of thumb" not in pages.render(dataclasses.replace(facts(), rules={}))


def test_the_summary_says_how_true_the_score_is_and_where_the_time_went() -> None:
    assert words.remarks(facts()) == [
        "Score of the search against the slow score: Kendall's tau 0.750 (90 % interval 0.500 to 0.875) "
        "over 18 random policies, 2 failed and left out.",
        "The search took 1 min 05 s, 0.25 policies/s: ask 3.0 s (5%), score 1 min 01 s (94%), journal 1.0 s (2%).",
    ]
    assert facts().stages == {"search": 65.0, "finetune": 120.0}
    prepared = dataclasses.replace(facts(), seconds={**facts().seconds, BEFORE: 9.0})
    assert list(prepared.stages.items()) == [(BEFORE, 9.0), ("search", 65.0), ("finetune", 120.0)]
    older = dataclasses.replace(facts(), fidelity=None, policies_per_second=0.0)
    assert words.remarks(older) == [words.remarks(facts())[1].replace(", 0.25 policies/s", "")]
    assert words.remarks(dataclasses.replace(older, seconds={})) == []


def test_the_report_says_how_many_different_networks_were_scored() -> None:
    made = facts(trials=30)
    failed = sum(t.metric is None for t in made.trials)
    said = f"30 trials by evolution scored 2 different networks, {failed} failed"
    assert failed
    assert f"{said}." in words.remarks(dataclasses.replace(made, scored=2))
    assert f"<p>{said}; the best is trial" in pages.render(dataclasses.replace(made, scored=2))
    older = pages.render(made)
    assert "<p>30 trials by evolution; the best is trial" in older
    alone = dataclasses.replace(made, trials=made.trials[:1], scored=1)
    assert words.searched(alone) == "1 trial by evolution scored 1 different network"


def test_phases_of_a_trial_come_in_its_order_and_unknown_ones_last() -> None:
    phases = ("own", "journal", "score", "recover", "prune", "ask")
    made = dataclasses.replace(facts(), seconds={"export": 9.0, **{f"search: {phase}": 1.0 for phase in phases}})
    assert list(made.searching) == ["ask", "prune", "recover", "score", "journal", "own"]
    assert made.stages == {"search": 6.0, "export": 9.0}


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (words.quantity(20_460_000), "20.46 M"),
        (words.quantity(135_000), "135.0 k"),
        (words.quantity(12), "12"),
        (words.size(2**20), "1.00 MiB"),
        (words.size(2048), "2 KiB"),
        (words.duration(9.04), "9.0 s"),
        (words.duration(119.6), "2 min 00 s"),
        (words.duration(3_700), "1 h 01 min"),
        (words.gap(facts(), -0.0052), "−0.52 points"),  # noqa: RUF001
        (words.gap(facts(metric_name="F1"), 0.5), "+0.500"),
        (words.gap(facts(), 0.0), "no difference"),
        (words.gap(facts(), -0.00002), "within 0.01 points"),
        (words.gap(facts(metric_name="F1"), 0.0), "no difference"),
        (words.shown(facts(metric_name="F1"), 0.51234), "0.5123"),
    ],
)
def test_numbers_are_written_for_people(shown: str, wanted: str) -> None:
    assert shown == wanted


@pytest.mark.parametrize(
    "made",
    [
        facts(),
        facts(limits=False),
        facts(trials=1),
        facts(metric_name="F1", reward="r_flops"),
        dataclasses.replace(facts(), networks=only("dense", "ours"), random_trials=(), frozen=(), notes=()),
        dataclasses.replace(facts(), seconds={}, policies_per_second=0.0, fidelity=None),
    ],
    ids=["full", "no budget", "one trial", "other metric", "no baselines", "no times"],
)
def test_the_page_is_one_file_without_references(made: Report) -> None:
    page = pages.render(made)
    assert page.count("<svg ") == 2
    assert "demo &lt;space&gt;" in page
    assert "<space>" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "@import" not in page
    assert "url(" not in page.replace("url(#", "")
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page)) <= set(identifiers)


def test_the_page_shows_what_it_must() -> None:
    page = pages.render(facts())
    for said in ("93.12 %", "found by evolution", "best of 4 random", "15,510,976", "50%", "A note.", "2 min 00 s",
                  "a padded shortcut &amp; more", "autoprune search demo.toml --seed 0", "3.0e-07",
                  "Within the search: 0.25 policies/s",
                  "tau 0.750 (90 % interval 0.500 to 0.875) over 18 random policies"):  # fmt: skip
        assert said in page
    assert ">met<" in page
    assert "slow score" not in pages.render(dataclasses.replace(facts(), fidelity=None))
    over = dataclasses.replace(facts().limits[0], counted=15_510_977)
    assert ">exceeded<" in pages.render(dataclasses.replace(facts(), limits=(over,)))


@pytest.mark.parametrize("draw", [plots.progress, plots.tradeoff])
def test_pictures_are_svg_in_the_colours_of_the_page(draw: object) -> None:
    svg = draw(facts())  # type: ignore[operator]
    ET.fromstring(svg)
    assert "var(--ours)" in svg
    assert not set(re.findall(r"#[0-9a-f]{6}\b", svg)) & set(plots.VARIABLES)
    assert svg == draw(facts())  # type: ignore[operator]


def test_the_front_holds_what_no_cheaper_trial_beats() -> None:
    points = [(3.0, 0.5), (1.0, 0.2), (2.0, 0.1), (2.0, 0.4), (4.0, 0.5), (5.0, None)]
    tried = tuple(TrialFacts(i, m, m, {"macs": cost, "params": 1.0}) for i, (cost, m) in enumerate(points))
    found = dataclasses.replace(facts(), trials=tried)
    assert [t.number for t in found.front("macs")] == [1, 3, 0]
    assert [t.number for t in found.front("macs", most=2)] == [1, 0]


def test_a_front_is_shown_where_quality_is_traded_for_cost() -> None:
    made = facts(limits=False)
    assert not made.trades("macs")  # every trial costs the same
    assert "The front" not in pages.render(made) + " ".join(words.remarks(made))
    spread = tuple(dataclasses.replace(t, costs={**t.costs, "macs": 1e6 * (t.number + 5)}) for t in made.trials)
    trading = dataclasses.replace(made, trials=spread)
    assert trading.trades("macs")
    assert "The front has" in words.remarks(trading)[-1]


@pytest.mark.parametrize("cost", ["macs", "params", "latency"])
def test_the_advice_under_a_front_names_the_cost_of_the_run_and_a_ceiling_that_a_trial_meets(cost: str) -> None:
    """It was `--at macs=40%`, whatever the run was of."""
    made = facts()
    scored = [t for t in made.trials if t.metric is not None]
    shares = {t.number: 0.5 + 0.02 * t.number for t in scored}
    trials = tuple(dataclasses.replace(t, costs={cost: 3e6 * shares[t.number]}) for t in scored)
    networks = {role: dataclasses.replace(n, costs={cost: 3e6}) for role, n in made.networks.items()}
    units = {cost: {"macs": "MAC", "params": "param", "latency": "ms"}[cost]}
    run = dataclasses.replace(made, trials=trials, networks=networks, units=units, limits=())
    asked = re.search(r"`autoprune apply runs/x --at (\w+)=(\d+)%`", words.remarks(run, "runs/x")[-1])
    assert asked is not None
    assert asked[1] == cost
    assert min(shares.values()) < int(asked[2]) / 100 < 1
    assert f"autoprune apply RUN --at {cost}={asked[2]}%" in pages.render(run)


def of_latency() -> Report:
    """The report as of a run whose budget is a latency."""
    costs = {"dense": 0.0612, "ours": 0.0436, "uniform": 0.0475, "rule": 0.0465, "random": 0.0455}
    rows = {role: dataclasses.replace(n, costs={"latency": costs[role]}) for role, n in facts().networks.items()}
    ceiling = Limit("latency", "ms", "75%", 0.0459, 0.0612, 0.0446, 0.0436, 0.011, "on ort 1, x2: predicted within 2%")
    trials = tuple(dataclasses.replace(t, costs={"latency": 0.04 + 0.001 * t.number}) for t in facts(30).trials)
    own = {"controller": "/home/me/mine.py:Halves"}
    learnt = {"costs": "{'latency': {'weights': [0.123456789]}}", "threads": "1"}
    return dataclasses.replace(
        facts(30), networks=rows, limits=(ceiling,), trials=trials, units={"latency": "ms"}, machine=learnt, traded="",
        plugins={**facts().plugins, **own},
    )  # fmt: skip


def test_the_page_of_a_latency_speaks_of_a_latency() -> None:
    """It had "fewer latency", PyTorch's counter, an axis "40 m" without a unit and pages of floats."""
    page = pages.render(of_latency())
    assert "<b>1.40 ×</b><span>less latency: 0.06120 → 0.04360 ms<" in page  # noqa: RUF001 - as it stands there
    assert "counter" not in page
    assert "Latency on ort 1, x2: predicted within 2%; the pruned network itself was measured." in page
    assert "latency, ms</text>" in page
    assert "40 m<" not in page
    assert "0.123456789" not in page
    assert "counted on the pruned network itself" in pages.render(facts())
    assert "<span>fewer MACs: 31.02 M → 15.40 M<" in pages.render(facts())


def test_a_plugin_of_ones_own_is_called_as_it_was_written() -> None:
    """Titles had the folders of its file, from the root on."""
    page = pages.render(of_latency())
    assert "found by mine.py:Halves" in page
    assert "mine.py:Halves, best so far" in page
    assert page.count("/home/me/") == 1  # to repeat it


def test_the_table_of_a_front_has_all_its_points_and_the_winner() -> None:
    """It had 10 of 17, and not the winner."""
    made = of_latency()
    table = pages.render(made).partition("<th>trial</th>")[2].partition("</table>")[0]
    numbers = [int(n) for n in re.findall(r"<tr(?: class=\"taken\")?><td>(\d+)", table)]
    assert set(numbers) == {t.number for t in made.front("latency")} | {made.best}
    assert f"<td>{made.best}, the winner</td>" in table
    many = dataclasses.replace(made, best=2)
    assert 2 in [t.number for t in many.front_and_best("latency", 5)]
    assert len(many.front_and_best("latency", 5)) <= 6


def test_trials_are_counted_as_in_the_files() -> None:
    """The page counted from 1, the journal from 0."""
    page = pages.render(facts())
    assert "the best is trial 11, counted from 0." in page


def test_networks_that_were_trained_from_scratch_are_not_called_finetuned() -> None:
    made = dataclasses.replace(facts(), finetune={"start": "scratch", "steps": 3}, seconds={"training": 1.0})
    page = pages.render(made)
    assert "was trained from scratch by the same recipe" in page
    assert "finetune" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    assert "at equal training" in words.sentence(made)


def test_networks_that_were_not_finetuned_are_not_said_to_be() -> None:
    """With epochs = 0, "every pruned network was finetuned by the same recipe" stood there."""
    made = dataclasses.replace(facts(), finetune={"start": "pruned", "steps": 0})
    page = pages.render(made)
    assert "No pruned network was finetuned" in page
    assert "was finetuned by the same recipe" not in page
    assert "before finetune" not in page
    assert "uniform pruning, not finetuned either, 92.68 %" in words.sentence(made)


# the whole way, on a small network


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn_a = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.b, self.bn_b = nn.Conv2d(12, 16, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn_a(self.a(x)))
        return self.head(torch.relu(self.bn_b(self.b(x))).mean((2, 3)))


class Counted(Images):
    """A split that counts how often it is read."""

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        reads.append(len(self))
        yield from super().batches(size)


reads: list[int] = []


def split(count: int, seed: int, kind: type[Images] = Images) -> Split:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return kind(pixels, torch.randint(0, 4, (count,), generator=generator), (0.5,), (0.3,))


def small_task(seed: int = 0) -> Task:
    torch.manual_seed(seed)
    return Task(
        model=Net(),
        example=torch.zeros(1, 1, 8, 8),
        train=split(64, 1),
        holdout=split(40, 2),
        test=split(48, 3, Counted),
        name="small",
        holdout_seen=True,
    )


def searched(task: Task, root: Path, controller: str = "random", trials: int = 4) -> tuple[Study, Run]:
    tables = {
        "name": "small",
        "task": {"use": study.GIVEN},
        "budget": {"macs": "60%"},
        "criterion": {"use": "l1"},
        "evaluator": {"use": "recalibrate", "images": 32, "batch": 16},
        "controller": {"use": controller},
        "search": {"trials": trials},
        "finetune": {"epochs": 1, "batch": 32, "distill": 0.5},
        "report": {"random_trials": 3},
    }
    built = study.build(config.parse(tables, "test"), task=task, found={"precision": "fp32"})
    run = lifecycle.begin(built, root)
    loop.search(built.controller(), loop.remembering(built.attempt, run), run, trials=trials)
    return built, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Run, Report, list[str]]:
    built, run = searched(small_task(), tmp_path_factory.mktemp("runs"))
    reads.clear()
    stages: list[str] = []
    made = finish(built, run, watch=lambda what, done, of: stages.append(f"{what} {done}/{of}"))
    return built, run, made, stages


def test_the_test_split_is_read_once_for_each_network(finished: tuple[Study, Run, Report, list[str]]) -> None:
    built, run, made, _ = finished
    different = {n.kept for n in made.networks.values()}
    assert reads == [48] * len(different)
    assert finish(built, run) == made
    assert reads == [48] * len(different)


def test_the_comparison_holds_what_it_promises(finished: tuple[Study, Run, Report, list[str]]) -> None:
    built, run, made, stages = finished
    assert list(made.networks) == ["dense", "ours", "uniform", "rule", "random"]
    assert {"shallow", "deep", "l2 by its maximum"} & set(made.rules)
    assert max(t.metric or 0 for t in made.rules.values()) == made.rules[made.rule].metric
    found = [n.holdout for role, n in made.networks.items() if role != "dense"]
    assert made.final.holdout == max(n or 0 for n in found)
    assert made.ours.kept == run.best().policy.levels
    assert made.ours.searched == run.best().metric
    assert made.limits[0].predicted == made.limits[0].counted == made.final.costs["macs"]
    assert all(n.costs["macs"] <= made.limits[0].most for role, n in made.networks.items() if role != "dense")
    params = built.costs["params"]
    assert all(n.costs["params"] == params.predict(Policy.of(n.kept)) for n in made.networks.values())
    assert "trained on the holdout" in made.notes[0]
    assert "finetune ours 2/2" in stages
    assert stages[-1] == "export 3/3"


def test_the_files_are_the_network_of_the_report(finished: tuple[Study, Run, Report, list[str]]) -> None:
    built, run, made, _ = finished
    names = {p.name for p in run.directory.iterdir()}
    assert {policy_file.NAME, export.WEIGHTS, programs.PROGRAM, programs.ONNX, report.FACTS, pages.PAGE} <= names
    assert [e.file for e in made.exports] == [export.WEIGHTS, programs.PROGRAM, programs.ONNX]
    back = export.load(run.directory, built.task.model)
    assert built.costs["macs"].measure(back, built.task.example) == made.final.costs["macs"]
    assert top1(back, split(48, 3)) == made.final.test
    assert report.read(run.directory) == made


def test_finishing_leaves_the_dense_network_alone(finished: tuple[Study, Run, Report, list[str]]) -> None:
    built, _, _, _ = finished
    fresh = small_task().model.state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in built.task.model.state_dict().items())


def test_a_policy_is_applied_again_from_its_file(finished: tuple[Study, Run, Report, list[str]]) -> None:
    built, run, made, _ = finished
    again = apply_policy(run.directory, small_task(), finetune=False)
    careful = built.evaluator.careful()  # type: ignore[attr-defined]
    wanted = careful.recover(careful.realise(Policy.of(made.final.kept))).model
    found = again.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.state_dict().items())
    other = apply_policy(run.directory / policy_file.NAME, small_task(seed=5), finetune=False)
    assert [p.shape for p in other.parameters()] == [p.shape for p in again.parameters()]
    with pytest.raises(PolicyError, match="hand it over again"):
        apply_policy(run.directory)


def test_a_policy_for_another_network_is_refused(finished: tuple[Study, Run, Report, list[str]]) -> None:
    _, run, _, _ = finished
    wider = small_task()
    wider.model.b = nn.Conv2d(12, 20, 3, padding=1, stride=2, bias=False)
    wider.model.bn_b, wider.model.head = nn.BatchNorm2d(20), nn.Linear(20, 4)
    with pytest.raises(PolicyError, match="the policy is for another network"):
        apply_policy(run.directory, wider)


def test_a_format_that_fails_is_noted_and_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Exported:
        raise ModelError("model.onnx cannot be written for this network: Unsupported: no")

    monkeypatch.setattr(programs, "export_onnx", refuse)
    built, run = searched(small_task(), tmp_path, controller="uniform", trials=2)
    monkeypatch.setattr(Recalibrate, "notes", ("The evaluator left a layer alone.",))
    made = finish(built, run)
    assert "The evaluator left a layer alone." in made.notes
    assert [e.file for e in made.exports] == [export.WEIGHTS, programs.PROGRAM]
    assert any("model.onnx cannot be written" in note for note in made.notes)
    assert made.networks["uniform"] == made.ours
    assert not (run.directory / programs.ONNX).exists()


# what the winner is compared with


@pytest.mark.parametrize(
    ("reward", "cost"), [({"use": "guaranteed", "cost": "params"}, "params"), ({"use": "r_flops"}, "macs")]
)
def test_uniform_is_taken_at_the_winners_cost_where_no_budget_is_used_up(reward: dict[str, str], cost: str) -> None:
    """It was the dense network."""
    tables = {"task": {"use": study.GIVEN}, "reward": reward}
    task = dataclasses.replace(small_task(), percent=True)
    built = study.build(config.parse(tables, "test"), task=task, found={"precision": "fp32"})
    best, notes = done(0, built.space.snap([0.5, 0.25])), list[str]()
    found = Baselines([], {}).chosen(built, best.policy, notes)["uniform"]
    price = built.costs[cost].predict
    assert price(found) <= price(best.policy) < built.dense[cost]
    assert price(found) > 0.8 * price(best.policy)
    share = f"{price(best.policy) / built.dense[cost]:.1%} of the {words.label(cost)}"
    assert notes == [f"The search need not use a budget up: uniform is taken at the winner's cost, {share}."]


def test_as_many_random_policies_are_scored_as_were_searched_and_none_twice(tmp_path: Path) -> None:
    """The best of 50 that were searched was compared with the best of 20."""
    built, run = searched(small_task(), tmp_path, controller="evolution", trials=7)
    usual = dataclasses.replace(built, config=built.config.model_copy(update={"report": config.Report()}))
    stages = list[str]()
    found = Baselines.scored(usual, run, lambda what, done, of: stages.append(f"{what} {done}/{of}")).random
    assert len(found) == 7
    assert "scoring random policies, to compare with 7/7" in stages
    assert len({t.policy for t in found if t.repeats is None} & {t.policy for t in run}) == 0
    built, run = searched(small_task(), tmp_path, controller="random", trials=4)
    assert [t.repeats for t in Baselines.scored(built, run, silent).random] == [0, 1, 2]


def rows(**holdout: float | None) -> dict[Role, Network]:
    """Networks that differ in their holdout metric, in what they keep, and rise in cost in the order given."""
    return {  # type: ignore[return-value]
        role: Network(0.5, metric, 0.5, {"macs": 10.0 + at, "params": 1.0}, 1, (at,))
        for at, (role, metric) in enumerate(holdout.items())
    }


class Confirms:
    """A verifier that says of a policy what it is told to, and notes what it was asked."""

    def __init__(self, *missed: int) -> None:
        self.missed, self.asked = missed, list[int]()

    def confirms(self, policy: Policy) -> bool:
        self.asked += policy.levels
        return policy.levels[0] not in self.missed


def taken(networks: dict[Role, Network], verifier: Confirms, **tables: object) -> str:
    given = {"task": {"use": study.GIVEN}, "budget": {"macs": "50%"}, **tables}
    built = study.build(config.parse(given, "test"), task=small_task(), found={"precision": "fp32"})
    return compare._delivered(built, networks, verifier)  # type: ignore[arg-type]


def test_the_best_on_the_holdout_is_delivered_whoever_found_it() -> None:
    assert taken(rows(dense=0.99, ours=0.9, uniform=0.91, random=0.89), Confirms()) == "uniform"
    assert taken(rows(dense=0.99, uniform=0.9, random=0.9, ours=0.9), Confirms()) == "ours"
    assert taken(rows(dense=0.99, ours=0.9, rule=None, random=0.95), Confirms()) == "random"
    assert taken(rows(dense=0.99, ours=None, uniform=0.2), Confirms()) == "uniform"
    assert taken(rows(dense=0.99, ours=None, uniform=None), Confirms()) == "ours"


def test_a_baseline_that_misses_the_budget_when_measured_is_not_delivered() -> None:
    asks = Confirms(2)
    assert taken(rows(dense=0.99, ours=0.9, uniform=0.95, rule=0.92), asks) == "rule"
    assert asks.asked == [2, 3]


def test_where_cost_is_traded_a_dearer_network_is_not_delivered() -> None:
    networks = rows(dense=0.99, uniform=0.91, ours=0.9, random=0.95)
    assert taken(networks, Confirms(), budget={}, reward={"use": "r_flops"}) == "uniform"
    assert taken(networks, Confirms()) == "random"


# how true the score of the search is


@dataclasses.dataclass
class Careful(Recalibrate):
    """`recalibrate`, whose slow score is the fast one; it counts the networks that were scored slowly."""

    counted: ClassVar[list[int]] = []

    def careful(self) -> Recalibrate:
        Careful.counted.append(0)
        return Counting(self.bench, images=self.images, batch=self.batch)


class Counting(Recalibrate):
    def score(self, candidate: Candidate) -> Score:
        Careful.counted[-1] += 1
        return super().score(candidate)


def with_care(built: Study, over: dict[str, object] | None = None) -> Study:
    """The study with an evaluator that has a slow score, twelve random policies, and `over` in [report]."""
    own = built.evaluator
    assert isinstance(own, Recalibrate)
    careful = Careful(own.bench, images=32, batch=16)
    asked = built.config.model_copy(update={"report": config.Report(**{"random_trials": 12, **(over or {})})})  # type: ignore[arg-type]
    return dataclasses.replace(built, evaluator=careful, config=asked)


def confidence(model: nn.Module, split: Split) -> float:
    """Differs from policy to policy, as the accuracy of a network that was never trained need not."""
    with torch.inference_mode():
        return float(torch.cat([model(inputs).softmax(1)[:, 0] for inputs, _ in split.batches(20)]).mean())


def test_the_score_of_the_search_is_compared_with_the_slow_one_and_kept(tmp_path: Path) -> None:
    built, run = searched(dataclasses.replace(small_task(), metric=confidence), tmp_path, trials=2)
    Careful.counted.clear()
    made = finish(with_care(built), run)
    assert made.fidelity is not None
    assert [made.fidelity.tau, made.fidelity.low, made.fidelity.high] == pytest.approx([1, 1, 1])
    different = {t.metric for t in made.random_trials}
    assert len(different) <= made.fidelity.policies <= 12
    assert Careful.counted == [made.fidelity.policies]
    assert made.seconds["fidelity"] > 0
    spent = [sum(t.seconds.values()) for t in run]
    assert made.scored == 2
    assert made.policies_per_second == pytest.approx(2 / sum(spent))
    assert sum(made.searching.values()) == pytest.approx(sum(spent))
    assert finish(with_care(built), run) == report.read(run.directory) == made
    assert len(Careful.counted) == 1
    page = (run.directory / pages.PAGE).read_text()
    pages.write_html(run.directory)
    assert (run.directory / pages.PAGE).read_text() == page
    assert words.agreement(made.fidelity) in page.replace("&#39;", "'")


def test_the_comparison_of_scores_is_cut_short_or_left_out_as_asked(tmp_path: Path) -> None:
    built, run = searched(small_task(), tmp_path, trials=2)
    Careful.counted.clear()
    few = finish(with_care(built, {"fidelity": 5}), run)
    assert few.fidelity is not None
    assert (few.fidelity.policies, Careful.counted) == (5, [5])
    (run.directory / report.FACTS).unlink()
    none = finish(with_care(built, {"fidelity": 0}), run)
    assert (none.fidelity, Careful.counted) == (None, [5])
    assert "fidelity" not in none.seconds
    (run.directory / report.FACTS).unlink()
    too_few = finish(with_care(built, {"random_trials": 4}), run)
    assert too_few.fidelity is None
    assert any("fewer than 5 random policies have a slow score" in note for note in too_few.notes)


def test_an_evaluator_without_a_slow_score_is_not_compared(tmp_path: Path) -> None:
    class Only:
        def __init__(self, evaluator: Evaluator) -> None:
            self.realise, self.recover, self.score = evaluator.realise, evaluator.recover, evaluator.score

    built, run = searched(small_task(), tmp_path, trials=2)
    made = finish(dataclasses.replace(with_care(built), evaluator=Only(built.evaluator)), run)
    assert made.fidelity is None
    assert not any("slow score" in note for note in made.notes)
    assert made.policies_per_second > 0


def test_a_run_begun_before_the_comparison_existed_goes_on(tmp_path: Path) -> None:
    built, run = searched(small_task(), tmp_path, trials=2)
    run.close()
    path = run.directory / "config.json"
    before = json.loads(path.read_text())
    del before["report"]["fidelity"]
    path.write_text(json.dumps(before))
    again, opened = lifecycle.reopen(run.directory, trials=3, task=built.task)
    with opened:
        assert (len(opened), again.config.report.fidelity) == (2, 20)
    assert json.loads(path.read_text())["report"]["fidelity"] == 20
