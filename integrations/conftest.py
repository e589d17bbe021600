"""Warnings that a framework causes in itself, in the examples of docstrings."""

import pytest

LIGHTNING = [
    r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated:FutureWarning",
    r"ignore:The '\w+' does not have many workers which may be a bottleneck",
    r"ignore:The number of training batches \(\d+\) is smaller than the logging interval",
    r"ignore:You defined a `validation_step` but have no `val_dataloader`",
]


def pytest_collection_modifyitems(items):
    for item in items:
        if "probes_lightning" in str(item.path):
            for warning in LIGHTNING:
                item.add_marker(pytest.mark.filterwarnings(warning))
