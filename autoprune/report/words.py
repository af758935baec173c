"""The facts of a run in words: sentences, tables, and numbers as people read them."""

from __future__ import annotations

from autoprune.metrics import Judge
from autoprune.report.facts import Agreement, Report, Role

_COUNTED = ("MAC", "FLOP", "param")  # units that the name of the cost says already


def sentence(r: Report) -> str:
    """The result in one sentence."""
    cost, ours, dense = r.headline_cost, r.ours, r.dense
    share = ours.costs[cost] / dense.costs[cost]
    unit = "" if r.units[cost] in _COUNTED else f" {r.units[cost]}"
    lead = f"{share:.1%} of the {label(cost)} ({quantity(ours.costs[cost])} of {quantity(dense.costs[cost])}{unit})"
    lower = ", lower is better" if r.lower_is_better else ""
    quality = f"test {r.metric_name} {shown(r, ours.test)}{lower}, dense {shown(r, dense.test)}"
    uniform = r.networks.get("uniform")
    training = "training" if r.taught == "training" else "finetuning"
    against = f", uniform pruning at equal {training} {shown(r, uniform.test)}" if uniform else ""
    return f"{lead}: {quality} ({gap(r, ours.test - dense.test)}){against}."


def table(r: Report) -> list[list[str]]:
    """The comparison as rows of text, the head first."""
    heads = [label(c) if unit in _COUNTED else f"{label(c)}, {unit}" for c, unit in r.units.items()]
    rows = [["network", f"test {metric(r)}", f"holdout {metric(r)}", *heads, "weights"]]
    for role, n in r.networks.items():
        costs = [f"{quantity(n.costs[c])} ({n.costs[c] / r.dense.costs[c]:.1%})" for c in r.units]
        rows.append([title(r, role), shown(r, n.test), shown(r, n.holdout), *costs, size(n.bytes)])
    return rows


def remarks(r: Report) -> list[str]:
    """What the summary says below the table: how true the search's score is, if that is known, and where time went."""
    spent = r.searching
    total = sum(spent.values())
    shares = ", ".join(f"{phase} {duration(s)} ({s / (total or 1):.0%})" for phase, s in spent.items())
    said = [f"Score of the search against the slow score: {agreement(r.fidelity)}."] if r.fidelity else []
    pace = f", {rate(r.policies_per_second)}" if r.policies_per_second else ""
    said += [f"{label(x.cost).capitalize()} {x.about}." for x in r.limits if x.about]
    said += [f"{searched(r)}."] if r.scored else []
    said += [f"The search took {duration(total)}{pace}: {shares}."] if spent else []
    return [*said, _front(r)] if r.trades(r.headline_cost) else said


def searched(r: Report) -> str:
    """How many different networks the trials of the search scored, and how many got no score."""
    failed = sum(t.metric is None for t in r.trials)
    lost = f", {failed} failed" if failed else ""
    trials, networks = counted(len(r.trials), "trial"), counted(r.scored, "different network")
    return f"{trials} by {r.plugins['controller']} scored {networks}{lost}"


def counted(number: int, what: str) -> str:
    """So many of something."""
    return f"{number} {what}{'s' * (number != 1)}"


def _front(r: Report) -> str:
    """What the front spans, and how to take a point of it."""
    cost = r.headline_cost
    ends = r.front(cost)
    low, high = (f"{t.costs[cost] / r.dense.costs[cost]:.0%}" for t in (ends[0], ends[-1]))
    worst, best = (shown(r, t.metric) for t in (ends[0], ends[-1]))
    between = f"{worst} at {low} of the {label(cost)} and {best} at {high}"
    return f"The front has {len(ends)} points between {between}; `autoprune apply RUN --at {cost}=40%` takes any."


def title(r: Report, role: Role) -> str:
    """What a network is called in tables."""
    ours, random = r.plugins.get("controller", "search"), f"best of {len(r.random_trials)} random"
    return {"dense": "dense", "ours": f"found by {ours}", "uniform": "uniform", "random": random}[role]


def metric(r: Report) -> str:
    """The metric's name, with an arrow where lower is better."""
    return f"{r.metric_name} ↓" if r.lower_is_better else r.metric_name


def shown(r: Report, metric: float | None) -> str:
    """A metric as people read it."""
    return "-" if metric is None else number(metric, percent=r.in_percent)


def number(metric: float, *, percent: bool) -> str:
    """A metric as people read it: shares in percent, all else with four digits."""
    return f"{100 * metric:.2f} %" if percent else f"{metric:.4g}"


def all_alike(judge: Judge, metric: float) -> str:
    """What is said where the first policies all have one metric, which is better when higher."""
    said = number(judge.known(metric), percent=judge.percent)
    return f"The first networks all have the same {judge.name}, {said}: does the metric see what pruning changes?"


def gap(r: Report, difference: float) -> str:
    """A difference of metrics as people read it."""
    size = 100 * difference if r.in_percent else difference
    sign = "+" if size > 0 else "−" if size < 0 else "±"  # noqa: RUF001 - a minus sign, not a hyphen
    number = f"{abs(size):.2f}" if r.in_percent else f"{abs(size):.4g}"
    return f"{sign}{number} points" if r.in_percent else f"{sign}{number}"


def agreement(found: Agreement) -> str:
    """Kendall's tau as people read it."""
    left = f", {found.failed} failed and left out" if found.failed else ""
    over = f"over {found.policies} random policies{left}"
    if found.tau is None:
        return f"Kendall's tau is not defined {over}: one of the scores is the same for all"
    return f"Kendall's tau {tau(found)} (90 % interval {interval(found)}) {over}"


def tau(found: Agreement) -> str:
    """The number alone."""
    return "not defined" if found.tau is None else f"{found.tau:.3f}"


def interval(found: Agreement) -> str:
    """Its interval."""
    return "-" if found.low is None or found.high is None else f"{found.low:.3f} to {found.high:.3f}"


def amount(value: float, unit: str) -> str:
    """A cost in full: whole numbers of what is counted, four digits of what is measured."""
    return f"{value:,.0f}" if unit in _COUNTED else f"{value:.4g} {unit}"


def label(cost: str) -> str:
    """A cost's name as people write it."""
    return {"macs": "MACs", "flops": "FLOPs", "params": "parameters"}.get(cost, cost)


def quantity(value: float) -> str:
    """A large number with three or four digits and a prefix: 20.46 M."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:#.4g}".rstrip(".") + f" {letter}"
    return f"{value:.4g}"


def size(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def duration(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def rate(policies_per_second: float) -> str:
    """How fast policies are evaluated, as people read it."""
    return f"{policies_per_second:.{1 if policies_per_second >= 0.95 else 2}f} policies/s"
