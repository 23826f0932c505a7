"""A saved pipeline to restore with, and one thread: pictures this small are slower with two."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.pipelines import tiny_pipeline


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
