"""The settings of loading stand once, and every data module's command line shows them with what
they mean.
"""

import inspect

import pytest
from jsonargparse import ArgumentParser

from lit_iba.data import (
    ImageFolderDataModule,
    QuickstartDataModule,
    SampleDataModule,
    ShardDataModule,
)
from lit_iba.text import IMDBDataModule

LOADING = set(inspect.signature(SampleDataModule).parameters)
PICTURES_ONLY = {"preprocessing", "augment", "block", "max_corrupt_fraction", "num_classes"}
TAKEN = {
    ShardDataModule: LOADING,
    QuickstartDataModule: LOADING - {"preprocessing"},
    ImageFolderDataModule: LOADING,
    IMDBDataModule: LOADING - PICTURES_ONLY,
}


@pytest.mark.parametrize("cls", TAKEN)
def test_the_settings_of_loading_are_declared_once_and_shown_everywhere(
    cls: type[SampleDataModule],
) -> None:
    own = set(inspect.signature(cls).parameters) & LOADING
    assert own <= ({"batch_size"} if cls is IMDBDataModule else set()), (
        "another default is a reason to declare it again"
    )
    parser = ArgumentParser()
    parser.add_class_arguments(cls, "data")
    described = {
        action.dest.removeprefix("data."): action.help
        for action in parser._actions
        if action.dest.startswith("data.") and not action.dest.endswith(".help")
    }
    assert set(described) & LOADING == TAKEN[cls]
    assert not [name for name, text in described.items() if not text]


def test_a_setting_that_nobody_has_is_refused() -> None:
    with pytest.raises(TypeError, match="batchsize"):
        ShardDataModule(batchsize=4)
