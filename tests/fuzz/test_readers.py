"""A few damaged inputs for each reader; `make test-long` has the campaign."""

import pytest

from tests.fuzz.campaign import committed_seeds, fuzz
from tests.fuzz.readers import READERS

_SLOW_TO_IMPORT = ("base model", "released GLM-4", "indexed dataset", "adopted dataset")
_INPUTS = 12


@pytest.mark.parametrize("name", [name for name in READERS if name not in _SLOW_TO_IMPORT])
def test_damaged_files_are_read_set_aside_or_refused(name):
    result = fuzz(READERS[name], committed_seeds()[:_INPUTS])
    assert result.inputs == _INPUTS
    assert not result.faults
