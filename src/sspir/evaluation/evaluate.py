"""A trained run on a benchmark: restored images, a table per image, a summary with intervals."""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from sspir.batch import Batch
from sspir.config.arguments import require_arguments
from sspir.config.build import build, build_captioner
from sspir.errors import UserError
from sspir.evaluation.benchmark import Benchmark
from sspir.evaluation.costs import costs_of_run
from sspir.evaluation.measure import BICUBIC, NOISE, Row, measure_image
from sspir.evaluation.record import identity_of, picture_name, record_of
from sspir.evaluation.results import FILES, JOURNAL, SUMMARY, Results
from sspir.evaluation.table import comparison_text, lacking, summary_table
from sspir.files import Journal, alone_in, json_bytes, read_json, write_bytes
from sspir.images.io import ImageError, write_image
from sspir.images.panel import to_picture
from sspir.memory import choose_device
from sspir.metrics.base import ImageMetric, usable
from sspir.models.latent import upscale
from sspir.moved import as_before, named
from sspir.numbers import COUNT, SEED
from sspir.peers import Peer, find_peers
from sspir.peers import restored as restored_by
from sspir.sampling.pipeline import RestorationPipeline
from sspir.sampling.sampler import Sampler
from sspir.seeding import sample_seed
from sspir.training.loggers import log_evaluation
from sspir.weights.load import load_pipeline, weights_time

log = logging.getLogger(__name__)
CAPTIONS = "captions.json"


