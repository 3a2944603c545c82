import pytest
from commands import NETWORK, TINY_FIT, pipeline, qra


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory):
    """A finished run of plain training of a tiny network: its directory."""
    run = tmp_path_factory.mktemp("plain") / "run"
    output, code = qra("fit", *pipeline("float-plain"), *TINY_FIT, *NETWORK, "--run", run)
    assert code == 0, output
    return run
