"""A discriminator that is trained along with the network."""

import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspir.errors import UserError
from sspir.numbers import LIMIT, POSITIVE, WEIGHT
from sspir.objectives.companion import Companion, OptimizerFactory
from sspir.objectives.picture_losses import SHIFT

log = logging.getLogger(__name__)

WINS, ACCURACY = 500, 0.95
"""Steps in a row with at least this accuracy after which a warning says that the discriminator has won."""


class Adversary:
    """A discriminator, its optimizer, and what the generator is told by it.

    It is no part of the module that Lightning trains, see `Companion`.

    Args:
        network: pictures (B, 3, H, W) in [0, 1] -> a map of logits, or a list of such: high for true photos. It may say
            by `least` which side pictures must have.
        weight: of the generator's loss.
        optimizer: makes the discriminator's optimizer from parameters.
        loss: "hinge" (Lim and Ye 2017) or "softplus" (the loss of the first GANs, not saturating).
        r1: weight of the squared gradient at true photos (Mescheder et al. 2018); 0 leaves it out.
        clip: largest norm of the discriminator's gradient.
        start: step from which on the generator is told; some hundred after `begin`, when there is something to tell.
        begin: step from which on the discriminator learns, before which it costs nothing; None: the first.

    Raises:
        UserError: the loss is not known, or a number is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        weight: float,
        optimizer: OptimizerFactory,
        loss: Literal["hinge", "softplus"] = "softplus",
        r1: float = 0.0,
        clip: float = 1.0,
        start: int = 0,
        begin: int | None = None,
    ) -> None:
        if loss not in ("hinge", "softplus"):
            raise UserError(f"Adversary: loss={loss!r} is not known; choose hinge or softplus.")
        self.network = network.train()
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        clip = POSITIVE.require("objective.adversary.clip", clip)  # 0 would keep it as it is
        self.companion = Companion(self.parameters, optimizer, clip)
        self.weight, self.loss = WEIGHT.require("objective.adversary.weight", weight), loss
        self.r1 = WEIGHT.require("objective.adversary.r1", r1)
        self.start = LIMIT.require("objective.adversary.start", start)
        self.begin = LIMIT.require("objective.adversary.begin", begin or 0)
        self.figures: dict[str, float | Tensor] = {}
        self.accuracy: list[Tensor] = []  # of the batches since the last update
        self.wins = 0

    def require_side(self, side: int) -> None:
        """Refuse patches of which too little is left for the discriminator where they are shifted.

        Raises:
            UserError: a side is too short.
        """
        least = getattr(self.network, "least", 1) + SHIFT
        if side < least:
            raise UserError(
                f"The discriminator judges patches from {least} pixels, as they are shifted, and these have {side}; "
                f"set dataset.train.crop.size to {least} or more, or a shallower objective.adversary.network."
            )

    def losses(self, pictures: Tensor, truth: Tensor, step: int, share: float = 1.0) -> Tensor:
        """Let the discriminator learn from a batch, and tell the generator what it made of it.

        Args:
            pictures: (B, 3, H, W), the generator's.
            truth: (B, 3, H, W) in [0, 1].
            step: of the training.
            share: of the batch in what the next update of both is made from.

        Returns:
            The generator's weighted loss, a scalar.
        """
        if step < self.begin:
            return pictures.new_zeros(())
        with _full_where_half_overflows(pictures.device.type):
            self._learn(pictures.detach().float(), truth.float(), share)
            if step < self.start:
                return pictures.new_zeros(())
            return self.weight * torch.stack(self.told(pictures.float())).mean()

    def told(self, pictures: Tensor) -> list[Tensor]:
        """The generator's loss of pictures (B, 3, H, W), one for each map of logits."""
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        self.network.eval()  # or spectral norms would be estimated anew for the generator's sake
        logits = _maps(self.network(pictures))
        self.network.train()
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        return [-each.mean() if self.loss == "hinge" else F.softplus(-each).mean() for each in logits]

    def rehearse(self, pictures: Tensor) -> list[Tensor]:
        """Compute what `losses` does, with the pictures for true ones, and remember nothing but gradients."""
        self._teach(pictures.detach(), pictures.detach(), 1.0)
        return self.told(pictures)

    def _learn(self, pictures: Tensor, truth: Tensor, share: float) -> None:
        """Add the gradients of a batch to those of the discriminator."""
        loss, accuracy = self._teach(pictures, truth, share)
        self.accuracy.append(accuracy)
        self.figures |= {"discriminator/loss": loss, "discriminator/accuracy": accuracy}

    def _teach(self, pictures: Tensor, truth: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """See `_learn`; the loss and the share of places that are told right, scalars."""
        if self.r1:
            truth = truth.detach().requires_grad_(True)
        with torch.enable_grad():
            true, false = _maps(self.network(truth)), _maps(self.network(pictures))
            each = [self._miss(a) + self._miss(-b) for a, b in zip(true, false, strict=True)]
            loss = torch.stack(each).mean()
            if self.r1:
                total = torch.stack([logits.float().sum() for logits in true]).sum()
                (slope,) = torch.autograd.grad(total, truth, create_graph=True)
                loss = loss + self.r1 / 2 * slope.square().sum(dim=(1, 2, 3)).mean()
            torch.autograd.backward(share * loss)
        right = [(logits > 0).float().mean() for logits in true] + [(logits < 0).float().mean() for logits in false]
        return loss.detach(), torch.stack(right).mean()

    def _miss(self, logits: Tensor) -> Tensor:
        """How far logits are from being surely positive."""
        return (F.relu(1 - logits) if self.loss == "hinge" else F.softplus(-logits)).mean()

    def end_step(self) -> None:
        """Update the discriminator; an update whose gradient is not finite is left out."""
        if not self.accuracy:
            return
        self.figures["discriminator/gradient_norm"], accuracy = self.companion.update(*self.accuracy)
        won = sum(accuracy) / len(accuracy) >= ACCURACY
        self.wins, self.accuracy = (self.wins + 1 if won else 0), []
        if self.wins == WINS:
            log.warning(
                "The discriminator has told true photos from restored ones for %d steps: the generator learns little "
                "from it; lower its learning rate, or add objective.adversary.r1.", WINS,
            )  # fmt: skip

    def to(self, device: torch.device) -> None:
        """Move the discriminator, and what its optimizer remembers."""
        self.network.to(device)
        self.companion.follow()

    def state_dict(self) -> dict[str, Any]:
        """Weights, the optimizer's state, the steps won in a row and the last figures."""
        return {
            "discriminator": self.network.state_dict(),
            "optimizer": self.companion.optimizer.state_dict(),
            "wins": self.wins,
            "figures": {name: float(value) for name, value in self.figures.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what was kept."""
        self.network.load_state_dict(state["discriminator"])
        self.companion.optimizer.load_state_dict(state["optimizer"])
        self.wins, self.figures = state["wins"], dict(state.get("figures", {}))


def _maps(logits: Tensor | list[Tensor]) -> list[Tensor]:
    return [logits.float()] if isinstance(logits, Tensor) else [each.float() for each in logits]


def _full_where_half_overflows(kind: str) -> torch.autocast:
    """Full precision under float16, whose small gradients would need a scaler of their own; else what surrounds it."""
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    enabled = torch.is_autocast_enabled(kind) and not half
    return torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=enabled)
