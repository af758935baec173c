"""Recurrent layers are choices: a unit is a hidden unit through all its gates and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.costs.arithmetic import Macs, Params
from autoprune.costs.memory import Memory, Size
from autoprune.errors import ModelError
from autoprune.files import export, programs
from autoprune.inputs import Inputs, call
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace, restrict, trace
from autoprune.values.space import Policy, SearchSpace

STEPS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


class Last(nn.Module):
    """A recurrent layer whose last step two linear layers read."""

    def __init__(self, rnn: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.rnn, self.a, self.b = rnn, nn.Linear(width, 24), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(self.rnn(x)[0][:, -1]).relu())


class Steps(nn.Module):
    """A cell in a loop, from a state that it makes itself or from zeros of the size that it is given."""

    def __init__(self, cell: nn.RNNCellBase, size: Callable[[nn.RNNCellBase], int] | None) -> None:
        super().__init__()
        self.cell, self.read, self._size = cell, nn.Linear(16, 2), size

    def forward(self, x: Tensor) -> Tensor:
        state = None
        if self._size is not None:
            zeros = torch.zeros(len(x), self._size(self.cell))
            state = (zeros, zeros) if isinstance(self.cell, nn.LSTMCell) else zeros
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.read(state[0] if isinstance(state, tuple) else state)


class Packed(nn.Module):
    """A recurrent layer over sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.a, self.b = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        sequence = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        steps, last = self.rnn(sequence)
        steps, _ = nn.utils.rnn.pad_packed_sequence(steps, batch_first=True)
        return self.b(self.a(steps.max(1).values + last[-1]).relu())


def _rnn(kind: type[nn.RNNBase], *sizes: int, **more: object) -> nn.RNNBase:
    return kind(*sizes, batch_first=True, **more)


def _hidden(cell: nn.RNNCellBase) -> int:
    return int(cell.hidden_size)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Inputs, dict[str, int]]] = {
    "an LSTM": (lambda: Last(_rnn(nn.LSTM, 8, 32), 32), STEPS, {"rnn": 32, "a": 24}),
    "two layers in both directions": (
        lambda: Last(_rnn(nn.LSTM, 8, 16, 2, bidirectional=True), 32), STEPS, {"rnn": 16, "a": 24},
    ),
    "a GRU without bias": (lambda: Last(_rnn(nn.GRU, 8, 16, 2, bias=False), 16), STEPS, {"rnn": 16, "a": 24}),
    "an RNN": (lambda: Last(_rnn(nn.RNN, 8, 16, nonlinearity="relu"), 16), STEPS, {"rnn": 16, "a": 24}),
    "a projection": (
        lambda: Last(_rnn(nn.LSTM, 8, 16, 2, proj_size=6, bidirectional=True), 12), STEPS,
        {"rnn": 16, "rnn#2": 6, "a": 24},
    ),
    "a projection to the half": (
        lambda: Last(_rnn(nn.LSTM, 8, 16, proj_size=8), 8), STEPS, {"rnn": 16, "rnn#2": 8, "a": 24},
    ),
    "behind a linear layer": (
        lambda: nn.Sequential(nn.Linear(8, 12), Last(_rnn(nn.GRU, 12, 16), 16)), STEPS,
        {"0": 12, "1.rnn": 16, "1.a": 24},
    ),
    "an LSTM cell": (lambda: Steps(nn.LSTMCell(8, 16), None), STEPS, {"cell": 16}),
    "an LSTM cell from zeros": (lambda: Steps(nn.LSTMCell(8, 16), _hidden), STEPS, {"cell": 16}),
    "a GRU cell": (lambda: Steps(nn.GRUCell(8, 16), None), STEPS, {"cell": 16}),
    "an RNN cell from zeros": (lambda: Steps(nn.RNNCell(8, 16), _hidden), STEPS, {"cell": 16}),
    "packed sequences": (Packed, (STEPS, torch.tensor([5, 3])), {"rnn": 16, "a": 12}),
}  # fmt: skip


def _made(name: str) -> tuple[nn.Module, Inputs, Trace]:
    make, example, _ = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    return model, example, trace(model, example)


