"""How fast a profile trains on this machine, as ratios: ``python tools/benchmark.py PROFILE``.

Three loops train the same network on the same images: ours; ours on one resident batch without any loading (the
ceiling); and a plain PyTorch loop (DataLoader, one image at a time through torchvision's transforms, float32), which
is how published code usually does it. Loops take turns, and the median of the turns counts, since machines drift.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from unlearn_utils import models
from unlearn_utils.data import Dataset
from unlearn_utils.settings import BadInput, Recipe
from unlearn_utils.study import profiles
from unlearn_utils.study.cells import dataset_of
from unlearn_utils.study.machine import Machine
from unlearn_utils.training import optimiser_of, train

BATCH, STEPS, TURNS = 128, 16, 3
RECIPE = Recipe(epochs=1, lr=0.01, batch_size=BATCH)


class PlainImages(TorchDataset):
    """Images one by one, through torchvision's transforms."""

    def __init__(self, dataset: Dataset):
        self.images, views = dataset.train.to("cpu"), dataset.views
        steps = [v2.ToPILImage()]
        if views.random_resized_crop:
            steps.append(v2.RandomResizedCrop(views.crop_to))
        elif views.crop_to:
            steps += [v2.Resize(views.enlarge_to), v2.RandomCrop(views.crop_to)]
        if views.crop_padding:
            steps.append(v2.RandomCrop(self.images.pixels.shape[-1], padding=views.crop_padding))
        steps += [v2.RandomHorizontalFlip()] if views.flip else []
        normalise = v2.Normalize(dataset.mean.tolist(), dataset.std.tolist())
        self.transform = v2.Compose([*steps, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), normalise])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images.pixels[i]), int(self.images.labels[i])


def ours(model: models.Model, batches: Iterable) -> None:
    train(model, lambda _: (cross_entropy(model(x), y) for x, y in batches), [RECIPE])


def plain(model: models.Model, batches: Iterable) -> None:
    model = model.to(memory_format=torch.contiguous_format).train()
    optimiser = optimiser_of(list(model.parameters()), RECIPE)
    for x, y in batches:
        optimiser.zero_grad()
        loss = cross_entropy(model.head(model.encoder(x)), y)
        loss.backward()
        optimiser.step()
        loss.item()


def speed(loop: Callable, model: models.Model, batches: Callable[[], Iterable], device: str) -> float:
    """Images per second; the first batch is not counted, since loading processes start for it."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    full = (batch for _ in itertools.count() for batch in batches() if len(batch[1]) == BATCH)
    given = ((x.to(device), y.to(device)) for x, y in itertools.islice(full, STEPS + 1))
    next(given)
    wait()
    begin = time.perf_counter()
    loop(model, given)
    wait()
    return STEPS * BATCH / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tools/benchmark.py", description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=100, help="training images per class")
    options = parser.parse_args()
    try:
        profile = profiles.load(options.profile, {"data.train_per_class": options.images}, options.data_dir)
        device = Machine.choose(options.device).devices[0]
        dataset = dataset_of(profile).to(device)
    except BadInput as problem:
        sys.exit(f"benchmark: {problem}")
    if len(dataset.train) < BATCH:
        sys.exit(f"benchmark: {len(dataset.train)} training images are fewer than a batch of {BATCH}; raise --images.")
    print(f"{profile.title}: {len(dataset.train)} training images, {device}, {torch.get_num_threads()} threads")
    network, generator = replace(profile.network, weights="none"), torch.Generator(device).manual_seed(0)
    float32 = replace(network, precision="float32")
    images = PlainImages(dataset)
    order = RandomSampler(images, num_samples=(STEPS + 1) * BATCH)
    one = next(iter(dataset.batches(dataset.train, BATCH, generator)))
    loops = {
        "our loop": (ours, network, lambda: dataset.batches(dataset.train, BATCH, generator)),
        "one resident batch (ceiling)": (ours, network, lambda: [one]),
        "plain loop": (plain, float32, lambda: DataLoader(images, BATCH, sampler=order, num_workers=2)),
    }
    rates = {name: [] for name in loops}
    for turn, (name, (loop, kind, batches)) in itertools.product(range(TURNS + 1), loops.items()):
        model = models.build(kind, profile.data.channels, len(dataset.classes), 0).to(device)
        rate = speed(loop, model, batches, device)
        rates[name] += [rate] if turn else []  # the first turn warms up
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in median.items():
        print(f"  {name:30} {rate:9.0f} images/s  ({min(rates[name]):.0f} to {max(rates[name]):.0f})")
    mine, ceiling, usual = median.values()
    print(f"  our loop is {mine / ceiling:.2f} of the ceiling and {mine / usual:.1f} times the plain loop")


if __name__ == "__main__":
    main()
