"""A method's run as a sequence of pictures: where the forget class and its neighbours lie, step by step, in one frame."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..heads import class_means
from ..metrics import in_plane, nearest, plane_of, probed
from ..representation import Features, extract, output_predictions
from ..settings import BadInput
from ..sources import folder_of
from ..training import begin, generator, refit_head, train, worth_reading
from . import code
from .cells import Cell, Result, Task, dataset_of, prepare, trained, views_of
from .readings import OfRun
from .readouts import At
from .rows import Asked, needs_steps
from .studies import Results, Study

MIME = "application/vnd.unlearn.steps+json"  # what a saved notebook keeps of the interactive view, for the report
THUMBNAILS = ("digits", "fashion_mnist")  # sources whose images may be shown, and are readable when small


@dataclass(frozen=True)
class Steps(OfRun):
    """Test images of the first forget class and of the two classes whose means lie nearest to it, as the method runs.

    The frame is the plane through the three class means of the Original's training features, the same at every step:
    its origin is the mean of the three, its unit the distance of the forget mean to the nearest other one. The run is
    the cell's own; readings draw no random number of it.
    """

    cell: Cell
    images: int = 300  # at most so many, the first of each class
    steps: int = 12  # at most so many, the Original and the end among them
    kind = "steps"

    @property
    def asked(self) -> dict[str, Any]:
        shown = {"images": self.images, "steps": self.steps}
        return {"model": trained(self.cell).question, "probe": asdict(self.cell.profile.probe), **shown}

    @property
    def code(self) -> str:
        reading = (plane_of, in_plane, class_means, probed, nearest, output_predictions, extract, worth_reading)
        return code.version(*reading, begin, train, generator, refit_head)

    def compute(self, device: str) -> Result:
        run, method = prepare(self.cell, device)
        at, readings, seen, done, end = At(self.cell, device), [], {}, 0, sum(p.epochs for p in method.phases(run.recipe))

        def read() -> None:
            features = extract(run.model, run.dataset, views_of(self.cell, device)).to(device)
            if not seen:
                seen.update(self._seen(at, features))
            if torch.isfinite(features.train).all() and torch.isfinite(features.test).all():  # else it diverged
                readings.append({"step": done, **self._reading(at, run.model, features, **seen)})

        def on_step(step: int) -> None:
            nonlocal done
            done = step
            if worth_reading(step):
                read()

        def on_epoch(epoch: int, loss: float) -> None:
            refit_head(run)
            if epoch == end and readings[-1]["step"] != done:
                read()

        losses = lambda epoch: method.losses(run, epoch)  # noqa: E731
        train(run.model, losses, method.phases(run.recipe), on_step=on_step, on_epoch=on_epoch)
        kept = seen["kept"].tolist()
        return {
            "classes": seen["classes"], "images": kept, "labels": at.test_labels[seen["kept"]].tolist(),
            "readings": thinned(readings, self.steps),
        }, {}

    def _seen(self, at: At, features: Features) -> dict[str, Any]:
        """The frame, the three classes and the images, from the features before the first step."""
        means = class_means(features.train, at.train_labels, at.classes)
        apart = (means - means[self.cell.forget[0]]).norm(dim=1)
        classes = apart.argsort()[:3].tolist()  # the forget class first: its distance is 0
        kept = [torch.where(at.test_labels == c)[0][: self.images // 3] for c in classes]
        return {"classes": classes, "kept": torch.cat(kept), "frame": plane_of(means[classes])}

    def _reading(self, at: At, model, features: Features, classes: list[int], kept: Tensor, frame) -> dict[str, Any]:
        test, common = features.test[kept], (features.train, at.train_labels)
        means = class_means(*common, at.classes)[classes]
        predicted = {
            "output": output_predictions(model, test),
            "probe": probed(*common, test, at.classes, at.recipe, at.seed).argmax(1),
            "ncc": nearest(*common, test, at.classes)[0],
        }
        places = {name: _rounded(in_plane(points, *frame)) for name, points in {"points": test, "means": means}.items()}
        return {**places, **{name: classes_read.tolist() for name, classes_read in predicted.items()}}


def _rounded(points: Tensor) -> list[list[float]]:
    return [[round(value, 3) for value in point] for point in points.tolist()]


def thinned(readings: list, most: int) -> list:
    """At most so many of them, evenly spaced, the first and the last among them."""
    if len(readings) <= most:
        return readings
    return [readings[round(i * (len(readings) - 1) / (most - 1))] for i in range(most)]


def steps(study: Study, method: str) -> Asked:
    """The first pair's run of ``method`` as JSON values: names and colours are the view's. None where it failed.

    Raises BadInput for a method that has no steps.
    """
    needs_steps(study, method)
    seed, forget = study.pairs[0]
    if len(study.classes) < 3:
        raise BadInput(f"the plane of three class means needs three classes, and there are {len(study.classes)}.")
    task = Steps(study.cell(seed, forget, method))

    def made(results: Results) -> dict[str, Any] | None:
        if task.key not in results:
            return None
        result = results[task.key]
        about = {"model": task.cell.label, "profile": study.profile.title, "seed": seed, "forget_set": list(forget)}
        names = {"forget": study.classes[forget[0]], "names": list(study.classes)}
        return about | names | {name: result[name] for name in ("classes", "labels", "readings")} | {
            "pixels": _pixels(study, result["images"])
        }

    return Asked(study, [task], made)


def _pixels(study: Study, chosen: list[int]) -> list | None:
    """The chosen test images (n, channels, side, side), 0 to 255, where they may be shown and are at hand."""
    data = study.profile.data
    downloaded = data.source == "digits" or any(folder_of(data).glob("*"))  # a picture is no reason to download
    if data.source not in THUMBNAILS or not downloaded:
        return None
    try:
        return dataset_of(study.profile).test.pixels[chosen].tolist()
    except BadInput:  # results of a pack, and other images here
        return None
