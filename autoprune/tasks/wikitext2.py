"""WikiText-2 and a language model of Hugging Face, by default SmolLM2-135M: the words that follow.

Merity et al. 2016, https://arxiv.org/abs/1609.07843 (CC BY-SA; not in the package). The test text is the report's; of
the validation text the first tokens score the search, and those behind them are for evaluators and finetunes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from autoprune import bounded
from autoprune.data import place
from autoprune.errors import ConfigError, DataError, reason
from autoprune.metrics import KL, agreement
from autoprune.models.language_model import language_model
from autoprune.perplexity import NO_WORD, next_word, perplexity
from autoprune.splits import mixed
from autoprune.task import Batch, Task
from autoprune.values.ranges import Range

VALID, TEST, FOLDER = "wikitext2_valid.txt", "wikitext2_test.txt", "smollm2"
METRICS: Mapping[str, Any] = {"perplexity": perplexity, "kl": KL(top=64), "agreement": agreement}
_MOST = 256 * bounded.MIB  # of a text
_LETTERS = 12  # of a token, at the most
Length = Annotated[int, Range(2, 2**20)]
Tokens = Annotated[int, Range(2, 10**9)]


@dataclass(frozen=True)
class Windows:
    """Stretches of a text of one length.

    Attributes:
        tokens: int64, (n, length).
        following: int64, (n, length), the token behind each; -100 behind the last of the text.
    """

    tokens: Tensor
    following: Tensor

    @classmethod
    def of(cls, text: Tensor, length: int) -> Windows:
        """Of tokens, (n x length,)."""
        behind = torch.cat([text[1:], text.new_full((1,), NO_WORD)])
        return cls(text.view(-1, length), behind.view(-1, length))

    def __len__(self) -> int:
        return len(self.tokens)

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Split.batches`."""
        for places in torch.split(torch.arange(len(self)), size):
            yield self._batch(places)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Split.shuffled`; nothing is augmented."""
        yield from map(self._batch, mixed(len(self), size, generator))

    def head(self, count: int) -> Windows:
        """As `Split.head`."""
        return Windows(self.tokens[:count], self.following[:count])

    def _batch(self, places: Tensor) -> Batch:
        return {"input_ids": self.tokens[places]}, self.following[places]


def wikitext2(
    weights: str = "",
    data: str = "",
    length: Length = 1024,
    train: Tokens = 65_536,
    holdout: Tokens = 4096,
    test: Tokens = 32_768,
    metric: str = "perplexity",
    example: Length = 128,
) -> Task:
    """WikiText-2, and SmolLM2-135M or another causal language model of Hugging Face.

    Args:
        weights: a Hugging Face folder with config.json, model.safetensors and tokenizer.json; "" is `smollm2` in the
            data directory.
        data: the directory that holds wikitext2_valid.txt and wikitext2_test.txt; "" is $AUTOPRUNE_DATA.
        length: tokens of a window; the network sees nothing before it.
        train, holdout, test: tokens of each split, rounded down to whole windows. The holdout is the beginning of the
            validation text, train what follows, test the beginning of the test text.
        metric: "perplexity"; or, without labels, "kl" (of the 64 likeliest words) or "agreement" with dense.
        example: tokens of the input that costs are counted for.

    Raises ConfigError, DataError or ModelError where one of these does not fit.
    """
    if metric not in METRICS:
        raise ConfigError(f"task wikitext2: metric = {metric!r}; {', '.join(map(repr, METRICS))} are right")
    if length > min(train, holdout, test):
        least = f"train = {train:,}, holdout = {holdout:,} and test = {test:,} tokens"
        raise ConfigError(f"task wikitext2: length = {length:,}, but {least}; a window of each is the least")
    directory = place.directory(data, f"WikiText-2 needs a data directory with {VALID} and {TEST}")
    folder = Path(weights) if weights else directory / FOLDER
    net, tokenizer = language_model(folder, length)
    train, holdout, test = (count - count % length for count in (train, holdout, test))
    valid = _tokens(tokenizer, directory / VALID, holdout + train)
    scored = Windows.of(valid[:holdout], length)
    return Task(
        model=net,
        example={"input_ids": scored.tokens[:1, :example]},
        train=Windows.of(valid[holdout:], length),
        holdout=scored,
        test=Windows.of(_tokens(tokenizer, directory / TEST, test), length),
        metric=METRICS[metric],
        loss=next_word,
        name=f"wikitext2-{folder.name}",
    )


def _tokens(tokenizer: Any, file: Path, count: int) -> Tensor:
    """The first `count` tokens of a text, int64 (count,)."""
    try:
        text = bounded.read(file, _MOST).decode()
    except FileNotFoundError:
        raise DataError(f"{file} is missing; it should hold the text of WikiText-2") from None
    except (OSError, UnicodeDecodeError) as wrong:
        raise DataError(f"{file} cannot be read ({reason(wrong)}); it should hold text in UTF-8") from None
    found = tokenizer(text[: _LETTERS * count], return_tensors="pt", verbose=False)["input_ids"][0]
    if len(found) < count:
        raise DataError(f"{file} has {len(found):,} tokens, but {count:,} are asked for")
    tokens: Tensor = found[:count].long()
    return tokens
