"""What a reward returned, checked and in one form."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pgsrm.record.measured import is_measured
from pgsrm.rollout import Annotation, Scored, Span, at_last_token
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted

RESERVED = frozenset(("mean", "std", "no_signal", "exact_match", "token_mean", "token_std", "token_share", "spans"))
# Prefixes of metrics that every run has.
OWNED = (
    "reward/",
    "response/",
    "policy/",
    "loss/",
    "value/",
    "advantage/",
    "grad/",
    "dpo/",
    "budget/",
    "eval/",
    "memory/",
)
TIMES = ("time/update", "time/left", "time/tokens_per_second", "time/reward", "time/evaluation")


def normalise(
    output: Any, token_ids: Sequence[Sequence[int]], name: str = "reward", responses: Sequence[str] | None = None
) -> Scored:
    """Bring a reward's output into one form, in plain floats.

    output: what a `Reward` returned for n responses: rewards, or (rewards, metrics), or (rewards, metrics, annotations);
    lists, NumPy arrays and tensors are all welcome. token_ids: the n responses' token ids, for their number and lengths.
    name: what an error calls the reward. responses: their texts, for the check that spans lie within them.

    Raises UserError if the number of rewards is not n, if a response's rewards are not as many as its tokens, if the two
    shapes are mixed, if a reward or metric is not a finite number, or if an annotation is not one.
    """
    rewards, metrics, annotations = _parts(output)
    rewards = _as_list(rewards, f"reward={name}: it returned")
    if len(rewards) != len(token_ids):
        counts = f"{counted(len(rewards), 'reward')} for {counted(len(token_ids), 'response')}"
        raise UserError(f"reward={name}: it returned {counts}; return one for each")
    per_token = [_is_sequence(reward) for reward in rewards]
    if any(per_token) and not all(per_token):
        raise UserError(f"reward={name}: it returned numbers and lists side by side; return one or the other")
    where = f"reward={name}: the reward of response"
    if any(per_token):
        pairs = enumerate(zip(rewards, token_ids, strict=True))
        token_rewards = [_token_rewards(row, ids, f"{where} {i}") for i, (row, ids) in pairs]
    else:
        numbers = [_number(reward, f"{where} {i}") for i, reward in enumerate(rewards)]
        token_rewards = at_last_token(numbers, token_ids)
    return Scored(
        token_rewards, any(per_token), _metrics(metrics, name), _annotations(annotations, token_ids, responses, name)
    )


def of_part(part: str, metric: str) -> str:
    """The name of a metric that another part of a reward has too: `NAME/metric`; what is measured stays so, `time/NAME/critic`."""
    kind, slash, rest = metric.partition("/")
    return f"{kind}/{part}/{rest}" if slash and is_measured(metric) else f"{part}/{metric}"


def with_part(
    metrics: Mapping[str, float], part: str, own: Mapping[str, float], shared: Collection[str] = ()
) -> dict[str, float]:
    """`metrics` and a part's own, of which none takes another's place.

    One whose name is among `metrics` or `shared` gets the part's name (`of_part`), again and again until its name is free: rewards
    within rewards have names that were told apart before.
    """
    together = dict(metrics)
    for metric, value in own.items():
        while metric in together or metric in shared:
            metric = of_part(part, metric)
        together[metric] = value
    return together


def _parts(output: Any) -> tuple[Any, Mapping[Any, Any], Any]:
    """Rewards, metrics and annotations. A tuple of numbers is one of rewards: metrics are what tells it apart."""
    if isinstance(output, tuple) and len(output) in (2, 3) and isinstance(output[1], Mapping):
        rewards, metrics, *annotations = output
        return rewards, metrics, annotations[0] if annotations else ()
    return output, {}, ()


def _token_rewards(row: Any, token_ids: Sequence[int], where: str) -> list[float]:
    row = _as_list(row, where)
    if len(row) != len(token_ids):
        counts = f"{counted(len(row), 'number')} for {counted(len(token_ids), 'token')}"
        raise UserError(f"{where} has {counts}; return one for each token, or one number")
    return [_number(reward, f"{where}, token {t},") for t, reward in enumerate(row)]


def _metrics(metrics: Mapping[Any, Any], name: str) -> dict[str, float]:
    taken = sorted(RESERVED & {str(key) for key in metrics})
    if taken:
        raise UserError(
            f"reward={name}: reward/{taken[0]} is a metric that every run has; call its {taken[0]} otherwise"
        )
    owned = sorted(str(key) for key in metrics if str(key).startswith(OWNED) or key in TIMES)
    if owned:
        raise UserError(f"reward={name}: {owned[0]} is a metric of the run's own; begin its name otherwise")
    return {str(key): _number(value, f"reward={name}: the metric {key}") for key, value in metrics.items()}


def _annotations(
    given: Any, token_ids: Sequence[Sequence[int]], responses: Sequence[str] | None, name: str
) -> list[Annotation]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UserError(f"reward={name}: its annotations are {given!r}; return a list with one for each response")
    if not given:
        return []
    if len(given) != len(token_ids):
        counts = f"{counted(len(given), 'annotation')} for {counted(len(token_ids), 'response')}"
        raise UserError(f"reward={name}: it returned {counts}; return one for each")
    ends = [math.inf] * len(given) if responses is None else map(len, responses)
    return [
        _annotation(annotation, end, f"reward={name}: the annotation of response {row}")
        for row, (annotation, end) in enumerate(zip(given, ends, strict=True))
    ]


def _annotation(given: Any, end: float, where: str) -> Annotation:
    """One response's, from an `Annotation` or from a mapping of `spans` and `components`."""
    if not isinstance(given, Annotation):
        if not isinstance(given, Mapping) or not set(given) <= {"spans", "components"}:
            raise UserError(f"{where} is {given!r}; return a dict of spans and components, empty for none")
        spans, components = given.get("spans", ()), given.get("components", {})
        if not isinstance(spans, Sequence) or isinstance(spans, str):
            raise UserError(f"{where} has the spans {spans!r}; return a list of (start, end, label, value)")
        if not isinstance(components, Mapping):
            raise UserError(f"{where} has the components {components!r}; return a dict of name and number")
        named = {str(key): _number(value, f"{where}: the component {key}") for key, value in components.items()}
        given = Annotation(tuple(_span(span, where) for span in spans), named)
    for span in given.spans:
        if not 0 <= span.start <= span.end <= end:
            raise UserError(f"{where} marks characters {span.start} to {span.end} of {end}; count within the response")
    return given


def _span(given: Any, where: str) -> Span:
    if isinstance(given, Span):
        return given
    try:
        start, end, label, value = given
        return Span(int(start), int(end), str(label), None if value is None else _number(value, f"{where}: a span"))
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where} has the span {given!r}; return (start, end, label, value)") from error


def _is_sequence(value: Any) -> bool:
    """A list, an array, a tensor; not a number, be it a NumPy scalar or a tensor without dimensions."""
    return isinstance(value, Iterable) and not isinstance(value, str) and getattr(value, "ndim", 1) > 0


def _as_list(value: Any, what: str) -> list[Any]:
    if not _is_sequence(value) or isinstance(value, Mapping):
        raise UserError(f"{what} {value!r}; return a list of numbers, or a pair of that and a dict of metrics")
    return value.tolist() if hasattr(value, "tolist") else list(value)


def _number(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{what} is {value!r}; it must be a finite number")
    return number
