"""Remote pictures: what the policy lets through, name by name of what went wrong elsewhere."""

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

import pytest

httpx2 = pytest.importorskip("httpx2")

from halu.service.fetch import HOPS, Fetch, Policy, is_public
from halu.service.refusals import BadAddress, FetchFailed

PUBLIC = Policy(public=True)
LISTED = Policy(hosts=("images.example", "cdn.example:8443"))
OUTSIDE = "93.184.215.14"
PICTURE = b"picture"

ODD = [
    "file:///etc/passwd",
    "/etc/passwd",
    "picture.png",
    "ftp://images.example/a.png",
    "gopher://images.example/",
    "https://",
    "https://images.example:0x50/a",
    "https://user:pass@images.example/a",
    "https://images.example@evil.example/a",
    "https://images.example\\@evil.example/a",
    "https:\\\\images.example/a",
    "https://images.example\t.evil.example/a",
    "https://images.example/a\r\nHost: evil",
    "https://images.exa\u3002mple/a",
    "https://images.example /a",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://017700000001/",
    "https://127.1/",
    "https://[::1%25lo]/",
    "https://images.example:22/a",
    "http://images.example/a",
    "https://" + "a" * 3000,
]


@pytest.mark.parametrize("policy", [PUBLIC, LISTED])
@pytest.mark.parametrize("url", ODD)
def test_addresses_that_can_be_read_in_two_ways(policy: Policy, url: str) -> None:
    """vLLM CVE-2026-24779 (a backslash in the host), open-webui#24534 (tab, CR, LF)."""
    with pytest.raises(BadAddress):
        policy.target(url)


PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "192.88.99.1", "::", "::1", "fc00::1", "fe80::1", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:10.0.0.1", "::ffff:93.184.215.14", "::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1",
    "2002:a00:1::", "2001::1", "not an address",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_only_public_addresses_are_connected_to(address: str) -> None:
    assert not PUBLIC.permits(address)
    assert not LISTED.permits(address)


@pytest.mark.parametrize("address", [OUTSIDE, "8.8.8.8", "2606:4700:4700::1111"])
def test_public_addresses_are(address: str) -> None:
    assert PUBLIC.permits(address)
    assert is_public(ipaddress.ip_address(address))


def test_a_private_network_is_opened_by_name_and_number() -> None:
    network = (ipaddress.ip_network("10.0.0.0/8"),)
    assert Policy(hosts=("inside",), networks=network).permits("10.1.2.3")
    assert not Policy(hosts=("inside",), networks=network).permits("192.168.0.1")
    assert not Policy(public=True, networks=network).permits("10.1.2.3")


def test_off_by_default() -> None:
    """LMDeploy CVE-2026-33626, vLLM CVE-2025-6242: any address was fetched."""
    with pytest.raises(BadAddress):
        Policy().target("https://images.example/a.png")


def test_the_list_of_hosts_is_exact() -> None:
    assert LISTED.target("https://images.example/a?b=c").path == "/a?b=c"
    assert LISTED.target("https://IMAGES.example./a").host == "images.example"
    assert LISTED.target("https://cdn.example:8443/").port == 8443
    for url in (
        "https://xn.images.example/",
        "https://images.example.evil/",
        "https://cdn.example/",
    ):
        with pytest.raises(BadAddress):
            LISTED.target(url)


class Net:
    """A resolver and hosts that answer, and what was asked of them."""

    def __init__(self, answer: Callable[[Any], Any], names: dict[str, Sequence[str]]) -> None:
        self.names = names
        self.resolved: list[str] = []
        self.requests: list[Any] = []
        self.transport = httpx2.MockTransport(self._handle)
        self.answer = answer

    def _handle(self, request: Any) -> Any:
        self.requests.append(request)
        return self.answer(request)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.resolved.append(host)
        found = self.names[host]
        if isinstance(found, list):
            return [found.pop(0)]
        return found

    def get(self, url: str, policy: Policy = PUBLIC, **limits: Any) -> bytes:
        given = {"max_bytes": 1000, "seconds": 2.0, "at_once": 2, **limits}
        fetch = Fetch(policy, resolve=self.resolve, transport=self.transport, **given)
        return asyncio.run(fetch.get(url))


