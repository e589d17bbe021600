"""Trains a ResNet-18 on digits, in the manner of torchvision's reference script for classification.

Of that script: mixup and cutmix in the collate function, label smoothing, SGD with Nesterov momentum and without decay
of norms, a linear warm-up before cosine annealing, an exponential moving average of the model, clipping, evaluation
after each epoch, and a checkpoint.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision.transforms import v2

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--n", type=int, default=48)
parser.add_argument("--out", required=True)
args = parser.parse_args()

torch.manual_seed(0)
file = np.load(Path(__file__).parents[3] / "examples" / "data" / "mnist2000.npz")
images = torch.from_numpy(file["x"][: args.n + 16])[:, None].float() / 255
images = v2.functional.resize(images, [32, 32]).expand(-1, 3, -1, -1)
labels = torch.from_numpy(file["y"][: args.n + 16]).long()


class Digits(TensorDataset):
    transform = v2.Compose([v2.RandomCrop(32, padding=2), v2.Normalize([0.13] * 3, [0.31] * 3)])

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return self.transform(image), label


mix = v2.RandomChoice([v2.MixUp(alpha=0.2, num_classes=10), v2.CutMix(alpha=1.0, num_classes=10)])
train = Digits(images[: args.n], labels[: args.n])
loader = DataLoader(train, 8, shuffle=True, collate_fn=lambda batch: mix(*default_collate(batch)), drop_last=True)
test_loader = DataLoader(Digits(images[args.n :], labels[args.n :]), 8)

model = torchvision.models.resnet18(num_classes=10)
norms = [p for module in model.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()]
others = [p for p in model.parameters() if all(p is not norm for norm in norms)]
groups = [{"params": others, "weight_decay": 2e-5}, {"params": norms, "weight_decay": 0.0}]
optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
# HERE
steps = len(loader) * args.epochs
warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=2)
annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - 2)
schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, annealing], [2])
average = torch.optim.swa_utils.AveragedModel(
    model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
)


def evaluate(network):
    network.eval()
    with torch.inference_mode():
        return [criterion(network(x), y).item() for x, y in test_loader]


for _ in range(args.epochs):
    model.train()
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
    losses = evaluate(model) + evaluate(average)
    states = {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}
    saved = {name: item.state_dict() for name, item in states.items()}
    torch.save({**saved, "losses": losses, "random": torch.get_rng_state()}, args.out)
