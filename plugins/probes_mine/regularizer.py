"""Mutual information as a term of a loss, to be maximized or minimized."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from probes.measurement import Measurement
from probes.names import call_at
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule, every

from .adaptive_clipping import AdaptedGradient, adaptive_clip
from .bounds import donsker_varadhan_bound
from .mine import Mine, partners

__all__ = ["Mode", "MutualInformationRegularizer"]

Mode = Literal["max", "min"]


class MutualInformationRegularizer(Probe):
    r"""Adds the mutual information of two variables to a loss, estimated by a critic that learns alongside.

    Three lines in any loop::

        regularizer = MutualInformationRegularizer(DenseStatistics(784, 256), mode="min", beta=1e-3)
        ...
        regularizer.update(x, z)             # the critic learns; nothing else does
        loss = loss + regularizer(x, z)      # gradients reach what x and z come from, not the critic

    The critic has its own optimizer and its own random numbers. The bound is that of Donsker and Varadhan, so a maximum
    may be trusted; a minimum only as far as the critic keeps up, hence more steps of it for ``"min"``, and look at
    ``regularizer.mine.estimate`` on held-out pairs.

    Where it is maximized it has no bound, and can overwhelm the loss. Adaptive clipping holds its gradient to the
    length of the main one: exactly, with a backward pass for each, by :meth:`backward`; or where both meet at z, with
    one backward pass through what z comes from, by :meth:`tap`.

    As a probe, ``ProbeManager(model, probes=[regularizer])`` records ``mine/information``, the value of the last
    term as far as it can be one (a critic that lags behind gives less than 0, one that knows the batch by heart more
    than the logarithm of its size; what is added to the loss is not cut off), and after clipping ``mine/clip_ratio``,
    ``mine/main_gradient_norm`` and ``mine/information_gradient_norm``; its state goes into the manager's checkpoint.
    Without a manager, save :meth:`state_dict`.

    Args:
        network: The statistics network, called with x and z.
        schedule: When its values are recorded; at every tenth step by default.
        mode: ``"max"`` or ``"min"``.
        beta: Weight of the mutual information.
        critic_steps: Steps of the critic in one :meth:`update`; 1 for ``"max"`` and 5 for ``"min"`` by default.
        rate: Weight of a batch in the moving average of the critic's gradient, see :class:`Mine`.
        optimizer: Makes the critic's optimizer; Adam with learning rate 1e-3 by default.
        seed: Of the critic's random numbers.

    Raises:
        ValueError: If ``mode`` is unknown, ``beta`` is negative, or ``critic_steps`` is below 1.

    Example:
        >>> from probes_mine import DenseStatistics
        >>> regularizer = MutualInformationRegularizer(DenseStatistics(2, 1, (8,)), mode="min", beta=0.1)
        >>> x = torch.randn(16, 2)
        >>> encoder = nn.Linear(2, 1)
        >>> regularizer.update(x, encoder(x))
        >>> regularizer(x, encoder(x)).backward()
        >>> encoder.weight.grad is None, regularizer.mine.network.layers[1].weight.grad is None
        (False, True)

    Reference:
        Belghazi et al. (2018); Baratin (2021), sections 5.1 and 5.3 of chapter 5, and appendix C.1.1.
    """

    name = "mutual_information_regularizer"
    by_default = False

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule | None = None,
        *,
        mode: Mode = "max",
        beta: float = 1.0,
        critic_steps: int | None = None,
        rate: float | None = 0.01,
        optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(schedule if schedule is not None else every(10))
        if mode not in get_args(Mode):
            raise ValueError(f"`mode` must be 'max' or 'min', got {mode!r}.")
        if not beta >= 0:
            raise ValueError(f"`beta` must not be negative, got {beta}. Say by `mode` which way it goes.")
        self.critic_steps = critic_steps if critic_steps is not None else 1 if mode == "max" else 5
        if self.critic_steps < 1:
            raise ValueError(f"`critic_steps` must be at least 1, got {critic_steps}.")
        self.mode, self.beta = mode, beta
        self.mine = Mine(network, rate=rate, optimizer=optimizer, seed=seed)
        self._calls = 0
        self._information: Tensor | None = None
        self._pairs = 1
        self._clipping: AdaptedGradient | None = None

    def update(self, x: Tensor, z: Tensor) -> None:
        """Let the critic learn on a batch; gradients stop at x and z."""
        for _ in range(self.critic_steps):
            self.mine.update(x, z)

    def information(self, x: Tensor, z: Tensor) -> Tensor:
        """The bound on a batch by the critic as it is now, in nats; differentiable by x and z, not by the critic.

        Finite for critics that give hundreds. Shape ``()``.
        """
        generator = torch.Generator().manual_seed((self.mine.seed * 1_000_003 + self._calls) % 2**63)
        self._calls += 1
        other = z[partners(len(z), generator).to(z.device)]
        network = self.mine.network
        # Copies: the critic may learn before the term is sent back.
        frozen = {name: p.detach().clone() for name, p in (*network.named_parameters(), *network.named_buffers())}
        training = network.training
        network.eval()
        try:
            joint, marginal = (call_at(network, frozen, (x, side)).flatten() for side in (z, other))
        finally:
            network.train(training)
        value = donsker_varadhan_bound(joint, marginal)
        self._information, self._pairs = value.detach(), len(z)
        return value

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """The term to add to a loss: beta times the information, negative where it is to be maximized. Shape ``()``."""
        return (-self.beta if self.mode == "max" else self.beta) * self.information(x, z)

    def backward(self, loss: Tensor, x: Tensor, z: Tensor, parameters: Iterable[Tensor]) -> None:
        r"""Add to the ``.grad`` of parameters the gradient of a loss, and that of the information, clipped.

        .. math:: g_u + \beta \min(\|g_u\|, \|g_m\|) \frac{g_m}{\|g_m\|}

        with :math:`g_m` the gradient of minus the information (plus, for ``"min"``). No other ``.grad`` is touched.
        Where :math:`g_m` is not finite it is left out.

        Args:
            loss: The main loss.
            x: As the critic takes it.
            z: As the critic takes it, from the same graph.
            parameters: Of what is regularized, such as a generator's.

        Raises:
            ValueError: If z depends on none of the parameters.
        """
        chosen = [parameter for parameter in parameters if parameter.requires_grad]
        sign = -1.0 if self.mode == "max" else 1.0
        term = sign * self.information(x, z)
        main = torch.autograd.grad(loss, chosen, retain_graph=True, allow_unused=True)
        information = torch.autograd.grad(term, chosen, allow_unused=True)
        self._clipping = adaptive_clip(main, information)
        for parameter, u, a in zip(chosen, main, self._clipping.gradients, strict=True):
            total = None if u is None else u.clone()
            if a is not None:
                total = self.beta * a if total is None else total.add_(a, alpha=self.beta)
            if total is not None:
                parameter.grad = total if parameter.grad is None else parameter.grad + total

    def tap(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z twice: for the main loss, and for the term. Where their gradients meet, that of the term is clipped.

        ``z_main, z_term = regularizer.tap(generator(c))``, then ``(main(z_main) + regularizer(c, z_term)).backward()``.
        As :meth:`backward`, but by the gradients at z instead of those of the parameters; one backward pass through
        what z comes from.
        """
        main, term = _Tap.apply(z, self)
        return main, term

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield the values of the last term."""
        if self._information is not None:
            yield Measurement(
                "mine/information",
                self._information.clamp(0, math.log(self._pairs)),
                unit="nats",
                estimator="Donsker-Varadhan bound on the last batch, which the critic may have trained on; cut off at "
                "0 and at log n",
                num_samples=self._pairs,
                description="information that the critic sees",
            )
        if self._clipping is not None:
            for quantity, value, description in (
                ("clip_ratio", self._clipping.ratio, "of the information's gradient"),
                ("main_gradient_norm", self._clipping.main_norm, "gradient norm of the loss"),
                ("information_gradient_norm", self._clipping.information_norm, "gradient norm of the information"),
            ):
                yield Measurement(f"mine/{quantity}", value, description=description)

    def state_dict(self) -> dict[str, Any]:
        """The critic, its optimizer and its random numbers, for a resume."""
        return {"mine": self.mine.state_dict(), "calls": self._calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.mine.load_state_dict(state["mine"])
        self._calls = state["calls"]


class _Tap(torch.autograd.Function):
    """Its input twice; backwards, the second gradient held to the length of the first."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, regularizer: MutualInformationRegularizer) -> tuple[Tensor, Tensor]:
        ctx.regularizer = regularizer
        return z.view_as(z), z.view_as(z)

    @staticmethod
    def backward(ctx: Any, main: Tensor, term: Tensor) -> tuple[Tensor, None]:
        regularizer = ctx.regularizer
        if regularizer.beta == 0:
            return main, None
        regularizer._clipping = found = adaptive_clip([main], [term / regularizer.beta])
        (adapted,) = found.gradients
        assert adapted is not None
        return main + regularizer.beta * adapted, None
