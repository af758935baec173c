"""A sentence encoder (MiniLM) that must keep its own neighbours: a task without labels, on plain English sentences.

A sentence encoder is used to find what means the same, so a pruned one is judged by whether it finds what the dense one
finds: the metric is the share of each sentence's ten nearest that are still among its ten nearest, or the mean cosine
to the dense network's vectors. The finetune draws the pruned vectors to the dense ones. all-MiniLM-L6-v2: Wang et al.
2020, https://arxiv.org/abs/2002.10957, Apache-2.0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from autoprune import bounded
from autoprune.data import place
from autoprune.errors import ConfigError, DataError, reason
from autoprune.inputs import call
from autoprune.metrics import Metric
from autoprune.models.sentence_encoder import SentenceEncoder, sentence_encoder
from autoprune.splits import mixed
from autoprune.task import Batch, Split, Task
from autoprune.values.ranges import Range

FILE, FOLDER = "sentences.txt", "minilm"
NEAREST = 10
_BATCH = 100
_MOST = 64 * bounded.MIB  # of the text
_FEWEST = 2 * (NEAREST + 1)  # sentences of a split, or the nearest are nearly all
Length = Annotated[int, Range(3, 8192)]
Part = Annotated[int, Range(_FEWEST, 10**9)]


@dataclass(frozen=True)
class Sentences:
    """Tokens of sentences in memory, and the dense network's vectors of them.

    Attributes:
        tokens, real: int64, shape (n, length): numbers of tokens, and 1 where there is one.
        vectors: float32, shape (n, width), of length 1: what the dense network says.
    """

    tokens: Tensor
    real: Tensor
    vectors: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Split.batches`."""
        for places in torch.split(torch.arange(len(self)), size):
            yield self._batch(places)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Split.shuffled`; nothing is augmented."""
        yield from map(self._batch, mixed(len(self), size, generator))

    def head(self, count: int) -> Sentences:
        """As `Split.head`."""
        return self.part(slice(count))

    def part(self, places: slice | Tensor) -> Sentences:
        """Some of them."""
        fields = {field.name: getattr(self, field.name)[places] for field in dataclasses.fields(self)}
        return Sentences(**fields)

    def _batch(self, places: Tensor) -> Batch:
        return {"input_ids": self.tokens[places], "attention_mask": self.real[places]}, self.vectors[places]


def sentences(
    weights: str = "",
    data: str = "",
    length: Length = 32,
    holdout: Part = 500,
    test: Part = 500,
    metric: str = "neighbours",
) -> Task:
    """Sentences, and all-MiniLM-L6-v2 or another text encoder of Hugging Face with the mean over tokens.

    Args:
        weights: a Hugging Face folder; "" is `minilm` in the data directory.
        data: the directory that holds sentences.txt, one a line; "" is $AUTOPRUNE_DATA.
        length: tokens of a sentence that are read; all inputs are so long.
        holdout, test: how many sentences score the search, and the report. Test takes the last lines, the holdout those
            before, so that in a text in order no article is in two splits.
        metric: "neighbours", the share that is kept; or "cosine", the mean to the dense network's vectors.

    Raises ConfigError, DataError or ModelError where one of these does not fit.
    """
    if metric not in METRICS:
        raise ConfigError(f"task sentences: metric = {metric!r}; {', '.join(map(repr, METRICS))} are right")
    if length < 3:
        raise ConfigError(f"task sentences: length={length}; 3 tokens are the least, two of which mark the ends")
    directory = place.directory(data, f"sentences need a data directory with {FILE}")
    lines = _lines(directory / FILE)
    if min(holdout, test, len(lines) - holdout - test) < _FEWEST:
        counts = f"holdout={holdout} and test={test} of {len(lines)} sentences"
        raise ConfigError(f"task sentences: {counts}; {_FEWEST} are the least of each split, training's too")
    net, tokenizer = sentence_encoder(Path(weights) if weights else directory / FOLDER)
    found = tokenizer(lines, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    tokens, real = found["input_ids"], found["attention_mask"]
    everything = Sentences(tokens, real, encoded(net, tokens, real))
    cut, end = len(lines) - holdout - test, len(lines) - test
    scored = everything.part(_drawn(cut, end))
    return Task(
        model=net,
        example=next(scored.batches(1))[0],
        train=everything.part(_drawn(0, cut)),
        holdout=scored,
        test=everything.part(_drawn(end, len(lines))),
        metric=METRICS[metric],
        loss=distance,
        name="sentences-minilm" if not weights else f"sentences-{Path(weights).name}",
    )


def neighbours_kept(model: nn.Module, split: Split) -> float:
    """Share of each sentence's ten nearest in the split that stay among its ten nearest, in [0, 1]; dense gives 1.

    Nearest by cosine, to the dense network's vectors, which are the split's targets, and to the model's own.
    """
    mine, dense = (nearest(vectors) for vectors in _vectors(model, split))  # (n, NEAREST)
    kept = (mine.unsqueeze(2) == dense.unsqueeze(1)).any(2)
    return float(kept.float().mean())


def cosine(model: nn.Module, split: Split) -> float:
    """Mean cosine of the model's vectors to the dense network's, which are the split's targets, in [-1, 1]."""
    return float(cosines(model, split).mean())


def cosines(model: nn.Module, split: Split) -> Tensor:
    """As `cosine`, of each sentence, (n,)."""
    return nn.functional.cosine_similarity(*_vectors(model, split)).double()


neighbours_kept.title = "top-10 neighbours kept"  # type: ignore[attr-defined]  # as `metrics.Described`
neighbours_kept.lower_is_better, neighbours_kept.percent = False, True  # type: ignore[attr-defined]
cosine.title = "cosine to dense"  # type: ignore[attr-defined]
cosine.lower_is_better, cosine.percent = False, False  # type: ignore[attr-defined]
cosine.each = cosines  # type: ignore[attr-defined]  # as `metrics.PerSample`
METRICS: Mapping[str, Metric] = {"neighbours": neighbours_kept, "cosine": cosine}


def _vectors(model: nn.Module, split: Split) -> tuple[Tensor, Tensor]:
    """The model's and the dense network's, (n, width)."""
    model.eval()
    ours, theirs = [], []
    with torch.inference_mode():
        for inputs, vectors in split.batches(_BATCH):
            ours.append(call(model, inputs).float())
            theirs.append(vectors)
    return torch.cat(ours), torch.cat(theirs)


def nearest(vectors: Tensor) -> Tensor:
    """The places of the ten vectors nearest to each of `vectors`, (n, width), itself left out: int64 (n, 10)."""
    cosines = vectors @ vectors.T
    cosines.fill_diagonal_(-2)
    return cosines.topk(min(NEAREST, len(vectors) - 1), dim=1).indices


def distance(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared distance of vectors of length 1: twice what their cosine lacks to 1. Both (n, width)."""
    return (outputs - targets).square().sum(1).mean()


def encoded(net: SentenceEncoder, tokens: Tensor, real: Tensor) -> Tensor:
    """The vectors of sentences, float32 (n, width)."""
    with torch.inference_mode():
        pairs = zip(torch.split(tokens, _BATCH), torch.split(real, _BATCH), strict=True)
        return torch.cat([net(some, which) for some, which in pairs]).clone()


def _drawn(start: int, end: int) -> Tensor:
    """The places from `start` to `end` in an order that is always the same and not the text's."""
    return start + torch.randperm(end - start, generator=torch.Generator().manual_seed(0))


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in bounded.read(file, _MOST).decode().splitlines() if line.strip()]
    except FileNotFoundError:
        raise DataError(f"{file} is missing; it should hold plain sentences, one a line") from None
    except (OSError, UnicodeDecodeError) as wrong:
        raise DataError(
            f"{file} cannot be read ({reason(wrong)}); it should hold plain sentences in UTF-8, one a line"
        ) from None
