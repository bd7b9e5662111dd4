"""Which parameters decay: filters for ``decay_filter=``."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from .._checks import type_of
from .group import ParameterFilter

# Names of normalization modules: norm1, layer_norm, input_layernorm, LayerNorm_0, ln_f, bn2.
_NORM = re.compile(
    r"(\w*_)?"
    r"(((layer|batch|group|instance|rms|sync_?batch)_?)?norm(\dd)?|bn|ln|gn)"
    r"(_?\d+|_(f|in|out|pre|post|final))?"
)
_NORM_TYPE = re.compile(r"norm(\dd)?$")


def _is_bias(name: str) -> bool:
    return name == "bias" or name.endswith("_bias")


def skip_biases_and_norms(name: str, param: Any) -> bool:
    """Return whether a parameter decays, as ``decay_filter=``: biases and norms do not.

    A parameter does not decay if it has fewer than two axes, if it is called ``bias`` or
    ``..._bias``, or if it belongs to a normalization layer: if the last or the second-to-last part
    of its name is exactly ``norm``, ``norm1``, ``layer_norm``, ``ln_f``, ``bn2`` or the like.
    ``norm1.linear.weight`` and ``normal_head.weight`` do decay. `decay_filter_for` uses the module
    types of a PyTorch model instead of names.

    Parameters
    ----------
    name : str
        The parameter's name: its keys joined by ``/``, or torch's dotted name.
    param : array
        The parameter.

    Returns
    -------
    bool

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w, b = np.ones((2, 2)), np.ones(2)
    >>> rl.skip_biases_and_norms("layer/w", w), rl.skip_biases_and_norms("layer/b", b)
    (True, False)
    >>> rl.skip_biases_and_norms("norm1.weight", w)
    False
    """
    parts = name.lower().replace("/", ".").split(".")
    if len(np.shape(param)) <= 1 or _is_bias(parts[-1]):
        return False
    return not any(_NORM.fullmatch(part) for part in parts[-2:])


def decay_filter_for(model: Any) -> ParameterFilter:
    """Return a ``decay_filter=`` for a PyTorch model, with the rules of timm.

    A parameter does not decay if it has fewer than two axes, if it is called ``bias`` or
    ``..._bias``, if the name of its module's type ends in "norm" (``LayerNorm``, ``BatchNorm2d``,
    ``LlamaRMSNorm``), or if ``no_weight_decay()`` of the model or one of its modules lists it.
    Those names may contain ``*`` as in a glob; they are relative to the module with the method.

    Parameters
    ----------
    model : torch.nn.Module
        The model whose parameters, or some of them, the optimizer updates, in any container.

    Returns
    -------
    callable
        A function of (name, param), which looks the parameter up by identity, not by name.

    Raises
    ------
    TypeError
        If `model` is not a module.
    ValueError
        From the optimizer, for a parameter that is not part of the model.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> class LayerNorm:  # stands for torch.nn.LayerNorm
    ...     weight = np.ones((2, 2))
    ...
    ...     def __call__(self, x):
    ...         return x
    ...
    ...     def named_modules(self):
    ...         return [("", self)]
    ...
    ...     def named_parameters(self, recurse):
    ...         return [("weight", self.weight)]
    >>> model = LayerNorm()
    >>> decays = rl.decay_filter_for(model)
    >>> decays("weight", model.weight)
    False
    >>> opt = rl.AdamW({"weight": model.weight}, decay_filter=decays)
    """
    if isinstance(model, type) or not (hasattr(model, "named_modules") and callable(model)):
        raise TypeError(f"model: got {type_of(model)}, wants a torch.nn.Module")
    decaying: list[Any] = []
    spared: list[Any] = []
    patterns: list[str] = []
    modules = list(model.named_modules())
    for path, module in modules:
        if callable(method := getattr(module, "no_weight_decay", None)):
            patterns += [f"{path}.{name}" if path else name for name in method()]
    for path, module in modules:
        is_norm = any(_NORM_TYPE.search(kind.__name__.lower()) for kind in type(module).__mro__)
        for name, param in module.named_parameters(recurse=False):
            whole = f"{path}.{name}" if path else name
            spares = is_norm or param.ndim <= 1 or _is_bias(name.lower())
            spares = spares or any(fnmatchcase(whole, pattern) for pattern in patterns)
            (spared if spares else decaying).append(param)
    return _DecayOf(decaying, spared)


class _DecayOf:
    """Whether a parameter decays, by identity. Copy or pickle it together with the parameters."""

    def __init__(self, decaying: list[Any], spared: list[Any]) -> None:
        self._of = decaying, spared  # a shared parameter may be in both: it is spared
        self._known = {id(param): True for param in decaying}
        self._known |= {id(param): False for param in spared}

    def __call__(self, name: str, param: Any) -> bool:
        if id(param) not in self._known:
            raise ValueError(f"decay_filter: got {name!r}, wants a parameter of the model")
        return self._known[id(param)]

    def __reduce__(self) -> Any:
        return type(self), self._of