class NothingMeasurableError(UserError):
    """Nothing can be measured here of what is asked for: another machine's trouble, not the run's."""


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Restore every image of a benchmark, measure it beside bicubic, the Processor and peers, write images and tables.

    An evaluation that was stopped goes on, and one that is finished is not done again; files of another evaluation in
    the folder are replaced.

    Args:
        config: composed `conf/evaluate.yaml`.

    Returns:
        What `summary.json` holds.
    """
    SEED.require("seed", config.seed)
    require_arguments(config)
    device = choose_device(config.device)
    if config.limit is not None:
        COUNT.require("limit", config.limit)
    out = Path(config.out)
    captioner = json.dumps(OmegaConf.to_container(config.captioner, resolve=True)) if config.captioner else ""
    peers, benchmark = find_peers(config.peers), _built(config.benchmark)
    cropped = "it reads whole pictures; measure it without crop_border." if config.crop_border else ""
    metrics, unavailable = usable(build(config.metric), cropped)
    if unavailable and not metrics:
        reasons = "".join(f"\n  {name}: {why}" for name, why in unavailable.items())
        raise NothingMeasurableError(
            f"None of these metrics can be measured here; choose others by metric=NAME.{reasons}"
        )
    pipeline = _loaded(config.run, config.checkpoint, captioner, weights_time(config.run))  # the longest comes last
    sampler = pipeline.settings(**OmegaConf.to_container(config.sampler))  # type: ignore[arg-type]  # its keys are names
    record = record_of(config, pipeline, benchmark, sampler, device.type, peers)
    done = read_json(out / SUMMARY)
    record["inputs"] = as_before(record["inputs"], done.get("evaluation", {}).get("inputs"))
    evaluation = Evaluation(pipeline, benchmark, sampler, metrics, out, record, peers)
    left = evaluation.left()
    as_named = {**done.get("evaluation", {}), "run": config.run}  # from another current folder it is named otherwise
    if not left and named(as_named) == named(record):
        log.info("%s is finished; nothing to do. Delete it to evaluate again.", out)
        _tell(done, out)
        return done
    with alone_in(out, "out=FOLDER"):
        evaluation.begin()
        evaluation.describe(left)
        if left:
            pipeline.to(device)
        for place in tqdm(left, desc=benchmark.name, unit="image"):
            evaluation.measure(place)
        results = Results(metrics, unavailable, config.seed, config.crop_border)
        captions = evaluation.collect(results)
        results.measure_folders({method: out / method for method in ("restored", "processor", *peers)}, out / "hq")
        results.noise_base = "processor" if "processor" in results.methods else BICUBIC
        results.peers = {name: peer.record() for name, peer in peers.items()}
        if config.cost:
            results.cost = costs_of_run(pipeline.to(device), sampler, peers)
        write_bytes(out / CAPTIONS, json_bytes(captions, indent=2) + b"\n")
        if logger := build(config.wandb):  # before the folder says that all is done
            log_evaluation(logger, results.summary(), results.rows(), out)
        summary = results.write(out, record)
    _tell(summary, out)
    return summary


def _tell(summary: dict[str, Any], out: Path) -> None:
    log.info("%s\n%s\nPictures and tables are in %s.", summary_table(summary), comparison_text(summary), out)
    for sentence in lacking(summary):
        log.warning(sentence)


def _built(node: DictConfig) -> Benchmark:
    """Build a benchmark.

    Raises:
        UserError: it cannot be, or its photos are not there; where a variable says where they lie it is named.
    """
    try:
        benchmark: Benchmark = build(node)
    except ImageError as error:
        text = OmegaConf.to_yaml(node)
        for variable, kind, place in (("SSPIR_DATA", "all data", "data"), ("SSPIR_PHOTOS", "your photos", "none")):
            if variable in text:
                said, now = str(error).rstrip("."), os.environ.get(variable, place)
                raise UserError(f"{said}, or export {variable}=DIR, the folder of {kind} (now {now}).") from error
        raise
    return benchmark


@lru_cache(maxsize=1)
def _loaded(run: str, checkpoint: str, captioner: str, written: str) -> RestorationPipeline:
    """Load a pipeline, once for all benchmarks in a row; `written`, the time of its weights, tells newer files."""
    pipeline = load_pipeline(run, checkpoint, captioner=build_captioner(json.loads(captioner)) if captioner else None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@dataclass
class Evaluation:
    """The images of an evaluation, each restored and measured once: a journal in the folder says which are done.

    Attributes:
        pipeline: of the run, with its captioner.
        benchmark: what is restored.
        sampler: the settings.
        metrics: what is measured.
        out: the folder.
        record: of the evaluation, see `record_of`.
        peers: by name, which restore the same pictures.
    """

    pipeline: RestorationPipeline
    benchmark: Benchmark
    sampler: Sampler
    metrics: Mapping[str, ImageMetric]
    out: Path
    record: dict[str, Any]
    peers: Mapping[str, Peer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.journal = Journal(self.out, JOURNAL)
        self.identity = identity_of(self.record)
        self.measured = {name: self.record["metrics"][name] for name in self.metrics}
        if self.record["noise_control"]:
            self.measured[NOISE] = True
        limit = self.record["inputs"]["limit"]
        self.places = list(map(str, range(min(len(self.benchmark), limit or len(self.benchmark)))))

    def left(self) -> list[str]:
        """Numbers of the benchmark's images that are not done, as text."""
        return [place for place in self.places if not self._is_done(self.journal.entries.get(place, {}))]

    def _is_done(self, entry: dict[str, Any]) -> bool:
        return (
            entry.get("evaluation") == self.identity
            and named(self.measured).items() <= named(entry["measured"]).items()
            and all((self.out / file).is_file() for file in entry["files"].values())
        )

    def begin(self) -> None:
        """Remove the tables, which are written anew, and all files of another evaluation that the journal names.

        Raises:
            UserError: the folder holds files of the same names that no evaluation has written.
        """
        names = (*FILES, CAPTIONS, "hq", "lq", "restored", "processor", *self.peers)
        for name in () if self.journal.path.exists() else names:
            if (self.out / name).exists():
                raise UserError(f"{self.out / name} was not written by an evaluation that goes on; choose another out.")
        entries = [*self.journal.entries.values(), *self.journal.captions.values()]
        if any(entry.get("evaluation") != self.identity for entry in entries):
            log.info("%s holds another evaluation, or one of an older version; this one starts anew.", self.out)
            for file in {file for entry in entries for file in entry.get("files", {}).values()}:
                (self.out / file).unlink(missing_ok=True)
            self.journal.path.unlink()
            self.journal = Journal(self.out, JOURNAL)
        for name in (*FILES, CAPTIONS):
            (self.out / name).unlink(missing_ok=True)
        self.journal.begin()

    def describe(self, places: list[str]) -> None:
        """Caption the photos that came without a caption, then free the captioner: diffusion needs the memory.

        Raises:
            CaptionError: a photo got no caption; without one the result would be that of another method.
        """
        if not self.pipeline.captioner.sees:
            return
        with closing(self.pipeline.captioner):
            for place in tqdm(places, desc="captions", unit="image", leave=False):
                if place in self.journal.captions:
                    continue
                batch = self.benchmark[int(place)]
                caption = batch.captions[0] or self.pipeline.caption(batch.lq, batch.size)[0]
                self._note(place, batch, status="described", caption=caption)

    def measure(self, place: str) -> None:
        """Restore one image, measure it, and note it in the journal."""
        batch = self.benchmark[int(place)]
        name = picture_name(batch.ids[0])
        if self.pipeline.captioner.sees:
            captions = [self.journal.captions[place]["caption"]]
        else:  # as in training, the captioner may replace a given caption: an ablation without words gets none
            captions = self.pipeline.captioner(batch.lq, batch.captions)
        seeds = [sample_seed(self.record["inputs"]["seed"], 0, batch.ids[0])]
        restored = self.pipeline.restore(batch.lq, captions, batch.size, seeds, self.sampler)
        pictures = {"restored": restored.images[0].cpu()}
        if restored.structure:
            pictures["processor"] = upscale(restored.structure[0], batch.size)[0].cpu()
        lq = batch.lq.to(self.pipeline._execution_device)
        pictures |= {name: restored_by(peer, lq, batch.size)[0].cpu() for name, peer in self.peers.items()}
        files = {}
        for method, picture in {**pictures, "hq": batch.hq[0], "lq": batch.lq[0]}.items():
            files[method] = f"{method}/{name}.png"
            write_image(self.out / files[method], to_picture(picture))
        base = ("processor" if "processor" in pictures else "bicubic") if self.record["noise_control"] else None
        border = self.record["inputs"]["crop_border"]
        rows = measure_image(self.metrics, name, pictures, batch.hq[0], batch.lq[0], base, border)
        facts = {"caption": restored.captions[0], "measured": self.measured, "files": files}
        self._note(place, batch, status="done", **facts, rows=[asdict(row) for row in rows])

    def _note(self, place: str, batch: Batch, **facts: Any) -> None:
        image = picture_name(batch.ids[0])
        self.journal.append({"output": place, "image": image, "evaluation": self.identity, **facts})

    def collect(self, results: Results) -> dict[str, str]:
        """Add the rows of all images, of the metrics asked for, to the results; returns image -> caption."""
        entries = [self.journal.entries[place] for place in self.places]
        for entry in entries:
            rows = [Row(**row) for row in entry["rows"]]
            asked = [row for row in rows if NOISE in self.measured or not row.method.startswith(NOISE)]
            for row in asked:
                row.problems = {name: problem for name, problem in row.problems.items() if name in self.metrics}
            results.add(asked, {role: self.out / file for role, file in entry["files"].items()})
        return {entry["image"]: entry["caption"] for entry in entries}
