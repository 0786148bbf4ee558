"""Tokenizers and models as people have them: several EOS, special tokens behind a text, parts that are missing."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import END
from test_policy import tiny_of
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from pgsrm.config.compose import plan_words
from pgsrm.evaluation.__main__ import evaluate_run
from pgsrm.models import gguf_file, precision
from pgsrm.models.load import declared_eos, load_codec, load_model, load_tokenizer
from pgsrm.models.local_chat import LocalChat
from pgsrm.models.settings import ModelSettings, check_model, identify_model
from pgsrm.models.text import ChatTemplate, Codec, encode_prompt, ids_behind
from pgsrm.parent.local import LocalParent
from pgsrm.parent.settings import ParentSettings
from pgsrm.policy.choose import build_policy
from pgsrm.util.errors import UserError

CPU = torch.device("cpu")


def copy_of(folder: Path, to: Path, **generation: Any) -> Path:
    """A copy of a model's folder, whose generation_config has other values."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    config = json.loads((to / "generation_config.json").read_text())
    (to / "generation_config.json").write_text(json.dumps(config | generation))
    return to


def saved_tokenizer(folder: Path, to: Path, template: str) -> Path:
    """The tiny tokenizer, putting special tokens around every text as `template` says."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[(end, 0)])
    tokenizer.save_pretrained(to)
    return to


def test_any_declared_eos_ends_a_response(tiny: Path, tmp_path: Path) -> None:
    """Wrong version: the tokenizer's own alone; a chat model's end of turn is then a word like any other."""
    folder = copy_of(tiny, tmp_path / "several", eos_token_id=[17, 0, 9])
    settings = ModelSettings(path=str(folder))
    model = load_model(settings, CPU)
    codec = load_codec(settings, model)
    assert codec.eos == (0, 17, 9)  # the tokenizer's pads
    assert model.generation_config.eos_token_id == [0, 17, 9]
    one = ModelSettings(path=str(tiny))
    assert load_codec(one, load_model(one, CPU)).eos == (0,)


def test_a_run_saves_the_list(tiny: Path, tmp_path: Path, small: Sequence[str], resume: Callable[..., None]) -> None:
    folder = copy_of(tiny, tmp_path / "several", eos_token_id=[17, 0])
    plan = plan_words(*small, f"model.path={folder}")
    plan.freeze()
    resume(plan.folder)
    saved = json.loads((plan.folder.model / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [0, 17]
    assert declared_eos(load_model(ModelSettings(path=str(plan.folder.model)), CPU)) == [0, 17]


@pytest.mark.parametrize(
    ("template", "front", "behind"),
    [("$A", [], []), ("$A <|endoftext|>", [], [0]), ("<|endoftext|> $A <|endoftext|> <|endoftext|>", [0], [0, 0])],
)
def test_special_tokens_behind_a_prompt_are_left_out(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], template: str, front: list[int], behind: list[int]
) -> None:
    """Wrong version: the policy is asked after an EOS, and every answer is another text's beginning."""
    tokenizer = AutoTokenizer.from_pretrained(saved_tokenizer(tiny, tmp_path / "t", template))
    plain = Codec(load_tokenizer(ModelSettings(path=str(tiny)))).encode("the opposite of hot")
    assert ids_behind(tokenizer) == behind
    capfd.readouterr()
    codec = Codec(tokenizer)
    assert codec.encode("the opposite of hot") == [*front, *plain] == encode_prompt(tokenizer, "the opposite of hot")
    assert codec.encode("hot<|endoftext|>")[-1] == 0  # what the prompt itself says stays
    assert capfd.readouterr().err.count("behind every text is left out") == bool(behind)


def test_neither_tokenizer_nor_model_has_an_eos(tiny: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="neither tokenizer nor model has an EOS token"):
        Codec(tokenizer)
    assert Codec(tokenizer, [5]).eos == (5,)


def test_a_folder_without_a_tokenizer(tiny: Path, tmp_path: Path) -> None:
    """Wrong version: transformers makes up a tokenizer without words, and every prompt is empty."""
    folder = copy_of(tiny, tmp_path / "without")
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match=r"model\.path=.*without: the folder has no tokenizer; save one"):
        check_model(ModelSettings(path=str(folder)))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.path=.*without: has no tokenizer that can be loaded .*save one"):
        load_tokenizer(ModelSettings(path=str(folder)))


