"""Files that hold more than they seem to, or something else: one line, soon, without the memory that they ask for."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from autoprune import bounded, config
from autoprune.detection import voc
from autoprune.errors import AutopruneError, ConfigError, DataError, ModelError, PolicyError, RunError
from autoprune.files import disk, export, policy_file
from autoprune.models import build
from autoprune.models.weights import load_weights
from autoprune.runs import machine
from autoprune.tasks import fashion_mnist, spoken_digits
from tests.making import REBUILD, thinner

PLAIN = 160 * bounded.MIB  # what the bombs here unpack to
SPENT = 120 * bounded.MIB  # what reading them may take


@pytest.fixture
def spent() -> Iterator[None]:
    """Fails where a test holds as much as a bomb unpacks to."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < SPENT


def bomb(pack: Callable[[Any], Any], head: bytes = b"") -> bytes:
    """`head` and 160 MiB of zeros, packed."""
    held = io.BytesIO()
    with pack(held) as opened:
        opened.write(head)
        for _ in range(PLAIN // bounded.MIB):
            opened.write(bytes(bounded.MIB))
    return held.getvalue()


def archive(file: Path, members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", packing) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file


class _Zipped:
    """The only file in a zip file, to be written to."""

    def __init__(self, held: io.BytesIO, name: str) -> None:
        self.archive = zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        self.opened = self.archive.open(name, "w")
        self.write = self.opened.write

    def __enter__(self) -> _Zipped:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()
        self.archive.close()


HEAD = b"\0\0\x08\3" + (PLAIN // 784).to_bytes(4, "big") + (28).to_bytes(4, "big") * 2
BOMBS: dict[str, Callable[[Any], Any]] = {
    ".xz": partial(lzma.LZMAFile, mode="wb", preset=0),
    ".gz": lambda held: gzip.GzipFile(fileobj=held, mode="wb", compresslevel=1),
}


class TestArchives:
    @pytest.mark.usefixtures("spent")
    @pytest.mark.parametrize("ending", BOMBS)
    def test_a_small_archive_in_data_that_opens_to_gigabytes_is_one_line(self, ending: str, tmp_path: Path) -> None:
        file = tmp_path / f"train-images-idx3-ubyte{ending}"
        file.write_bytes(bomb(BOMBS[ending], HEAD))
        assert file.stat().st_size < 2 * bounded.MIB
        with pytest.raises(DataError, match=r"is damaged: it unpacks to more than 47,041,024 bytes") as caught:
            fashion_mnist.splits(str(tmp_path))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("ending", ["", *BOMBS])
    @pytest.mark.parametrize("raw", [b"", b"\0\0\x08", b"\0\0\x08\0", b"\0\0\x08\2\xff", b"\0\0\x08\3" + b"\xff" * 12])
    def test_an_idx_file_that_is_none_is_one_line(self, ending: str, raw: bytes, tmp_path: Path) -> None:
        pack = {".xz": lzma.compress, ".gz": gzip.compress, "": bytes}[ending]
        (tmp_path / f"train-images-idx3-ubyte{ending}").write_bytes(pack(raw))
        with pytest.raises(DataError, match="is damaged"):
            fashion_mnist.splits(str(tmp_path))

    def test_an_archive_that_is_cut_short_or_goes_on_is_damaged(self, tmp_path: Path) -> None:
        whole = lzma.compress(b"\0\0\x08\1\0\0\0\1\7")
        for content, told in ((whole[:-4], "cut short"), (whole + b"more", "follows behind its end")):
            (tmp_path / "train-images-idx3-ubyte.xz").write_bytes(content)
            with pytest.raises(DataError, match=told):
                fashion_mnist.splits(str(tmp_path))

    @pytest.mark.usefixtures("spent")
    def test_an_npz_that_opens_to_gigabytes_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / spoken_digits.FILE).write_bytes(bomb(lambda held: _Zipped(held, "samples.npy")))
        with pytest.raises(DataError, match="it holds more than 134,217,728 bytes"):
            spoken_digits.splits(tmp_path, "takes")

    def test_an_npz_that_says_it_holds_a_petabyte_is_one_line(self, tmp_path: Path) -> None:
        held = io.BytesIO()
        np.lib.format.write_array_header_1_0(held, {"descr": "<i2", "fortran_order": False, "shape": (10**15,)})
        archive(tmp_path / spoken_digits.FILE, {"samples.npy": held.getvalue()})
        with pytest.raises(DataError, match=r"'samples' is of shape \(1000000000000000,\) and holds 0 bytes"):
            spoken_digits.splits(tmp_path, "takes")

    def test_an_npz_of_pickled_objects_is_not_unpickled(self, tmp_path: Path) -> None:
        np.savez(tmp_path / spoken_digits.FILE, samples=np.array([print], dtype=object))
        with pytest.raises(DataError, match="'samples' holds object; numbers are right"):
            spoken_digits.splits(tmp_path, "takes")

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"offset": np.array([0, 9])}, "do not ascend from 0 to 8"),
            ({"offset": np.array([-5, 4])}, "do not ascend"),
            ({"offset": np.array([0.0, 4.0])}, "whole numbers"),
            ({"offset": np.array(3)}, "one dimension"),
            ({"digit": np.array([10])}, "digits are 0 to 9"),
            ({"speaker": np.array([-1])}, "speakers 0 to 5"),
            ({"samples": np.full(8, np.nan)}, "a sample is no number"),
        ],
    )
    def test_an_npz_whose_numbers_do_not_fit_is_one_line(
        self, wrong: dict[str, Any], told: str, tmp_path: Path
    ) -> None:
        one = np.array([1])
        right = {"samples": np.ones(8), "offset": np.array([0, 8]), "digit": one, "speaker": one, "take": one}
        np.savez(tmp_path / spoken_digits.FILE, **{**right, **wrong})
        with pytest.raises(DataError, match=told):
            spoken_digits.splits(tmp_path, "takes")

    @pytest.mark.usefixtures("spent")
    def test_annotations_in_a_zip_that_open_to_gigabytes_are_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "bccd.zip").write_bytes(bomb(lambda held: _Zipped(held, "annotations.json")))
        with pytest.raises(DataError, match="it holds more than 67,108,864 bytes"):
            voc.read(voc.find(tmp_path, "BCCD"), "train")

    def test_a_zip_packed_in_a_way_that_cannot_be_bounded_is_refused(self, tmp_path: Path) -> None:
        archive(tmp_path / "bccd.zip", {"annotations.json": b"{}"}, zipfile.ZIP_BZIP2)
        with pytest.raises(DataError, match="deflate is right"):
            voc.read(voc.find(tmp_path, "BCCD"), "train")

    @pytest.mark.parametrize("pixels", [(20_000, 20_000), (9_000, 12_000)])
    def test_an_image_of_too_many_pixels_is_not_opened(self, pixels: tuple[int, int], tmp_path: Path) -> None:
        image = pytest.importorskip("PIL.Image", reason="needs Pillow, of the extra `detection`")
        (tmp_path / "images").mkdir()
        image.new("1", pixels).save(tmp_path / "images" / "one.png")
        with pytest.raises(DataError, match=r"one\.png cannot be read as an image"):
            voc.load([voc.Photograph(tmp_path / "images" / "one.png", ())], ("a",), 32, augment=False)


