"""What of the thesis is reproduced: every figure and table of chapters 3 to 5 and appendices A to C, and the theory."""

__all__ = ["ERRATA", "PARTS", "ROWS"]

ROWS = {
    "3.1": "amplitude of each frequency of the network over training; spectral norms",
    "3.2": "the learned function at some steps",
    "3.3": "amplitudes after a perturbation of the parameters",
    "3.4": "validation error under radial noise of low and of high frequency",
    "3.5": "spectrum over training in the eigenbasis of a Gaussian kernel",
    "3.6": "frequencies of the eigenvectors of a Gaussian kernel",
    "3.7": "two networks that agree on a curve and not beside it",
    "3.8": "amplitudes over training along curves with more and more petals",
    "3.9": "accuracy by number of petals and frequency",
    "4.1": "eigenfunctions of the tangent kernel before and after learning a disk",
    "4.2": "eigenvalues and effective rank of a VGG19's tangent kernel over training",
    "4.3": "alignment of a VGG19's tangent kernel with the labels, whole and by layer",
    "4.4": "alignment with easy and with difficult examples",
    "4.5": "SuperNat beside gradient descent",
    "4.6": "path complexity and other measures beside the generalization gap",
    "5.1": "mutual information of Gaussians by MINE, MINE-f and nearest neighbours",
    "5.2": "mutual information of noisy functions",
    "5.3": "samples of a spiral by GANs",
    "5.4": "samples of 25 Gaussians by GANs",
    "5.5": "samples of stacked digits",
    "5.6": "reconstructions, samples and codes of 25 Gaussians by bidirectional networks",
    "A.1": "loss of the networks of Fig. 3.1",
    "A.2": "training and validation error of the networks of Fig. 3.4",
    "A.3": "two extreme eigenvectors of a Gaussian kernel",
    "A.4": "loss of the networks of Fig. 3.5",
    "A.5": "a peak as the target",
    "A.6": "spectrum of the fit by depth",
    "A.7": "spectrum of the fit by width",
    "A.8": "spectrum of the fit by largest weight",
    "A.9": "prediction over training by largest weight",
    "A.10": "learning noise on reconstructions of digits and on flat inputs",
    "A.11": "a path within a class between adversarial images",
    "A.12": "paths within a class from adversarial images to images of the training set",
    "A.13": "nearest neighbours beside a network, and their radial spectra",
    "B.1": "change of the function along singular and along random directions",
    "B.2": "eigenvalues, eigenvectors and their frequencies of a random network's tangent kernel",
    "B.3": "minimum-norm solutions and bounds by anisotropy of the features",
    "B.4": "the disk: training set, and the grid of points that the tangent kernel is evaluated on",
    "B.5": "centred alignment with the labels of three architectures",
    "B.6": "uncentred alignment with the labels of three architectures",
    "B.7": "alignment with easy and difficult examples by depth",
    "B.8": "spectrum of a VGG19's tangent kernel at a smaller learning rate",
    "C.1": "codes of the networks of Fig. 5.6",
    "T5.1": "modes of stacked digits and divergence from their distribution",
    "T5.2": "reconstructions of images by bidirectional networks",
    "T5.3": "error of the information bottleneck on digits",
    "TC.1": "generator of stacked digits",
    "TC.2": "discriminator of stacked digits",
    "TC.3": "statistics network of stacked digits",
    "TC.4": "encoder of digits",
    "TC.5": "decoder of digits",
    "TC.6": "discriminator of digits and codes",
    "TC.7": "statistics network of digits and codes",
    "TC.8": "encoder of faces",
    "TC.9": "decoder of faces",
    "TC.10": "discriminator of faces and codes",
    "TC.11": "statistics network of faces and codes",
    "TC.12": "statistics network of the information bottleneck",
    "Lemma 3.2": "Fourier transform of a ReLU network on a compact domain",
    "eq. 16": "Fourier transform of a polytope, by its faces",
    "Thm 3.3": "decay of the spectrum of a ReLU network",
    "Prop A.2": "decay of the spectrum of its derivative by a parameter",
    "eq. 9": "rate at which a frequency is learned at the start",
    "Prop A.3": "bound of the rate at which a frequency is learned",
    "eq. 14": "the kernel of a curve, from frequencies of the input space to those along it",
    "eq. 15": "how far that kernel reaches",
    "Def. A.1": "share of parameter space with energy above a frequency",
    "Prop A.6": "decay of the share of parameter space with energy above a frequency",
    "Lemma 4.1": "change of the function in one step of gradient descent, by modes of the tangent kernel",
    "Prop B.3": "the change of the function in one step, of a sample",
    "Prop B.5": "time constants of the modes",
    "Thm 4.2": "bound of the Rademacher complexity of a path of updates",
    "Thm B.2": "bound for several classes",
    "eq. 60": "bound of Thm B.2 for linear classifiers",
    "ch. 5 eq. 12": "bias of MINE's gradient, and its moving average",
    "Thm 5.4": "MINE is consistent",
    "Thm 5.5": "samples that MINE needs",
    "ch. 5 eq. 15": "the number of samples of Thm 5.5",
    "ch. 5 eq. 18": "bound of the reconstruction error by mutual information",
}
"""By name, as experiments name them: a figure as "3.4", a table as "T5.2", an equation or statement by its kind. The
equations of chapter 5, numbered from 1 again, are named with their chapter."""

