"""300 damaged inputs for each reader, of the committed seeds; the result goes to
benchmarks/results/fuzzed_readers.json. About five minutes."""

import pytest

from tests.fuzz.campaign import committed_seeds, fuzz, write_result
from tests.fuzz.readers import READERS

pytestmark = pytest.mark.long


def test_every_damaged_input_is_read_set_aside_or_refused():
    seeds = committed_seeds()
    assert len(set(seeds)) >= 300
    results = {name: fuzz(reader, seeds) for name, reader in READERS.items()}
    write_result(results)
    assert not {name: result.faults for name, result in results.items() if result.faults}