def _policy(found: Trace, seed: int) -> tuple[Policy, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    levels = [c.levels[0] if not seed else int(rng.choice(c.levels)) for c in found.choices]
    return Policy.of(levels), [
        np.sort(rng.permutation(c.dense)[:n]) for c, n in zip(found.choices, levels, strict=True)
    ]


@pytest.mark.parametrize("name", NETWORKS)
class TestRecurrentLayers:
    def test_hidden_units_are_choices_and_proven(self, name: str) -> None:
        _, _, found = _made(name)
        assert {c.name: c.dense for c in found.choices} == NETWORKS[name][2]
        assert set(found.proofs) == {"exact"}
        assert all(f.reason == "is the network's output" for f in found.frozen)
        assert all(c.width == 1 for c in found.choices), "a hidden unit is one, though it has several gates"

    def test_costs_are_exact(self, name: str) -> None:
        model, example, found = _made(name)
        space = SearchSpace(name, found.choices, found.ops, found.parameters)
        for seed in range(4):
            policy, units = _policy(found, seed)
            pruned = prune(model, found, units)
            for cost in (Macs(space), Params(space), Memory(space, found), Size(space, found)):
                assert cost.predict(policy) == cost.measure(pruned, example), type(cost).__name__

    def test_modules_say_their_new_sizes(self, name: str, tmp_path: Path) -> None:
        """And a file of the pruned network is read back into the dense one's architecture."""
        model, example, found = _made(name)
        _, units = _policy(found, 3)
        pruned = prune(model, found, units)
        for module in pruned.modules():
            if isinstance(module, nn.RNNBase):
                told = {word: getattr(module, word) for word in ("num_layers", "bias", "bidirectional")}
                told |= {"proj_size": module.proj_size} if module.proj_size else {}
                fresh = type(module)(module.input_size, module.hidden_size, **told)
                fresh.load_state_dict(module.state_dict())
        export.save(pruned, tmp_path / "model.safetensors")
        loaded = export.load(tmp_path / "model.safetensors", model)
        with torch.no_grad():
            torch.testing.assert_close(call(loaded, example), call(pruned, example))


def test_an_lstm_left_out_of_macs() -> None:
    """What `check` said of LSTM(8, 32), Linear(32, 24) and Linear(24, 2) over 5 steps was 816 MACs."""
    _, _, found = _made("an LSTM")
    dense = [c.dense for c in found.choices]
    assert sum(op.count(dense) for op in found.ops) == 5 * (8 * 128 + 32 * 128) + 32 * 24 + 24 * 2 == 26_416


def test_a_hidden_size_written_as_a_number_is_frozen() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 6), Steps(nn.GRUCell(6, 16), lambda cell: 16))
    found = trace(network, STEPS)
    assert {c.name: c.dense for c in found.choices} == {"0": 6}
    assert "1.cell" in {f.name for f in found.frozen}


def test_a_projection_stays_below_the_hidden_size() -> None:
    _, _, found = _made("a projection to the half")
    hidden = found.choices[0]
    assert hidden.levels == tuple(range(9, 17)), "torch takes an LSTM of equal sizes for one without a projection"
    assert restrict(hidden, max_sparsity=0.9, step=4).levels == (12, 16)


@pytest.mark.parametrize("name", ["an LSTM", "two layers in both directions", "a GRU without bias", "a GRU cell"])
def test_a_pruned_recurrent_network_is_exported(name: str, tmp_path: Path) -> None:
    model, example, found = _made(name)
    pruned = prune(model, found, _policy(found, 1)[1])
    assert programs.export_program(pruned, tmp_path / "model.pt2", example).difference < 1e-5
    assert programs.export_onnx(pruned, tmp_path / "model.onnx", example).difference < 1e-5


def test_a_damaged_recurrent_file_is_refused(tmp_path: Path) -> None:
    model, _, found = _made("an LSTM")
    pruned = prune(model, found, _policy(found, 1)[1])
    pruned.rnn.hidden_size += 1
    export.save(pruned, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="layer 'rnn' is"):
        export.load(tmp_path / "model.safetensors", model)
