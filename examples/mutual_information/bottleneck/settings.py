"""The rows of table 5.3, and how their networks are trained."""

from __future__ import annotations

from dataclasses import dataclass

PIXELS, CLASSES = 784, 10


@dataclass(frozen=True)
class Model:
    """One row of the table: where noise enters the encoder, and what is added to the cross-entropy."""

    noise: str = ""
    """``"gaussian"``: z = mean(x) + e, ``"learned"`` with std(x) e; ``"additive"``: enc(x + std e); ``"propagated"``:
    enc([x, e]); several with commas between them."""
    published: str = ""
    compression: str = ""
    """``"mine"``, or ``"variational"`` for the divergence from a standard normal."""
    dropout: float = 0.0
    label_smoothing: float = 0.0
    confidence_penalty: float = 0.0


# The source states no rate of dropout, no smoothing and no weight of the penalty.
MODELS = {
    "baseline": Model("", "1.38"),
    "dropout": Model("", "1.34", dropout=0.5),
    "confidence penalty": Model("", "1.36", confidence_penalty=0.1),
    "label smoothing": Model("", "1.40", label_smoothing=0.1),
    "DVB": Model("gaussian, learned", "1.13", "variational"),
    "DVB + additive noise": Model("gaussian, learned, additive", "1.06", "variational"),
    "MINE (Gaussian)": Model("gaussian", "1.11", "mine"),
    "MINE (propagated)": Model("propagated", "1.10", "mine"),
    "MINE (additive)": Model("additive", "1.01", "mine"),
    "Gaussian, beta = 0": Model("gaussian"),
    "propagated, beta = 0": Model("propagated"),
    "additive, beta = 0": Model("additive"),
}

ENCODERS = ("Gaussian", "propagated", "additive")
"""Those that are trained without a compression and with MINE."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """As Alemi et al. (2016), to which the thesis refers for all but the statistics network."""

    units: int = 1024
    """Of the two hidden layers of the encoder."""
    code: int = 256
    """Numbers of z."""
    beta: float = 1e-3
    variational_beta: float = 1e-3
    epochs: int = 200
    learning_rate: float = 1e-4
    batch_size: int = 100
    samples: int = 12
    """Of z, over which the predicted probabilities of a test image are averaged."""
    statistics: tuple[int, ...] = (512, 512)
    # The source states none of these.
    critic_steps: int = 5
    critic_rate: float = 1e-3
    input_noise: float = 0.5
    """Standard deviation of the additive noise, of images in [-1, 1]."""
    propagated: int = 256
    """Numbers of e in enc([x, e])."""
    fresh_steps: int = 5000
    """Of a critic that is trained only to measure."""
    mnist: bool = True
    """False for 1,000 + 1,000 digits that need no download."""
