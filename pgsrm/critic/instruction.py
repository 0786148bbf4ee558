"""What a critic that is a language model is asked: an instruction, examples, and how a text is shown to it."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta

from pgsrm.critic.critique import Critique
from pgsrm.critic.formats import one_line, read_reply, write_json, write_text
from pgsrm.critic.quotes import Quote
from pgsrm.util.errors import UserError
from pgsrm.util.paths import local_path

SHIPPED = Path(__file__).parent / "instructions"
Form = Literal["text", "json"]
_PLACES = ("text", "prompt", "response", "extrinsic")
_PLACE = re.compile(r"\{(" + "|".join(_PLACES) + r")\}")
_ANY_PLACE = re.compile(r"\{(\w+)\}")


class Example(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A text and what a good critic quotes of it."""

    # What the response answers.
    prompt: str
    # As a policy could have written it.
    response: str
    # Label -> what to quote under it; a label without quotes may be left out.
    quotes: dict[str, list[str]]
    # The response's extrinsic reward, where `asked` shows it.
    extrinsic: float | None = None


class Wording(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The content of an instruction's file."""

    # What to do; empty for a model that was trained to do nothing else.
    instruction: str = ""
    # How a text is shown: {text} is prompt and response as one, or {prompt} and {response}; {extrinsic} is the task's reward.
    asked: str = "Text: {text}"
    # Label -> the name by which the model knows it, the beginning of a line in the text form.
    labels: Annotated[dict[str, Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]
    # A few texts with their answers.
    examples: list[Example] = []


class Instruction:
    """Writes a critic's questions and reads its replies. `content` is the file's, for hashes.

    name: one of the package's instructions (`sentiment`), or a YAML file with the fields of `Wording`.

    Raises UserError for a file that can't be read, or has other fields or places.
    """

    def __init__(self, name: str) -> None:
        shipped = SHIPPED / f"{name}.yaml"
        self._file = shipped if "/" not in name and shipped.is_file() else local_path(name, "critic.instruction")
        try:
            self.content = self._file.read_bytes()
        except OSError as error:
            names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
            raise self._wrong(f"can't be read ({error.strerror}); name one of {names}, or a YAML file") from error
        try:
            self._wording = msgspec.convert(yaml.safe_load(self.content), Wording)
        except (yaml.YAMLError, msgspec.ValidationError, UnicodeError) as error:
            raise self._wrong(f"{' '.join(str(error).split())[:160]}; docs/critic.md shows a right one") from error
        self._check_places()
        self._check_examples()

    @property
    def shows_extrinsic(self) -> bool:
        """Whether questions hold the extrinsic reward of a response."""
        return "{extrinsic}" in self._wording.asked

    def question(self, prompt: str, response: str, extrinsic: float | None, form: Form) -> str:
        """All that the model reads: instruction, examples, and the text as it is `shown`."""
        return f"{self._heads[form]}{self.shown(prompt, response, extrinsic)}\n"

    def shown(self, prompt: str, response: str, extrinsic: float | None) -> str:
        """A text as the model sees it, with blanks for line ends (R9 in docs/relc.md).

        Raises UserError where the instruction shows an extrinsic reward and there is none.
        """
        if self.shows_extrinsic and extrinsic is None:
            raise self._wrong("shows {extrinsic}, and this reward.arm has no extrinsic reward; take it out of `asked`")
        values = {
            "text": one_line(prompt + response),
            "prompt": one_line(prompt),
            "response": one_line(response),
            "extrinsic": f"{extrinsic:.3g}" if extrinsic is not None else "",
        }
        return _PLACE.sub(lambda match: values[match[1]], self._wording.asked)

    def beginning(self, form: Form) -> str:
        """How every reply in that form begins, for models whose replies can be begun."""
        return '{"spans": [' if form == "json" else f"{next(iter(self._wording.labels.values()))}:"

    @property
    def lines(self) -> int:
        """How many lines a reply in the text form has."""
        return len(self._wording.labels)

    @property
    def labels(self) -> Mapping[str, str]:
        """Label -> the name by which the model knows it."""
        return self._wording.labels

    def read(self, reply: str, prompt: str, response: str) -> Critique:
        """The critique that a reply is: spans of the response. Quotes of the prompt are right, and mark nothing.

        Where the model sees prompt and response apart, it quotes the response alone.
        """
        before = one_line(prompt) if "{text}" in self._wording.asked else ""
        return read_reply(reply, response, self._wording.labels, before)

    @cached_property
    def _heads(self) -> dict[Form, str]:
        """What stands before the text, the same for all."""
        wording = self._wording
        heads: dict[Form, str] = {}
        for form in ("text", "json"):
            parts = [f"{wording.instruction.strip()} {self._how(form)}"] if wording.instruction.strip() else []
            parts += [
                f"{self.shown(shot.prompt, shot.response, shot.extrinsic)}\n{self._answer(shot, form)}"
                for shot in wording.examples
            ]
            heads[form] = "".join(f"{part}\n\n" for part in parts)
        return heads

    def _how(self, form: Form) -> str:
        names = list(self._wording.labels.values())
        if form == "json":
            labels = " or ".join(f'"{label}"' for label in self._wording.labels)
            return (
                'Answer with JSON alone: {"spans": [{"quote": ..., "occurrence": 1, "label": ...}]}. A quote is copied letter by '
                "letter; occurrence counts equal ones from 1; the label is " + labels + ". Without quotes: "
                '{"spans": []}.'
            )
        lines = " and ".join(f'"{name}:"' for name in names)
        return (
            f"Answer in {len(names)} lines that begin with {lines}. Copy the quotes letter by letter, with '; ' between two of "
            'them; write "none" where there is nothing to quote.'
        )

    def _answer(self, shot: Example, form: Form) -> str:
        quotes = [Quote(text, label) for label, texts in shot.quotes.items() for text in texts]
        return write_json(quotes) if form == "json" else write_text(quotes, self._wording.labels)

    def _check_places(self) -> None:
        names = _ANY_PLACE.findall(self._wording.asked)
        unknown = [name for name in names if name not in _PLACES]
        if unknown:
            raise self._wrong(f"asked: {{{unknown[0]}}} is no place; there are {', '.join(_PLACES)}")
        if ("text" in names) == ("response" in names):
            raise self._wrong("asked: has to show the response once; write {text}, or {prompt} and {response}")

    def _check_examples(self) -> None:
        """An example that breaks the rules teaches a model to break them."""
        for number, shot in enumerate(self._wording.examples, 1):
            strange = [label for label in shot.quotes if label not in self._wording.labels]
            if strange:
                raise self._wrong(f"example {number}: the label {strange[0]!r} is not in labels; correct one of them")
            read = self.read(self._answer(shot, "text"), shot.prompt, shot.response)
            if read.lost or read.outcome == "unparsed":
                raise self._wrong(f"example {number}: a quote is not in its text, or has ';' in it; correct it")

    def _wrong(self, what: str) -> UserError:
        return UserError(f"critic.instruction={self._file}: {what}")
