"""Every shipped group of metrics composes, and its members know their direction and their input."""

from pathlib import Path

import pytest
from hydra.utils import instantiate

from sspir.config.compose import compose_config, config_root
from sspir.metrics.base import FolderMetric, FullReferenceMetric, NoReferenceMetric


@pytest.mark.parametrize("group", sorted(path.stem for path in Path(config_root(), "conf", "metric").glob("*.yaml")))
def test_group(group: str) -> None:
    metrics = instantiate(compose_config(f"metric/{group}").metric)
    assert metrics
    for metric in metrics.values():
        assert metric.higher_is_better in (True, False) or metric.ideal is not None
        assert isinstance(metric, FullReferenceMetric | NoReferenceMetric | FolderMetric)
        assert metric.needs_reference is not isinstance(metric, NoReferenceMetric)


def test_fast_is_what_validation_looks_at() -> None:
    assert list(compose_config("metric/fast").metric) == ["psnr_y", "ssim_y", "lpips"]
    assert set(compose_config("metric/all").metric) >= {"psnr_y", "psnr_rgb", "niqe", "vif", "haarpsi", "gmsd"}
