"""No figure stands on the benchmarks page without the file it comes from."""

import importlib.util
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def load_table():
    spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


table = load_table()


def test_the_page_is_what_the_results_say():
    text = table.PAGE.read_text(encoding="utf-8")
    assert text == table.page(text, RESULTS), "run python benchmarks/table.py"


def test_no_figure_stands_outside_the_table():
    text = table.PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(table.BEGIN)
    after = rest.partition(table.END)[2]
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)|^\d\. ", "", before + after, flags=re.MULTILINE)
    assert not re.findall(r"\d+(?:\.\d+)?(?![\d\w])", prose.replace("FP8", "").replace("bf16", ""))


def test_what_was_not_measured_has_no_line(tmp_path):
    assert table.table(tmp_path) == table.HEAD


def test_a_result_without_a_row_is_listed_by_name(tmp_path):
    record = {"peer": "nobody", "figures": {}, "command": "python x.py", "device": "a CPU"}
    record |= {"date": "2026-01-01", "commit": "abc1234"}
    (tmp_path / "new.json").write_text(json.dumps(record))
    last = table.table(tmp_path).splitlines()[-1]
    assert "new.json" in last
    assert table.OPEN in last


def test_every_result_of_a_benchmark_names_command_device_date_and_commit():
    for path in RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        if "peer" in record:
            missing = {"command", "device", "date", "commit", "versions"} - record.keys()
            assert not missing, f"{path.name} lacks {missing}"