def test_added_tokens_without_an_embedding(tiny: Path, tmp_path: Path) -> None:
    """Wrong version: an IndexError of an embedding; and a tokenizer whose added token no prompt uses is refused."""
    folder = copy_of(tiny, tmp_path / "added")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.save_pretrained(folder)
    settings = ModelSettings(path=str(folder))
    model = load_model(settings, CPU)
    codec = load_codec(settings, model)
    build_policy(model, None, codec.eos, [codec.encode("hot"), codec.encode("cold")], 2, settings)
    with pytest.raises(UserError, match=f"a prompt holds the token {size}, the model embeds {size} tokens; resize"):
        build_policy(model, None, codec.eos, [codec.encode("hot <|turn|>")], 2, settings)
    tokenizer.eos_token = "<|turn|>"
    tokenizer.save_pretrained(folder)
    assert load_codec(settings, load_model(settings, CPU)).eos == (0,)  # the config's: the other is never sampled
    with pytest.raises(UserError, match=f"the EOS token has the id {size}, the model embeds 60 tokens; resize"):
        load_codec(settings, tiny_of("gpt2", n_embd=32, n_layer=1, n_head=2, eos_token_id=None, bos_token_id=None))


# Chat templates

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
NO_SYSTEM = "{% for m in messages if m.role == 'user' %}[{{ m.content }}]{% endfor %}"
REFUSES_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('') }}{% endif %}[{{ m.content }}]{% endfor %}"
)
THINKS = "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking is not false %}<think>{% endif %}"


def chat_model(folder: Path, to: Path, template: str | None, text: str = "$A") -> Path:
    """A copy of the tiny model whose tokenizer has this chat template, and special tokens around a text."""
    copy_of(folder, to)
    tokenizer: Any = AutoTokenizer.from_pretrained(saved_tokenizer(folder, to, text))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(to)
    return to


@pytest.mark.parametrize(
    ("template", "system", "text"),
    [
        (TEMPLATE, None, "<user>hot<assistant>"),
        (TEMPLATE, " Opposite.\n", "<system>Opposite.<user>hot<assistant>"),
        (NO_SYSTEM, "Opposite.", "[Opposite.\n\nhot]"),
        (REFUSES_SYSTEM, "Opposite.", "[Opposite.\n\nhot]"),
        (THINKS, None, "hot"),
    ],
)
def test_a_prompt_in_the_chat_template(
    tiny: Path, tmp_path: Path, template: str, system: str | None, text: str
) -> None:
    """Wrong versions: special tokens around the whole, an answer behind the prompt's blank, a system text that is lost."""
    folder = chat_model(tiny, tmp_path / "chat", template, "<|endoftext|> $A <|endoftext|>")
    settings = ModelSettings(path=str(folder), chat_template=True, system_prompt=system)
    check_model(settings)
    codec = load_codec(settings, load_model(settings, CPU))
    plain = Codec(load_tokenizer(ModelSettings(path=str(tiny))))
    assert (
        codec.encode("hot ") == plain.encode(text) == encode_prompt(codec.tokenizer, "hot", chat=ChatTemplate(system))
    )
    assert encode_prompt(codec.tokenizer, "hot", chat=ChatTemplate(system), answer='{"O') == plain.encode(text + '{"O')
    without = load_codec(ModelSettings(path=str(folder)), load_model(settings, CPU))
    assert without.encode("hot ") == [0, *plain.encode("hot ")]  # text that is continued, its blank included


def test_a_policy_and_a_local_parent_read_the_same(tiny: Path, tmp_path: Path) -> None:
    folder = chat_model(tiny, tmp_path / "chat", TEMPLATE)
    tokenizer = load_tokenizer(ModelSettings(path=str(folder)))
    questions: Any = SimpleNamespace(instruction="Opposite.")

    def asked(choice: Any) -> list[int]:
        parent = ParentSettings(kind="transformers", model=str(folder), device="cpu", chat_template=choice)
        local = LocalParent(parent, questions)
        local.chat.use(None, tokenizer)
        return local.prompts(["hot"])[0]

    in_chat = encode_prompt(tokenizer, "hot", chat=ChatTemplate("Opposite."), answer='{"OUTPUT": "')
    assert asked("auto") == asked(True) == in_chat != asked(False)
    assert tokenizer.decode(asked(False)) == 'Opposite.\n\nINPUT: hot\n{"OUTPUT": "'
    tokenizer.chat_template = None
    assert asked("auto") == asked(False)
    with pytest.raises(UserError, match=r"parent\.chat_template=true: parent\.model=.*chat has no chat template"):
        asked(True)


