"""What a ClientHello may hold, and what is chosen from it: suites, groups, extensions, certificates."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from cryptography.exceptions import InvalidSignature

from conformance.tls._steps import (
    ANY_13,
    Ending,
    ended,
    ending_12,
    ending_13,
    messages,
    quiet,
    reached,
    refused,
    works,
)
from harness.link.stream import End, EndKind
from harness.model.case import case
from harness.model.spec import tls
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire.tls import TLS12, TLS13, Extension, with_grease
from harness.wire.tls import extensions as ext
from harness.wire.tls.crypto import covers, key_kind
from harness.wire.tls.numbers import (
    DOWNGRADE_TO_TLS12,
    GREASE,
    SECP256R1,
    TLS_AES_128_GCM_SHA256,
    X25519,
    ExtensionType,
)

NO_SUITE_13 = ending_13(40, 71, item="fatal alert 40 or 71")
NO_SUITE_12 = ending_12(40, 71, item="fatal alert 40 or 71")
SM4 = (0x00C6, 0x00C7)
ECDSA_ONLY = (0x0403, 0x0503)
RSA_ONLY = (0x0804, 0x0805, 0x0806, 0x0401)


def without(*kinds: int) -> dict[str, Any]:
    """Client options: a ClientHello without these extensions."""
    return {"hello": lambda hello: hello.without_extension(*kinds)}


@case("tls-hello-01", checks=["RFC8446-4.1.3-1"], publish=tls(), features=["tls.1.2"])
async def test_the_downgrade_sentinel(scene: Scene) -> None:
    """An edge that speaks TLS 1.3 and negotiates TLS 1.2 says so in ServerHello.random.

    A client that offers only TLS 1.2 gets the octets 44 4F 57 4E 47 52 44 01 at its end; one that offers TLS 1.3, which
    must be negotiated, does not.
    """
    row = "RFC8446-4.1.3-1"
    client = await works(scene, row, versions=(TLS12,))
    last = client.tls.server_random[-8:]
    scene.expect(row, last == DOWNGRADE_TO_TLS12, expected=DOWNGRADE_TO_TLS12.hex(), actual=last.hex())
    client = await works(scene, row, versions=(TLS13, TLS12))
    scene.expect(row, client.version == TLS13, expected="TLS 1.3", actual=str(client.version))


NO_SUITES = {
    "null": (0x0000,),
    "anonymous": (0x0018, 0x0034, 0x003A, 0x006C, 0x006D, 0x00A6, 0x00A7, 0xC015, 0xC017, 0xC018, 0xC019),
    "export": (0x0003, 0x0006, 0x0008, 0x000B, 0x000E),
    "unknown": (0xFEFE, *GREASE[:2]),
}


@case(
    "tls-hello-02",
    checks=["RFC5246-A.5-1", "RFC5246-7.4.1.3-1"],
    publish=tls(),
    over={"suites": tuple(NO_SUITES)},
    features=["tls.1.2"],
)
async def test_suites_that_nobody_may_negotiate(scene: Scene) -> None:
    """A TLS 1.2 client that offers only NULL, anonymous, export or unknown suites gets no ServerHello.

    Nothing is at the upstream. The authenticated NULL suites, which RFC 5246 does not forbid, are sent as well; what
    comes of them is in the transcript. An ordinary client gets through.
    """
    forbidden = scene.variant["suites"] in ("null", "anonymous")
    row, other = ("RFC5246-A.5-1", "RFC5246-7.4.1.3-1") if forbidden else ("RFC5246-7.4.1.3-1", "RFC5246-A.5-1")
    await _no_server_hello(scene, row, NO_SUITE_12, versions=(TLS12,), suites=NO_SUITES[scene.variant["suites"]])
    client = await scene.tls_client(handshake=False, versions=(TLS12,), suites=(0x0002, 0x003B, 0xC006, 0xC010))
    scene.transcript.note("recorded", f"authenticated NULL suites: {await client.try_handshake()}")
    await quiet(scene, row)
    await works(scene, row, other, versions=(TLS12,))


async def _no_server_hello(scene: Scene, row: str, allowed: Ending, **options: Any) -> None:
    """The client is refused, and before it got a ServerHello."""
    with scene.judging(row):
        client = await scene.tls_client(handshake=False, **options)
        end = await client.try_handshake()
        answered = bool(messages(client, "ServerHello")) or not isinstance(end, End)
        scene.expect(row, not answered, expected="no ServerHello", actual="ServerHello")
        assert isinstance(end, End)
        item = allowed.branch(end)
        if item is None:
            scene.depart(row, expected=allowed.described, actual=str(end))
        else:
            scene.allow(row, item)


@case("tls-hello-03", checks=["RFC8446-4.1.1-1", "RFC8446-4.1.1-3"], publish=tls())
async def test_nothing_in_common_in_tls_13(scene: Scene) -> None:
    """A TLS 1.3 client whose groups or suites nobody knows gets no ServerHello, and nothing is at the upstream.

    Once only an unknown group with a share, once only SM4 suites and unknown ones. An ordinary client gets through.
    """
    unknown = ext.supported_groups((0xFE00,)), ext.key_shares(((0xFE00, b"\x04" * 32),))
    await _no_server_hello(
        scene,
        "RFC8446-4.1.1-1",
        NO_SUITE_13,
        versions=(TLS13,),
        hello=lambda hello: hello.with_extension(*unknown),
    )
    suites = (*SM4, 0x13FE, GREASE[0])
    await _no_server_hello(
        scene,
        "RFC8446-4.1.1-3",
        NO_SUITE_13,
        versions=(TLS13,),
        hello=lambda hello: dataclasses.replace(hello, cipher_suites=suites),
    )
    await quiet(scene, "RFC8446-4.1.1-1", "RFC8446-4.1.1-3")
    await works(scene, "RFC8446-4.1.1-1", "RFC8446-4.1.1-3", versions=(TLS13,))


@case("tls-hello-04", checks=["RFC8446-4.1.1-2", "RFC8446-4.1.4-1", "RFC8446-4.2.8-1"], publish=tls())
async def test_a_missing_share_is_asked_for(scene: Scene) -> None:
    """A client with common groups and no share gets one HelloRetryRequest, then a ServerHello that fits it.

    x25519 and P-256 are offered without any share. The ServerHello's suite is that of the request, and it holds one
    share, in the group that was asked for; with a share for the first group there is one in that group.
    """
    rows = ("RFC8446-4.1.1-2", "RFC8446-4.1.4-1", "RFC8446-4.2.8-1")
    client = await works(scene, *rows, versions=(TLS13,), groups=(X25519, SECP256R1), key_shares=())
    retries, hellos = messages(client, "HelloRetryRequest"), messages(client, "ServerHello")
    scene.expect(rows[0], len(retries) == 1, expected="one HelloRetryRequest", actual=str(len(retries)))
    asked = ext.parse_uint16(retries[0].extension(ExtensionType.KEY_SHARE), "key_share")
    given = ext.parse_server_key_share(hellos[-1].extension(ExtensionType.KEY_SHARE))[0]
    suites = [message.cipher_suite for message in (retries[0], hellos[-1])]
    scene.expect(rows[1], suites[0] == suites[1], expected="the same suite", actual=str(suites))
    scene.expect(rows[2], asked == given, expected=f"a share in 0x{asked:04x}", actual=f"0x{given:04x}")
    client = await works(scene, *rows, versions=(TLS13,), groups=(SECP256R1, X25519), key_shares=(SECP256R1,))
    given = client.tls.group or 0
    scene.expect(rows[2], given in (SECP256R1, X25519), expected="an offered group", actual=f"0x{given:04x}")


@case("tls-hello-05", checks=["RFC8446-4.1.2-2", "RFC8446-4.1.2-3", "RFC5246-7.4.1.2-1"], publish=tls())
async def test_unknown_values_are_ignored(scene: Scene) -> None:
    """Unknown suites and extensions are passed over, in TLS 1.3 and 1.2; a hello without extensions can be read.

    Unknown suites stand in front of TLS_AES_128_GCM_SHA256; unknown extensions are empty and of 4 KiB; GREASE values
    stand everywhere. A TLS 1.2 ClientHello without an extension block, which cannot name a tunnel, may be refused, but
    not as undecodable.
    """
    unknown = (*GREASE[:3], 0x13FE, 0xFEFE)
    await works(
        scene,
        "RFC8446-4.1.2-2",
        versions=(TLS13,),
        hello=lambda hello: dataclasses.replace(hello, cipher_suites=(*unknown, TLS_AES_128_GCM_SHA256)),
    )
    large = (Extension(GREASE[5]), Extension(GREASE[6], bytes(4096)))
    await works(scene, "RFC8446-4.1.2-3", versions=(TLS13,), extra_extensions=large)
    await works(scene, "RFC8446-4.1.2-3", hello=with_grease)
    row = "RFC5246-7.4.1.2-1"
    with scene.judging(row):
        # Without TLS 1.2 at the edge this is a refusal by policy.
        client = await scene.tls_client(
            handshake=False,
            versions=(TLS12,),
            hello=lambda hello: dataclasses.replace(hello, cipher_suites=(*unknown, *hello.cipher_suites)),
        )
        end = await reached(scene, client)
        _not_undecodable(scene, row, end)
        client = await scene.tls_client(
            handshake=False, versions=(TLS12,), hello=lambda hello: dataclasses.replace(hello, extensions=None)
        )
        result = await client.try_handshake()
        _not_undecodable(scene, row, result if isinstance(result, End) else None)


def _not_undecodable(scene: Scene, row: str, end: End | None) -> None:
    if end is None:
        scene.allow(row, "processed")
    else:
        scene.expect(row, end.alert != 50, expected="no alert 50", actual=str(end), branch="refused by policy")


@case("tls-hello-06", checks=["RFC8446-4.1.2-4"], publish=tls())
async def test_compression_is_refused_in_tls_13(scene: Scene) -> None:
    """A TLS 1.3 ClientHello with compression methods [1, 0] is refused, and nothing is at the upstream."""
    row = "RFC8446-4.1.2-4"
    await refused(
        scene,
        row,
        ending_13(47, item="fatal alert 47"),
        versions=(TLS13,),
        hello=lambda hello: dataclasses.replace(hello, compression_methods=b"\1\0"),
    )
    await quiet(scene, row)
    await works(scene, row, versions=(TLS13,))


@case(
    "tls-hello-07",
    checks=["RFC8446-4.2.3-1", "RFC8446-9.2-1"],
    publish=tls(),
    over={"without": ("signature_algorithms", "supported_groups", "key_share")},
)
async def test_an_extension_that_is_needed(scene: Scene) -> None:
    """A TLS 1.3 ClientHello without signature_algorithms, supported_groups or key_share is refused with alert 109.

    Nothing is at the upstream; a whole one gets through.
    """
    missing = {
        "signature_algorithms": ExtensionType.SIGNATURE_ALGORITHMS,
        "supported_groups": ExtensionType.SUPPORTED_GROUPS,
        "key_share": ExtensionType.KEY_SHARE,
    }[scene.variant["without"]]
    schemes = missing is ExtensionType.SIGNATURE_ALGORITHMS
    row, other = ("RFC8446-4.2.3-1", "RFC8446-9.2-1") if schemes else ("RFC8446-9.2-1", "RFC8446-4.2.3-1")
    await refused(scene, row, ending_13(109, item="fatal alert 109"), versions=(TLS13,), **without(missing))
    await quiet(scene, row)
    await works(scene, row, other, versions=(TLS13,))


OFF_CURVE = b"\x04" + b"\x01" * 64


@case(
    "tls-hello-08",
    checks=["RFC8446-4.2.8.2-1"],
    publish=tls(),
    over={"share": ("p256-off-curve", "p256-infinity", "x25519-zero", "x25519-small-order", "short")},
)
async def test_public_values_are_validated(scene: Scene) -> None:
    """A public value that is no point of the curve, or leads to an all-zero secret, ends the handshake.

    A P-256 point off the curve and one of zeros, the x25519 values 0 and 1, and a share that is too short; nothing is
    at the upstream, and a valid share in the same group gets through.
    """
    row = "RFC8446-4.2.8.2-1"
    group, value = {
        "p256-off-curve": (SECP256R1, OFF_CURVE),
        "p256-infinity": (SECP256R1, b"\x04" + bytes(64)),
        "x25519-zero": (X25519, bytes(32)),
        "x25519-small-order": (X25519, b"\1" + bytes(31)),
        "short": (X25519, b"\x09"),
    }[scene.variant["share"]]
    share = ext.key_shares(((group, value),))
    groups: dict[str, Any] = {"versions": (TLS13,), "groups": (group,)}
    with scene.judging(row):
        client = await scene.tls_client(
            handshake=False,
            hello=lambda hello: hello.with_extension(share),
            **groups,
        )
        end = await client.try_handshake()
        seen_hello = bool(messages(client, "ServerHello"))
        # Behind a ServerHello for such a share our client cannot follow: that alone is the departure.
        refused_it = isinstance(end, End) and not seen_hello
        scene.expect(row, refused_it, expected="no ServerHello", actual=f"ServerHello: {seen_hello}, {end}")
        assert isinstance(end, End)
        scene.allow(row, (ANY_13.branch(end) if end.kind is EndKind.ALERT else None) or "connection ended")
    await quiet(scene, row)
    await works(scene, row, **groups)


EITHER = "fatal alert 40 or 71, or close"
NO_FIT = {
    "RFC8446-4.4.2.2-1": ending_13(40, 71, item="fatal alert 40 or 71"),
    "RFC5246-7.4.1.4.1-1": Ending(dict.fromkeys((40, 71), EITHER), reset=EITHER, fin=EITHER, notify=EITHER),
}
FITS = {"RFC8446-4.4.2.2-1": "leaf valid for the name", "RFC5246-7.4.1.4.1-1": "offered pair used"}
CERTIFICATES = ("RFC8446-4.4.2.2-1", "RFC5246-7.4.1.4.1-1", "RFC5246-7.4.2-1")


@case(
    "tls-hello-09",
    checks=CERTIFICATES,
    publish=tls(),
    over={"schemes": ("ecdsa", "rsa")},
    features=["tls.1.2"],
)
async def test_the_certificate_fits_the_offer(scene: Scene) -> None:
    """The certificate covers the server name and its key fits the offered signature schemes, or the handshake fails.

    The client offers only ECDSA schemes, or only RSA ones, in TLS 1.3 and in TLS 1.2. With all of them the handshake
    completes, the leaf stands first, and each certificate behind it certifies the one before.
    """
    await _fitting(scene)


@case(
    "tls-hello-10",
    checks=CERTIFICATES,
    publish=tls(),
    over={"schemes": ("ecdsa", "rsa")},
    settings={"certificate.key": "rsa", "domain": "rsa.edgecase.localhost"},
    features=["tls.1.2"],
)
async def test_an_rsa_certificate_fits_the_offer(scene: Scene) -> None:
    """An edge whose certificate has an RSA key signs with an offered RSA scheme, or the handshake fails.

    The script of the case before, on an engine with an RSA key.
    """
    await _fitting(scene)


async def _fitting(scene: Scene) -> None:
    kind = scene.variant["schemes"]
    schemes = ECDSA_ONLY if kind == "ecdsa" else RSA_ONLY
    for row, version in (("RFC8446-4.4.2.2-1", TLS13), ("RFC5246-7.4.1.4.1-1", TLS12)):
        with scene.judging(row):
            client = await scene.tls_client(handshake=False, signature_schemes=schemes, versions=(version,))
            end = await reached(scene, client)
            if end is None:
                _fits(scene, row, client, kind)
            else:
                await ended(scene, row, client, end, NO_FIT[row])
    row = "RFC5246-7.4.2-1"
    client = await works(scene, row, versions=(TLS12,))
    problem = _chain_problem(client, scene.endpoint().host)
    scene.expect(row, problem is None, expected="a leaf for the name, then its issuers", actual=f"{problem}")


def _fits(scene: Scene, row: str, client: TlsPeer, kind: str) -> None:
    # That the scheme was offered and that the leaf's key signed is what our client checks in every handshake.
    found = key_kind(client.peer_certificates[0])
    problem = _chain_problem(client, scene.endpoint().host)
    actual = f"an {found} key, {problem or 'valid for the name'}"
    right = found == kind and problem is None
    scene.expect(row, right, expected=f"a leaf with an {kind} key, valid for the name", actual=actual, branch=FITS[row])


def _chain_problem(client: TlsPeer, host: str) -> str | None:
    """What is wrong with the order of the chain, or with the leaf for `host`; None where nothing is."""
    chain = client.peer_certificates
    if not covers(chain[0], host):
        return f"the first certificate does not cover {host}"
    for one, issuer in itertools.pairwise(chain):
        try:
            one.verify_directly_issued_by(issuer)
        except (InvalidSignature, TypeError, ValueError) as error:
            return f"{issuer.subject.rfc4514_string()} did not certify the one before it: {error}"
    return None
