"""Config files read by libyaml, YAML's parser in C, where OmegaConf asks for the one in Python: a sixth of composing."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import omegaconf._utils
import yaml


@contextmanager
def reading_by_libyaml() -> Iterator[None]:
    """Within it, OmegaConf reads YAML by libyaml, with the same values; what is no YAML has the error that it had.

    One thing differs: a tab after a colon, which YAML allows and the parser in Python does not.

    The function is none of OmegaConf's public ones, and PyYAML may come without libyaml: then all is as slow as it was.
    One within another changes nothing: a reward that composes another one is made while a sweep is composed.
    """
    in_python = getattr(omegaconf._utils, "get_yaml_loader", None)
    if in_python is None or not yaml.__with_libyaml__ or issubclass(in_python(), yaml.cyaml.CParser):
        yield
        return
    loader = _by_libyaml(in_python())
    omegaconf._utils.get_yaml_loader = lambda: loader
    try:
        yield
    finally:
        omegaconf._utils.get_yaml_loader = in_python


def _by_libyaml(in_python: Any) -> Any:
    """A loader with the rules of one in Python: its types, and its keys that may not come twice."""

    class Loader(yaml.cyaml.CParser, in_python):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            self.name_of_stream = getattr(stream, "name", "<file>")
            self.text = stream.read() if hasattr(stream, "read") else stream
            yaml.cyaml.CParser.__init__(self, self.text)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

        def get_single_data(self) -> Any:
            try:
                return super().get_single_data()
            except yaml.YAMLError:
                pass  # the other parser words it, outside of this error
            text = io.StringIO(self.text)
            text.name = self.name_of_stream  # type: ignore[attr-defined]
            return in_python(text).get_single_data()

    return Loader
