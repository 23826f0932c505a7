"""What runs of a sweep differ in, from configurations as training resolves them."""

from functools import cache
from pathlib import Path

from omegaconf import OmegaConf

from sspir.report.collect import Collected
from sspir.report.page import build
from sspir.report.runs import Run
from sspir.report.settings import differing, flatten
from tests.runs import tiny_config


@cache
def resolved(*overrides: str, folder: str = "runs/${name}/${variant}-s${seed}") -> dict[str, str]:
    return flatten(OmegaConf.to_container(tiny_config(Path(folder), Path("photos"), *overrides), resolve=True))


def swept_rates() -> list[dict[str, str]]:
    """Two learning rates, two seeds of each."""
    return [
        resolved(f"seed={seed}", f"variant=lr{lr}", f"optimizer.lr={lr}", "logger=wandb", f"workers={seed}")
        for seed in (0, 1)
        for lr in ("1e-3", "2e-3")
    ]


def test_a_setting_and_its_copies_are_one_and_seeds_names_and_places_are_none() -> None:
    sweep = swept_rates()
    (lr,) = differing(sweep)
    assert (lr.key, lr.name, lr.values) == ("optimizer.lr", "optimizer.lr", ("0.001", "0.002", "0.001", "0.002"))
    assert differing([resolved("name=a"), resolved("name=b"), resolved(folder="elsewhere")]) == []
    assert differing(sweep[:1]) == []


def test_a_number_is_a_setting_even_if_the_variant_is_called_after_it() -> None:
    sweep = [resolved(f"variant={lr}", f"optimizer.lr={lr}") for lr in (0.001, 0.002)]
    assert [setting.key for setting in differing(sweep)] == ["optimizer.lr"]


def test_settings_of_other_names_that_change_together_are_all_named() -> None:
    steps = [resolved(f"trainer.max_steps={n}", "schedule.num_training_steps=${trainer.max_steps}") for n in (4, 8)]
    assert [setting.name for setting in differing(steps)] == ["schedule.num_training_steps = trainer.max_steps"]
    places = [resolved(f"dataset.train.root={root}") for root in ("/photos/a", "/photos/b")]
    assert [setting.name for setting in differing(places)] == ["dataset.train.root"]


def test_the_page_shows_a_swept_setting_once_and_shared_ones_once() -> None:
    runs = [Run(f"{each['variant']}-s{each['seed']}", {"val/psnr_y": [(1.0, 20.0)]}, each) for each in swept_rates()]
    page = build(Collected([], runs, []), "title", images=1, quality=50)
    assert page.count("val/psnr_y against") == 1
    assert "val/psnr_y against optimizer.lr" in page
    table = page[page.index("Last validation") : page.index("</thead>", page.index("Last validation"))]
    assert [cell.partition("<")[0] for cell in table.split("<th>")[1:]] == ["run", "optimizer.lr", "val/psnr_y"]
    assert page.count("optimizer.betas = ") == 2  # with its copy in the module
