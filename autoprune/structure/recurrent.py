"""What a recurrent layer says of its sizes, which follow from its weights. Of an LSTM, GRU or RNN, and of their cells.

A weight that reads inputs is (gates x hidden, input), one that reads the state before (gates x hidden, hidden or
projection), and one that projects the hidden units (projection, hidden). All layers and both directions of one module
have the same hidden size, so a unit there is one hidden unit of each.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

GATES = {"LSTM": 4, "GRU": 3}  # of others, 1


def sizes(module: nn.RNNBase | nn.RNNCellBase) -> dict[str, int]:
    """The size attributes that `module` should have, given its weights."""
    if isinstance(module, nn.RNNCellBase):
        return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}
    rows, inputs = module.get_parameter("weight_ih_l0").shape
    hidden = rows // GATES.get(module.mode, 1)
    projection = module.get_parameter("weight_hr_l0").shape[0] if module.proj_size else 0
    return {"input_size": inputs, "hidden_size": hidden, "proj_size": projection}


def shapes(module: nn.RNNBase | nn.RNNCellBase) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Every weight matrix, and the shape that it should have by the sizes of `module`."""
    hidden = module.hidden_size
    if isinstance(module, nn.RNNCellBase):
        gates = module.weight_ih.shape[0] // hidden
        yield module.weight_ih, (gates * hidden, module.input_size)
        yield module.weight_hh, (gates * hidden, hidden)
        return
    rows, state = GATES.get(module.mode, 1) * hidden, module.proj_size or hidden
    for name, weight in module.named_parameters():
        if name.startswith("weight_ih"):
            first = name.startswith("weight_ih_l0")
            yield weight, (rows, module.input_size if first else state * (1 + module.bidirectional))
        elif name.startswith("weight_hh"):
            yield weight, (rows, state)
        elif name.startswith("weight_hr"):
            yield weight, (module.proj_size, hidden)


def least(model: nn.Module) -> dict[str, int]:
    """Weights of which more columns must stay than one: an LSTM's projection is smaller than its hidden size."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and module.proj_size:
            own = (
                f"{name}.{word}".lstrip(".") for word, _ in module.named_parameters() if word.startswith("weight_hr")
            )
            found.update(dict.fromkeys(own, module.proj_size + 1))
    return found
