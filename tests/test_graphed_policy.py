"""The policy of CUDA graphs, computed on a CPU without them: the same code on the same fixed tensors, but for the capture."""

import copy
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from conftest import in_float64
from test_simple_policy import CHOICES, PROMPTS, assert_equal_training, ppo_settings

from pgsrm.policy.graphed import GraphedPolicy
from pgsrm.policy.sampling import Sampling
from pgsrm.policy.simple import SimplePolicy

LoadPolicy = Callable[..., Any]
SUPPORTED = [choice for choice in CHOICES if ppo_settings(choice).padding == "left"]


def graphed(load_policy: LoadPolicy, *architecture: str, double: bool = False, **options: Any) -> tuple[Any, Any]:
    """The policy of a tiny model, and the simple one of the same model."""
    model = load_policy(*architecture, double=double).model
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    return (
        GraphedPolicy(one, copy.deepcopy(model), (0,), PROMPTS, 3, **options),
        SimplePolicy(other, copy.deepcopy(model), (0,)),
    )


@pytest.mark.parametrize("tolerance", [1e-5, 1e-10], ids=["float32", "float64"])
@pytest.mark.parametrize("choice", SUPPORTED)
def test_training_is_the_simple_policys_for_every_choice_of_ppo(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, choice: str, tolerance: float
) -> None:
    if tolerance < 1e-8:
        in_float64(monkeypatch)
    mine, simple = graphed(load_policy, double=tolerance < 1e-8)
    assert_equal_training(mine, simple, ppo_settings(choice), tolerance)
