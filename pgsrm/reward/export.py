"""A reward of this package as the Python file that another trainer takes its reward function from.

The forms are verl's (`custom_reward_function.path`, with its batch or naive reward manager) and OpenRLHF's
(`--remote_rm_url FILE.py`). The file imports this package, so both are installed side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

_BEGINNING = """\
# For {title}: a reward of pgsrm. {use}

from pgsrm.text_reward import TextReward

score = TextReward({arguments})


def _reference(given):
    # one text, or a list of several
    return "" if given is None else given if isinstance(given, list) else str(given)
"""

_VERL = '''

def compute_score(data_source=None, solution_str=None, ground_truth=None, extra_info=None, **batch):
    """verl's naive reward manager gives one response; its batch manager all of a batch, by the names in the plural."""
    if solution_str is not None:
        return _score([solution_str], [ground_truth], [extra_info])[0]
    return _score(batch["solution_strs"], batch["ground_truths"], batch["extra_infos"])


def _score(responses, references, extra):
    rows = [row or {} for row in extra]
    inputs = [{key: value for key, value in row.items() if isinstance(value, str)} for row in rows]
    prompts = [str(row.get("prompt", "")) for row in rows]
    return score(prompts, responses, [_reference(row) for row in references], inputs).totals
'''

_OPENRLHF = '''

def reward_func(queries, prompts, labels, **kwargs):
    """`queries` are prompts and responses together; `labels` are the column that --label_key names, the references."""
    import torch

    responses = [_response(query, prompt) for query, prompt in zip(queries, prompts, strict=True)]
    scored = score(prompts, responses, [_reference(label) for label in labels])
    rewards = torch.tensor(scored.totals)
    logs = {name: torch.full_like(rewards, value) for name, value in scored.metrics.items()}
    return {"rewards": rewards, "scores": rewards, "extra_logs": logs}


def _response(query, prompt):
    """What follows the prompt, without special tokens: queries may begin with BOS and end with EOS or pads."""
    import re

    text = query[query.index(prompt) + len(prompt) :] if prompt in query else query
    return re.sub(r"(<\|[^<>|]*\|>|</?s>|<eos>|<pad>|<end_of_turn>)+\s*$", "", text)
'''

# Trainer -> its name, how it is told the file, and the function.
FORMS = {
    "verl": ("verl", "custom_reward_function.path=THIS_FILE; the data's ground_truth is the reference answer.", _VERL),
    "openrlhf": (
        "OpenRLHF",
        "--remote_rm_url THIS_FILE --label_key COLUMN, the column of the reference answers.",
        _OPENRLHF,
    ),
}


def exported(trainer: str, words: Sequence[str]) -> str:
    """The file's text. trainer: a key of `FORMS`; words: those of `python -m pgsrm.run`."""
    title, use, function = FORMS[trainer]
    arguments = ", ".join(map(repr, words))
    return _BEGINNING.format(title=title, use=use, arguments=arguments) + function
