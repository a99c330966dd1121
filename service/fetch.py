"""Remote pictures: off unless the operator allows hosts or the public internet.

One parser: the address is taken apart once, its name resolved once, every address checked, and the
connection goes to the address that was checked, at every hop. Whatever policy refuses is refused in
the same words, so that nobody can look around inside with it.
"""

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import anyio
import httpx2

from halu.service.refusals import BadAddress, FetchFailed

HOPS = 3
LONGEST = 2048
USUAL = {"http": 80, "https": 443}
HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(\.(?!-)[a-z0-9-]{1,63})*\.?", re.ASCII)
IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""A host name and port to addresses."""

TUNNELS: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",
        "2002::/16",  # 6to4
        "2001::/32",  # Teredo
        "::ffff:0:0/96",  # IPv4 in IPv6
        "::/96",
        "fec0::/10",
        "100.64.0.0/10",  # carrier-grade NAT
        "192.88.99.0/24",
        "198.18.0.0/15",
    )
)
"""Reach other networks than their number says, or count as global in some Python versions."""


@dataclass(frozen=True, slots=True)
class Target:
    """An address taken apart: what is connected to, and what is asked for there."""

    scheme: str
    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Which addresses may be fetched.

    Attributes:
        public: any host on a public address, on the scheme's usual port.
        hosts: these, "name" or "name:port", whatever `public` says.
        networks: private networks in which `hosts` may lie.
        http: whether unencrypted http is allowed.
    """

    public: bool = False
    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    http: bool = False

    def target(self, url: str) -> Target:
        """The address taken apart.

        Raises:
            BadAddress: if it is not allowed or can be read in two ways.
        """
        if len(url) > LONGEST or re.search(r"[\x00-\x20\x7f-\uffff\\]", url):
            raise _refused()
        try:
            parts = urlsplit(url)
            port = parts.port or USUAL.get(parts.scheme, 0)
        except ValueError:
            raise _refused() from None
        host = (parts.hostname or "").rstrip(".")
        allowed = ("http", "https") if self.http else ("https",)
        if parts.scheme not in allowed or "@" in parts.netloc or not _is_host(host):
            raise _refused()
        listed = host in self.hosts if port == USUAL[parts.scheme] else False
        listed = listed or f"{host}:{port}" in self.hosts
        if not listed and not (self.public and not self.hosts and port == USUAL[parts.scheme]):
            raise _refused()
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(parts.scheme, host, port, path)

    def permits(self, address: str) -> bool:
        """Whether an IP address may be connected to."""
        try:
            ip: IP = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if self.hosts and any(ip.version == net.version and ip in net for net in self.networks):
            return True
        return is_public(ip)


def is_public(ip: IP) -> bool:
    """Whether an address is on the public internet and nothing else."""
    if any(ip.version == net.version and ip in net for net in TUNNELS):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _is_host(host: str) -> bool:
    """A plain name or an ordinary IP address; numbers such as 2130706433 or 0x7f.1 are neither."""
    if "%" in host:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        last = host.rpartition(".")[2]
        return bool(HOST.fullmatch(host)) and not last[:1].isdigit() and len(host) <= 253
    return True


async def resolved(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


@dataclass(slots=True)
class Fetch:
    """Gets remote pictures.

    Args:
        policy: what may be fetched.
        max_bytes: of a body.
        seconds: for all hops together.
        at_once: fetches at the same time.
        resolve: the resolver.
        transport: the network; for tests.
    """

    policy: Policy
    max_bytes: int
    seconds: float
    at_once: int
    resolve: Resolve = resolved
    transport: httpx2.AsyncBaseTransport | None = None
    places: anyio.CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        self.places = anyio.CapacityLimiter(self.at_once)

    async def get(self, url: str) -> bytes:
        """The body at an address, redirects followed by hand.

        Raises:
            BadAddress: if policy refuses the address or a hop.
            FetchFailed: if it cannot be had: an error status, too large, too slow.
        """
        target = self.policy.target(url)
        try:
            with anyio.fail_after(self.seconds):
                async with self.places:
                    return await self._follow(target)
        except (TimeoutError, OSError, httpx2.HTTPError):
            raise _failed() from None

    async def _follow(self, target: Target) -> bytes:
        # trust_env off: no proxy and no credentials from the environment. A client of its own for
        # each picture, so that no cookie or connection outlives it.
        async with httpx2.AsyncClient(
            trust_env=False, follow_redirects=False, transport=self.transport, timeout=self.seconds
        ) as client:
            for _ in range(HOPS + 1):
                found = await self._hop(client, target)
                if isinstance(found, bytes):
                    return found
                target = self._next(target, found)
        raise _failed()

    def _next(self, target: Target, location: str) -> Target:
        here = f"{target.scheme}://{_bracketed(target.host)}:{target.port}{target.path}"
        try:
            there = urljoin(here, location)
        except ValueError:  # no address at all
            raise _refused() from None
        found = self.policy.target(there)
        if target.scheme == "https" and found.scheme != "https":
            raise _refused()
        return found

    async def _hop(self, client: httpx2.AsyncClient, target: Target) -> bytes | str:
        """The body, or where it is said to be."""
        addresses = await self.resolve(target.host, target.port)
        if not addresses or not all(self.policy.permits(address) for address in addresses):
            raise _refused()
        pinned = f"{target.scheme}://{_bracketed(addresses[0])}:{target.port}{target.path}"
        usual = target.port == USUAL[target.scheme]
        named = target.host if usual else f"{_bracketed(target.host)}:{target.port}"
        request = client.build_request(
            "GET",
            pinned,
            headers={"host": named, "accept": "image/*", "accept-encoding": "identity"},
            extensions={"sni_hostname": target.host},
        )
        response = await client.send(request, stream=True)
        try:
            if response.is_redirect:
                return response.headers.get("location", "")
            plain = response.headers.get("content-encoding", "identity") == "identity"
            if response.status_code != 200 or not plain:
                raise _failed()
            return await self._body(response)
        finally:
            await response.aclose()

    async def _body(self, response: httpx2.Response) -> bytes:
        data = bytearray()
        async for piece in response.aiter_bytes():
            data += piece
            if len(data) > self.max_bytes:
                raise _failed()
        return bytes(data)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _refused() -> BadAddress:
    return BadAddress(
        "This server does not fetch that address.", hint="Send the picture as a data URI."
    )


def _failed() -> FetchFailed:
    return FetchFailed("The picture could not be fetched.", hint="Send it as a data URI.")
