"""An agent that one search has trained, on another network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoprune.command import cli
from autoprune.controllers.ddpg_portable import PortableDDPG
from autoprune.controllers.walk.walk import FEATURES, Walk
from autoprune.errors import PolicyError
from autoprune.files import agent_file
from autoprune.files.agent_file import Agent
from autoprune.runs import agents, lifecycle, loop, warm
from tests import ASSETS
from tests.command.test_reuse import refused
from tests.runs.test_warm import SMALL, built, deeper

PORTABLE = {"use": "ddpg-portable", **SMALL}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an agent that has searched the tiny task."""
    folder, of = tmp_path_factory.mktemp("agent"), built(PORTABLE)
    controller = of.controller()
    with lifecycle.begin(of, folder) as run:
        loop.search(controller, of.attempt, run, trials=6)
    agents.kept(controller, folder)
    return folder / agent_file.NAME


def test_the_file_says_what_its_state_is_and_acts_as_the_agent(trained: Path) -> None:
    read = agent_file.read(trained)
    assert read.state == FEATURES
    assert read.learner == "ddpg-portable"
    of = built(PORTABLE)
    controller = of.controller()
    assert isinstance(controller, PortableDDPG)
    again = PortableDDPG(of.space, of.budget, hidden=(8,), agent=str(trained))
    seen = Walk(of.space, of.budget).observe(())
    with torch.no_grad():
        assert again._share(seen) == pytest.approx(read.share(seen.astype(float)), abs=1e-5)
        assert controller._share(seen) != pytest.approx(read.share(seen.astype(float)), abs=1e-3)


@pytest.mark.parametrize("budget", ["30%", "60%"])
def test_one_walk_over_another_network_meets_the_budget(trained: Path, budget: str) -> None:
    of = built(task=deeper(), budget={"macs": budget})
    found = agents.rolled(of, trained)
    assert of.budget.admits(found.policy)
    assert of.space.contains(found.policy)
    assert warm.start(of, [trained]).first == (found.policy,)


def test_it_is_trained_on_without_a_warm_up(trained: Path) -> None:
    of = built(task=deeper())
    on = PortableDDPG(of.space, of.budget, hidden=(8,), gradient_steps=1, batch=4, noise=0.0, agent=str(trained))
    assert on.warmup == 0
    assert on.ask() == agents.rolled(of, trained).policy
    before = {name: tensor.clone() for name, tensor in on.trained.items()}
    for number in range(3):
        on.tell(of.attempt(number, on.ask()))
    assert any(not torch.equal(tensor, on.trained[name]) for name, tensor in before.items())


def test_mistakes_are_one_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = agent_file.read(trained)
    first = good.tensors["actor.mu.0.weight"]
    cases = {
        "state": (Agent("x", ("depth",), good.tensors), "layer 0 of its actor has weights"),
        "other": (Agent("x", tuple("abcdefghijk"), good.tensors), "looks at a, b, c"),
        "nan": (Agent("x", FEATURES, {**good.tensors, "actor.mu.0.weight": first * np.nan}), "holds NaN"),
        "empty": (Agent("x", FEATURES, {"critic.qf0.0.weight": first}), "it has no layers actor.mu.0"),
    }
    space = f"{ASSETS / 'mine.py'}:make"
    for name, (agent, told) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        agent_file.write(path, agent)
        command = ["transfer", path, "--to", space, "--budget", "macs=50%", "--quiet", "--out", tmp_path / "runs"]
        assert told in refused(capsys, *command)
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(b"no tensors")
    assert "is no safetensors file" in refused(capsys, "transfer", plain, "--to", space, "--budget", "macs=50%")
    weights = ASSETS.parents[1] / "autoprune" / "data" / "resnet20_fashion_mnist.safetensors"
    assert "is no agent of version 1" in refused(capsys, "transfer", weights, "--to", space, "--budget", "macs=50%")
    assert not (tmp_path / "runs").exists()
    of = built()
    wide = PortableDDPG(of.space, of.budget, hidden=(9,), agent=str(trained))
    with pytest.raises(PolicyError, match=r"holds another actor than this one of hidden = \[9\]"):
        _ = wide.algorithm


def test_a_search_leaves_its_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = built(PORTABLE, search={"trials": 3})
    monkeypatch.setattr(lifecycle, "finish", lambda *given, **named: (_ for _ in ()).throw(KeyboardInterrupt))
    with lifecycle.begin(of, tmp_path) as run, pytest.raises(KeyboardInterrupt):
        lifecycle.complete(of, run)
    assert agent_file.read(run.directory / agent_file.NAME).state == FEATURES


def test_other_agents_are_tied_to_their_network_and_leave_none(tmp_path: Path) -> None:
    agents.kept(built({"use": "ddpg", **SMALL}).controller(), tmp_path)
    assert not list(tmp_path.iterdir())
    assert cli.main(["plugins", "ddpg-portable", "--quiet"]) == 0
