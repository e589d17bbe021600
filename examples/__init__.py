"""The experiments of the thesis, run by name: ``python -m examples list``, ``python -m examples run NAME``.

One folder a chapter, one file an experiment, read like its section: settings, target, probes, criteria, figures. It
ends in an ``EXPERIMENT`` and is named here. A long one is a folder of its own, of which ``settings.py`` comes first.
``frame/`` is what they share: ``task.py`` is a training loop that survives interruption, ``runner.py`` runs the seeds
of an experiment, judges and draws.
"""

EXPERIMENTS = {
    "spectral_bias": "spectral_bias.learning_order",
    "spectral_bias_robustness": "spectral_bias.robustness",
    "spectral_bias_noise": "spectral_bias.noise",
    "spectral_bias_kernel_frequencies": "spectral_bias.kernel_frequencies",
    "spectral_bias_kernel_noise": "spectral_bias.kernel_noise",
    "spectral_bias_manifold": "spectral_bias.manifold",
    "spectral_bias_petals": "spectral_bias.petals",
    "spectral_bias_neighbours": "spectral_bias.neighbours",
    "spectral_bias_delta": "spectral_bias.delta",
    "spectral_bias_polytopes": "spectral_bias.polytopes",
    "spectral_bias_decay": "spectral_bias.decay",
    "spectral_bias_rates": "spectral_bias.rates",
    "spectral_bias_paths": "spectral_bias.paths",
    "spectral_bias_volume": "spectral_bias.volume",
    "spectral_bias_reconstructions": "spectral_bias.reconstructions",
    "spectral_bias_elastic_band": "spectral_bias.elastic_band",
    "feature_alignment": "feature_alignment.vgg.experiment",
    "feature_alignment_architectures": "feature_alignment.architectures",
    "feature_alignment_difficult": "feature_alignment.difficult.experiment",
    "feature_alignment_disk": "feature_alignment.disk",
    "feature_alignment_frequencies": "feature_alignment.frequencies",
    "feature_alignment_perturbation": "feature_alignment.perturbation",
    "complexity": "complexity.widths",
    "complexity_channels": "complexity.channels",
    "complexity_dynamics": "complexity.dynamics",
    "complexity_bounds": "complexity.bounds",
    "supernat": "complexity.supernat",
    "capacity_norms": "complexity.capacity_norms",
    "edge_of_stability": "curvature.edge_of_stability",
    "sharpness_generalization": "curvature.generalization",
    "mutual_information_gaussians": "mutual_information.gaussians",
    "mutual_information_gradient_bias": "mutual_information.gradient_bias.experiment",
    "mutual_information_consistency": "mutual_information.consistency",
    "mutual_information_equitability": "mutual_information.equitability",
    "mutual_information_bottleneck": "mutual_information.bottleneck.experiment",
    "mutual_information_gan": "mutual_information.gan.experiment",
    "mutual_information_ali": "mutual_information.ali.experiment",
    "mutual_information_stacked_mnist": "mutual_information.stacked_mnist.experiment",
    "mutual_information_ali_images": "mutual_information.ali_images.digits",
    "mutual_information_ali_celeba": "mutual_information.ali_images.celeba",
}
"""What ``python -m examples list`` and ``python -m examples run NAME`` know, and the module of each."""
