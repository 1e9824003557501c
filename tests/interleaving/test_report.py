"""The page on an interleaved dataset says what its files say."""

import re

import numpy as np
import pyarrow.parquet as pq

from megatron_speech.interleaving.report import span_lengths, write_report
from megatron_speech.io.files import read_json


def test_the_page_holds_the_counts(done, tmp_path):
    work, facts = done
    rows = pq.read_table(work / "out.spans.parquet", filters=[("modality", "=", "speech")])
    lengths = span_lengths(work / "plan")
    planned = read_json(work / "plan" / "plan.json")
    assert lengths.sum() == planned["requests"] == facts["spans"] + facts["rejected"]["no_end"]
    assert np.dot(np.arange(len(lengths)), lengths) == planned["spoken_words"]
    assert rows.num_rows == facts["spans"]
    seconds = {"plan": 2.0, "generate": 4.0, "assemble": 1.0}
    path = tmp_path / "set.report.html"
    write_report(path, facts, {"codes": 1000}, work / "plan", seconds, workers=2)
    page = path.read_text()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    for expected in (
        f"{facts['text_tokens']:,}",
        f"{facts['speech_tokens']:,}",
        f"{facts['rejected']['no_end']:,}",
        f"{facts['not_speakable']:,}",
        "250 codes/s",
        f"{planned['text_tokens'] / 2:,.0f} text tokens/s",
        f"{2 * 4 / 3600:.2f}",
    ):
        assert expected in cells, expected
    assert "Poisson(10)" in page
    assert page.count("<svg") == page.count("</svg>") == 1
    assert "<title>set</title>" in page


def test_a_job_by_itself_leaves_the_page_too(done):
    work, facts = done
    page = (work / "out.report.html").read_text()
    assert f">{facts['speech_tokens']:,}</td>" in page
    assert re.search(r">assemble</td><td[^>]*>[\d.,]+</td><td[^>]*>[\d.,]+ tokens/s</td>", page)
