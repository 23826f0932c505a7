"""Collect values per image, and compute what they show: means, intervals, differences, noise control."""

import csv
import io
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sspir.errors import UserError
from sspir.evaluation.measure import NOISE, Row
from sspir.evaluation.statistics import CONFIDENCE, RESAMPLES, SMALLEST_N, Values, bootstrap, compare, orient
from sspir.files import json_bytes, write_bytes
from sspir.images.io import images_below
from sspir.metrics.base import FolderMetric, ImageMetric

JOURNAL, SUMMARY = "evaluate.jsonl", "summary.json"  # the former of an evaluation alone
FILES = ("per_image.csv", "images.csv", SUMMARY)
STRUCTURE = ("vif", "haarpsi", "gmsd")  # noise improves none of them: one must be won beside NIQE


class Results:
    """Per-image values of several methods; `add` them in any order, then `summary` or `write`.

    Args:
        metrics: name -> metric; gives columns and directions.
        unavailable: name -> why a metric that was asked for is missing, in words.
        seed: of the bootstrap.
        crop_border: pixels at each side that were not measured.
    """

    def __init__(
        self,
        metrics: Mapping[str, ImageMetric],
        unavailable: Mapping[str, str] | None = None,
        seed: int = 0,
        crop_border: int = 0,
    ) -> None:
        self.metrics = dict(metrics)
        self.unavailable = dict(unavailable or {})
        self.seed, self.crop_border = seed, crop_border
        self.peers: dict[str, dict[str, Any]] = {}  # name -> `Peer.record`; like the next, not in all results
        self.cost: dict[str, Any] = {}  # see `sspir.evaluation.costs`
        self.noise_base = ""  # the method to whose pictures noise was added for the controls
        self.problems: list[dict[str, str]] = []
        self._values: dict[str, dict[str, dict[str, float]]] = {}  # method -> image -> metric -> value
        self._of_sets: dict[str, dict[str, dict[str, Any]]] = {}  # method -> metric -> cell of the summary
        self._files: list[tuple[str, str, str]] = []

    def add(self, rows: Sequence[Row], files: Mapping[str, str | Path] | None = None) -> None:
        """Add the rows of one image.

        Args:
            rows: from `measure_image`.
            files: where its pictures lie: "hq", "lq" or a method -> path; the report shows them.
        """
        for row in rows:
            self._values.setdefault(row.method, {})[row.image] = row.values
            for metric, problem in row.problems.items():
                self.add_problem(row.image, row.method, problem, metric)
        if rows:
            self._files += [(rows[0].image, role, str(path)) for role, path in (files or {}).items()]

    def add_set_value(self, method: str, metric: str, value: float, n: int) -> None:
        """Add a value of all n images of a method together, such as FID: it has no interval."""
        self._of_sets.setdefault(method, {})[metric] = {"mean": value, "low": None, "high": None, "n": n}

    def measure_folders(self, folders: Mapping[str, Path], hq: Path | None) -> None:
        """Add the values of the metrics that compare a method's whole folder with that of the truth.

        Args:
            folders: of the methods, by name; those of which there is no image are passed over.
            hq: the truth; without it there is nothing to compare.
        """
        metrics = {name: metric for name, metric in self.metrics.items() if isinstance(metric, FolderMetric)}
        for (method, folder), (name, metric) in itertools.product(folders.items(), metrics.items()):
            if hq is None or method not in self.methods:
                continue
            try:
                value = metric.score_folders(folder, hq)
            except (UserError, RuntimeError, ValueError) as error:  # whatever a library says of pictures like these
                self.add_problem("all images", method, f"{name}: {error}", name)
                continue
            if math.isfinite(value):
                self.add_set_value(method, name, value, len(images_below(folder)))
                self._tell_strangers(method, name, folder, hq)
            else:
                self.add_problem("all images", method, f"{name} is undefined for them, which may be too few.", name)

    def _tell_strangers(self, method: str, metric: str, folder: Path, hq: Path) -> None:
        """Note that a metric has compared other pictures than the method's and their truths, if it has."""
        pictures, truths, measured = len(images_below(folder)), len(images_below(hq)), len(self._values[method])
        if not pictures == truths == measured:
            told = f"{metric} compares the {pictures} pictures in {folder} with the {truths} in {hq}"
            self.add_problem("all images", method, f"{told}; only {measured} are pairs, leave no others there.")

    def add_problem(self, image: str, method: str, problem: str, metric: str = "") -> None:
        """Note why a picture, or one metric of it, is missing, in one sentence."""
        self.problems.append({"image": image, "method": method, "metric": metric, "problem": problem})

    @property
    def methods(self) -> list[str]:
        """Method names, controls last."""
        return sorted(self._values, key=lambda method: method.startswith(NOISE))

    @property
    def images(self) -> list[str]:
        """Names of all images, sorted."""
        return sorted({image for values in self._values.values() for image in values})

    def without_noise(self) -> dict[str, set[str]]:
        """Control -> its images without noise: the base, such as "processor", has no room for it at the method's PSNR.

        The control's row of such an image is the base's own, and proves nothing.
        """
        plain = self._values.get(self.noise_base, {})
        return {
            method: {image for image, values in rows.items() if values and values == plain.get(image)}
            for method, rows in self._values.items()
            if method.startswith(NOISE)
        }

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per image and method: "image", "method", then the metrics (None where missing)."""
        return [
            {"image": image, "method": method, **{name: values.get(image, {}).get(name) for name in self.metrics}}
            for method in self.methods
            for values in [self._values[method]]
            for image in sorted(values)
        ]

    def values(self, method: str, metric: str, without: Collection[str] = ()) -> Values:
        """Values (n,) of a method over all images of the set, NaN where missing and for those `without`."""
        rows = {image: values for image, values in self._values[method].items() if image not in without}
        return np.array([rows.get(image, {}).get(metric, np.nan) for image in self.images], dtype=np.float64)

    def summary(self) -> dict[str, Any]:
        """All that `summary.json` holds."""
        methods: dict[str, dict[str, Any]] = {}
        for method in self.methods:
            intervals = {name: bootstrap(self.values(method, name), self.seed) for name in self.metrics}
            methods[method] = {name: asdict(interval) for name, interval in intervals.items() if interval.n}
            methods[method] |= self._of_sets.get(method, {})
        comparisons = self.comparisons()
        return {
            "methods": methods,
            "metrics": {name: describe(metric) for name, metric in self.metrics.items()},
            "comparisons": comparisons,
            "noise_control": noise_verdicts(comparisons, self._no_controls()),
            "unavailable": self.unavailable,
            "problems": self.problems,
            **({"peers": self.peers} if self.peers else {}),
            **({"cost": self.cost} if self.cost else {}),
            "settings": {
                "confidence": CONFIDENCE,
                "resamples": RESAMPLES,
                "seed": self.seed,
                "crop_border": self.crop_border,
            },
        }

    def comparisons(self) -> list[dict[str, Any]]:
        """Every pair of methods on every metric: gain of `a` over `b` (positive: a is better), and its verdict."""
        found, without = [], self.without_noise()
        for (a, b), (name, metric) in itertools.product(itertools.combinations(self.methods, 2), self.metrics.items()):
            values = [self.values(method, name, without.get(method, ())) for method in (a, b)]
            goodness = [orient(describe(metric), each) for each in values]
            difference = compare(goodness[0], goodness[1], self.seed)
            if difference.gain.n == 0:
                continue
            better = (a if difference.gain.mean > 0 else b) if difference.significant else None
            gain = asdict(difference.gain)
            gain["gain"] = gain.pop("mean")
            found.append({"a": a, "b": b, "metric": name, **gain, "win_rate": difference.win_rate, "better": better})
        return found

    def _no_controls(self) -> dict[str, str]:
        """Control -> a sentence about its images without noise, where there are some."""
        return {
            control: f"{control} is no control on {len(images)} of {len(self.images)} images, where {self.noise_base} "
            f"has no higher PSNR than {control.removeprefix(NOISE)} that noise could lower."
            for control, images in self.without_noise().items()
            if images
        }

    def write(self, folder: str | Path, evaluation: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write per_image.csv, images.csv and summary.json into a folder; returns the summary.

        Paths of pictures are relative to the folder where they lie in it, so that it can be moved, else absolute.

        Args:
            folder: that takes them.
            evaluation: what was evaluated, for the summary.

        Raises:
            OSError: the folder does not take them.
        """
        folder = Path(folder)
        summary = {**self.summary(), **({"evaluation": evaluation} if evaluation else {})}
        files = sorted((image, role, _relative(folder, path)) for image, role, path in self._files)
        columns = ["image", "method", *self.metrics]
        table = [[row[column] for column in columns] for row in self.rows()]
        text = json_bytes(summary, indent=2, allow_nan=False)
        contents = (_to_csv(columns, table), _to_csv(["image", "role", "path"], files), text)
        for name, content in zip(FILES, contents, strict=True):  # the summary last: with it the folder is complete
            write_bytes(folder / name, content)
        return summary


