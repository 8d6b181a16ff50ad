"""How fast a profile runs on this machine, as ratios: ``python tools/benchmark.py PROFILE``.

Three loops train the same network on the same images: ours; ours on one resident batch without any loading (the
ceiling); and a plain PyTorch loop (DataLoader, one image at a time through torchvision's transforms, float32), which
is how published code usually does it. Loops take turns, and the median of the turns counts, since machines drift.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from unlearn_utils import metrics, models
from unlearn_utils.data import Dataset
from unlearn_utils.heads import class_means
from unlearn_utils.methods import METHODS, build
from unlearn_utils.representation import extract
from unlearn_utils.settings import BadInput, Recipe
from unlearn_utils.study import profiles
from unlearn_utils.study.cells import dataset_of
from unlearn_utils.study.profiles import Profile
from unlearn_utils.study.sweep import Machine
from unlearn_utils.training import Run, optimiser_of, train

BATCH = 128


class PlainImages(TorchDataset):
    """Images one by one, through torchvision's transforms."""

    def __init__(self, dataset: Dataset):
        from torchvision.transforms import v2

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

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.images.pixels[i]), int(self.images.labels[i])


def seconds(work: Callable[[], object], device: str) -> float:
    """Wall time of ``work``, with everything that it started on a GPU."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    begin = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begin


def ours(profile: Profile, dataset: Dataset, device: str, steps: int, fixed: bool) -> float:
    """Images per second of our training loop; ``fixed``: always the same batch, already seen and normalised."""
    model = models.build(replace(profile.network, weights="none"), profile.data.channels, len(dataset.classes), 0).to(
        device
    )
    recipe, generator = Recipe(epochs=1, lr=0.01, batch_size=BATCH), torch.Generator(device).manual_seed(0)
    x, y = next(iter(dataset.batches(dataset.train, BATCH, generator)))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        done = 0
        while done < steps:
            for batch in [(x, y)] if fixed else dataset.batches(dataset.train, BATCH, generator):
                if len(batch[1]) == BATCH and done < steps:
                    done += 1
                    yield batch

    losses = lambda _: (cross_entropy(model(x), y) for x, y in batches())  # noqa: E731
    return steps * BATCH / seconds(lambda: train(model, losses, [recipe]), device)


def plain(profile: Profile, dataset: Dataset, device: str, steps: int) -> float:
    """Images per second of the plain loop, with as many loading processes as it is usually given."""
    network = replace(profile.network, precision="float32", weights="none")
    model = models.build(network, profile.data.channels, len(dataset.classes), 0)
    model = model.to(device, memory_format=torch.contiguous_format).train()
    optimiser = optimiser_of(list(model.parameters()), Recipe(epochs=1, lr=0.01))
    loader = DataLoader(
        PlainImages(dataset), BATCH, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )

    def run(count: int) -> None:
        done = 0
        while done < count:
            for x, y in loader:
                optimiser.zero_grad()
                loss = cross_entropy(model.head(model.encoder(x.to(device))), y.to(device))
                loss.backward()
                optimiser.step()
                loss.item()
                done += 1
                if done == count:
                    break

    run(1)  # the loader's processes start
    return steps * BATCH / seconds(lambda: run(steps), device)


def method_seconds(profile: Profile, dataset: Dataset, device: str) -> Iterator[tuple[str, float, float]]:
    """(method, seconds, images per second): one epoch of each unlearning method, on the images of the benchmark."""
    for name, variant in [
        (name, "linear")
        for name in profile.recipes
        if METHODS[name].start == "original" and "linear" in profile.recipes[name]
    ]:
        recipe = replace(profile.recipe(name, variant), epochs=min(1, profile.recipe(name, variant).epochs))
        network = replace(profile.network, weights="none")
        model = models.build(network, profile.data.channels, len(dataset.classes), 0).to(device)
        teacher = models.build(network, profile.data.channels, len(dataset.classes), 0).to(device).eval()
        run = Run(model, teacher, dataset, (0,), recipe, torch.Generator(device).manual_seed(0))

        def work(name=name, recipe=recipe, run=run, model=model) -> None:
            method = build(name, recipe.constants)
            run.begun = method.begin(run)
            train(model, lambda epoch: method.losses(run, epoch), method.phases(recipe))

        spent = seconds(work, device)
        yield METHODS[name].label, spent, len(dataset.train) / spent


def readout_seconds(profile: Profile, dataset: Dataset, device: str) -> Iterator[tuple[str, float]]:
    """(readout, seconds): the pass to the features, then what is read off them."""
    network, classes = replace(profile.network, weights="none"), len(dataset.classes)
    model, made = models.build(network, profile.data.channels, classes, 0).to(device), []
    yield (
        "features of training and test images, one pass",
        seconds(lambda: made.append(extract(model, dataset)), device),
    )
    features, labels = made[0].to(device), dataset.train.labels
    yield (
        "linear probe",
        seconds(lambda: metrics.linear_probe(features.train, labels, classes, profile.probe, 0), device),
    )
    centres = lambda: metrics.nearest_class_centre(features.test, class_means(features.train, labels, classes))  # noqa: E731
    yield "nearest class centre", seconds(centres, device)
    yield "NC1", seconds(lambda: metrics.nc1(features.train, labels, classes), device)


def peak_memory(device: str) -> str:
    """The most memory that was held: on the GPU, or by this process."""
    import resource

    if device.startswith("cuda"):
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB on the GPU"
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, kilobytes elsewhere
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.2f} GiB"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tools/benchmark.py", description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=100, help="training images per class; 0: all")
    parser.add_argument("--steps", type=int, default=8, help="optimiser steps of a turn")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    try:
        few = {"data.train_per_class": options.images, "data.test_per_class": options.images}
        profile = profiles.load(options.profile, few if options.images else {}, options.data_dir)
        device = Machine.choose(options.device).devices[0]
        dataset = dataset_of(profile).to(device)
    except BadInput as problem:
        sys.exit(f"benchmark: {problem}")
    if len(dataset.train) < BATCH:
        sys.exit(f"benchmark: {len(dataset.train)} training images are fewer than a batch of {BATCH}; raise --images.")
    print(f"{profile.title}: {len(dataset.train)} training images, {device}, {torch.get_num_threads()} threads")
    loops = {
        "our loop": lambda steps: ours(profile, dataset, device, steps, fixed=False),
        "one resident batch (ceiling)": lambda steps: ours(profile, dataset, device, steps, fixed=True),
        "plain loop": lambda steps: plain(profile, dataset, device, steps),
    }
    rates = {name: [] for name in loops}
    for turn in range(options.turns + 1):
        for name, loop in loops.items():
            rate = loop(options.steps if turn else 2)  # the first turn warms up
            rates[name] += [rate] if turn else []
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in median.items():
        print(f"  {name:30} {rate:9.0f} images/s  ({min(rates[name]):.0f} to {max(rates[name]):.0f})")
    print(
        f"  our loop is {median['our loop'] / median['one resident batch (ceiling)']:.2f} of the ceiling "
        f"and {median['our loop'] / median['plain loop']:.1f} times the plain loop"
    )
    print("One epoch of each method, on these images:")
    for name, spent, rate in method_seconds(profile, dataset, device):
        print(f"  {name:30} {spent:9.2f} s  {rate:9.0f} images/s")
    print("Readouts of one model, on these images:")
    for name, spent in readout_seconds(profile, dataset, device):
        print(f"  {name:48} {spent:7.2f} s")
    print(f"Peak memory: {peak_memory(device)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
