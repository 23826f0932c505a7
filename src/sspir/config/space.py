"""The space of a search, written in Hydra's sweep syntax, for Optuna and for W&B."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from sspir.config.compose import choices
from sspir.config.sentence import sentence
from sspir.config.sweep import name_of
from sspir.errors import UserError


class Parameter(NamedTuple):
    """A setting that a search varies.

    Attributes:
        key: as Hydra takes it: "optimizer.lr", "+optimizer.eps".
        choices: values as Hydra takes them; empty where it is a number.
        low: the lowest number, an integer where all are.
        high: the highest number.
        step: between numbers; None where all between the two are meant.
        log: whether the logarithm is what is drawn evenly.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    @property
    def name(self) -> str:
        """The setting's name."""
        return self.key.lstrip("+")

    def distribution(self) -> Any:
        """Optuna's distribution."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if isinstance(self.low, int):
            return IntDistribution(self.low, int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def for_wandb(self) -> dict[str, Any]:
        """The parameter in a sweep file of W&B."""
        if self.choices:
            return {"values": list(self.choices)}
        if self.step and (self.step != 1 or not isinstance(self.low, int)):
            count = round((self.high - self.low) / self.step)
            return {"values": [self.low + index * self.step for index in range(count + 1)]}
        ends = {"min": self.low, "max": self.high}
        if not isinstance(self.low, int):
            return {"distribution": "log_uniform_values" if self.log else "uniform", **ends}
        return {"distribution": "q_log_uniform_values", "q": 1, **ends} if self.log else {**ends}


def split_space(arguments: Sequence[str]) -> tuple[list[str], list[Parameter]]:
    """Part overrides into those that are the same in all trials, and the space; of one key the last counts.

    Args:
        arguments: Hydra's overrides: `optimizer.lr=tag(log,interval(1e-5,1e-3))`, `ablation=choice(none,no_explicit)`,
            `batch_size=range(2,9)`, `seed=0`.

    Raises:
        UserError: nothing is varied, or not in a way that a search can.
    """
    try:
        parsed = {name_of(each): each for each in OverridesParser.create().parse_overrides(list(arguments))}
    except HydraException as error:
        raise UserError(sentence(error, choices)) from error
    fixed = [str(each.input_line) for each in parsed.values() if not each.is_sweep_override()]
    space = [_parameter(each) for each in parsed.values() if each.is_sweep_override()]
    if not space:
        raise UserError(
            "There is nothing to search: vary a setting, such as 'optimizer.lr=tag(log,interval(1e-5,1e-3))' or "
            "'ablation=choice(none,no_explicit)'."
        )
    return fixed, space


def _parameter(override: Override) -> Parameter:
    key = override.get_key_element()
    sweep: Any = override.value()
    tags: set[str] = getattr(sweep, "tags", set())
    if override.is_hydra_override() or tags - {"log"}:
        raise UserError(
            f"{override.input_line} cannot be searched; vary a setting of the training, with no tag but log."
        )
    log = "log" in tags
    if override.is_interval_sweep():
        made = Parameter(key, low=sweep.start, high=sweep.end, log=log)
    elif override.is_range_sweep():
        values = list(sweep.range())
        made = Parameter(key, low=min(values), high=max(values), step=abs(sweep.step), log=log)
    elif isinstance(sweep, Glob):
        made = Parameter(key, tuple(sweep.filter(choices(override.key_or_group))))
    else:
        made = Parameter(key, tuple(dict.fromkeys(override.sweep_string_iterator())), log=log)
    if log and (made.low <= 0 or made.step not in (None, 1)):
        raise UserError(f"{override.input_line}: log takes an interval above 0, or integers above 0 in steps of 1.")
    if made.low > made.high:
        raise UserError(f"{override.input_line}: the interval ends before it begins.")
    return made
