"""A causal language model of Hugging Face with its tokenizer. The library `transformers` is imported only here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.errors import ConfigError, ModelError, one_line


def language_model(folder: Path, length: int) -> tuple[nn.Module, Callable[..., Any]]:
    """The network in a Hugging Face folder, float32 and in eval mode, and its tokenizer.

    Nothing is fetched or unpickled, and no code in the folder is run. `length` are the tokens that it shall read.

    Raises ConfigError without `transformers`, or where the network reads fewer tokens; ModelError where the folder
    holds no such network or no tokenizer.
    """
    try:
        import transformers
    except ImportError:
        raise ConfigError("language models need transformers: pip install 'autoprune[transformers]'") from None
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json; a Hugging Face folder of a language model is needed there")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        most = getattr(config, "max_position_embeddings", length)
        if isinstance(most, int) and length > most:
            raise ConfigError(f"length = {length:,} tokens, but {folder} reads at most {most:,}")
        with torch.random.fork_rng():
            net, told = transformers.AutoModelForCausalLM.from_pretrained(
                folder, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
    except ConfigError:
        raise
    except Exception as wrong:  # whatever it raises: OSError, ValueError, TypeError
        said = f"{type(wrong).__name__}: {one_line(wrong)}"
        raise ModelError(f"{folder} holds no language model that transformers can open ({said})") from None
    if lost := sorted(told["missing_keys"]):
        raise ModelError(f"{folder}: model.safetensors lacks {lost[0]!r} ({len(lost)} tensors are missing)")
    net.config.use_cache = False
    return net.eval(), _tokenizer(folder)


def _tokenizer(folder: Path) -> Callable[..., Any]:
    import transformers

    try:
        found: Callable[..., Any] = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as wrong:  # whatever it raises: OSError, ValueError, errors of the tokenizer
        said = f"{type(wrong).__name__}: {one_line(wrong)}"
        raise ModelError(f"{folder} holds no tokenizer; tokenizer.json is needed there ({said})") from None
    return found