def picture(request: Any) -> Any:
    return httpx2.Response(200, content=PICTURE)


def to(location: str, status: int = 302) -> Callable[[Any], Any]:
    return lambda request: httpx2.Response(status, headers={"location": location})


def test_the_address_that_was_checked_is_the_one_connected_to() -> None:
    """vllm#57825: a name that resolves to something else the second time."""
    net = Net(picture, {"images.example": [OUTSIDE, "127.0.0.1"]})
    assert net.get("https://images.example/a.png") == PICTURE
    (request,) = net.requests
    assert request.url.host == OUTSIDE
    assert request.headers["host"] == "images.example"
    assert request.extensions["sni_hostname"] == "images.example"
    assert net.resolved == ["images.example"]
    assert "cookie" not in request.headers
    assert "authorization" not in request.headers


@pytest.mark.parametrize("answers", [("10.0.0.1",), (OUTSIDE, "10.0.0.1"), ()])
def test_one_private_answer_is_enough_to_refuse(answers: tuple[str, ...]) -> None:
    net = Net(picture, {"images.example": answers})
    with pytest.raises(BadAddress):
        net.get("https://images.example/a.png")
    assert not net.requests


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/",
        "https://inside.example/",
        "http://images.example/",
        "file:///etc/passwd",
        "//inside.example/",
        "https://images.example:8080/",
        "https://[::1",
    ],
)
def test_every_hop_is_checked_again(location: str) -> None:
    """vllm#55539, lmdeploy#4761: a redirect left the allowed host."""
    net = Net(to(location), {"images.example": (OUTSIDE,), "inside.example": ("10.0.0.1",),
                             "169.254.169.254": ("169.254.169.254",)})  # fmt: skip
    with pytest.raises(BadAddress):
        net.get("https://images.example/a.png", Policy(public=True, http=True))
    assert len(net.requests) == 1


def test_a_redirect_does_not_leave_the_list() -> None:
    net = Net(
        to("https://other.example/"), dict.fromkeys(("images.example", "other.example"), (OUTSIDE,))
    )
    with pytest.raises(BadAddress):
        net.get("https://images.example/a.png", LISTED)
    assert len(net.requests) == 1


def test_redirects_within_bounds_are_followed() -> None:
    def answer(request: Any) -> Any:
        hop = int(request.url.path.strip("/") or 0)
        return to(f"/{hop + 1}")(request) if hop < 2 else picture(request)

    net = Net(answer, {"images.example": (OUTSIDE,)})
    assert net.get("https://images.example/") == PICTURE
    endless = Net(to("/again"), {"images.example": (OUTSIDE,)})
    with pytest.raises(FetchFailed):
        endless.get("https://images.example/")
    assert len(endless.requests) == HOPS + 1


@pytest.mark.parametrize("status", [204, 400, 404, 500, 503])
def test_a_picture_that_does_not_come(status: int) -> None:
    net = Net(lambda request: httpx2.Response(status), {"images.example": (OUTSIDE,)})
    with pytest.raises(FetchFailed):
        net.get("https://images.example/a.png")


def test_a_body_is_counted_while_it_comes() -> None:
    sent = []

    async def endless() -> Any:
        while True:
            sent.append(1)
            yield b"x" * 100

    net = Net(lambda r: httpx2.Response(200, content=endless()), {"images.example": (OUTSIDE,)})
    with pytest.raises(FetchFailed):
        net.get("https://images.example/a.png")
    assert len(sent) < 20


def test_a_slow_host_costs_no_more_than_its_time() -> None:
    async def slow() -> Any:
        yield b"x"
        await asyncio.sleep(30)

    net = Net(lambda r: httpx2.Response(200, content=slow()), {"images.example": (OUTSIDE,)})
    with pytest.raises(FetchFailed):
        net.get("https://images.example/a.png", seconds=0.2)


def test_all_refusals_read_alike() -> None:
    """Else the words would tell which hosts and ports there are inside."""
    messages = set()
    names = {"inside.example": ("10.0.0.1",), "nowhere.example": ()}
    for url in ("https://inside.example/", "https://nowhere.example/", "https://a.example:22/"):
        with pytest.raises(BadAddress) as raised:
            Net(picture, names).get(url)
        messages.add(str(raised.value))
    assert len(messages) == 1
