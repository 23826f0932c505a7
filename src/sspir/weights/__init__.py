"""Our own networks: loaded from a run, a saved pipeline or the authors' checkpoint, and exported."""

from sspir.moved import old_names_of
from sspir.training.saved import SHIPPED
from sspir.weights.authors import load_authors
from sspir.weights.load import load_pipeline

__all__ = ["SHIPPED", "load_authors", "load_pipeline"]

__getattr__ = old_names_of(__name__)
