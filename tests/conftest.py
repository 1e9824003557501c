"""A world that the tests of the three jobs share, and what the jobs make of it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with a vocabulary, a corpus and a code shard to be like."""
    from tests.interleaving.samples import make_vocab, write_codes, write_corpus

    folder = tmp_path_factory.mktemp("world")
    make_vocab(folder)
    texts = write_corpus(folder / "corpus.parquet")
    texts[3] = "This bad span fails. " * 3
    texts[4] = "... --- ... !!! ??? ... --- ..."
    ids = [f"doc-{n}" for n in range(len(texts))]
    pq.write_table(pa.table({"id": ids, "text": texts}), folder / "corpus.parquet")
    write_codes(folder / "like" / "a.parquet")
    return folder


@pytest.fixture(scope="session")
def done(world, tmp_path_factory):
    from tests.interleaving.jobs import run_jobs

    work = tmp_path_factory.mktemp("done")
    return work, run_jobs(world, work)
