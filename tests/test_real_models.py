"""SmolLM2-135M, a model that this project did not make: fetched, read, asked and trained. `make test-real` runs these."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from pgsrm.config.compose import plan_words
from pgsrm.models.download import PUBLISHED
from pgsrm.models.load import load_codec, load_model
from pgsrm.models.settings import ModelSettings, check_model, local_files
from pgsrm.parent.local import LocalParent
from pgsrm.parent.question import Questions
from pgsrm.parent.settings import ParentSettings
from pgsrm.util.paths import conf_folder

pytestmark = pytest.mark.real
CPU = torch.device("cpu")
SMOLLM2 = ModelSettings(path="smollm2", device="cpu")


def test_the_folder_is_the_gguf_file() -> None:
    """Weights, tokens, end and template of the converted folder, and of the file that it was made of, are the same."""
    check_model(SMOLLM2)
    folder = local_files("smollm2")
    assert folder is not None
    packed = ModelSettings(path=str(folder / PUBLISHED["smollm2"].file))
    check_model(packed)
    models = [load_model(settings, CPU) for settings in (SMOLLM2, packed)]
    codecs = [load_codec(settings, model) for settings, model in zip((SMOLLM2, packed), models, strict=True)]
    states = [model.state_dict() for model in models]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    text = "The opposite of 'hot' is "
    assert codecs[0].encode(text) == codecs[1].encode(text) and codecs[0].eos == codecs[1].eos == (2,)
    assert codecs[0].tokenizer.chat_template == codecs[1].tokenizer.chat_template


def test_its_chat_template_with_and_without_a_system_prompt() -> None:
    model = load_model(SMOLLM2, CPU)
    for system in (None, "Opposite."):
        settings = ModelSettings(path="smollm2", chat_template=True, system_prompt=system)
        codec = load_codec(settings, model)
        text = codec.tokenizer.decode(codec.encode("hot"))
        assert text.endswith("<|im_start|>user\nhot<|im_end|>\n<|im_start|>assistant\n")
        assert text.startswith("<|im_start|>system\nOpposite.<|im_end|>") == (system is not None)


def test_a_run_of_it(small: Sequence[str], tmp_path: Path, resume: Callable[..., None]) -> None:
    """Two updates by the fast policy, which the model suits; the saved model is loaded again."""
    words = [*small[1:], "task=antonym", "model=smollm2", "model.policy=fast", "ppo.episodes=8", "evaluation.every=10"]
    plan = plan_words(*words, "evaluation.text=null")
    assert plan.folder.name.startswith("antonym-pgsrm-smollm2-sound-")
    plan.freeze()
    resume(plan.folder)
    first = plan.folder.read_metrics()[1]
    assert first["policy/ratio_max"] == pytest.approx(1) and 2 < first["policy/entropy"] < 10
    check_model(ModelSettings(path=str(plan.folder.model)))


def test_a_local_parent_answers_together_as_alone() -> None:
    task: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "task" / "antonym.yaml"))
    questions = Questions(task)
    asked = questions.asked[:4]
    settings = {"kind": "transformers", "model": "smollm2", "device": "cpu", "max_tokens": 16}
    together, alone = (
        list(LocalParent(ParentSettings(**settings, batch_size=size), questions).answers(asked)) for size in (4, 1)
    )
    assert together == alone and sum(answer.reference is not None for answer in together) >= 2
