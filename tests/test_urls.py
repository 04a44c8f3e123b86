"""Addresses of endpoints, as far as their text tells (reliability §3.1)."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.netguard import Guard
from relay.core.urls import Target, check_url, masked, parse_target


def refusal(url: str, *, allow_http: bool = False, allow_private: bool = False) -> tuple[str, ...]:
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
    assert refusal(url) == ()


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
        "https://[v1.example]/",
        "https://a.example[2606:4700::1111]/",
        "https://[2606:4700::1111]a.example:443/",
        "https://a%41.example/",
        "https://" + "a." * 130 + "example/",
        "https://example.com/" + "a" * 2048,
    ],
)
def test_ambiguous_or_unfit_addresses_are_never_taken(url: str) -> None:
    """W1: what two parsers could read in two ways is refused even where http and private addresses are allowed."""
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
    assert refusal(f"https://{host}/", allow_private=True) == ()


@pytest.mark.parametrize("port", [22, 25, 444, 1023])
def test_well_known_ports_need_permission(port: int) -> None:
    """Ports below 1024 other than 80 and 443 belong to other services."""
    assert refusal(f"https://example.com:{port}/")
    assert refusal(f"https://example.com:{port}/", allow_private=True) == ()


def test_http_needs_permission() -> None:
    """Plain http is refused unless `allow_http` is set."""
    assert "allow_http" in str(refusal("http://example.com/"))
    assert refusal("http://example.com/", allow_http=True) == ()


def test_an_international_name_is_spelled_out() -> None:
    """A host in other letters is refused with its ASCII form, ready to copy."""
    assert "xn--bcher-kva.example" in str(refusal("https://bücher.example/"))


@pytest.mark.parametrize(
    ("host", "ascii_host"),
    [
        ("faß.de", "xn--fa-hia.de"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("βόλος.com", "xn--nxasmm1c.com"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
    ],
)
def test_names_are_spelled_by_idna_2008(host: str, ascii_host: str) -> None:
    """T9: the suggested form is the owner's own name, not what the IDNA of 2003 makes of it (`fass.de`)."""
    assert f"write the host in its ASCII form, '{ascii_host}'" in refusal(f"https://{host}/")[0]


@pytest.mark.parametrize("host", ["☃.net", "ＥＸＡＭＰＬＥ.com", "a\u200db.com", "-é.com", "é" * 64 + ".com"])
def test_what_no_host_may_hold_has_no_ascii_form(host: str) -> None:
    """T9: a name that IDNA 2008 does not know gets no form to copy, nor the advice to percent-encode it."""
    (fault,) = [fault for fault in refusal(f"https://{host}/") if "it holds the character" in fault]
    assert fault.endswith("correct the host")


@pytest.mark.parametrize(
    "address",
    [
        "168.63.129.16",
        "192.88.99.1",
        "192.0.0.8",
        "192.0.0.9",
        "[2002:7f00:1::1]",
        "[3fff::1]",
        "[fec0::1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::1]",
        "[::7f00:1]",
        "[::ffff:0:127.0.0.1]",
        "[::5efe:7f00:1]",
        "[5f00::1]",
        "[::ffff:168.63.129.16]",
        "[2001:0:7f00:1::1]",
        "224.0.0.1",
        "240.0.0.1",
        "[ff0e::1]",
        "[100::1]",
        "[2001:db8::1]",
        "[4000::1]",
        "0.0.0.0",
        "255.255.255.255",
    ],
)
def test_an_address_that_is_never_dialled_is_not_registered(address: str) -> None:
    """H6: what the guard refuses at the dial is refused when somebody writes it down, with the kind of address."""
    assert "is not a public address (" in refusal(f"https://{address}/")[0]
    assert refusal(f"https://{address}/", allow_private=True) == ()


@given(st.ip_addresses())
def test_one_definition_of_public(address: IPv4Address | IPv6Address) -> None:
    """H6: registration takes a literal address exactly when the guard lets it be dialled."""
    host = f"[{address}]" if address.version == 6 else str(address)
    assert bool(refusal(f"https://{host}/")) is bool(Guard().forbidden(str(address)))


