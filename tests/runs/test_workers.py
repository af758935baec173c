"""Workers as users have them: what is refused in one line, and real processes that are killed."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

import autoprune
from autoprune.command.cli import main
from autoprune.config import Workers
from autoprune.errors import ConfigError
from autoprune.runs import workers
from autoprune.runs.workers import Terms
from tests import ASSETS, clusters
from tests.making import SMALL_SEARCH

ROOT = Path(autoprune.__file__).parent


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL_SEARCH)
    return path


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a search with these words ends with."""
    assert main(["search", *map(str, words)]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    return said


def test_without_workers_nothing_of_dask_is_imported() -> None:
    """What imports it at its head is imported by nobody's head."""
    heads = {file: {node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)}
             for file in ROOT.rglob("*.py")}  # fmt: skip
    names = {file: " ".join(ast.unparse(node) for node in nodes) for file, nodes in heads.items()}
    those = {file.stem for file, said in names.items() if "distributed" in said}
    assert those == {"pool", "remote"}
    for file, said in names.items():
        assert file.stem in those or not any(f"runs.{one} import" in said for one in those), file
        assert file.stem in those or not any(f"runs import {one}" in said for one in those), file


def test_none_asked_for_is_nobody() -> None:
    with workers.hired(Workers()) as crew:
        assert crew is None


def test_a_run_without_workers_has_a_window_of_one() -> None:
    assert Terms.of({}) == Terms(window=1, finished=False, threads=0)


