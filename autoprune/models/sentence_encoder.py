"""A text encoder of Hugging Face as one network from tokens to sentence vectors.

Reimers, Gurevych 2019, https://arxiv.org/abs/1908.10084. The library `transformers` is imported only here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.errors import ConfigError, ModelError
from autoprune.models.weights import fill, read

_UNUSED = ("pooler.", "embeddings.position_ids")  # what files hold and sentence vectors do not need


class SentenceEncoder(nn.Module):
    """The mean of an encoder's vectors of real tokens, brought to length 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens and which of them are real, int64 (n, length) both -> vectors (n, width)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask.unsqueeze(2).to(hidden.dtype)
        return functional.normalize((hidden * real).sum(1) / real.sum(1), dim=1)


def sentence_encoder(folder: Path) -> tuple[SentenceEncoder, Callable[..., Any]]:
    """The network in a Hugging Face folder, in eval mode, and its tokenizer.

    Nothing is fetched or unpickled, and no code in the folder is run.

    Raises ConfigError without `transformers`, ModelError where the folder holds no such network.
    """
    try:
        import transformers
    except ImportError:
        raise ConfigError("sentence encoders need transformers: pip install 'autoprune[transformers]'") from None
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json; a Hugging Face folder of a text encoder is needed there")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.random.fork_rng():
            encoder: nn.Module = transformers.AutoModel.from_config(config, add_pooling_layer=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as wrong:  # whatever it raises: OSError, ValueError, TypeError, errors of the tokenizer
        reason = f"{type(wrong).__name__}: {' '.join(str(wrong).split())}"
        raise ModelError(f"{folder} holds no text encoder that transformers can open ({reason})") from None
    file = folder / "model.safetensors"
    fill(encoder, {name: tensor for name, tensor in read(file).items() if not name.startswith(_UNUSED)}, file)
    return SentenceEncoder(encoder).eval(), tokenizer