def test_all_mistakes_of_a_url_at_once() -> None:
    """T8: a URL with many mistakes is answered with each of them."""
    text = "; ".join(refusal('http://user:pw@10.0.0.1:22/a b?q="%zz#top'))
    for words in ("' ', '\"'", "not followed by two", "after #", "unprotected", "user name", "(private)", "port 22"):
        assert words in text


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://a.example", Target("https", "a.example", 443, "a.example", "/")),
        ("https://a.example?x=1", Target("https", "a.example", 443, "a.example", "/?x=1")),
        ("HTTPS://A.Example:443/X", Target("https", "a.example", 443, "a.example", "/X")),
        ("http://a.example:8080/h?", Target("http", "a.example", 8080, "a.example:8080", "/h?")),
        ("https://[2606:4700::1111]:8443//", Target("https", "2606:4700::1111", 8443, "[2606:4700::1111]:8443", "//")),
        ("https://1.1.1.1/a/../b", Target("https", "1.1.1.1", 443, "1.1.1.1", "/a/../b")),
    ],
)
def test_targets(url: str, target: Target) -> None:
    """A target has what a request needs; its path is what stands behind the host, unchanged."""
    assert parse_target(url) == target


AS_REGISTERED = [
    "/path%28x%29",
    "/a%3Ab",
    "/h?sig=Y%2FXC%2Bw%3D",
    "/h?q=%27x%27",
    "/foo%2Etxt",
    "/a/../b",
    "/h?",
    "/h?a[0]=1",
    "/%7Euser/%e2%82%ac",
    "//x///",
    "/a;b=c,d?x&&y==z??",
    "/h?next=https://b.example/?a",
    "/.%2e/",
    "/*!$'()@:",
]


@pytest.mark.parametrize("path", AS_REGISTERED)
def test_paths_stay_as_they_were_registered(path: str) -> None:
    """W1: nothing of a path or query is decoded, encoded, removed or put in order."""
    assert refusal(f"https://a.example{path}") == ()
    assert parse_target(f"https://a.example{path}").path == path


@pytest.mark.parametrize("path", ["/a%zz", "/a%", "/h?x=%4", "/a b", "/\x7f", "/ü", "/a\nb", "/<x>", "/{id}", "/a|b"])
def test_what_no_request_line_carries_is_refused(path: str) -> None:
    """W1: a URL whose bytes servers would refuse or read in two ways is refused when somebody writes it down."""
    assert refusal(f"https://a.example{path}")
    with pytest.raises(ValueError, match=";"):
        parse_target(f"https://a.example{path}")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com", "https://example.com"),
        ("https://example.com:8443/", "https://example.com:8443/"),
        ("https://example.com/services/T0/B0/s3cret", "https://example.com/…"),
        ("https://example.com/?token=s3cret&x=s3cret", "https://example.com/…"),
        ("https://example.com?s3cret", "https://example.com/…"),
        ("https://user:s3cret@example.com/a#s3cret", "https://***@example.com/…"),
        ("http://[2001:db8::1]:8080/s3cret", "http://[2001:db8::1]:8080/…"),
        ("user:s3cret@example.com", "(unreadable URL)"),
        ("https://user:s3cret?@example.com/", "(unreadable URL)"),
        ("https://[s3cret", "(unreadable URL)"),
    ],
)
def test_masked_urls_show_no_credentials(url: str, expected: str) -> None:
    """I16: user names, passwords, paths, queries and fragments never reach a log (invariant 13)."""
    assert masked(url) == expected


@given(st.text())
def test_any_text_can_be_checked_and_masked(text: str) -> None:
    """Whatever somebody writes, checking and masking answer without an exception."""
    for url in (text, f"https://{text}", f"https://example.com/{text}"):
        check_url(url, allow_http=True, allow_private=True)
        masked(url)
