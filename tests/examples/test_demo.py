"""The picture of the demo, from a run of a few steps."""

import torch
from matplotlib.image import imread

from examples.demo import make_model, picture
from probes import ProbeManager, open_run


def test_the_picture_shows_spectrum_loss_and_updates(tmp_path):
    torch.manual_seed(0)
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with ProbeManager(model, ["fourier", "layers"], log_dir=tmp_path, overhead=None).attach(optimizer):
        for _ in range(8):
            loss = torch.nn.functional.cross_entropy(model(torch.rand(20, 1, 28, 28)), torch.randint(10, (20,)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    picture(open_run(tmp_path), tmp_path / "demo.png")
    image = imread(tmp_path / "demo.png")
    assert image.shape[1] == 1100 and image[..., :3].std() > 0.1
