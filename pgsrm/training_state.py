"""What a checkpoint holds: trained weights, optimisers, KL coefficient, where every generator is, what the reward remembers."""

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from pgsrm.algorithm.learner import OtherLearner
from pgsrm.config.schema import Settings
from pgsrm.ppo.update import Learner
from pgsrm.util.distributed import divided_as, undivided
from pgsrm.util.objects import remember, remembered_by

Tensors = dict[str, torch.Tensor]
Plain = dict[str, Any]  # what JSON holds


class TrainingState:
    """A run's state in training, as tensors and plain values, and back.

    generators: the run's own, by name; those of torch, Python and NumPy, which a reward may use, belong to the state too.
    reward: what it remembers of earlier batches belongs to it as well, and what measures, by their names, were standardised by.
    """

    def __init__(
        self,
        learner: Learner | OtherLearner,
        generators: dict[str, torch.Generator],
        settings: Settings,
        reward: Any = None,
        measures: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._learner, self._policy, self._reward, self._measures = learner, learner.policy, reward, measures
        self._generators, self._settings = generators, settings

    def save(self) -> tuple[Tensors, Plain]:
        """All that decides what comes next. Several processes call this together: sharded tensors are put together."""
        tensors, plain = self.outside_weights()
        return tensors | _flatten(self._modules()), plain | self._learner.numbers()

    def restore(self, tensors: Tensors, plain: Plain) -> None:
        """Make learner, generators and reward what they were when `save` returned these."""
        modules = self._modules()
        _unflatten(modules, tensors)
        self._policy.weights_changed()
        if "reference" in modules:
            self._policy.set_reference(modules["reference"].state_dict())  # as it was after the update: nothing kept
        self._learner.set_numbers(plain)
        self.set_outside_weights(tensors, plain)

    def outside_weights(self) -> tuple[Tensors, Plain]:
        """What a batch changes before it changes a weight: where every generator is, and what the reward remembers."""
        tensors = {f"rng/{name}": generator.get_state() for name, generator in self._generators.items()}
        tensors["rng/torch"] = torch.get_rng_state()
        if self._policy.device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(self._policy.device)
        of_numpy = [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()]
        return tensors, {
            "rng/python": random.getstate(),
            "rng/numpy": of_numpy,
            **remembered_by(self._reward, self._measures),
        }

    def set_outside_weights(self, tensors: Tensors, plain: Plain) -> None:
        """Put generators and reward where `outside_weights` found them."""
        for name, generator in self._generators.items():
            generator.set_state(tensors[f"rng/{name}"])
        torch.set_rng_state(tensors["rng/torch"])
        version, internal, gauss = plain["rng/python"]
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(tuple(plain["rng/numpy"]))
        if "rng/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng/cuda"], self._policy.device)
        remember(self._reward, self._measures, plain)

    def _modules(self) -> dict[str, Any]:
        """What has a state dict: name -> module or optimiser."""
        policy = self._policy.model
        if self._settings.model.lora is not None:  # the other weights are loaded again
            policy = torch.nn.ParameterList(weight for weight in policy.parameters() if weight.requires_grad)
        modules = {"policy": policy, **self._learner.modules()}
        if self._settings.ppo.kl_reference == "previous":  # the initial model is loaded again instead
            modules["reference"] = self._policy.reference
        return modules


def _flatten(modules: dict[str, Any]) -> Tensors:
    """State dicts as one dict of tensors (`policy/transformer.wte.weight`); an optimiser's groups stay as settings."""
    tensors: Tensors = {}
    for name, module in modules.items():
        state = module.state_dict()
        if isinstance(module, torch.optim.Optimizer):
            for index, values in state["state"].items():
                tensors |= {f"{name}/{index}/{key}": undivided(value) for key, value in values.items()}
        else:
            tensors |= {f"{name}/{key}": undivided(value) for key, value in state.items()}
    return tensors


def _unflatten(modules: dict[str, Any], tensors: Tensors) -> None:
    """The inverse of `_flatten`. A parameter that never had a gradient has no optimiser state."""
    for name, module in modules.items():
        own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        if isinstance(module, torch.optim.Optimizer):
            values: dict[int, Tensors] = {}
            parameters = module.param_groups[0]["params"]
            for key, tensor in own.items():
                index, _, field = key.partition("/")
                parameter = parameters[int(index)]
                moment = divided_as(tensor, parameter) if tensor.shape == parameter.shape else tensor
                values.setdefault(int(index), {})[field] = moment
            module.load_state_dict({"state": values, "param_groups": module.state_dict()["param_groups"]})
        else:
            current = module.state_dict()
            module.load_state_dict({key: divided_as(tensor, current[key]) for key, tensor in own.items()})
