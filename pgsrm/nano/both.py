"""How nano_both was made: `python -m pgsrm.nano.both`; --report for how good it is, --data for the two tasks' shipped files.

nano is fine-tuned on both roles of RELC, so that one small model can be a policy with something to learn and a critic that has
learned its trade. It writes comments, half of whose clauses are rude, and summaries of stories, a third of which have each kind
of error; and it quotes what is rude, what is wrong with a summary, and what is good and bad in a film review. All its texts are
made by `pgsrm.nano.comments` and `pgsrm.nano.stories`, or are what nano writes behind the openings of `task=sentiment_control`.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from pgsrm.critic.instruction import Instruction
from pgsrm.critic.lexicon import LexiconCritic
from pgsrm.critic.local import LocalCritic
from pgsrm.critic.quotes import Quote
from pgsrm.models.settings import NAMED_MODELS
from pgsrm.nano.comments import continuation, openings, rude_words
from pgsrm.nano.critic import agreement, annotation, marked, outcomes, sampled_texts, stacked
from pgsrm.nano.replies import Pairs, fine_tune
from pgsrm.nano.stories import Story, stories, story, with_errors

DATA = Path(__file__).parent.parent / "task" / "data"
PROMPT = "Text: {}\nShort:"  # task.template of task=summary
SHIPPED_STORIES = 320
_STEPS, _BATCH, _RATE = 800, 32, 1e-3
_ERRORS = 1 / 3  # of each kind in a summary that it learns to write


class Lessons:
    """Draws pairs of what nano_both reads and what it writes. `seed` decides all of them."""

    def __init__(self, seed: int) -> None:
        self._draw, self._openings = random.Random(seed), openings()
        self._shipped = {made.document for made in stories(SHIPPED_STORIES, 0)}
        self._lexicon, self._reviews = LexiconCritic(), sampled_texts(1500)
        self._instructions = {name: Instruction(name) for name in ("nano", "detox_nano", "summary_nano")}
        short = (self.comment, self.rude, self.review, self.opinion)
        self._kinds = (short, (self.summary, self.errors))

    def __call__(self) -> Pairs:
        """A batch of the short kinds or of the long ones: of both together, half would be padding."""
        kinds = self._draw.choice(self._kinds)
        return [self._draw.choice(kinds)() for _ in range(_BATCH)]

    def comment(self) -> tuple[str, str]:
        """An opening and how it continues."""
        opening = self._draw.choice(self._openings)
        return opening, continuation(opening, self._draw)

    def rude(self) -> tuple[str, str]:
        """A comment, and what is rude in it."""
        opening = self._draw.choice(self._openings)
        text = continuation(opening, self._draw, self._draw.random())
        text = self._cut(text)
        quotes = [Quote(word, "toxic") for word in rude_words(text)]
        return annotation(self._instructions["detox_nano"], opening, text, quotes)

    def summary(self) -> tuple[str, str]:
        """A story and a summary, often with errors."""
        made = self._story()
        return PROMPT.format(made.document), f" {with_errors(made, self._draw, _ERRORS).text}"

    def errors(self) -> tuple[str, str]:
        """A story with a summary, and what is wrong with it."""
        made = self._story()
        summary = with_errors(made, self._draw, self._draw.choice((0.2, 0.5)))
        quotes = [Quote(quote, label) for quote, label in summary.errors]
        return annotation(self._instructions["summary_nano"], PROMPT.format(made.document), f" {summary.text}", quotes)

    def review(self) -> tuple[str, str]:
        """What nano writes about films, so that it still does."""
        words = self._draw.choice(self._reviews).split(" ")
        start = self._draw.randint(3, 6)
        return " ".join(words[:start]), "".join(f" {word}" for word in words[start:])

    def opinion(self) -> tuple[str, str]:
        """A text about a film, and what is good and bad in it."""
        text = self._draw.choice(self._reviews)
        if self._draw.random() < 0.3:
            text = stacked(text, sorted(self._lexicon.labels), self._draw)
        (critique,) = self._lexicon(prompts=[""], responses=[text], extrinsic=None)
        return annotation(self._instructions["nano"], "", text, marked(critique, text))

    def _story(self) -> Story:
        """None of those that the task asks about."""
        while (made := story(self._draw)).document in self._shipped:
            pass
        return made

    def _cut(self, text: str) -> str:
        """Sometimes without its end: a response is cut off where its tokens are used up."""
        words = text.split(" ")
        return (
            " ".join(words[: self._draw.randint(4, len(words))])
            if len(words) > 4 and self._draw.random() < 0.5
            else text
        )


def write_data() -> None:
    """The shipped files of `task=detox` and `task=summary`."""
    rows = {
        "detox.jsonl": [{"opening": opening} for opening in openings()],
        "summary.jsonl": [
            {"document": made.document, "reference": made.reference} for made in stories(SHIPPED_STORIES, 0)
        ],
    }
    for name, lines in rows.items():
        (DATA / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def report() -> None:
    """Print how well it marks comments and summaries that it was not trained on, against what is known to be wrong in them."""
    draw = random.Random(1)
    print("| task | precision | recall | F1 | quotes in the text | replies in the form | clean |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    begun = [draw.choice(openings()) for _ in range(500)]
    comments = [continuation(opening, draw) for opening in begun]
    _print("detox", begun, comments, [[(word, "toxic") for word in rude_words(text)] for text in comments])
    made = stories(500, 1)
    summaries = [with_errors(story, draw, _ERRORS) for story in made]
    prompts = [PROMPT.format(story.document) for story in made]
    _print("summary", prompts, [f" {summary.text}" for summary in summaries], [summary.errors for summary in summaries])


def _print(
    task: str, prompts: Sequence[str], responses: Sequence[str], wanted: Sequence[Sequence[tuple[str, str]]]
) -> None:
    critic = LocalCritic("nano_both", instruction=f"{task}_nano", cache_megabytes=0)
    given = critic(prompts=prompts, responses=responses, extrinsic=None)
    right = [
        critic.instruction.read(annotation_reply(critic.instruction, quotes), prompt, response)
        for prompt, response, quotes in zip(prompts, responses, wanted, strict=True)
    ]
    columns = [*agreement(given, right), *outcomes(given)]
    print(f"| {task} | " + " | ".join(f"{column:.3f}" for column in columns) + " |", flush=True)


def annotation_reply(instruction: Instruction, quotes: Sequence[tuple[str, str]]) -> str:
    """The reply that quotes these."""
    _, rest = annotation(instruction, "", "", [Quote(quote, label) for quote, label in quotes])
    return instruction.beginning("text") + rest


def main(arguments: Sequence[str] | None = None) -> None:
    """Train it, or write the data, or with --report say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--data", action="store_true", help="write the shipped prompts of the tasks, and end")
    options = parser.parse_args(arguments)
    if options.data:
        write_data()
        return
    if not options.report:
        torch.manual_seed(0)
        fine_tune(Lessons(0), _STEPS, _RATE, NAMED_MODELS["nano_both"])
    report()


if __name__ == "__main__":
    main()
