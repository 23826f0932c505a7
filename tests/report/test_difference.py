"""In what runs differ: a column a run, absent settings and null ones apart."""

import json
from pathlib import Path

from omegaconf import OmegaConf

from sspir.report.settings import unequal
from tests.report.written import report, table, write_run

ENDS = {"val/psnr_y": 20.0}


def write_environment(run: Path, **facts: object) -> Path:
    (run / "environment.json").write_text(json.dumps(facts))
    return run


def test_lists_are_taken_apart_where_something_is_nested_in_them() -> None:
    trees = [
        {"betas": [0.9, 0.999], "operations": [{"p": 0.5, "sizes": [3, 5]}, {"p": 1}], "grid": [[1, 2], [3, 4]]},
        {"betas": [0.8, 0.999], "operations": [{"p": 0.5, "sizes": [3, 7]}], "grid": [[1, 2], [3, 5]]},
    ]
    assert unequal(trees) == {
        "betas": ("[0.9, 0.999]", "[0.8, 0.999]"),
        "operations.0.sizes": ("[3, 5]", "[3, 7]"),
        "operations.1.p": ("1", None),
        "grid.1": ("[3, 4]", "[3, 5]"),
    }


def test_null_is_a_value_and_copies_are_left_out() -> None:
    trees = [
        {"loss": {"rgb": 1.0}, "module": {"loss": {"rgb": 1.0}, "residual": None}, "schedule": None, "a": {"on": True}},
        {"loss": {"rgb": 2.0}, "module": {"loss": {"rgb": 2.0}}, "schedule": {"steps": 3}, "a": {"on": False}},
    ]
    assert unequal(trees) == {
        "loss.rgb": ("1.0", "2.0"),
        "module.residual": ("null", None),
        "schedule": ("null", None),
        "a.on": ("True", "False"),
        "schedule.steps": (None, "3"),
    }
    assert unequal(trees[:1]) == unequal([]) == unequal([trees[0], trees[0]]) == {}


def test_two_runs_of_one_name_stand_side_by_side_with_where_they_ran(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a" / "none-s0", "tiny", "none", 0, ENDS, lr=1e-3, old="<b>", extra={"x": None})
    second = write_run(tmp_path / "b" / "none-s0", "tiny", "none", 1, ENDS, lr=2e-3, trained=[{"y": 1}])
    write_environment(first, code="abc", packages={"torch": "2.9.0", "numpy": "2.0"}, gpus=[], machine="one")
    write_environment(second, code="def", packages={"torch": "2.10.0", "numpy": "2.0"}, gpus=["H100"], machine="one")
    page = report(tmp_path / "page.html", tmp_path)
    (head, *rows) = table(page, "Settings<")
    assert head == ["", "a/none-s0", "b/none-s0"]
    assert [row for row in rows if row[0] != "folder"] == [
        ["seed", "0", "1"],
        ["lr", "0.001", "0.002"],
        ["old", "&lt;b&gt;", "absent"],
        ["extra.x", "null", "absent"],
        ["trained.0.y", "absent", "1"],
    ]
    assert table(page, "Environment<")[1:] == [
        ["code", "abc", "def"],
        ["packages.torch", "2.9.0", "2.10.0"],
        ["gpus", "[]", "[&#x27;H100&#x27;]"],
    ]
    assert "<h3>a/none-s0 and b/none-s0</h3>" in page
    assert "Configuration of" not in page  # the table has what is not shared


def test_equal_runs_and_a_single_one_have_no_difference(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "tiny", "none", 0, ENDS)
    assert "difference" not in report(tmp_path / "page.html", run).partition("<body>")[2]
    copy = write_run(tmp_path / "b", "tiny", "none", 0, ENDS)
    OmegaConf.save(OmegaConf.load(run / "config.yaml"), copy / "config.yaml")
    assert "difference" not in report(tmp_path / "page.html", tmp_path).partition("<body>")[2]


def test_the_values_of_many_runs_are_counted(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "few" / f"s{seed}", "tiny", "none", seed, ENDS, lr=0.1 * (seed > 1))
    page = report(tmp_path / "page.html", tmp_path / "few")
    assert table(page, "Settings<")[0] == ["", "s0", "s1", "s2"]
    assert ["lr", "0.0", "0.0", "0.1"] in table(page, "Settings<")
    for seed in range(14):
        changed = {"lr": 0.1 * (seed > 7), "pairs": seed // 2, **({} if seed else {"decay": 0.1})}
        write_run(tmp_path / "many" / f"s{seed:02}", "tiny", "none", seed, ENDS, **changed)
    page = report(tmp_path / "page.html", tmp_path / "many")
    rows = dict(table(page, "Settings<"))
    assert rows[""] == "values in 14 runs"
    assert rows["seed"] == "14 different values"
    assert rows["lr"] == "0.0 × 8, 0.1 × 6"
    assert rows["decay"] == "absent × 13, 0.1 × 1"
    assert rows["pairs"] == "0 × 2, 1 × 2, 2 × 2, 3 × 2, 4 × 2, 5 × 2 and 1 more"
    assert '<details class="difference"><summary>All that differs' in page