def test_no_chat_template_where_one_is_asked_for(tiny: Path, tmp_path: Path, call_cli: Callable[..., Any]) -> None:
    done = call_cli("model=hf", f"model.path={tiny}", "model.chat_template=true", "tracking=none")
    assert done.code == 2
    assert done.error_line.endswith(
        f"model.chat_template=true: model.path={tiny} has no chat template; leave it out, or save one with the tokenizer"
    )
    done = call_cli(f"model.path={tiny}", "model.system_prompt=Opposite.", "tracking=none")
    assert done.code == 2 and "only a chat template has room for it; set model.chat_template=true" in done.error_line
    refuses = chat_model(tiny, tmp_path / "refuses", "{{ raise_exception('no') }}")
    settings = ModelSettings(path=str(refuses), chat_template=True)
    with pytest.raises(UserError, match=r"model\.path=.*refuses: its chat template takes no user's message"):
        load_codec(settings, load_model(settings, CPU)).encode("hot")


def test_a_chat_template_makes_another_run_and_is_saved_with_it(
    tiny: Path, tmp_path: Path, small: Sequence[str], resume: Callable[..., None]
) -> None:
    folder = chat_model(tiny, tmp_path / "chat", TEMPLATE)
    words = [*small[1:], "model=hf", f"model.path={folder}"]
    plain, chat = plan_words(*words), plan_words(*words, "model.chat_template=true")
    system = plan_words(*words, "model.chat_template=true", "model.system_prompt=Opposite.")
    assert len({plan.identity for plan in (plain, chat, system)}) == 3
    system.freeze()
    resume(system.folder)
    assert load_tokenizer(ModelSettings(path=str(system.folder.model))).chat_template == TEMPLATE
    assert evaluate_run(system.folder)["eval/train_exact_match"] >= 0  # asks in the same template


# GGUF files


def test_what_is_no_gguf_file_is_one_line(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no weights")
    (tmp_path / "run/model").mkdir(parents=True)
    (tmp_path / "run/model/config.json").touch()
    for path, line in (
        (tmp_path / "text.gguf", "is no GGUF file; name one, a folder in the hub's layout or a hub model"),
        (tmp_path / "nowhere.gguf", "no such file; name a folder in the hub's layout, a GGUF file or a hub"),
        ("nowhere.gguf", "no such file; name a folder in the hub's layout, a GGUF file or a hub model"),
        (tmp_path, r"the folder has no config.json; name the GGUF file itself \(text.gguf\)"),
        (tmp_path / "run", r"the folder has no config.json; of a run, name .*/run/model, or its best/"),
    ):
        with pytest.raises(UserError, match=f"model.path={path}: {line}"):
            check_model(ModelSettings(path=str(path)))


def test_a_gguf_file_needs_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF and more")
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"m\.gguf: reading GGUF files needs gguf and accelerate; install with: pip install"
    ):
        check_model(ModelSettings(path=str(tmp_path / "m.gguf")))
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: object())
    check_model(ModelSettings(path=str(tmp_path / "m.gguf")))


def test_a_gguf_file_counts_by_its_content(tmp_path: Path) -> None:
    """And not by its name, nor by what lies beside it."""
    (tmp_path / "a.gguf").write_bytes(b"GGUF one")
    (tmp_path / "b.gguf").write_bytes(b"GGUF one")
    identities = [identify_model(ModelSettings(path=str(tmp_path / f"{name}.gguf"))) for name in "ab"]
    assert identities[0] == identities[1]
    (tmp_path / "tokenizer.json").write_text("{}")
    assert identify_model(ModelSettings(path=str(tmp_path / "a.gguf"))) == identities[0]
    (tmp_path / "b.gguf").write_bytes(b"GGUF two")
    assert identify_model(ModelSettings(path=str(tmp_path / "b.gguf"))) != identities[0]


