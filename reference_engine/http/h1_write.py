"""Heads on their way into h11's writer.

h11 has two regular expressions for each field that an application makes up, and leaves them out for what its own parser
made. Every field that is written here was parsed by it, or stands in a rule, so it is told that they are parsed; what
could end a field line early is looked for again, in all fields at once.
"""

from __future__ import annotations

from itertools import chain

import h11

from reference_engine.http.events import Fields, RequestHead, ResponseHead

SPLITTING = b"\r\n\x00"
END = h11.EndOfMessage()
"""The end of a message without trailers."""


def unsplit(fields: Fields) -> Fields:
    """The fields. Raises `h11.LocalProtocolError` when one of them would be more than one line."""
    octets = b"".join(chain.from_iterable(fields))
    if len(octets.translate(None, SPLITTING)) < len(octets):
        raise h11.LocalProtocolError("a CR, an LF or a NUL in a field")
    return fields


def request(head: RequestHead) -> h11.Request:
    """A request head for h11, which checks method and target. Raises `h11.LocalProtocolError`."""
    return h11.Request(
        method=head.method, target=head.target, headers=unsplit(head.fields), http_version=b"1.1", _parsed=True
    )


def response(head: ResponseHead) -> h11.Response:
    """A final response head for h11. Raises `h11.LocalProtocolError`."""
    return h11.Response(
        status_code=head.status,
        headers=unsplit(head.fields),
        reason=head.reason,
        http_version=b"1.1",
        _parsed=True,
    )
