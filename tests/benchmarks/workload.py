"""What every arm of the trainer's benchmarks computes: one host, one set of images, one recipe."""

from __future__ import annotations

from kasmina.data.dataset import DatasetSettings

BATCH = 100
INTERVAL_BATCHES = 100
INTERVAL_IMAGES = BATCH * INTERVAL_BATCHES
TRAIN_IMAGES = 20_000
VALIDATION_IMAGES = 2_000
VALIDATION_BATCH = 500
CHANNELS = (16, 32, 64)
LEARNING_RATE = 0.1
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4

DATA = DatasetSettings(
    name="cifar100", train_images=TRAIN_IMAGES, validation_images=VALIDATION_IMAGES
)
