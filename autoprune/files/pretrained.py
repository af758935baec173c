"""A pruned network of `transformers` as that library loads it: a folder for `from_pretrained`, with a smaller config.

That library builds a network from its config, in which all layers are alike. So whole layers may be gone, and the
hidden widths of the MLPs may be others if they are all the same (`[space] uniform = true`); what else was pruned cannot
be said there and is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.errors import ConfigError, ModelError, first_line
from autoprune.inputs import Inputs, call, mapped, tensors
from autoprune.structure.skipped import Skipped
from autoprune.wrappers import bare

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim")
_SAME = 1e-4  # largest difference of the answers, against the largest of them


def save_pretrained(model: nn.Module, folder: str | Path, example: Inputs) -> None:
    """Write a pruned network of `transformers` so that `from_pretrained(folder)` opens it without autoprune.

    It is built anew from a config that fits, and must answer the same on `example`. The tokenizer is not written.

    Raises ConfigError where `model` is none of `transformers`, and ModelError where no config says what was pruned.
    """
    model = bare(model)
    settings: Any = copy.deepcopy(getattr(model, "config", None))
    if not hasattr(model, "save_pretrained") or settings is None:
        raise ConfigError(f"the network is a {type(model).__name__}; one of transformers is right")
    try:
        with torch.device("meta"):
            dense = {name: tuple(p.shape) for name, p in type(model)(settings).named_parameters()}
        _fit_widths(model, dense, settings)
        state = _fit_layers(model, settings)
        with torch.random.fork_rng():
            made: Any = type(model)(settings).eval()
        made.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError) as wrong:
        raise ModelError(
            f"no config of transformers says what was pruned ({first_line(wrong)}); layers that are all alike are right"
        ) from None
    _compare(model, made, example)
    made.save_pretrained(folder)


def _fit_widths(model: nn.Module, dense: Mapping[str, Sequence[int]], settings: Any) -> None:
    """Say the width of the MLPs in `settings`."""
    word = next((word for word in _WIDTHS if isinstance(getattr(settings, word, None), int)), "")
    wide = getattr(settings, word, 0)
    sizes = {
        new
        for name, parameter in model.named_parameters()
        for new, old in zip(parameter.shape, dense.get(name, ()), strict=False)
        if old == wide
    }
    if len(sizes) > 1:
        few = ", ".join(map(str, sorted(sizes)[:4]))
        raise ModelError(
            f"MLPs have {few} of {wide} units; a config says one width: search with [space] uniform = true"
        )
    if sizes:
        setattr(settings, word, sizes.pop())


def _fit_layers(model: nn.Module, settings: Any) -> dict[str, torch.Tensor]:
    """Say the number of layers in `settings`; the tensors under the names that they then have."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    kept = {
        name: [at for at, layer in enumerate(layers) if not isinstance(layer, Skipped)]
        for name, layers in lists.items()
    }
    partly = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Skipped) and name.rpartition(".")[0] not in kept
    ]
    if partly:
        raise ModelError(f"{partly[0]!r} is gone, but not its layer; a config says how many whole layers there are")
    state = dict(model.state_dict())
    for name, places in kept.items():
        of = len(lists[name])
        if len(places) == of:
            continue
        word = next((word for word in _LAYERS if getattr(settings, word, None) == of), "")
        if not word:
            raise ModelError(f"layers of {name!r} are gone, and the config does not say that there were {of}")
        for key, value in settings.to_dict().items():
            if isinstance(value, list) and len(value) == of:
                setattr(settings, key, [value[at] for at in places])
        setattr(settings, word, len(places))
        for new, old in enumerate(places):
            begins = f"{name}.{old}."
            for full in [full for full in state if full.startswith(begins)]:
                state[f"{name}.{new}.{full.removeprefix(begins)}"] = state.pop(full)
    return state


def _compare(model: nn.Module, made: nn.Module, example: Inputs) -> None:
    with torch.inference_mode():
        wanted, found = (_first(call(net.eval(), mapped(example, torch.clone))) for net in (model, made))
    if not float((wanted - found).abs().max()) <= _SAME * float(wanted.abs().max()):
        raise ModelError("built anew from its config, the network answers something else")


def _first(answer: Any) -> torch.Tensor:
    return tensors(answer)[0]
