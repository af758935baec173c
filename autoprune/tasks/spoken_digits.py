"""Spoken digits with a DS-CNN, a GRU or an LSTM: speech on the smallest devices.

The Free Spoken Digit Dataset (Jackson and others, https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA
4.0: never in the package): 3,000 recordings at 8 kHz, ten digits by six speakers, fifty takes each. It is read from one
file, spoken_digits.npz: `samples` (int16, all recordings one after the other), `offset` (where each begins, and the
end), `digit`, `speaker`, `take`. Features are made once, when it is read.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoprune import bounded
from autoprune.data import place
from autoprune.errors import ConfigError, DataError, reason
from autoprune.models import build
from autoprune.models.speech import BANDS
from autoprune.models.weights import load_trained
from autoprune.splits import mixed
from autoprune.task import Batch, Task

MODELS = ("ds-cnn", "gru", "lstm")
FILE = "spoken_digits.npz"
OFFICIAL = "takes"
TESTS = (OFFICIAL, *(f"speaker-{n}" for n in range(6)))
RATE, WINDOW, HOP = 8000, 256, 160  # samples a second; 32 ms every 20 ms
SECONDS = 1.0
FLOOR = 1e-6  # of energies; a recording's largest sample is 1
MEAN, STD = -6.0, 4.0  # of the features, about
SILENCE = (float(np.log(FLOOR)) - MEAN) / STD
_TEST_TAKES, _HOLDOUT_TAKES = 5, 15  # takes 0 to 4 are the official test; 5 to 14 score the search
_WHERE = "its README says how it is made from github.com/Jakobovski/free-spoken-digit-dataset"
_MOST = 128 * bounded.MIB  # of one array; all recordings are 21
_ARRAYS = ("samples", "offset", "digit", "speaker", "take")


@dataclass(frozen=True)
class Recordings:
    """Features of labelled recordings, in memory.

    Attributes:
        features: float32, shape (n, frames, bands), normalised.
        digits: int64, shape (n,).
        shift: most frames that training moves a recording by, either way, silence moving in.
        gain: how much louder or softer training makes a recording at most, in units of the features.
        mask: most bands and most frames that training silences. Park et al. 2019, https://arxiv.org/abs/1904.08779.
    """

    features: Tensor
    digits: Tensor
    shift: int = 0
    gain: float = 0.0
    mask: int = 0

    def __len__(self) -> int:
        return len(self.features)

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Split.batches`."""
        for start in range(0, len(self), size):
            yield self.features[start : start + size], self.digits[start : start + size]

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Split.shuffled`."""
        for pick in mixed(len(self), size, generator):
            yield self._augmented(self.features[pick], generator), self.digits[pick]

    def head(self, count: int) -> Recordings:
        """As `Split.head`."""
        return dataclasses.replace(self, features=self.features[:count], digits=self.digits[:count])

    def _augmented(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, frames, bands = x.shape
        x = x + self.gain * (2 * torch.rand(n, 1, 1, generator=generator) - 1)
        moved = torch.arange(frames) - torch.randint(-self.shift, self.shift + 1, (n, 1), generator=generator)
        x = x[torch.arange(n).view(-1, 1), moved.clamp(0, frames - 1)]  # (n, frames, bands)
        silent = ((moved < 0) | (moved >= frames)).unsqueeze(2)
        silent = silent | _stretch(n, frames, self.mask, generator).unsqueeze(2)
        silent = silent | _stretch(n, bands, self.mask, generator).unsqueeze(1)
        return torch.where(silent, torch.tensor(SILENCE), x).clamp(min=SILENCE)


def _stretch(n: int, length: int, most: int, generator: torch.Generator) -> Tensor:
    """In each of n rows up to `most` neighbours of `length`, bool (n, length)."""
    width = torch.randint(0, most + 1, (n, 1), generator=generator)
    start = torch.randint(0, length, (n, 1), generator=generator)
    place = torch.arange(length)
    return (place >= start) & (place < start + width)


def spoken_digits(model: str = "ds-cnn", weights: str = "", data: str = "", test: str = OFFICIAL) -> Task:
    """Ten spoken digits, one second of log-mel features at most (51 frames of 40 bands), and a small network.

    Args:
        model: ds-cnn, gru or lstm.
        weights: a safetensors file; "" is spoken_digits_MODEL.safetensors in the data directory, as
            benchmarks/train_spoken_digits.py writes it (with -speaker-N before the dot for a speaker left out).
        data: the directory that holds spoken_digits.npz; "" is $AUTOPRUNE_DATA.
        test: "takes", the official test split, takes 0 to 4 of everybody; or "speaker-0" to "speaker-5", all takes of
            a speaker who is in no other split. Takes 5 to 14 of the others score the search.

    Raises ConfigError, DataError or ModelError where one of these does not fit.
    """
    if model not in MODELS:
        raise ConfigError(f"task spoken_digits has no model {model!r}; there are {', '.join(MODELS)}")
    directory = place.directory(data, f"spoken digits need a data directory with {FILE}")
    train, holdout, tested = splits(directory, test)
    rebuild = f"spoken_digits:{model}"
    net = build(rebuild)
    hint = f"python benchmarks/train_spoken_digits.py --data {directory} trains it"
    load_trained(net, Path(weights) if weights else directory / weights_name(model, test), hint)
    return Task(
        model=net.eval(),
        example=next(holdout.batches(1))[0],
        train=train,
        holdout=holdout,
        test=tested,
        name=f"spoken_digits-{model}",
        rebuild=rebuild,
    )


def weights_name(model: str, test: str) -> str:
    """What the file of a network's weights is called in the data directory."""
    return f"spoken_digits_{model}{'' if test == OFFICIAL else f'-{test}'}.safetensors"


def splits(directory: Path, test: str) -> tuple[Recordings, Recordings, Recordings]:
    """Train, holdout and test. Raises ConfigError or DataError as `spoken_digits`."""
    if test not in TESTS:
        raise ConfigError(f"task spoken_digits: test={test!r}; there are {', '.join(TESTS)}")
    arrays = _read(directory / FILE)
    take, speaker = arrays["take"], arrays["speaker"]
    tested = take < _TEST_TAKES if test == OFFICIAL else speaker == int(test.removeprefix("speaker-"))
    scored = ~tested & (take >= _TEST_TAKES) & (take < _HOLDOUT_TAKES)
    features = torch.stack([log_mel(wave) for wave in _waves(arrays["samples"], arrays["offset"])])
    digits = torch.from_numpy(arrays["digit"].astype(np.int64))

    def part(chosen: NDArray[np.bool_]) -> Recordings:
        places = torch.from_numpy(np.flatnonzero(chosen))
        places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]
        return Recordings(features[places], digits[places])

    training = dataclasses.replace(part(~tested & ~scored), shift=8, gain=0.25, mask=6)
    return training, part(scored), part(tested)


def log_mel(wave: Tensor) -> Tensor:
    """Normalised log-mel features (frames, bands) of one recording, float (samples,), of any loudness.

    It is brought to a largest sample of 1 and to one second, cut or padded with silence on both sides alike.
    """
    length = round(SECONDS * RATE)
    wave = wave / wave.abs().max().clamp(min=1e-9)
    spare = length - len(wave)
    wave = torch.nn.functional.pad(wave, (spare // 2, spare - spare // 2))  # a negative pad cuts
    spectrum = torch.stft(wave, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
    energy = spectrum.abs().square().T / WINDOW  # (frames, WINDOW / 2 + 1)
    return ((energy @ _filters() + FLOOR).log() - MEAN) / STD


def _filters() -> Tensor:
    """Triangles that are equally wide in mel, (WINDOW / 2 + 1, bands): from 20 Hz to half of the rate."""
    mel = torch.linspace(_mel(20.0), _mel(RATE / 2), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    hertz = torch.linspace(0, RATE / 2, WINDOW // 2 + 1).unsqueeze(1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)).clamp(min=0)


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def _waves(samples: NDArray[Any], offset: NDArray[Any]) -> Iterator[Tensor]:
    for start, end in itertools.pairwise(offset):
        yield torch.from_numpy(samples[start:end].astype(np.float32))


def _read(file: Path) -> dict[str, NDArray[Any]]:
    try:
        arrays = bounded.arrays(file, _ARRAYS, _MOST)
    except FileNotFoundError:
        raise DataError(f"{file} is missing; {_WHERE}") from None
    except bounded.BROKEN as wrong:
        raise DataError(f"{file} is damaged ({reason(wrong)}); {_WHERE}") from None
    if fault := _fault(**arrays):
        raise DataError(f"{file} is damaged: {fault}; {_WHERE}")
    return arrays


def _fault(
    samples: NDArray[Any], offset: NDArray[Any], digit: NDArray[Any], speaker: NDArray[Any], take: NDArray[Any]
) -> str:
    """What of the arrays does not fit; "" where all does."""
    labels, several = (offset, digit, speaker, take), (samples, offset, digit, speaker, take)
    if any(array.ndim != 1 for array in several) or any(array.dtype.kind not in "iu" for array in labels):
        return "its arrays are not all of one dimension, and offsets and labels whole numbers"
    count = len(offset) - 1
    if any(len(array) != count for array in (digit, speaker, take)) or count < 1:
        return f"offset names {count:,} recordings, the labels differ"
    if offset[0] < 0 or offset[-1] > len(samples) or (offset[1:] <= offset[:-1]).any():
        return f"its offsets do not ascend from 0 to {len(samples):,}"
    if not (np.isin(digit, range(10)).all() and np.isin(speaker, range(6)).all() and (take >= 0).all()):
        return "digits are 0 to 9, speakers 0 to 5 and takes counted from 0"
    return "" if np.isfinite(samples).all() else "a sample is no number"
