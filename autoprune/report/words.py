"""The facts of a run in words: sentences, tables, and numbers as people read them."""

from __future__ import annotations

import math

from autoprune.metrics import Judge
from autoprune.report.facts import Agreement, Report, Role, RungFacts
from autoprune.report.staff import Staff
from autoprune.values.people import (
    begun as begun,
    counted as counted,
    duration as duration,
    number as number,
    quantity as quantity,
    rate as rate,
    size as size,
)

FINETUNE = "The finetune "  # how notes begin that the summary shows, too
MISSES = "The policy of the largest reward misses "  # likewise
_COUNTED = ("MAC", "FLOP", "param")  # units that the name of the cost says already
_ROOM = 1.1  # of a ceiling on a time, over the time of the trial that it is to take


def sentence(r: Report) -> str:
    """The result in one sentence."""
    cost, final, dense = r.headline_cost, r.final, r.dense
    share, unit = final.costs[cost] / dense.costs[cost], r.units[cost]
    lead = f"{share:.1%} of the {label(cost)} ({quantity(final.costs[cost])} of {valued(dense.costs[cost], unit)})"
    lower = ", lower is better" if r.lower_is_better else ""
    quality = f"test {r.metric_name} {shown(r, final.test)}{lower}, dense {shown(r, dense.test)}"
    uniform = r.networks.get("uniform")
    training = "training" if r.taught == "training" else "finetuning"
    equal = f" at equal {training}" if r.trained else ", not finetuned either,"
    against = f", uniform pruning{equal} {shown(r, uniform.test)}" if uniform and r.delivered != "uniform" else ""
    return f"{lead}: {quality} ({gap(r, less(final.test, dense.test))}){against}."


def delivered(r: Report) -> str:
    """Which network was taken, and why, where it is not the one that the search found; else ""."""
    if r.delivered == "ours":
        return ""
    after = f"after the {r.taught}" if r.trained else "as it recovered"
    better = f"{shown(r, r.final.holdout)} against {shown(r, r.ours.holdout)}"
    return (
        f"Delivered is the network of a baseline, {title(r, r.delivered)}: {after} it was the best on the holdout, "
        f"{better} for the policy that was {title(r, 'ours')}."
    )


def gains(r: Report, role: Role) -> str:
    """How much better than uniform a network was in the search, and how much of that is left on test."""
    uniform, network = r.networks.get("uniform"), r.networks[role]
    if uniform is None or role in ("dense", "uniform"):
        return "-"
    first, last = (gap(r, less(getattr(network, at), getattr(uniform, at))) for at in ("searched", "test"))
    return f"{first.removesuffix(' points') if last.endswith(' points') else first} → {last}"


def table(r: Report) -> list[list[str]]:
    """The comparison as rows of text, the head first."""
    heads = [heading(c, unit) for c, unit in r.units.items()]
    rows = [
        ["network", f"test {metric(r)}", f"holdout {metric(r)}", "over uniform, searched → test", *heads, "weights"]
    ]
    for role, n in r.networks.items():
        costs = [f"{quantity(n.costs[c])} ({n.costs[c] / r.dense.costs[c]:.1%})" for c in r.units]
        rows.append([title(r, role), shown(r, n.test), shown(r, n.holdout), gains(r, role), *costs, size(n.bytes)])
    return rows


def remarks(r: Report, run: str = "RUN") -> list[str]:
    """What the summary says below the table: how true the search's score is, if that is known, and where time went.

    `run` is the run's directory as a command names it.
    """
    spent = r.searching
    total = sum(spent.values())
    shares = ", ".join(f"{phase} {duration(s)} ({s / (total or 1):.0%})" for phase, s in spent.items())
    said = [delivered(r)] if delivered(r) else []
    said += [note for note in r.notes if note.startswith((FINETUNE, MISSES))]
    said += [f"Score of the search against the slow score: {agreement(r.fidelity)}."] if r.fidelity else []
    pace = f", {rate(r.policies_per_second)}" if r.policies_per_second else ""
    said += [f"{begun(label(x.cost))} {x.about}." for x in r.limits if x.about]
    said += [f"{begun(x.said)}; {x.verdict}." for x in r.limits if x.about and x.said]
    said += [f"{searched(r)}."] if r.scored else []
    for rung in r.rungs:
        cost = f"{counted(rung.trials, 'trial')} of {duration(rung.seconds)}"
        said.append(f"{begun(rung.said)}: {cost}, tau with the next {foretold(rung)}.")
    said += [f"The search took {duration(total)}{pace}: {shares}."] if spent else []
    said += [f"{staffed(r.staff)}."] if r.staff else []
    return [*said, _front(r, run)] if r.trades(r.headline_cost) else said


