"""What is left out where a pipeline is pickled or copied."""

from typing import Any

from torch import nn

HOOKS = "transformers.utils.output_capturing"  # functions in functions, which pickle does not take
INSTALLED = "_output_capturing_hooks_installed"


class Pickled:
    """A pipeline that is pickled without the hooks which transformers gives its encoders at a first call.

    They are taken away, and transformers gives them anew at the next call.
    """

    def __getstate__(self) -> dict[str, Any]:
        """The attributes."""
        modules = [part for part in vars(self).values() if isinstance(part, nn.Module)]
        for module in {each for part in modules for each in part.modules()}:
            for key, hook in list(module._forward_hooks.items()):
                if getattr(hook, "__module__", "") == HOOKS:
                    del module._forward_hooks[key]
            vars(module).pop(INSTALLED, None)
        return vars(self)
