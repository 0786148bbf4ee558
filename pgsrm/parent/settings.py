"""The `parent` config group."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pgsrm.util.numbers import Count

Amount = Annotated[float, Meta(ge=0)]


class ParentSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Who answered, and how it is asked by `python -m pgsrm.parent`. A training run reads `references` alone."""

    # A file with the prompts' columns and `reference`; null = the data's own (curated), or the default file of the others.
    references: str | None = None
    # Who is asked: nobody (curated), a server (openai), or a model on this machine (transformers).
    kind: Literal["curated", "openai", "transformers"] = "curated"
    # The model's name at the server; for transformers what model.path takes: a hub name, a folder, a GGUF file, smollm2.
    model: Annotated[str, Meta(min_length=1)] | None = None
    # Whose references are right in evaluations and exact match: the parent's, or the data's own (the parent's are then training's).
    right: Literal["parent", "data"] = "parent"
    # Share of the training prompts whose reference is replaced by another prompt's, a known rate of errors.
    error_rate: Annotated[float, Meta(ge=0, le=1)] = 0.0
    # Decides which, and by what; the errors at one rate are among those at a higher one.
    error_seed: Annotated[int, Meta(ge=0)] = 0
    # Longest answer, in tokens.
    max_tokens: Count = 128
    # Requests (transformers: prompts) for a references' file, over all starts; null = no limit.
    max_calls: Annotated[int, Meta(ge=0)] | None = None

    # openai

    # The server's address with its /v1; null = api.openai.com.
    base_url: str | None = None
    # The environment variable with the key.
    api_key_env: Annotated[str, Meta(min_length=1)] = "OPENAI_API_KEY"
    # 0 = the likeliest answer; null leaves it out.
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = 0.0
    # Whether a JSON schema holds the server to {"OUTPUT": "..."}; one that refuses it is asked without.
    structured: bool = True
    # The name under which max_tokens is sent; auto = max_completion_tokens for api.openai.com, max_tokens for others, and the
    # other one where a server refuses it.
    token_limit: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto"
    # Price of a million tokens that are sent; null = the list price where `pgsrm.models.prices` knows it.
    input_price: Amount | None = None
    # Price of a million tokens that are answered; null likewise.
    output_price: Amount | None = None
    # Cost of a references' file over all starts, in the prices' currency; null = no limit.
    max_cost: Amount | None = None
    # Requests at a time.
    concurrency: Count = 8
    # Seconds without a sign from the server until a try has failed.
    timeout: Annotated[float, Meta(gt=0)] = 60.0
    # Further tries after a failed one.
    retries: Annotated[int, Meta(ge=0)] = 6
    # Seconds of pause before the first of them; doubled each time, up to 30.
    backoff: Amount = 0.5

    # transformers

    # Git revision of a hub model; null = its main branch.
    revision: str | None = None
    # Whether the instruction and the input are put into the model's chat template; auto = where it has one.
    chat_template: Literal["auto"] | bool = "auto"
    # auto (a GPU if there is one), cpu, cuda ...
    device: str = "auto"
    # Type of the weights.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Prompts that are answered together.
    batch_size: Count = 32
