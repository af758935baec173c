"""What people put round a network: a compiler, copies on several devices, an average; and networks that are none.

A wrapper runs its network and holds it as a module of its own, so that every name in it begins with the wrapper's word.
Here it is taken off. What is a program already, and no network of modules, is refused.
"""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from autoprune.copies import computed
from autoprune.errors import ModelError

_MODULE = (nn.DataParallel, DistributedDataParallel, AveragedModel)


def bare(model: nn.Module) -> nn.Module:
    """The network in all its wrappers, with its own tensors; `model` itself where nothing in it is wrapped.

    `model` is not changed: one with wrappers inside is copied, but for its tensors.
    Raises ModelError for a scripted or exported network.
    """
    refuse_programs(model)
    while (inner := _wrapped(model)) is not None:
        model = inner
    refuse_programs(model)
    inside = [module for module in model.modules() if _wrapped(module) is not None]
    if not inside:
        return model
    memo = computed(model) | {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for wrapper in reversed(inside):  # the innermost first
        module = _wrapped(wrapper)
        memo[id(wrapper)] = memo.get(id(module)) or copy.deepcopy(module, memo)
    return copy.deepcopy(model, memo)


def wrappers(model: nn.Module) -> list[str]:
    """The kinds of wrapper in `model`, each once, for people."""
    kinds = (type(module).__name__ for module in model.modules() if _wrapped(module) is not None)
    return [_SPOKEN.get(kind, kind) for kind in dict.fromkeys(kinds)]


_SPOKEN = {"OptimizedModule": "torch.compile"}


def precisions(model: nn.Module) -> list[str]:
    """The types of a network's floating-point tensors that are not float32, each once, for people."""
    found = (tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point())
    return [str(dtype).removeprefix("torch.") for dtype in dict.fromkeys(found) if dtype != torch.float32]


def refuse_programs(model: object) -> None:
    """Raise ModelError for what is no network of modules that can be cut."""
    if isinstance(model, torch.export.ExportedProgram):
        raise ModelError(f"a program of torch.export has its sizes written in; {_HAND_OVER}")
    if not isinstance(model, nn.Module):
        raise ModelError(f"the network is a {type(model).__name__}; it should be a torch.nn.Module")
    for name, module in model.named_modules():
        what = f"its module {name!r}" if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{what} is scripted or traced by torch.jit, and so compiled as it is; {_HAND_OVER}")
        if isinstance(module, fx.GraphModule) and _exported(module):
            raise ModelError(f"{what} comes from torch.export, which has its sizes written in; {_HAND_OVER}")


_HAND_OVER = "hand over the torch.nn.Module that it was made from"


def _exported(module: fx.GraphModule) -> bool:
    """Whether this is the module of an exported program: all its functions are compiled operators."""
    called = [node.target for node in module.graph.nodes if node.op == "call_function"]
    return bool(called) and any(isinstance(target, torch._ops.OpOverload) for target in called)


def _wrapped(module: nn.Module) -> nn.Module | None:
    """What `module` wraps; None if it is no wrapper."""
    inner = module._modules.get("_orig_mod" if type(module).__name__ == "OptimizedModule" else "module")
    known = isinstance(module, _MODULE) or type(module).__name__ == "OptimizedModule"
    return inner if known else None