def policy(**changes: Any) -> dict[str, Any]:
    """What a policy.json holds, with something else in it."""
    choice = {"name": "a", "layers": ["a"], "kept": 8, "of": 16, "sparsity": 0.5}
    plain = {
        "schema_version": 2,
        "task": {"use": "fashion_mnist"},
        "model": {"architecture": "0", "weights": "0"},
        "space": "s",
        "choices": [choice],
        "criterion": {"use": "l2"},
        "evaluator": {"use": "recalibrate"},
        "budget": {},
        "costs": {},
        "seed": 0,
        "versions": {},
    }
    first = {word: value for word, value in changes.items() if word in choice}
    return {**plain, "choices": [{**choice, **first}], **{w: v for w, v in changes.items() if w not in choice}}


class TestPolicies:
    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"sparsity": float("nan")}, "it holds NaN, which is no number"),
            ({"sparsity": "0.5"}, "choices.0.sparsity: a number from 0 to 1 is right"),
            ({"kept": "8"}, "choices.0.kept: a whole number from 0 to"),
            ({"kept": 8.0}, "choices.0.kept: a whole number from 0 to"),
            ({"seed": 10**30}, "seed: a whole number from 0 to 4,294,967,295 is right"),
            ({"seed": True}, "seed: a whole number"),
            ({"metric": float("inf")}, "it holds Infinity, which is no number"),
            ({"costs": {"macs": {"unit": "MAC", "dense": "3", "predicted": 1, "counted": 1}}}, "costs.macs.dense"),
        ],
    )
    def test_a_number_that_is_none_in_a_policy_is_one_line(
        self, wrong: dict[str, Any], told: str, tmp_path: Path
    ) -> None:
        (tmp_path / "policy.json").write_text(json.dumps(policy(**wrong)))
        with pytest.raises(PolicyError) as caught:
            policy_file.read(tmp_path)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_policy_with_the_same_group_twice_does_not_take_the_last(self, tmp_path: Path) -> None:
        one = policy()["choices"][0]
        (tmp_path / "policy.json").write_text(json.dumps(policy(choices=[one, {**one, "kept": 4, "sparsity": 0.75}])))
        with pytest.raises(PolicyError, match="it has the choice 'a' twice"):
            policy_file.read(tmp_path)

    def test_a_policy_with_the_same_key_twice_does_not_take_the_last(self, tmp_path: Path) -> None:
        (tmp_path / "policy.json").write_text(json.dumps(policy())[:-1] + ', "seed": 1}')
        with pytest.raises(PolicyError, match="it has the key 'seed' twice"):
            policy_file.read(tmp_path)

    def test_a_policy_of_two_gigabytes_is_not_read(self, tmp_path: Path) -> None:
        file = tmp_path / "policy.json"
        with file.open("wb") as opened:
            opened.truncate(2**31)
        with pytest.raises(PolicyError, match="it holds more than 67,108,864 bytes"):
            policy_file.read(tmp_path)

    @pytest.mark.timeout(20)
    def test_a_pipe_in_the_place_of_a_file_does_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        reading: list[Callable[[Path], object]] = [
            policy_file.read, config.read, export.load, lambda file: load_weights(build(REBUILD), file)
        ]  # fmt: skip
        for read in reading:
            with pytest.raises(AutopruneError, match="it is no regular file"):
                read(tmp_path / "pipe")


