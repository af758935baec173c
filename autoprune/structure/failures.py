"""Why a pruned network fails, in the words of whoever wrote it: which module, and what it does with a size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoprune.errors import first_line
from autoprune.inputs import tensors
from autoprune.structure.attention import PrunableAttention
from autoprune.structure.places import described, is_layer

_RESHAPES, _SPLITS = ("view", "reshape", "unflatten"), ("split", "split_with_sizes", "tensor_split", "chunk")


def explained(model: nn.Module, name: str, run: Callable[[], object]) -> str:
    """Why `run` fails, which calls `model`, the module `name` of the network; "" is the network itself."""
    watch = _Watch()
    try:
        with watch:
            run()
    except Exception as wrong:
        names = {id(module): ".".join(filter(None, (name, own))) for own, module in model.named_modules()}
        place = next(iter(_running(wrong, names)), model)
        return f"{described(names[id(place)], place)} {_said(place, watch, wrong)}"
    return "fails once, and not when it is tried again"


class _Watch(TorchFunctionMode):
    """Notes the last function of torch that runs, what it is called with, and whether it fails."""

    def __init__(self) -> None:
        super().__init__()
        self.function, self.failed = "", False
        self.args: tuple[Any, ...] = ()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self.failed or not tensors(args[:1]):
            return func(*args, **(kwargs or {}))
        self.function, self.args = func.__name__.strip("_"), (*args, *(kwargs or {}).values())
        self.failed = True
        out = func(*args, **(kwargs or {}))
        self.failed = False
        return out


def _running(wrong: Exception, names: Mapping[int, str]) -> Iterable[nn.Module]:
    """The modules that were running when it went wrong, the innermost first; none that computes a weight of another."""
    trace, found = wrong.__traceback__, []
    while trace is not None:
        module = trace.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module) and ".parametrizations." not in f".{names.get(id(module), '')}.":
            found += [module] if id(module) in names else []
        trace = trace.tb_next
    return reversed(found)


def _said(place: nn.Module, watch: _Watch, wrong: Exception) -> str:
    if isinstance(place, nn.MultiheadAttention) and not isinstance(place, PrunableAttention):
        return f"has a size that is written down: {place.num_heads} heads of {place.head_dim}"
    if not watch.failed and not (
        watch.function in _SPLITS and isinstance(wrong, ValueError)
    ):  # other than q, k, v = ...
        return f"fails: {first_line(wrong)}"
    if watch.function in _RESHAPES:
        return f"reshapes to a size that is written down: {_size(place, watch)}"
    if watch.function in _SPLITS:
        return f"splits into sizes that are written down: {', '.join(map(str, _numbers(watch.args[1:2])))}"
    if is_layer(place):
        return "is given another number of channels than is left of its own"
    if len(tensors(watch.args)) > 1:
        return f"brings tensors together in {watch.function} whose sizes no longer agree"
    return f"fails in {watch.function} once some are gone"


def _size(place: nn.Module, watch: _Watch) -> str:
    """What is written down: the wanted size, without what it has in common with the size as it is."""
    source, wanted = watch.args[0], _numbers(watch.args[2 if watch.function == "unflatten" else 1 :])
    shape = list(source.shape) if isinstance(source, Tensor) else []
    while len(wanted) > 1 and watch.function != "unflatten" and wanted[0] in (-1, *shape[:-1][:1]):
        wanted, shape = wanted[1:], shape[1:]
    if len(wanted) > 1 and wanted[-2] == getattr(place, "num_heads", None):
        return f"{wanted[-2]} heads of {wanted[-1]}"
    return " x ".join("any" if size == -1 else str(size) for size in wanted)


def _numbers(sizes: Sequence[Any]) -> list[int]:
    """The numbers of a size, written as one tuple or one by one."""
    return [int(n) for size in sizes for n in (size if isinstance(size, tuple | list) else [size])]