PARTS = {
    ("4.6", "complexity"): "left, centre",
    ("4.6", "complexity_channels"): "right",
    ("T5.2", "mutual_information_ali_images"): "digits",
    ("T5.2", "mutual_information_ali_celeba"): "faces",
}
"""Of what several experiments share, the part of each."""

ERRATA = {
    "Ch. 3, sec. 2, inverse Fourier transform": "the factor of a transform without one is (2 pi)^-d, not (2 pi)^(d/2) "
    "(`spectral_bias_polytopes`).",
    "Eq. 4 of ch. 3": "has i where it should have -i, and so have eq. 10, 14 and 15 of appendix A; the phase after "
    "eq. 19 there should be -k x, as before eq. 16 (`spectral_bias_polytopes`).",
    "Eq. 5 of ch. 3": "the sum begins at n = 1, for every k but 0 (`spectral_bias_polytopes`).",
    "Eq. 14 of ch. 3": "lacks the factor of the inverse transform; eq. 35 of appendix A has a unit vector where it "
    "means l (`spectral_bias_paths`).",
    "Eq. 26 to 28 of app. A": "the rate is the product of two factors that both fall as 1 / k0, so O(1 / k0) holds and "
    "is not tight; eq. 27 takes absolute values of vectors; eq. 28 lacks the 1 / N of the mean and the factor of "
    "Parseval's theorem (`spectral_bias_rates`).",
    "Prop. A.6, remark 2": "the indicator is below the amplitude only from k = kappa of each network on, where it is 0 "
    "already (`spectral_bias_volume`).",
    "Fig. 3.1, spectral norms": "the authors' formula `((b.t() @ A @ b) / b.t() @ b)` is n b'Ab, by the precedence of "
    "its operators, and no norm: n for the identity, whose norm is 1, and negative for some random matrices (tested). "
    "On the hidden layers of Experiment 1 after 30,000 steps, in a calculation that is not part of ours, it gave 86 to "
    "477, another number at each restart, where the largest singular values are 8.8 to 22.2 (`spectral_bias`).",
    "Experiment 2 of ch. 3": "the frequencies begin at 10 in the text, at 5 in the authors' code "
    "(`spectral_bias_robustness`).",
    "Experiment 3 of ch. 3": "the text has sin(k |x|) and targets 0 and 1, the code sin(2 pi k |x|) and -1 and 1 "
    "(`spectral_bias_noise`).",
    "Experiment 6 of ch. 3": "the classes are cut at 0.5 in the text, at 0 in the code (`spectral_bias_petals`).",
    "Fig. A.10": "random labels are harder to learn, says the text, 'if the input samples lie on the same manifold', "
    "which is neither of the two (`spectral_bias_reconstructions`).",
    "Fig. A.12": "the caption puts the training image on both sides, and the text says of the logit that it is "
    "minimized and that it is maximized (`spectral_bias_elastic_band`).",
    "Eq. 7 of ch. 4, centring": "the equation centres the kernel of all n c outputs at once, the authors' code each "
    "output over the samples, and the figures show the latter. The two CKA differ: of an MLP on digits the latter is "
    "over twice the former, before training and after it (tested) (`feature_alignment`).",
    "Sec. B.1.5, time constants": "-log(1 - lambda_j / lambda_1) is the inverse of the time constant "
    "(`complexity_dynamics`).",
    "Fig. B.2, a tenth eigenvalue of 4 %": "fits singular values of the tangent features, not eigenvalues of the "
    "kernel (`feature_alignment_frequencies`).",
    "Fig. B.3": "about 980 of the 1000 squared singular values l of the features lie below 1e-15, where 1 + c (l - 1) "
    "has nothing left of them at c = 1. So the bound with A = Id is one of rounding: 1e7 with all singular values, "
    "below 1e3 without those under 1e-4 of the largest, and as much with shuffled labels (tested, on points of "
    "[-2, 2]; the thesis does not state the interval) (`capacity_norms`).",
    "Prop. 4.3 (SuperNat)": "the scale of the new eigenvalues is left open, and decides whether the algorithm is "
    "better than gradient descent, equal to it, or diverges; eq. 70 omits a square (`supernat`).",
    "Fig. 5.2, equitability": "I(X; f(X) + sigma e) is not the same for all f at one sigma, which quadrature shows; "
    "what is invariant is I(f(X); Y) = I(X; Y) (`mutual_information_equitability`).",
    "Eq. 16 of ch. 5": "a logarithm is missing in the loss of the discriminator (`mutual_information_gan`).",
    "Eq. 18 of ch. 5": "eq. 36 takes H(x, z) - H(z) for H(z | x), so that H(z) stands where H(x) belongs: as printed "
    "the error lies above the bound (`mutual_information_consistency`).",
    "Eq. 26 of app. C": "has Hoeffding's inequality of a deviation epsilon for one of epsilon / 4, an exponent 16 "
    "times too large, and eq. 32 drops the factor e^M of eq. 20; the power of n stays "
    "(`mutual_information_consistency`).",
    "Tables C.5 and C.6": "codes of 128 numbers are drawn as 256, and digits have one channel, not three "
    "(`mutual_information_ali_images`).",
}
"""What was found to be wrong in what was published, by place, with the experiment that is about it. What is "tested" is
computed in ``tests/examples/frame/test_thesis.py``."""