class TestJson:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ('{"a": 1, "a": 2}', "the key 'a' twice"),
            ('{"a": {"b": 1, "b": 1}}', "the key 'b' twice"),
            ('{"a": NaN}', "NaN, which is no number"),
            ('{"a": 1e999}', "1e999, which is no number"),
            ('{"a": ' + "9" * 5000 + "}", "4300"),
            ("[" * 100_000, "nests too deep"),
        ],
    )
    def test_that_could_be_read_in_two_ways_is_damaged(self, text: str, told: str, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RunError, match="is damaged") as caught:
            disk.read_json(tmp_path / "config.json")
        assert told in str(caught.value)

    @pytest.mark.parametrize(
        ("held", "told"),
        [
            ({"precision": "zz"}, "at precision: input should be '', 'fp32', 'bf16' or 'int8'"),
            ({"threads": 10**6}, "at threads: a whole number from 1 to 1,024"),
            ({"step": "4"}, "at step: a whole number from 1"),
            ({"shortcuts": 1}, "at shortcuts"),
            ({"costs": {"latency": 3}}, "at costs.latency"),
        ],
    )
    def test_facts_of_a_machine_that_cannot_be_are_one_line(
        self, held: dict[str, Any], told: str, tmp_path: Path
    ) -> None:
        (tmp_path / "machine.json").write_text(json.dumps(held))
        with pytest.raises(RunError) as caught:
            machine.read(tmp_path)
        assert told in str(caught.value)


class TestTables:
    @pytest.mark.parametrize(
        ("text", "told"),
        [("a = " + "[" * 100_000, "nests too deep"), ("a = " + "9" * 5000, "4300"), ("a = 1\na = 2", "overwrite")],
    )
    def test_that_are_no_toml_are_one_line(self, text: str, told: str, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(text)
        with pytest.raises(ConfigError, match=told):
            config.read(tmp_path / "mine.toml")


class TestWeights:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        export.save(thinner(), tmp_path / "model.safetensors", rebuild=REBUILD)
        return tmp_path / "model.safetensors"

    def changed(self, file: Path, **about: Any) -> Path:
        """The same file with other metadata."""
        with safetensors.safe_open(file, "pt") as opened:
            before = opened.metadata()
        texts = {word: value if isinstance(value, str) else json.dumps(value) for word, value in about.items()}
        safetensors.torch.save_file(safetensors.torch.load_file(file), file, {**before, **texts})
        return file

    @pytest.mark.parametrize(
        "about",
        [
            {"sizes": []},
            {"sizes": 3},
            {"sizes": {"conv1": []}},
            {"sizes": {"conv1": {"class": "Conv2d", "groups": 0}}},
            {"sizes": {"conv1": {"class": "Conv2d", "out_channels": -1}}},
            {"sizes": {"conv1": {"class": "Conv2d", "out_channels": "8"}}},
            {"sizes": {"conv1": {"class": "Conv2d", "out_channels": 10**30}}},
            {"sizes": {"conv1": {"class": "Conv2d", "forward": 3}}},
            {"sizes": {"conv1": {}}},
            {"sizes": "[" * 100_000},
            {"sizes": "NaN"},
            {"ties": []},
            {"ties": {"a": 3}},
            {"ties": {"a": "b"}},
            {"channels_last": {}},
            {"channels_last": ["bn1.bias"]},
            {"channels_last": 1},
        ],
    )
    def test_metadata_of_wrong_types_are_one_line(self, about: dict[str, Any], saved: Path) -> None:
        with pytest.raises(ModelError, match=r"damaged metadata|does not belong to this network") as caught:
            export.load(self.changed(saved, **about))
        assert "\n" not in str(caught.value)

    def test_weights_that_are_nan_are_named(self, saved: Path) -> None:
        tensors, file = safetensors.torch.load_file(saved), safetensors.safe_open(saved, "pt")
        tensors["layer1.0.bn1.running_var"][:3] = torch.nan
        safetensors.torch.save_file(tensors, saved, file.metadata())
        with pytest.raises(ModelError, match=r"'layer1.0.bn1.running_var' holds NaN or infinity \(3 of 8 numbers\)"):
            export.load(saved)
