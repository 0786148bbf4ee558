"""How like its reference a response is written: chrF and BLEU by sacrebleu, edit distances by rapidfuzz."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Annotated, Literal

from msgspec import Meta

from pgsrm.reward.references import check_references, compared
from pgsrm.task import normalize
from pgsrm.util.errors import UserError

Metric = Literal["chrf", "bleu", "levenshtein", "indel"]
Form = Literal["normalized", "as_written"]
LIBRARIES = {"chrf": "sacrebleu", "bleu": "sacrebleu", "levenshtein": "rapidfuzz", "indel": "rapidfuzz"}
INSTALL = "pip install 'pgsrm[text-metrics]'"


class TextMetricReward:
    """scale * how like its reference a response is written: a number from 0 to `scale` for each response.

    metric:
        chrf: the F2 of runs of one to six characters that both texts have, without white space (Popović 2015)
        bleu: runs of one to four words that both texts have, of texts shorter than four words as many as they have (Papineni 2002)
        levenshtein: 1 - insertions, deletions and replacements of characters / characters of the longer text
        indel: 1 - insertions and deletions of characters / characters of both texts together
    form:
        normalized: both texts as the word tasks' checker compares them (`pgsrm.task.normalize`)
        as_written: the texts as they are

    chrf and bleu are sacrebleu's for one sentence with its defaults, divided by 100; the others are rapidfuzz's normalized
    similarities. A response without text earns 0. Of several references to a prompt the one with the largest number counts.

    Raises UserError, before a run starts, where the metric's library is not installed, or a prompt has no reference.
    """

    def __init__(
        self,
        metric: Metric = "chrf",
        form: Form = "normalized",
        scale: Annotated[float, Meta(gt=0, lt=1e6)] = 1.0,
    ) -> None:
        library = LIBRARIES[metric]
        if find_spec(library) is None:
            raise UserError(f"reward=text_metric: metric={metric} needs the library {library}; {INSTALL}")
        self._metric, self._form, self._scale = metric, form, scale
        self._measure: Callable[[str, str], float] | None = None  # made at the first call: its library takes 0.2 s

    def check(self, references: Sequence[str]) -> None:
        """Raise UserError where a reference is missing or blank."""
        check_references([reference.strip() for reference in references], "reward=text_metric", needs_all=True)

    def __call__(
        self,
        *,
        references: Sequence[str],
        responses: Sequence[str],
        all_references: Sequence[Sequence[str]] | None = None,
        **_: object,
    ) -> tuple[list[float], dict[str, float]]:
        """One reward per response, and the mean before `scale` as a metric with the metric's name (`chrf`)."""
        pairs = zip(responses, compared(references, all_references), strict=True)
        values = [max(self._value(text, one) for one in several) for text, several in pairs]
        return [self._scale * value for value in values], {self._metric: sum(values) / max(1, len(values))}

    def _value(self, response: str, reference: str) -> float:
        if self._form == "normalized":
            response, reference = normalize(response), normalize(reference)
        if not response.strip() or not reference.strip():
            return 0.0
        self._measure = self._measure or _measure(self._metric)
        return min(1.0, self._measure(response, reference))  # sacrebleu's BLEU of equal texts is 100.00000000000004


def _measure(metric: Metric) -> Callable[[str, str], float]:
    """The metric as a function (response, reference) -> from 0 to 1."""
    if metric in ("levenshtein", "indel"):
        from rapidfuzz.distance import Indel, Levenshtein

        return (Levenshtein if metric == "levenshtein" else Indel).normalized_similarity
    from sacrebleu.metrics import BLEU, CHRF

    sentence = CHRF() if metric == "chrf" else BLEU(effective_order=True)
    return lambda response, reference: float(sentence.sentence_score(response, [reference]).score / 100)
