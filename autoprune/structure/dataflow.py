"""Who reads what: every operator of one forward pass with the values that it reads and makes, and the modules that run.

A value is what a tensor holds until it is overwritten. The operators are those that `labels.Flow` sees, in the same
order.
"""

from __future__ import annotations

import contextlib
import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoprune import inputs
from autoprune.structure.labels import UNCOUNTED, plain
from autoprune.structure.skipped import Argument

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
OUTSIDE = -1  # the operator of a value that none has made: an input or a weight


@dataclass(frozen=True, slots=True)
class Ran:
    """One operator at work. Its position is the number that `labels.Flow` gives it.

    Attributes:
        op: its name, in place or not.
        operands: the values of the tensors among its arguments, in order.
        reads: these, and what was written to their memory by other names.
        plain: whether it has no argument but tensors of one shape, which is its output's, too.
        module: the innermost that was running; "" is the network.
        weighs: whether it reads a parameter.
    """

    op: str
    operands: tuple[int, ...]
    reads: frozenset[int]
    plain: bool
    module: str
    weighs: bool


@dataclass(frozen=True, slots=True)
class Span:
    """One call of a module: operators from `first` to before `last`.

    Attributes:
        given: the values of the tensors among its arguments; `floats` are the arguments with floating-point numbers.
        answers: what it answers, a nest of tuples: the value of a tensor, None, or `strange` for anything else.
        kept: all arguments as they were, where they are to be kept and can be.
    """

    module: str
    first: int
    last: int
    given: Mapping[Argument, int]
    floats: tuple[Argument, ...]
    answers: Any
    kept: Arguments | None = None


strange = object()


@dataclass
class Record:
    """One forward pass.

    Attributes:
        ran: every operator, in order.
        spans: by name, every call of a module that ran through.
        made_by: of each value the operator that made it, by position, `OUTSIDE` for none.
        memory: of each value the first that lay in the same memory.
        answers: the values that the network answers.
    """

    ran: list[Ran] = field(default_factory=list)
    spans: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))
    made_by: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    answers: tuple[int, ...] = ()

    @cached_property
    def ancestors(self) -> list[int]:
        """Of each value, as bits, all that it was made of."""
        found: list[int] = []
        for maker in self.made_by:
            bits = 0
            for value in self.ran[maker].reads if maker != OUTSIDE else ():
                bits |= found[value] | 1 << value
            found.append(bits)
        return found

    def live(self, cut: Mapping[int, int] | None = None) -> set[int]:
        """The operators that the answer depends on; those of `cut` are taken to read nothing but the value there."""
        cut, found = cut or {}, set[int]()
        queue = [self.made_by[value] for value in self.answers]
        while queue:
            at = queue.pop()
            if at == OUTSIDE or at in found:
                continue
            found.add(at)
            read = (cut[at],) if at in cut else self.ran[at].reads
            queue += [self.made_by[value] for value in read]
        return found

    def within(self, module: str) -> set[int]:
        """The operators that run in `module`."""
        return {at for span in self.spans.get(module, ()) for at in range(span.first, span.last)}


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module, keep: Collection[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record, self._keep, self._copying = Record(), keep, False
        self._known: dict[int, tuple[Tensor, int]] = {}  # the reference keeps the id from being used again
        self._written: dict[int, list[tuple[int, int]]] = defaultdict(list)  # memory -> tensor, value
        self._first: dict[int, int] = {}  # memory -> value
        self._running: list[tuple[str, int, Any]] = []
        self._weights = {id(parameter) for parameter in model.parameters()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._copying:
            return func(*args, **kwargs)
        given = inputs.tensors((args, kwargs))
        operands = tuple(self.value(tensor) for tensor in given)
        aliased = [v for t in given for owner, v in self._written.get(_memory(t), ()) if owner != id(t)]
        out = func(*args, **kwargs)
        if func is UNCOUNTED:
            self._known[id(out)] = (out, operands[0])
            self._weights |= {id(out)} if id(args[0]) in self._weights else set()
            return out
        made = inputs.tensors(out)
        shapes = {tuple(tensor.shape) for tensor in (*given, *made)}
        alone = not kwargs and all(isinstance(one, Tensor) for one in args) and len(shapes) == 1
        name = func.overloadpacket.__name__
        ran = Ran(
            name[:-1] if name.endswith("_") and not name.endswith("__") else name, operands,
            frozenset((*operands, *aliased)), alone, self._running[-1][0] if self._running else "",
            any(id(tensor) in self._weights for tensor in given),
        )  # fmt: skip
        self.record.ran.append(ran)
        for tensor in made:
            overwritten = id(tensor) in self._known
            value = self._fresh(tensor, len(self.record.ran) - 1)
            if overwritten:
                self._written[_memory(tensor)].append((id(tensor), value))
        return out

    def value(self, tensor: Tensor) -> int:
        """What `tensor` holds now."""
        known = self._known.get(id(tensor))
        return known[1] if known else self._fresh(tensor, OUTSIDE)

    def _fresh(self, tensor: Tensor, maker: int) -> int:
        value = len(self.record.made_by)
        self.record.made_by.append(maker)
        self.record.memory.append(self._first.setdefault(_memory(tensor), value))
        self._known[id(tensor)] = (tensor, value)
        return value

    def enter(self, name: str) -> Callable[..., None]:
        """A hook before the module `name` runs."""

        def hook(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            arguments: dict[Argument, Any] = dict(enumerate(args))
            arguments.update(named.items())
            given = {key: self.value(one) for key, one in arguments.items() if isinstance(one, Tensor)}
            floats = tuple(key for key in given if arguments[key].is_floating_point())
            kept = self._copied((args, named)) if name in self._keep else None
            self._running.append((name, len(self.record.ran), (given, floats, kept)))

        return hook

    def _copied(self, arguments: Arguments) -> Arguments | None:
        """With all that they hold, such as a cache that is written to; None where that cannot be copied."""
        self._copying = True
        try:
            return copy.deepcopy(arguments)
        except Exception:  # whatever objects of others raise
            return None
        finally:
            self._copying = False

    def leave(self, module: nn.Module, args: object, outputs: Any) -> None:
        """A hook after a module has run."""
        name, first, (given, floats, kept) = self._running.pop()
        span = Span(name, first, len(self.record.ran), given, floats, self.answers(outputs), kept)
        self.record.spans[name].append(span)

    def answers(self, outputs: Any) -> Any:
        """As `Span.answers`."""
        if isinstance(outputs, Tensor):
            return self.value(outputs)
        if type(outputs) in (tuple, list):
            return tuple(map(self.answers, outputs))
        return None if outputs is None else strange


def recorded(model: nn.Module, example: inputs.Inputs, keep: Collection[str] = ()) -> Record:
    """What runs when `model` is called with the first of `example`; arguments of the modules in `keep` are kept."""
    recorder, sample = _Recorder(model, keep), inputs.first(example, 1)
    with plain(), _hooked(model, recorder), recorder:
        outputs = inputs.call(model, sample)
        recorder.record.answers = tuple(map(recorder.value, inputs.tensors(outputs)))
    return recorder.record


@contextlib.contextmanager
def _hooked(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        if name and ".parametrizations." not in f".{name}.":
            enter = module.register_forward_pre_hook(recorder.enter(name), prepend=True, with_kwargs=True)
            handles += [enter, module.register_forward_hook(recorder.leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
