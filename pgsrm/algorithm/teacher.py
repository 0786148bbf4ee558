"""The teacher of `algorithm=distill`: a model that is never trained, and has the policy's vocabulary."""

from collections.abc import Sequence

from pgsrm.models.load import load_model, load_tokenizer
from pgsrm.models.settings import ModelSettings, named_as
from pgsrm.models.text import Codec
from pgsrm.models.vocabulary import compare_vocabularies
from pgsrm.policy.batch import Side
from pgsrm.policy.choose import build_policy
from pgsrm.policy.protocol import Policy
from pgsrm.util.errors import UserError

KEY = "algorithm.teacher"


def load_teacher(
    settings: ModelSettings,
    policy: Policy,
    codec: Codec,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    padding: Side,
) -> Policy:
    """The teacher that `settings` name (`DistillAlgorithm.model`), on the policy's device, to be asked what it would say next.

    prompts: the task's, tokenised. Raises UserError where it does not have the policy's vocabulary.
    """
    with named_as(KEY):
        model, tokenizer = load_model(settings, policy.device), load_tokenizer(settings)
    named = f"{KEY}={settings.path}"
    compare_vocabularies(tokenizer.get_vocab(), codec.tokenizer.get_vocab(), named)
    own, others = (each.get_output_embeddings().weight.shape[0] for each in (model, policy.model))
    if own != others:
        raise UserError(
            f"{named}: has logits for {own} tokens, the policy for {others}; resize either one's embeddings "
            "(resize_token_embeddings) and save it"
        )
    with named_as(KEY):
        return build_policy(model.requires_grad_(False), None, codec.eos, prompts, max_new_tokens, settings, padding)
