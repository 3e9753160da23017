"""A training script as people have it: a small network learns scikit-learn's handwritten digits.

It goes on from its checkpoint where there is one: `python before.py --help`. `after.py` is the same
script as an episode of growth.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kasmina.attach import attach


class Network(nn.Module):
    """Two convolutions, with a way past the second, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.shapes = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        h = self.edges(images)
        h = h + self.shapes(h)
        logits: Tensor = self.classifier(self.dropout(h.amax(dim=(2, 3))))
        return logits


def digits() -> tuple[TensorDataset, TensorDataset]:
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    return TensorDataset(images[:1200], labels[:1200]), TensorDataset(images[1200:], labels[1200:])


@torch.no_grad()
def validate(model: nn.Module, split: TensorDataset) -> tuple[float, float]:
    model.eval()
    images, labels = split.tensors
    logits = model(images)
    loss = float(nn.functional.cross_entropy(logits, labels))
    return loss, float((logits.argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--checkpoint", type=Path, default=Path("digits.pt"))
    parser.add_argument("--services", nargs=2, default=("127.0.0.1:50052", "127.0.0.1:50053"))
    arguments = parser.parse_args()
    torch.manual_seed(1)
    training, validation = digits()
    loader = DataLoader(training, batch_size=50, shuffle=True)
    model = Network()
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.epochs)
    growth = attach(
        model,
        ["edges", "shapes"],
        loss=criterion,
        sample=training.tensors[0][:2],
        optimizer=optimizer,
        validated=validate(model, validation),
        horizon=arguments.epochs,
        run_id=arguments.checkpoint.stem,
        policy=arguments.services[0],
        experience=arguments.services[1],
    )
    start = 0
    if arguments.checkpoint.exists():
        checkpoint = torch.load(arguments.checkpoint)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])
        torch.set_rng_state(checkpoint["random"])
        start = checkpoint["epoch"]
        growth.load_state_dict(checkpoint.get("growth"))
    for epoch in range(start, arguments.epochs):
        model.train()
        total = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            growth.step(labels)
            optimizer.step()
            total += loss.item()
        scheduler.step()
        train_loss = total / len(loader)
        val_loss, val_accuracy = validate(model, validation)
        print(f"{epoch:3d}  {train_loss:.6f}  {val_loss:.6f}  {val_accuracy:.4f}", flush=True)
        growth.interval(train_loss=train_loss, val_loss=val_loss, val_accuracy=val_accuracy)
        checkpoint = {
            "growth": growth.state_dict(),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "random": torch.get_rng_state(),
            "epoch": epoch + 1,
        }
        torch.save(checkpoint, arguments.checkpoint)
    growth.end()


if __name__ == "__main__":
    main()
