"""What a policy file says of a study's policy."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping

from autoprune.files import policy_file
from autoprune.runs.study import Study
from autoprune.structure.roles import roles
from autoprune.values.space import Policy

_DISTRIBUTIONS = ("autoprune", "torch", "numpy", "optuna", "safetensors", "onnx", "onnxruntime")


def file_of(study: Study, policy: Policy, counted: Mapping[str, float], metric: float | None) -> policy_file.PolicyFile:
    """The file of `policy`, whose costs were `counted` on the pruned network, and whose `metric` a search would see."""
    config = study.config
    return policy_file.PolicyFile(
        schema_version=policy_file.SCHEMA,
        task=config.task.settings,
        model=policy_file.fingerprint(study.task.model, study.task.rebuild),
        space=study.name,
        choices=policy_file.entries(study.space, policy, roles(study.trace, study.task.model)),
        criterion=config.criterion.settings,
        evaluator=config.evaluator.settings,
        operator=tuple(one.settings for one in config.operator),
        finetune=config.finetune.model_dump(mode="json"),
        budget={x.name: policy_file.LimitEntry(asked=x.asked, most=x.most) for x in study.budget.limits},
        costs={
            name: policy_file.CostEntry(
                unit=cost.unit,
                dense=study.dense[name],
                predicted=float(cost.predict(policy)),
                counted=counted[name],
            )
            for name, cost in study.costs.items()
        },
        metric=None if metric is None else study.task.judge.known(metric),
        seed=study.seed,
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Of Python, and of what is installed that a run may depend on."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
