"""Addresses of endpoints, as far as their text tells (reliability §3.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.urls import check_url, masked


def refusal(url: str, *, allow_http: bool = False, allow_private: bool = False) -> str | None:
    return check_url(url, allow_http=allow_http, allow_private=allow_private)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/hooks?token=a%20b",
        "https://example.com:8443/",
        "https://EXAMPLE.com./x",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]:443/",
        "https://xn--bcher-kva.example/",
        "https://under_score.example.com/a@b",
    ],
)
def test_public_https_addresses_are_taken(url: str) -> None:
    """A public name or address over https is fine as it is."""
    assert refusal(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/hooks",
        "//example.com/",
        "https://",
        "https:///path",
        "file:///etc/passwd",
        "unix:/run/x.sock",
        "ftp://example.com/",
        "https://user@example.com/",
        "https://user:pw@example.com/",
        "https://example.com@127.0.0.1/",
        "https://example.com/#part",
        "https://example.com/#",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://exa mple.com/",
        "https://example.com/a b",
        "https://example.com\\@evil.example/",
        "https://example.com/\r\nX: 1",
        "https://example.com/\x00",
        "https://bücher.example/",
        "https://①②⑦.0.0.1/",
        "https://127。0。0。1/",
        "https://ⓛocalhost/",
        "https://a..example/",
        "https://-a.example/",
        "https://2130706433/",
        "https://127.1/",
        "https://0177.0.0.1/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://1.2.3.256/",
        "https://[::1%25lo]/",
        "https://[fe80::1%eth0]/",
        "https://[nonsense]/",
        "https://" + "a." * 130 + "example/",
        "https://example.com/" + "a" * 2048,
    ],
)
def test_ambiguous_or_unfit_addresses_are_never_taken(url: str) -> None:
    """What two parsers could read in two ways is refused even where http and private addresses are allowed."""
    assert refusal(url, allow_http=True, allow_private=True)


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST", "localhost.", "a.localhost", "intranet", "db.internal", "printer.local",
        "x.home.arpa", "internal", "127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "192.0.2.1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[fc00::1]", "[fe80::1]", "[ff02::1]",
    ],
)  # fmt: skip
def test_private_places_need_permission(host: str) -> None:
    """Names and addresses of this host or its networks pass only where networks are allowed."""
    assert refusal(f"https://{host}/")
    assert refusal(f"https://{host}/", allow_private=True) is None


@pytest.mark.parametrize("port", [22, 25, 444, 1023])
def test_well_known_ports_need_permission(port: int) -> None:
    """Ports below 1024 other than 80 and 443 belong to other services."""
    assert refusal(f"https://example.com:{port}/")
    assert refusal(f"https://example.com:{port}/", allow_private=True) is None


def test_http_needs_permission() -> None:
    """Plain http is refused unless `allow_http` is set."""
    assert "allow_http" in str(refusal("http://example.com/"))
    assert refusal("http://example.com/", allow_http=True) is None


def test_an_international_name_is_spelled_out() -> None:
    """A host in other letters is refused with its ASCII form, ready to copy."""
    assert "xn--bcher-kva.example" in str(refusal("https://bücher.example/"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com/a", "https://example.com/a"),
        ("https://example.com/a?token=s3cret&x=s3cret", "https://example.com/a?token=***&x=***"),
        ("https://example.com/a?s3cret", "https://example.com/a?***"),
        ("https://user:s3cret@example.com/a#s3cret", "https://***@example.com/a"),
        ("user:s3cret@example.com", "(unreadable URL)"),
        ("https://user:s3cret?@example.com/", "(unreadable URL)"),
        ("https://[s3cret", "(unreadable URL)"),
    ],
)
def test_masked_urls_show_no_credentials(url: str, expected: str) -> None:
    """User names, passwords, query values and fragments never reach a log (invariant 13)."""
    assert masked(url) == expected


@given(st.text())
def test_any_text_can_be_checked_and_masked(text: str) -> None:
    """Whatever somebody writes, checking and masking answer without an exception."""
    for url in (text, f"https://{text}", f"https://example.com/{text}"):
        check_url(url, allow_http=True, allow_private=True)
        masked(url)
