"""Models whose work is not all in `forward`, under the hooks of accelerate that bring weights to an accelerator when they are needed.

accelerate wraps `forward` only. `with_hooks` does for another method what is done for `forward`: its weights come, and its inputs go
where they are. `OffloadableMixin.device` names the device a model computes on, and not the one that its weights wait on.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch


Method = TypeVar("Method", bound=Callable[..., Any])


def with_hooks(method: Method) -> Method:
    """A method of a module that runs the module's accelerate hook before and after, as `forward` does."""

    @functools.wraps(method)
    def hooked(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        # Unlike diffusers' `apply_forward_hook`, the inputs move, too.
        hook: Any = getattr(self, "_hf_hook", None)
        if hook is None:
            return method(self, *args, **kwargs)
        args, kwargs = hook.pre_forward(self, *args, **kwargs)
        return hook.post_forward(self, method(self, *args, **kwargs))

    return hooked  # type: ignore[return-value]


class OffloadableMixin:
    """Stands before `PreTrainedModel` among the bases."""

    @property
    def device(self) -> torch.device:
        """Where the model computes: the device of its hooks while it is offloaded, otherwise that of its weights."""
        module: Any = self
        for part in module.modules():
            device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
            if device is not None:
                return torch.device(device)
        return next(module.parameters()).device