def written_gguf(folder: Path, file: Path) -> None:
    """A folder's tiny Llama and its tokenizer as a GGUF file, as llama.cpp's converter lays them out."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    described = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_head_count(heads[0])
    writer.add_head_count_kv(heads[1])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    words = sorted(described["vocab"], key=described["vocab"].get)
    writer.add_token_list(words)
    writer.add_token_types([3 if word in (END, "<s>") else 1 for word in words])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in described["merges"]])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in model.state_dict().items():
        for part, count in (("q_proj", heads[0]), ("k_proj", heads[1])):
            if part in name:  # its rotary dimensions in llama.cpp's order
                shape = count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:]
                tensor = tensor.reshape(shape).swapaxes(1, 2).reshape(tensor.shape)
        base, _, suffix = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(base)}.{suffix}", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_the_model_that_it_was_made_of(
    model_folders: dict[str, Path], tmp_path: Path, small: Sequence[str], resume: Callable[..., None]
) -> None:
    """A run of it says its name and saves a plain folder; files beside it have no say. Needs the library gguf."""
    pytest.importorskip("gguf")
    file, folder = tmp_path / "tiny-llama.gguf", model_folders["llama"]
    written_gguf(folder, file)
    for other in model_folders["gpt2"].iterdir():
        (tmp_path / other.name).symlink_to(other)
    settings, original = ModelSettings(path=str(file), chat_template=True), ModelSettings(path=str(folder))
    check_model(settings)
    model, expected = load_model(settings, CPU), load_model(original, CPU)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.state_dict().items())
    ids = torch.tensor([[1, 40, 50, 60, 7]])
    assert torch.equal(model(ids).logits, expected(ids).logits)
    codec, plain = load_codec(settings, model), load_codec(original, expected)
    assert codec.encode("hot ") == plain.encode("<user>hot<assistant>")[1:] and codec.eos == plain.eos == (0,)
    assert codec.tokenizer.name_or_path == str(file)
    plan = plan_words(*small[1:], "model=hf", f"model.path={file}")
    assert "-tiny-llama-" in plan.folder.name
    plan.freeze()
    resume(plan.folder)
    check_model(ModelSettings(path=str(plan.folder.model)))
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:5000])
    for load in (load_tokenizer, lambda settings: load_model(settings, CPU)):
        with pytest.raises(UserError, match=r"model\.path=.*cut\.gguf: .*can(?:'t)? be loaded \("):
            load(ModelSettings(path=str(tmp_path / "cut.gguf")))


def test_a_gguf_files_end_of_a_text_is_the_one_that_it_names(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 5.17 of transformers takes the token that begins a message of SmolLM2's, and SFT would teach that one."""
    gguf = pytest.importorskip("gguf")
    from pgsrm.models.gguf_file import EOS_KEY, read_tokenizer

    written_gguf(model_folders["llama"], tmp_path / "tiny.gguf")
    tokenizer = AutoTokenizer.from_pretrained(model_folders["llama"])
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda **_: tokenizer)
    tokenizer.eos_token = "<s>"
    assert read_tokenizer(tmp_path / "tiny.gguf").eos_token_id == 0
    monkeypatch.setattr(gguf.GGUFWriter, "add_eos_token_id", lambda writer, _: writer.add_uint32(EOS_KEY, 2**32 - 1))
    written_gguf(model_folders["llama"], tmp_path / "none.gguf")  # as some files have it that mean none
    tokenizer.eos_token = "<s>"
    assert read_tokenizer(tmp_path / "none.gguf").eos_token == "<s>"


# The hub


@pytest.mark.parametrize(("slowdown", "lines"), [(39.16, 1), (1.0, 0), (0.4, 0)])
def test_a_cpu_without_bfloat16_is_one_line(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], slowdown: float, lines: int
) -> None:
    """Products without instructions for it take 30 to 60 times as long; policy and teacher say so once."""
    monkeypatch.setattr(precision, "bfloat16_slowdown", lambda: slowdown)
    precision.say_where_bfloat16_is_slow.cache_clear()
    for dtype in ("float32", "bfloat16", "bfloat16"):
        load_model(ModelSettings(path=str(tiny), dtype=dtype), CPU)
    said = "model.dtype=bfloat16: a matrix product takes 39 times as long as in float32 on this CPU; set model.dtype=float32\n"
    assert capfd.readouterr().err == said * lines
    parent = LocalChat(ModelSettings(path=str(tiny), dtype="bfloat16"), "parent.model", 4)
    parent.decoder([[5, 6]])
    assert capfd.readouterr().err == said.replace("model.dtype", "parent.dtype") * lines


def test_the_slowdown_is_that_of_this_machine() -> None:
    assert 0.01 < precision.bfloat16_slowdown() < 500
    assert precision.bfloat16_slowdown() == precision.bfloat16_slowdown()  # measured once


def test_no_hub_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Wrong version: the hub's client tries six times over half a minute, with ten lines on standard error."""

    def refused(url: str, timeout: float) -> None:
        raise OSError("[Errno -2] Name or service not known")

    with pytest.raises(
        UserError, match=r"model\.path=org/name: neither a folder .* gives \(HF_HUB_OFFLINE is set\); check"
    ):
        check_model(ModelSettings(path="org/name"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: SimpleNamespace(head=refused))
    waits = list[float]()
    monkeypatch.setattr("time.sleep", waits.append)
    for check in (check_model, load_tokenizer, lambda settings: load_model(settings, CPU)):
        with pytest.raises(UserError, match=r"model\.path=org/name: "):
            check(ModelSettings(path="org/name"))
    with pytest.raises(
        UserError, match=r"\(no connection to https://\S+: \[Errno -2\] Name or service not known\); check"
    ):
        check_model(ModelSettings(path="org/name"))
    assert capfd.readouterr().err == "" and not waits
