"""Tunnel properties on the wire and in the engine: one field each way, and absent stays absent."""

from __future__ import annotations

import datetime as dt
from typing import Any

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.tunnel.model import TunnelProperties

TEXT = (
    "id",
    "name",
    "type",
    "protocol",
    "host",
    "tls_mode",
    "tls_min_version",
    "mtls_cacert_pem",
    "http_version",
    "hostname",
)
FLAGS = (
    "publish",
    "mtls_auth",
    "http_use_tls",
    "token_auth",
    "rstream_auth",
    "challenge_mode",
    "upstream_tls",
    "datagram_guaranteed_delivery",
    "allow_cross_region_routing",
)
LISTS = ("geoip", "trusted_ips", "tls_alpns", "tls_ciphers")
WRAPPED = (*TEXT, *FLAGS, "port")


def from_message(message: pb.TunnelProperties) -> TunnelProperties:
    """The properties of a request as the agent wrote them; a wrapper that is present but empty is `""` or False."""
    values: dict[str, Any] = {name: getattr(message, name).value for name in WRAPPED if message.HasField(name)}  # type: ignore[arg-type]
    values.update((name, tuple(getattr(message, name))) for name in LISTS)
    return TunnelProperties(labels=dict(message.labels), **values)


def to_message(properties: TunnelProperties) -> pb.TunnelProperties:
    """The properties as a reply carries them."""
    message = pb.TunnelProperties()
    for name in WRAPPED:
        value = getattr(properties, name)
        if value is not None:
            wrapper = getattr(message, name)
            wrapper.value = value
            # An empty value is the wrapper's default: only this makes it present on the wire.
            wrapper.SetInParent()
    for name in LISTS:
        getattr(message, name).extend(getattr(properties, name))
    message.labels.update(properties.labels)
    if properties.creation_date is not None:
        message.creation_date.FromDatetime(properties.creation_date.astimezone(dt.UTC))
    return message