def staffed(staff: Staff) -> str:
    """Who evaluated, and how their time went."""
    told = "in the order of their asks" if staff.order == "asked" else "as they came"
    ahead = f"{staff.window} policies under way at most, told {told}"
    shares = f"they had a policy in {staff.utilisation:.1%} of their time, and evaluated in {staff.efficiency:.1%}"
    return f"{counted(staff.workers, 'worker')} evaluated ({ahead}): {shares}"


def searched(r: Report) -> str:
    """How many different networks the trials of the search scored, and how many got no score."""
    lost = f", {r.failed} failed" if r.failed else ""
    trials, networks = counted(r.tried, "trial"), counted(r.scored, "different network")
    return f"{trials} by {used(r, 'controller')} scored {networks}{lost}"


def drawn(r: Report) -> str:
    """How many trials the page shows, where that is not all; "" where it is."""
    if not r.left_out.trials:
        return ""
    kept = "the front, every best so far, the winner, and an even sample of the rest"
    return f"{len(r.trials):,} of {r.tried:,} trials are shown: {kept}."


def _front(r: Report, run: str) -> str:
    """What the front spans, and how to take a point of it."""
    cost = r.headline_cost
    ends = r.front(cost)
    low, high = (f"{t.costs[cost] / r.dense.costs[cost]:.0%}" for t in (ends[0], ends[-1]))
    worst, best = (shown(r, t.metric) for t in (ends[0], ends[-1]))
    between = f"{worst} at {low} of the {label(cost)} and {best} at {high}"
    taken = f"`autoprune apply {run} {advised(r)}` takes one, as other ceilings take others"
    return f"The front has {len(ends)} points between {between}; {taken}."


def advised(r: Report) -> str:
    """What to add to `autoprune apply RUN` for the middle of the front: a ceiling that a trial of the run meets.

    A cost that is measured is given more room, since its ceilings may be kept away from.
    """
    cost, found = r.headline_cost, r.front(r.headline_cost)
    shares = [t.costs[cost] / r.dense.costs[cost] for t in found]
    middle = min(shares, key=lambda share: abs(share - (shares[0] + shares[-1]) / 2))
    room = _ROOM if r.units[cost] == "ms" else 1.0
    return f"--at {cost}={min(100, math.ceil(100 * middle * room))}%"


def title(r: Report, role: Role) -> str:
    """What a network is called in tables."""
    names: dict[Role, str] = {
        "dense": "dense",
        "ours": f"found by {used(r, 'controller')}",
        "uniform": "uniform",
        "rule": f"best of {counted(len(r.rules), 'rule')}, {r.rule}",
        "random": f"best of {len(r.random_trials) + r.left_out.random} random",
    }
    return names[role]


def used(r: Report, kind: str) -> str:
    """The plugin of that kind, as a person names it: of an address, the file without its folders."""
    return r.plugins.get(kind, "search").rpartition("/")[2]


def metric(r: Report) -> str:
    """The metric's name, with an arrow where lower is better."""
    return f"{r.metric_name} ↓" if r.lower_is_better else r.metric_name


def shown(r: Report, metric: float | None) -> str:
    """A metric as people read it."""
    return "-" if metric is None else number(metric, percent=r.in_percent)


def all_alike(judge: Judge, metric: float) -> str:
    """What is said where the first policies all have one metric, which is better when higher."""
    said = number(judge.known(metric), percent=judge.percent)
    return f"The first networks all have the same {judge.name}, {said}: does the metric see what pruning changes?"


