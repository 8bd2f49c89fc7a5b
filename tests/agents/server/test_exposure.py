"""Who can reach the server, and the token."""

from pathlib import Path

import pytest

from tastemaker.agents.server.app import create_app
from tastemaker.agents.server.exposure import check_exposure, is_local, read_token
from tastemaker.agents.server.limits import Limits
from tastemaker.agents.server.serving import listening
from tastemaker.errors import UserError

TOKEN = "sixteen-signs-or-more"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_this_machine_may_be_served_without_a_token(host: str) -> None:
    assert is_local(host)
    check_exposure(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "localhost.evil"])
def test_others_only_with_one(host: str, scripted) -> None:
    with pytest.raises(UserError) as refused:
        check_exposure(host, None)
    assert "--token-file" in str(refused.value)
    assert refused.value.exit_code == 2
    with pytest.raises(UserError):
        create_app(scripted(), limits=Limits(), host=host)
    check_exposure(host, TOKEN)


def test_the_token_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file, environment={"TASTEMAKER_TOKEN": "x"}) == TOKEN
    assert read_token(None, environment={"TASTEMAKER_TOKEN": TOKEN}) == TOKEN
    assert read_token(None, environment={}) is None


@pytest.mark.parametrize("text", ["short", "", "two lines of text\nare not a token", "ü" * 20])
def test_a_token_that_is_none_is_refused_and_not_shown(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        read_token(file)
    assert "16 or more" in str(refused.value)
    assert not text or text not in str(refused.value)


def test_a_token_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00" * 9)
    for name in ("missing", "binary"):
        with pytest.raises(UserError, match="cannot be read"):
            read_token(tmp_path / name)


def test_a_port_that_is_taken() -> None:
    with listening("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UserError, match="cannot be used"):
            listening("127.0.0.1", taken.getsockname()[1])
