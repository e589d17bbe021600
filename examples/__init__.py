"""The experiments of the thesis, run by name: ``python -m examples list``, ``python -m examples run NAME``.

``task.py`` is a training loop that survives interruption, ``runner.py`` runs the seeds of an experiment, judges and
draws, ``data.py`` and ``models.py`` are what experiments share, ``classification.py`` what those of chapter 4 do,
``generative.py`` those of chapter 5 that generate images. Every other file is one experiment, read like its section:
settings, target, probes, criteria, figures. It ends in an ``EXPERIMENT`` and is named here.
"""

EXPERIMENTS = (
    "spectral_bias",
    "spectral_bias_robustness",
    "feature_alignment",
    "feature_alignment_architectures",
    "feature_alignment_difficult",
    "feature_alignment_disk",
    "feature_alignment_frequencies",
    "feature_alignment_perturbation",
    "complexity",
    "complexity_channels",
    "supernat",
    "capacity_norms",
    "mutual_information_gaussians",
    "mutual_information_equitability",
    "mutual_information_bottleneck",
    "mutual_information_gan",
    "mutual_information_ali",
    "mutual_information_stacked_mnist",
    "mutual_information_ali_images",
    "mutual_information_ali_celeba",
)
