"""Read, validate and normalise examples."""

from nncift_core.datasets.identity import dataset_name, source_fingerprint
from nncift_core.datasets.reading import read_dataset
from nncift_core.records import Example, ReadReport

__all__ = ["Example", "ReadReport", "dataset_name", "read_dataset", "source_fingerprint"]
