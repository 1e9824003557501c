"""Pictures of runs, and what is said where there is nothing to draw."""

import json
from pathlib import Path

import pytest

from megatron_speech.errors import ConfigError, DataError
from megatron_speech.training.plotting import PlotConfig, _running_mean
from tools import plot_run


def make_run(folder, offset, name="lm loss"):
    folder.mkdir(parents=True)
    lines = [
        {"kind": "train", "iteration": n, name: offset + 1 / n, "consumed samples": 4.0 * n}
        for n in range(1, 31)
    ]
    lines.append({"kind": "valid", "iteration": 30, name: offset})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run_config.yaml").write_text("data:\n  seq_length: 256\n")
    return folder


@pytest.fixture
def runs(tmp_path):
    return [str(make_run(tmp_path / parent / "run", n)) for n, parent in enumerate("ab")]


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_picture_of_two_runs(ending, start, runs, tmp_path):
    output = tmp_path / f"losses.{ending}"
    path = plot_run.main(["--runs", *runs, "--metrics", "lm loss", "--output", str(output),
                          "--x", "tokens"])  # fmt: skip
    assert path.read_bytes().startswith(start)
    if ending == "svg":
        text = path.read_text()
        assert "<!-- a/run -->" in text
        assert "<!-- b/run -->" in text
        assert "<!-- tokens -->" in text


def test_running_mean():
    assert _running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]


def test_what_cannot_be_drawn_is_said(runs, tmp_path):
    with pytest.raises(DataError, match=r"no metrics\.jsonl"):
        plot_run.main(["--runs", str(tmp_path)])
    with pytest.raises(DataError, match=r"no run has figures of 'wer'; there are: .*lm loss"):
        plot_run.main(["--runs", *runs, "--metrics", "wer", "--output", str(tmp_path / "a.png")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"output": Path("a.gif")}, r"must end in \.png"), ({"smooth": 0}, "--smooth")],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        PlotConfig(runs=(Path("a"),), **settings)


def test_runs_keep_names_of_their_own(tmp_path):
    runs = [str(make_run(tmp_path / parent / "x" / "lm", n)) for n, parent in enumerate("ab")]
    output = tmp_path / "losses.svg"
    flags = ["--metrics", "lm loss", "--output", str(output)]
    text = plot_run.main(["--runs", *runs, *flags]).read_text()
    assert "<!-- a/x/lm -->" in text
    assert "<!-- b/x/lm -->" in text
    with pytest.raises(ConfigError, match="names one run twice"):
        plot_run.main(["--runs", runs[0], runs[0], *flags])