def less(one: float | None, other: float | None) -> float | None:
    """The difference of two metrics; None where one is not known."""
    return None if one is None or other is None else one - other


def gap(r: Report, difference: float | None) -> str:
    """A difference of metrics as people read it."""
    if difference is None:
        return "-"
    size = 100 * abs(difference) if r.in_percent else abs(difference)
    if not size:
        return "no difference"
    number = f"{size:.2f} points" if r.in_percent else f"{size:#.3g}".rstrip(".")
    if r.in_percent and size < 0.005:  # it would be written as none
        return "within 0.01 points"
    return f"{'+' if difference > 0 else '−'}{number}"  # noqa: RUF001 - a minus sign, not a hyphen


def agreement(found: Agreement) -> str:
    """Kendall's tau as people read it."""
    left = f", {found.failed} failed and left out" if found.failed else ""
    over = f"over {found.policies} random policies{left}"
    if found.tau is None:
        return f"Kendall's tau is not defined {over}: one of the scores is the same for all"
    return f"Kendall's tau {tau(found)} (90 % interval {interval(found)}) {over}"


def foretold(rung: RungFacts) -> str:
    """How far a rung put policies in the order of the next one."""
    if rung.policies < 2:
        return "-"
    return f"{'not defined' if rung.tau is None else f'{rung.tau:.2f}'} over {counted(rung.policies, 'policy')}"


def tau(found: Agreement) -> str:
    """The number alone."""
    return "not defined" if found.tau is None else f"{found.tau:.3f}"


def interval(found: Agreement) -> str:
    """Its interval."""
    return "-" if found.low is None or found.high is None else f"{found.low:.3f} to {found.high:.3f}"


def amount(value: float, unit: str) -> str:
    """A cost in full: whole numbers of what is counted, four digits of what is measured."""
    return f"{value:,.0f}" if counts(unit) else f"{quantity(value)} {unit}"


def label(cost: str) -> str:
    """A cost's name as people write it."""
    return {"macs": "MACs", "flops": "FLOPs", "params": "parameters"}.get(cost, cost)


def counts(unit: str) -> bool:
    """Whether costs in that unit are whole numbers of what the cost's name says."""
    return unit in _COUNTED


def heading(cost: str, unit: str) -> str:
    """A cost's name with its unit, where that says more."""
    return label(cost) if counts(unit) else f"{label(cost)}, {unit}"


def valued(value: float, unit: str) -> str:
    """A cost in three or four digits, with its unit where its name does not say it."""
    return quantity(value) if counts(unit) else f"{quantity(value)} {unit}"


def times(r: Report) -> str:
    """How many times cheaper the delivered network is; where it costs nothing, as one without its blocks may: ∞."""
    cost = r.final.costs[r.headline_cost]
    return f"{r.dense.costs[r.headline_cost] / cost:.2f}" if cost else "∞"


def lessened(r: Report) -> str:
    """What there is less of, and how much: fewer MACs: 40 M → 20 M; less latency: 3 → 2 ms."""
    cost, unit = r.headline_cost, r.units[r.headline_cost]
    less = f"{'fewer' if counts(unit) else 'less'} {label(cost)}"
    return f"{less}: {quantity(r.dense.costs[cost])} → {valued(r.final.costs[cost], unit)}"


def predicted(r: Report) -> str:
    """How the costs of the budget were predicted, and how they were found in the end."""
    counted = [label(x.cost) for x in r.limits if counts(x.unit)]
    reckoned = [label(x.cost) for x in r.limits if not counts(x.unit) and not x.about]
    said = []
    if counted:
        said.append(f"{begun(' and '.join(counted))}: predicted by arithmetic, counted on the pruned network itself.")
    if reckoned:
        said.append(f"{begun(' and '.join(reckoned))}: predicted by arithmetic, reckoned anew from the pruned network.")
    for x in (x for x in r.limits if x.about):
        error = f" at {len(x.moments)} moments, which differ by {x.spread:.1%}" if len(x.moments) > 1 else ""
        said.append(f"{begun(label(x.cost))} {x.about}; the pruned network itself was measured{error}.")
        said.append(f"{begun(x.said)}." if x.said else "")
    return " ".join(filter(None, said))