class TestRefusals:
    def test_no_workers(self, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["search", str(small), "--workers", "0"])
        assert ended.value.code == 2
        assert "'0' is no number of workers; write a whole number from 1 to 1024" in capsys.readouterr().err

    def test_both_kinds(self, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said = refusal(capsys, small, "--workers", 2, "--set", "workers.cluster=tcp://a:1")
        assert "workers.local = 2 and cluster" in said or "one of them is right" in said

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (
                ["--set", "workers.gpus=all"],
                "workers.gpus = 'all', but search.device = 'cpu', where none of them would",
            ),
            (["--set", "workers.gpus=1", "--workers", "2"], "local = 2 and gpus = 1: one of them is right"),
            (
                ["--set", "workers.gpus=many"],
                "workers.gpus = 'many': a whole number from 0 to 1,024, or 'all' is right",
            ),
        ],
    )
    def test_gpus(self, small: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
        assert said in refusal(capsys, small, *words)

    @pytest.mark.parametrize(
        ("there", "asked", "said"),
        [
            (0, "all", "this machine has no CUDA device; local = N takes processors"),
            (2, 4, "workers.gpus = 4: this machine has 2 CUDA devices; gpus = 'all' takes them"),
        ],
    )
    def test_gpus_that_are_not_there(
        self, there: int, asked: int | str, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("distributed")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
        with pytest.raises(ConfigError, match=re.escape(said)), workers.hired(Workers(gpus=asked)):
            pass

    def test_more_than_the_memory_holds(self, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("distributed")
        said = refusal(capsys, small, "--workers", 1024, "--out", tmp_path / "runs")
        assert "1024 workers need about" in said
        assert said.endswith(" fit")
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            ("nowhere.json", "there is no such file; `dask scheduler --scheduler-file FILE` writes it"),
            ("somewhere", "tcp://HOST:PORT, or the name of a scheduler file (.json), is right"),
        ],
    )
    def test_no_address(self, small: Path, capsys: pytest.CaptureFixture[str], address: str, reason: str) -> None:
        pytest.importorskip("distributed")
        assert reason in refusal(capsys, small, "--cluster", address)

    def test_no_such_cluster(
        self, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("distributed")
        monkeypatch.setattr(workers, "PATIENCE", 0.2)
        said = refusal(capsys, small, "--cluster", "tcp://127.0.0.1:1")
        assert "no scheduler answers at tcp://127.0.0.1:1; `dask scheduler` starts one" in said

    def test_dask_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"pip install 'autoprune\[cluster\]'"), workers.hired(Workers(local=2)):
            pass


class TestWhatAWorkerIsTold:
    def sent(self, **changes: object) -> dict[str, object]:
        from autoprune import config
        from autoprune.runs import remote
        from autoprune.trust import named

        asked = config.parse({"name": "mine", "task": {"use": f"{ASSETS / 'mine.py'}:make"}}, "mine")
        allowed = {code.address: code.digest() for code in named(asked)}
        plain = {"config": asked.plain(), "facts": {}, "allowed": allowed, "threads": 1, "versions": remote.versions()}
        return {**plain, **changes}

    @pytest.fixture(autouse=True)
    def _dask(self) -> None:
        pytest.importorskip("distributed")

    def test_is_built_where_all_is_alike(self) -> None:
        from autoprune.runs import remote

        plugin = remote.Evaluates("name", json.dumps(self.sent()))
        plugin.setup(None)
        assert plugin.study() is plugin.study(), "it is built once"
        assert plugin.study().name == "mine"

    def test_other_versions_are_refused(self) -> None:
        from autoprune.runs import remote

        with pytest.raises(
            ConfigError, match=r"it has torch .* where the search has 1\.0; the same versions are needed"
        ):
            remote._built(self.sent(versions={**remote.versions(), "torch": "1.0"}))

    @pytest.mark.parametrize(("digest", "reason"), [("0" * 64, "is another file here"), (None, "was not allowed")])
    def test_another_file_than_the_search_has_is_not_run(self, digest: str | None, reason: str) -> None:
        from autoprune.runs import remote

        address = f"{ASSETS / 'mine.py'}:make"
        with pytest.raises(ConfigError, match=reason):
            remote._built(self.sent(allowed={address: digest} if digest else {}))

    def test_a_file_that_is_not_there_is_told(self) -> None:
        from autoprune.runs import remote

        sent = self.sent(allowed={"/nowhere/mine.py:make": "0" * 64})
        sent["config"]["task"]["use"] = "/nowhere/mine.py:make"  # type: ignore[index]
        with pytest.raises(ConfigError, match=r"the task '/nowhere/mine\.py:make' cannot be read here"):
            remote._built(sent)

    def test_latency_is_not_timed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a latency model had learnt is sent; a worker that would time a network says so."""
        from autoprune.runs import remote
        from autoprune.targets.pytorch import Torch

        def timed(*given: object) -> None:
            raise AssertionError("a worker times a network")

        monkeypatch.setattr(Torch, "ready", timed)
        monkeypatch.setattr(Torch, "family", timed, raising=False)
        sent = self.sent()
        sent["config"]["budget"] = {"latency": "90%"}  # type: ignore[index]
        sent["config"]["target"] = {"use": "torch"}  # type: ignore[index]
        with pytest.raises(ConfigError, match="what latency had learnt was not sent"):
            remote._built(sent)


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestRealClusters:
    @pytest.fixture(autouse=True)
    def _dask(self) -> None:
        pytest.importorskip("distributed")

    def test_the_demos_task_by_a_scheduler_and_two_workers(self, tmp_path: Path) -> None:
        file = tmp_path / "demo.toml"
        quick = (
            (ASSETS / "quick.toml").read_text().replace("trials = 2", "trials = 6").replace('"random"', '"evolution"')
        )
        file.write_text(quick + "\n[workers]\nwindow = 2\nthreads = 1\n")
        with clusters.started(tmp_path) as cluster:
            words = ["search", file, "--cluster", cluster.file, "--out", tmp_path / "two"]
            status, said = clusters.ended(clusters.begun(words))
            assert status == 0, said
        two = clusters.run_of(tmp_path / "two")
        alone = Path(shutil.copytree(two, tmp_path / "alone" / "demo" / "run"))
        lines = (alone / "trials.jsonl").read_bytes().splitlines(keepends=True)
        (alone / "trials.jsonl").write_bytes(b"".join(lines[:2]))
        status, said = clusters.ended(clusters.begun(["resume", alone, "--workers", "1"]))
        assert status == 0, said
        assert clusters.told(tmp_path / "alone") == clusters.told(tmp_path / "two"), "fewer workers, the same search"

    @pytest.mark.parametrize("who", ["scheduler", "search"])
    def test_killed_a_run_goes_on_exactly(self, tmp_path: Path, who: str) -> None:
        file = clusters.space(tmp_path, trials=16)
        with clusters.started(tmp_path) as cluster:
            words = ["search", file, "--cluster", cluster.file, "--out"]
            assert clusters.ended(clusters.begun([*words, tmp_path / "calm"]))[0] == 0
            process = clusters.begun([*words, tmp_path / "killed"])
            clusters.wait_for(tmp_path / "killed", 5, process)
            if who == "search":
                process.send_signal(signal.SIGKILL)
                process.communicate()
            else:
                cluster.stop()
                status, said = clusters.ended(process)
                assert status == 2
                assert "error: the cluster's scheduler is gone" in said.splitlines()[-1]
                assert f"go on with: autoprune resume {clusters.run_of(tmp_path / 'killed')}" in said.splitlines()[-1]
                cluster.start()
            status, said = clusters.ended(clusters.begun(["resume", clusters.run_of(tmp_path / "killed")]))
            assert status == 0, said
        assert clusters.told(tmp_path / "killed") == clusters.told(tmp_path / "calm")

    def test_local_workers_are_reached_by_the_loopback_alone(self) -> None:
        """Without a dashboard Dask still has a web server, on all interfaces."""
        import psutil

        with workers.hired(Workers(local=1)):
            here = psutil.Process()
            sockets = [c for process in (here, *here.children(recursive=True)) for c in process.net_connections("inet")]
            listening = {c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN}
            assert listening == {"127.0.0.1"}

    @pytest.mark.parametrize(
        ("given", "asked", "expected"), [("", "all", {"0", "1"}), ("5,GPU-3", 2, {"5", "GPU-3"}), ("7,4", 1, {"7"})]
    )
    def test_each_has_a_gpu_of_its_own_after_a_death_too(
        self, given: str, asked: int | str, expected: set[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There is none here: what is seen is what each process is told of CUDA."""
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        with workers.hired(Workers(gpus=asked)) as crew:
            assert crew is not None
            client = crew._client

            def seen() -> dict[int, str]:
                with contextlib.suppress(OSError):  # of the one that dies
                    return dict(client.run(lambda: (os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"])).values())
                return {}

            before = seen()
            assert sorted(before.values()) == sorted(expected)
            assert crew.facts()["workers"]["window"] == len(expected)
            victim = next(iter(before))
            os.kill(victim, signal.SIGKILL)
            until = time.monotonic() + 60
            while victim in (after := seen()) or len(after) < len(before):
                assert time.monotonic() < until
                time.sleep(0.1)
            assert sorted(after.values()) == sorted(expected)

    def test_workers_that_die_cost_no_trial(self, tmp_path: Path) -> None:
        file = clusters.space(tmp_path, trials=24, order="finished")
        with clusters.started(tmp_path) as cluster:
            process = clusters.begun(["search", file, "--cluster", cluster.file, "--out", tmp_path])
            clusters.wait_for(tmp_path, 2, process)
            assert clusters.kill_workers(cluster, process, kills=3, seed=1, apart=4.0) == 3
            status, said = clusters.ended(process)
            assert status == 0, said
        assert len(clusters.told(tmp_path)) == 24

    def test_a_policy_that_kills_its_workers_fails_and_the_search_goes_on(self, tmp_path: Path) -> None:
        file = clusters.space(tmp_path, trials=10)
        file.write_text(file.read_text().replace("seconds =", "deadly = 9\nseconds ="))
        process = clusters.begun(["search", file, "--workers", "2", "--out", tmp_path / "runs"])
        status, said = clusters.ended(process)
        assert status == 0, said
        failed = [line for line in clusters.journal(tmp_path / "runs") if "error" in line]
        assert all(line["policy"][0] == 9 for line in failed)
        assert all("2 workers died while they evaluated it" in line["error"] for line in failed)
        assert len(clusters.told(tmp_path / "runs")) == 10

    def test_loaders_of_data_work_in_workers(self, tmp_path: Path) -> None:
        """Dask's workers are daemonic by default, and may have no children."""
        file = clusters.space(tmp_path, trials=3, evaluator="Loads")
        status, said = clusters.ended(clusters.begun(["search", file, "--workers", "2", "--out", tmp_path / "runs"]))
        assert status == 0, said
        assert all(metric is not None for _, _, metric in clusters.told(tmp_path / "runs"))