def describe(metric: ImageMetric) -> dict[str, Any]:
    """The facts about a metric that tables and reports need."""
    return {
        "higher_is_better": metric.higher_is_better,
        "ideal": metric.ideal,
        "needs_reference": metric.needs_reference,
    }


def noise_verdicts(comparisons: list[dict[str, Any]], no_controls: Mapping[str, str]) -> list[dict[str, Any]]:
    """For each method with a noise control: on which metrics it beats plain noise of its PSNR, and whether it counts.

    It counts if it beats the noise significantly on NIQE and on one of VIF, HaarPSI and GMSD; where these were not
    measured, or on too few images, "beaten" is None.

    Args:
        comparisons: of all methods; on images whose control is one.
        no_controls: control -> a sentence about images on which it is none.
    """
    verdicts = []
    for control in sorted({pair["b"] for pair in comparisons if pair["b"].startswith(NOISE)} | no_controls.keys()):
        method = control.removeprefix(NOISE)
        pairs = [pair for pair in comparisons if pair["b"] == control and pair["a"] == method]
        better = [pair["metric"] for pair in pairs if pair["better"] == method]
        worse = [pair["metric"] for pair in pairs if pair["better"] == control]
        measured = {pair["metric"] for pair in pairs if pair["n"] >= SMALLEST_N}
        judged = "niqe" in measured and not measured.isdisjoint(STRUCTURE)
        beaten = ("niqe" in better and any(name in better for name in STRUCTURE)) if judged else None
        verdict = {"method": method, "control": control, "better": better, "worse": worse, "beaten": beaten}
        verdicts.append({**verdict, "no_control": no_controls.get(control, "")})
    return verdicts


def _relative(folder: Path, path: str) -> str:
    """A path relative to a folder of results where it lies in the folder, else absolute."""
    place, inside = Path(path).resolve(), folder.resolve()
    return place.relative_to(inside).as_posix() if place.is_relative_to(inside) else str(place)


def _to_csv(columns: list[str], rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")
