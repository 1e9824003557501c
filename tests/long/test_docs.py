"""All documentation blocks that can run here, as written, from the walkthrough's first on."""

import pytest

from tests.docs.pages import RUN, all_blocks
from tests.docs.runner import prepare, run

pytestmark = pytest.mark.long


def test_quick_and_long_blocks_run_one_after_the_other(tmp_path):
    prepare(tmp_path)
    blocks = [b for b in all_blocks() if b.language in RUN and b.how in ("quick", "long")]
    assert sum(block.text.count("python ") for block in blocks) >= 15
    run(blocks, tmp_path)
    assert "cloze" in (tmp_path / "runs/try/results.json").read_text(encoding="utf-8")
