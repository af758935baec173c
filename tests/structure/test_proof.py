"""What is proven where: in a module by itself, on small images, in the whole network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoprune.structure import scenes
from autoprune.structure.edits import Slice
from autoprune.structure.trace import trace


class Block(nn.Module):
    """Two layers in a row; what it reads by name it may change in place."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.down(self.up(x.mul_(scale)).relu_())


class Stack(nn.Module):
    """Blocks in a list, each called with a named argument, and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList([Block(4, 6), Block(4, 8)])
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in (*self.blocks, self.blocks[0]):
            x = x + block(x.clone(), scale=0.5)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...]]]:
    """The module in which each proof was tried, and the shape of what it was called with."""
    found: list[tuple[str, tuple[int, ...]]] = []
    real = scenes.Scene.refute

    def refute(scene: scenes.Scene, *args: object, **kwargs: bool) -> str:
        found.append((scene.name, tuple(scene.calls[0][0][0].shape)))
        return real(scene, *args, **kwargs)

    monkeypatch.setattr(scenes.Scene, "refute", refute)
    return found


def test_a_block_is_proven_by_itself_and_all_together_at_full_size(seen: list[tuple[str, tuple[int, ...]]]) -> None:
    found = trace(Stack().eval(), torch.randn(2, 3, 128, 128))
    assert [(c.name, c.dense) for c in found.choices] == [("stem", 4), ("blocks.0.up", 6), ("blocks.1.up", 8)]
    assert list(dict.fromkeys(seen)) == [  # each with two parts of its units
        ("", (1, 3, 64, 64)),
        ("blocks.0", (1, 4, 64, 64)),
        ("blocks.1", (1, 4, 64, 64)),
        ("", (2, 3, 128, 128)),
    ]


def test_a_network_of_one_size_is_proven_at_that_size(seen: list[tuple[str, tuple[int, ...]]]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16 * 16, 5), nn.Linear(5, 2))
    trace(model.eval(), torch.randn(2, 3, 128, 128))
    assert {shape for _, shape in seen} == {(1, 3, 128, 128), (2, 3, 128, 128)}


def test_what_is_right_at_a_small_size_only_is_refuted() -> None:
    """A proof on small images says nothing of a branch that large ones take."""

    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
            self.c = nn.Conv2d(6, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            if x.shape[-1] > 64:
                y = y * (8 / y.shape[1])
            return self.c(self.b(y).relu())

    found = trace(Sized().eval(), torch.randn(2, 3, 128, 128))
    assert [c.name for c in found.choices] == ["b"]
    assert "computes something else" in next(f.reason for f in found.frozen if f.name == "a")


def test_a_parent_that_looks_into_its_child_is_refuted() -> None:
    """The child by itself is right; what the parent makes of the child's widths is not."""

    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.head = nn.Conv2d(3, 4, 1), Block(4, 12), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.stem(x)) * (1 + 12 - self.block.up.out_channels))

    found = trace(Parent().eval(), torch.randn(2, 3, 16, 16))
    assert [c.name for c in found.choices] == ["stem", "block.down"]
    (why,) = (f.reason for f in found.frozen if f.name == "block.up")
    assert why.startswith("the pruned network computes something else")


def test_home_is_the_smallest_module_of_all() -> None:
    index = torch.zeros(1, 1, dtype=torch.int64).numpy()
    names = {"a.b.c.weight": "a.b.c", "a.b.d.weight": "a.b", "a.bb.d.weight": "a", "e.weight": ""}
    cuts = []
    for name, home in names.items():
        cuts.append(Slice(name, 0, index, "out"))
        assert scenes.home(cuts) == home


class Heads(nn.Module):
    """A block whose number of features is written down twice, as attention's often is, and a branch that can be cut."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.a, self.b, self.mlp = nn.Linear(8, 12), nn.Linear(12, 8), Mlp(sign)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x + self.b(self.a(x).reshape(len(x), 3, 4).tanh().flatten(1)))


class Mlp(nn.Module):
    """Right as it is; with another sign its features are turned round, by a number that is written down."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.up, self.down, self.sign = nn.Linear(8, 16), nn.Linear(16, 8), sign

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        return x + self.down(hidden.relu() if self.sign > 0 else (hidden * (hidden.shape[1] / 16)).relu())


def test_twelve_blocks_of_attention_are_not_each_tried_in_the_whole_network(
    seen: list[tuple[str, tuple[int, ...]]],
) -> None:
    model = nn.Sequential(nn.Linear(5, 8), *(Heads() for _ in range(12)), nn.Linear(8, 2))
    found = trace(model.eval(), torch.randn(2, 5))
    assert [c.name for c in found.choices] == ["0", *(f"{n}.mlp.up" for n in range(1, 13))]
    frozen = {f.name: f.reason for f in found.frozen}
    assert list(frozen) == ["13", *(f"{n}.a" for n in range(1, 13))]
    assert [frozen[f"{n}.a"] for n in range(1, 13)] == [
        f"the Heads `{n}` reshapes to a size that is written down: 3 x 4" for n in range(1, 13)
    ]
    assert [shape[0] for name, shape in seen if not name] == [1, 1, 1, 2, 2]  # the stem's two parts, one block, all
    assert [sum(name == f"{n}.mlp" for name, _ in seen) for n in range(1, 13)] == [2, *[1] * 11]


def test_a_block_that_looks_like_the_others_and_computes_something_else_is_refuted() -> None:
    model = nn.Sequential(nn.Linear(5, 8), Heads(), Heads(), Heads(-1.0), nn.Linear(8, 2))
    found = trace(model.eval(), torch.randn(2, 5))
    assert [c.name for c in found.choices] == ["0", "1.mlp.up", "2.mlp.up"]
    assert "computes something else" in next(f.reason for f in found.frozen if f.name == "3.mlp.up")


def test_a_network_that_asks_for_float32_and_has_units_without_effect_is_no_traceback() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(8, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.d(self.b(self.a(x)) * 0 + self.c(x.float()))

    found = trace(Asking().eval(), torch.randn(2, 8))
    assert [c.name for c in found.choices] == ["b"]
    assert ("a", "leaving its units out changes nothing that could be seen") in {
        (f.name, f.reason) for f in found.frozen
    }
