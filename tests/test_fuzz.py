"""Every file that is read, spoilt in thousands of ways: it loads as it is written, or one line says what is wrong.

A few dozen of each by default; 10,000 of each with `-m slow`.
"""

from __future__ import annotations

import io
import json
import lzma
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import nn

from autoprune import config, trust
from autoprune.costs.latency.model import Latency
from autoprune.costs.latency.timings import Store
from autoprune.data import idx
from autoprune.detection import voc
from autoprune.errors import AutopruneError
from autoprune.evaluators.shared.resumable_training import Course
from autoprune.files import agent_file, disk, export, policy_file
from autoprune.report import facts
from autoprune.runs import journal, lines, machine, prior
from autoprune.runs.journal import Run
from autoprune.tasks import spoken_digits
from autoprune.train import Recipe
from autoprune.values import prior as regression
from autoprune.values.roles import carried
from autoprune.values.space import Policy, SearchSpace
from tests import ASSETS
from tests.making import REBUILD, done, failed, group, thinner
from tests.mutations import as_json, as_toml, changed, files, places, spoilt

SPACE = SearchSpace("toy", (group("a", 8, ("a", "b")), group("b", 16, ("b",), step=4)))
CONFIG = {"name": "toy", "search": {"trials": 3, "seed": 0}}
SECONDS = 5  # of the processor, for one file


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        name: of the file.
        inputs: what it may hold.
        read: reads it, and fails where what was accepted is not used as it was written.
    """

    name: str
    inputs: st.SearchStrategy[bytes]
    read: Callable[[Path], None]


def json_files(valid: Any, *more: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return files(as_json(valid), changed(valid).map(as_json), *more)


def holds(made: Any, written: Any) -> None:
    """Fail where something was written that is not there now, or is something else there."""
    for way in places(written):
        here, there = made, written
        for key in way:
            here, there = here[key], there[key]
        if not isinstance(there, dict | list):
            assert here == there, way
            assert isinstance(here, bool) == isinstance(there, bool), way
            assert isinstance(here, str) == isinstance(there, str), way


# search spaces, and what a run writes


def toml(file: Path) -> None:
    made = config.read(file)
    assert config.parse(json.loads(json.dumps(made.plain())), "config.json") == made


def config_json(file: Path) -> None:
    made = trust.restored(disk.read_json(file), "config.json")
    holds(made.plain(), json.loads(file.read_bytes()))
    assert config.parse(made.plain(), "config.json") == made


def policy_json(file: Path) -> None:
    made, written = policy_file.read(file), json.loads(file.read_bytes())
    if written["schema_version"] == policy_file.SCHEMA:
        holds(made.model_dump(mode="json"), written)
    policy_file.write(file, made)
    assert policy_file.read(file) == made


def machine_json(file: Path) -> None:
    found = machine.read(file.parent)
    holds(found, json.loads(file.read_bytes()))
    nothing: Any = None
    cost = Latency(SPACE, nothing, nothing, nothing, known=found.get("costs", {}).get("latency", {}))
    if cost.known:
        cost.learn()
        assert np.isfinite(cost.predict(SPACE.thinnest()))


def space_json(file: Path) -> None:
    journal.require_same(file.parent, SPACE)


def report_json(file: Path) -> None:
    made, written = facts.read(file.parent), json.loads(file.read_bytes())
    if written["schema_version"] == facts.SCHEMA:
        holds(json.loads(json.dumps(made.plain())), written)


def journal_file(file: Path) -> None:
    for other in file.parent.iterdir():
        if other != file:
            other.unlink()
    with Run(file.parent, CONFIG, SPACE, {"precision": "fp32"}) as opened:
        for trial in opened.trials:
            SPACE.require(trial.policy)
        before = opened.trials
    with Run(file.parent, CONFIG, SPACE, {"precision": "fp32"}) as again:
        assert again.trials == before


def whole_journal(folder: Path) -> list[dict[str, Any]]:
    with Run(folder, CONFIG, SPACE, {"precision": "fp32"}) as opened:
        opened.append(done(0, Policy.of((4, 8)), 0.5, {"macs": 1.0}, seconds={"ask": 0.1}))
        opened.append(failed(1, Policy.of((8, 16)), "out of memory", {"macs": 2.0}))
    return [disk.unsealed(line) for line in (folder / "trials.jsonl").read_bytes().splitlines()]


def sealed(entries: Any) -> bytes:
    """Lines whose checksums are right, whatever they hold."""
    bodies = [as_json(one)[:-1] for one in (entries if isinstance(entries, list) else [entries])]
    return b"".join(body + b', "crc": "%08x"}\n' % zlib.crc32(body) for body in bodies)


def timings(file: Path) -> None:
    store = Store(file, {"of": "x"})
    for kept in [key for _, key in store._held]:
        timing = store.get("build", kept)
        assert timing is None or (timing.ratio >= 0 and timing.dense >= 0)
    assert len(Store(file, {"of": "x"})) == len(store)


# weights


def portable_policy(file: Path) -> None:
    policy_json(file)
    read = policy_file.read(file).placed()
    assert all(0 <= one.sparsity <= 1 for one in carried(read, read))


def learnt_prior(file: Path) -> None:
    made, choices = prior.read(file), policy_file.read(ASSETS / "policies" / "resnet20_cifar10.json").placed()
    found = regression.sparsity(np.array(made.weights), choices)
    assert ((found >= 0) & (found < 1)).all()


def walking_agent(file: Path) -> None:
    agent = agent_file.read(file)
    assert 0 <= agent.share(np.full(len(agent.state), 0.5)) <= 1


def an_agent(folder: Path) -> st.SearchStrategy[bytes]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    actor = {f"actor.mu.{name}": tensor for name, tensor in net.state_dict().items()}
    agent_file.write(folder / agent_file.NAME, agent_file.Agent("ddpg-portable", ("a", "b", "c"), actor))
    return weights_of(folder / agent_file.NAME)


def a_prior() -> Any:
    names = dict.fromkeys(regression.FEATURES, 0.25)
    runs = [{"name": "r", "trials": 9, "choices": 3}]
    return {"prior_version": 1, "kinds": ["channel"], "features": list(names), "weights": list(names.values()),
            "explained": None, "runs": runs}  # fmt: skip


def weights(file: Path) -> None:
    model = export.load(file)
    with torch.inference_mode():
        model(torch.zeros(1, 1, 28, 28))


def weights_of(file: Path) -> st.SearchStrategy[bytes]:
    """A safetensors file with changes in its header, in what its header says in JSON, or in its bytes."""
    valid = file.read_bytes()
    size = int.from_bytes(valid[:8], "little")
    header, rest = json.loads(valid[8 : 8 + size]), valid[8 + size :]
    about = header["__metadata__"]

    def packed(head: Any) -> bytes:
        text = as_json(head)
        return len(text).to_bytes(8, "little") + text + rest

    def said(word: str) -> st.SearchStrategy[bytes]:
        told = changed(json.loads(about[word])).map(as_json)
        return told.map(lambda text: packed({**header, "__metadata__": {**about, word: text.decode()}}))

    words = [word for word, text in about.items() if text.startswith(("{", "["))]
    return st.one_of(changed(header).map(packed), spoilt(valid), *map(said, words))


def a_network(folder: Path) -> st.SearchStrategy[bytes]:
    export.save(thinner(), folder / "model.safetensors", rebuild=REBUILD)
    return weights_of(folder / "model.safetensors")


def course() -> Course:
    torch.manual_seed(0)
    return Course(nn.Linear(3, 2), Recipe(steps=4), 0, {"start": "dense"}, {"criterion": "l2"})


def course_file(file: Path) -> None:
    begun = course()
    begun.take_up(file)
    assert begun.step >= 0
    assert all(parameter.isfinite().all() for parameter in begun.module.parameters())


def a_course(folder: Path) -> st.SearchStrategy[bytes]:
    course().write(folder / "course.safetensors")
    return weights_of(folder / "course.safetensors")


# data


def idx_file(file: Path) -> None:
    found = idx.read(file.parent, "x", 1000)
    assert found.size <= 1000


def recordings(file: Path) -> None:
    for split in spoken_digits.splits(file.parent, "takes"):
        assert split.features.isfinite().all()


def photographs(file: Path) -> None:
    folder = voc.find(file, "BCCD")
    voc.load(voc.read(folder, "train"), ("cell",), 8, augment=False)


def zipped(members: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return held.getvalue()


def a_zip(members: dict[str, bytes], *inner: st.SearchStrategy[dict[str, bytes]]) -> st.SearchStrategy[bytes]:
    """A zip file in which a member is spoilt, or itself is."""
    one = st.sampled_from(sorted(members)).flatmap(lambda name: spoilt(members[name]).map(lambda new: {name: new}))
    return files(zipped(members), *(some.map(lambda new: zipped({**members, **new})) for some in (one, *inner)))


def npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


def a_npz() -> st.SearchStrategy[bytes]:
    whole = np.arange(6)
    arrays = {
        "samples": np.arange(60),
        "offset": 10 * np.arange(7),
        "digit": whole,
        "speaker": whole,
        "take": 3 * whole,
    }
    members = {f"{name}.npy": npy(array.astype(np.int16)) for name, array in arrays.items()}
    kinds = st.sampled_from(["<i2", "<f8", "|u1", "<U3", "<M8[s]", "<c8", ">i4", "|b1"])
    shapes = st.sampled_from([(), (0,), (1,), (6,), (7,), (2, 3)])
    other = st.tuples(st.sampled_from(sorted(members)), kinds, shapes)
    return a_zip(members, other.map(lambda it: {it[0]: npy(np.zeros(it[2], it[1]))}))


def a_data_set() -> st.SearchStrategy[bytes]:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow, of the extra `detection`")
    held = io.BytesIO()
    image.new("RGB", (12, 8), (9, 0, 0)).save(held, "PNG")
    told = {f"{n}.png": {"split": "train", "boxes": [["cell", 1, 1, 5, 5]]} for n in range(2)}
    members = {"annotations.json": as_json(told), **{f"images/{name}": held.getvalue() for name in told}}
    return a_zip(members, changed(told).map(lambda new: {"annotations.json": as_json(new)}))


# all kinds


def golden(run: str, name: str) -> Any:
    return json.loads((ASSETS / "golden" / run / name).read_text())


def a_table(folder: Path) -> Reader:
    asked = {key: value for key, value in golden("golden", "config.json").items() if key != "name"}

    def text(tables: Any) -> bytes:
        pairs = tables.items() if isinstance(tables, dict) else [("task", tables)]
        try:
            return "\n".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in pairs if v is not None).encode()
        except RecursionError:
            return b"task = " + b"[" * 900

    return Reader("mine.toml", files(text(asked), changed(asked).map(text)), toml)


def a_journal(folder: Path) -> Reader:
    entries = whole_journal(folder)
    return Reader("trials.jsonl", files(sealed(entries), changed(entries).map(sealed)), journal_file)


def a_store(folder: Path) -> Reader:
    entry = {"part": "build", "kept": [4, 8], "ratio": 0.5, "spread": 0.1, "dense": 3.0}
    held = [{"facts": {"of": "x"}}, entry, {**entry, "kept": [2, 4]}]
    return Reader("x.jsonl", files(sealed(held), changed(held).map(sealed)), timings)


def a_file(name: str, valid: Callable[[], Any], read: Callable[[Path], None]) -> Callable[[Path], Reader]:
    return lambda folder: Reader(name, json_files(valid()), read)


PLAIN = b"\0\0\x08\2\0\0\0\3\0\0\0\2" + bytes(range(6))
PACKED = files(lzma.compress(PLAIN), spoilt(PLAIN).map(lzma.compress))
READERS: dict[str, Callable[[Path], Reader]] = {
    "toml": a_table,
    "config": a_file("config.json", lambda: golden("golden", "config.json"), config_json),
    "policy": a_file("policy.json", lambda: golden("golden", "policy.json"), policy_json),
    "portable": a_file(
        "policy.json", lambda: json.loads((ASSETS / "policies" / "resnet20_cifar10.json").read_text()), portable_policy
    ),
    "prior": a_file("prior.json", a_prior, learnt_prior),
    "agent": lambda folder: Reader(agent_file.NAME, an_agent(folder), walking_agent),
    "machine": a_file("machine.json", lambda: golden("golden_latency", "machine.json"), machine_json),
    "space": a_file("space.json", lambda: lines.described(SPACE), space_json),
    "report": a_file("report.json", lambda: golden("golden", "report.json"), report_json),
    "journal": a_journal,
    "timings": a_store,
    "weights": lambda folder: Reader("model.safetensors", a_network(folder), weights),
    "course": lambda folder: Reader("course.safetensors", a_course(folder), course_file),
    "idx": lambda folder: Reader("x", files(PLAIN), idx_file),
    "xz": lambda folder: Reader("x.xz", PACKED, idx_file),
    "npz": lambda folder: Reader(spoken_digits.FILE, a_npz(), recordings),
    "zip": lambda folder: Reader("bccd.zip", a_data_set(), photographs),
}


def hunt(name: str, examples: int, folder: Path) -> None:
    """Read so many files of a kind; each loads, or raises one of our errors with one line."""
    reader = READERS[name](folder)
    place = folder / "read"
    place.mkdir()

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck), derandomize=examples < 100)
    @given(reader.inputs)
    def once(content: bytes) -> None:
        (place / reader.name).write_bytes(content)
        begun = time.process_time()
        said = "it loads"
        try:
            reader.read(place / reader.name)
        except AutopruneError as wrong:
            said = str(wrong)
        assert len(said.splitlines()) == 1
        assert time.process_time() - begun < SECONDS

    once()


@pytest.mark.parametrize("name", READERS)
def test_a_spoilt_file_loads_as_it_is_written_or_is_one_line(name: str, tmp_path: Path) -> None:
    hunt(name, 40, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", READERS)
def test_ten_thousand_spoilt_files_load_as_they_are_written_or_are_one_line(name: str, tmp_path: Path) -> None:
    hunt(name, 10_000, tmp_path)
