"""libcurl as an HTTP client, by pycurl: `http_curl.py NAME --version h3 --connect HOST:PORT --ca FILE URL ..`.

Runs in an environment of its own and imports nothing of this project. Asks for each URL, several at a time over one
connection where the version allows that, and prints a JSON line for each answer, in the order in which they ended:

    {"event": "answer", "url": .., "version": "3", "status": 200, "interim": [103], "fields": [[name, value], ..],
     "trailers": [[name, value], ..], "octets": 5, "digest": SHA-256 of the content}

or `{"event": "error", "url": .., "code": number of libcurl, "text": ..}`. The exit code is 0 when all were answered.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
from typing import Any

VERSIONS = {"h1": "CURL_HTTP_VERSION_1_1", "h2": "CURL_HTTP_VERSION_2TLS", "h3": "CURL_HTTP_VERSION_3ONLY"}
NAMES = {2: "1.1", 3: "2", 30: "3", 31: "3"}
"""What libcurl says that was spoken (CURLINFO_HTTP_VERSION)."""
SECONDS = 30


class Exchange:
    """One request and what came of it."""

    _status = 0
    _ended = False

    def __init__(self, pycurl: Any, url: str, arguments: argparse.Namespace) -> None:
        self.url = url
        self.interim: list[int] = []
        self.fields: list[list[str]] = []
        self.trailers: list[list[str]] = []
        self.octets = 0
        self.digest = hashlib.sha256()
        self.curl = pycurl.Curl()
        version = getattr(pycurl, VERSIONS[arguments.version])
        host, _, port = arguments.connect.rpartition(":")
        for option, value in (
            (pycurl.URL, url),
            (pycurl.HTTP_VERSION, version),
            (pycurl.CONNECT_TO, [f"::{host}:{port}"]),
            (pycurl.CAINFO, arguments.ca),
            (pycurl.NOPROXY, "*"),
            (pycurl.TIMEOUT, SECONDS),
            (pycurl.HTTPHEADER, arguments.field),
            (pycurl.HEADERFUNCTION, self._line),
            (pycurl.WRITEFUNCTION, self._content),
            (pycurl.PIPEWAIT, 1),
        ):
            self.curl.setopt(option, value)
        if arguments.head:
            self.curl.setopt(pycurl.NOBODY, 1)
        if arguments.octets is not None:
            self.curl.setopt(pycurl.UPLOAD, 1)
            self.curl.setopt(pycurl.CUSTOMREQUEST, "POST")
            self._left = bytes(number % 251 for number in range(arguments.octets))
            self.curl.setopt(pycurl.READFUNCTION, self._give)
            if not arguments.unknown_length:
                self.curl.setopt(pycurl.INFILESIZE_LARGE, arguments.octets)

    def _line(self, line: bytes) -> None:
        text = line.decode("latin-1").strip()
        if text.startswith("HTTP/"):
            self._status = int(text.split()[1])
            if self._status < 200:
                self.interim.append(self._status)
        elif text and self._status >= 200:
            name, _, value = text.partition(":")
            # What comes behind the empty line of the final head is the trailer section.
            (self.trailers if self._ended else self.fields).append([name.lower(), value.strip()])
        elif not text and self._status >= 200:
            self._ended = True

    def _content(self, data: bytes) -> None:
        self.octets += len(data)
        self.digest.update(data)

    def _give(self, size: int) -> bytes:
        given, self._left = self._left[:size], self._left[size:]
        return given

    def answer(self, spoken: int) -> dict[str, Any]:
        """The JSON line of an answer."""
        return {
            "event": "answer",
            "url": self.url,
            "version": NAMES.get(spoken, str(spoken)),
            "status": self._status,
            "interim": self.interim,
            "fields": self.fields,
            "trailers": self.trailers,
            "octets": self.octets,
            "digest": self.digest.hexdigest(),
        }


def run(arguments: argparse.Namespace) -> int:
    """Ask for all of it; the exit code."""
    pycurl = importlib.import_module("pycurl")  # in an environment of its own

    multi = pycurl.CurlMulti()
    exchanges = {}
    for url in arguments.urls:
        exchange = Exchange(pycurl, url, arguments)
        exchanges[exchange.curl] = exchange
        multi.add_handle(exchange.curl)
    failed = 0
    left = len(exchanges)
    while left:
        while multi.perform()[0] == pycurl.E_CALL_MULTI_PERFORM:
            pass
        _, done, broken = multi.info_read()
        for curl in done:
            print(json.dumps(exchanges[curl].answer(curl.getinfo(pycurl.INFO_HTTP_VERSION))), flush=True)
        for curl, code, text in broken:
            print(json.dumps({"event": "error", "url": exchanges[curl].url, "code": code, "text": text}), flush=True)
        failed += len(broken)
        left -= len(done) + len(broken)
        multi.select(0.2)
    return 1 if failed else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--version", choices=VERSIONS, required=True)
    parser.add_argument("--connect", required=True, metavar="HOST:PORT", help="where all names are reached")
    parser.add_argument("--ca", required=True, help="the roots that are trusted, PEM")
    parser.add_argument("--field", action="append", default=[], metavar="NAME: VALUE")
    parser.add_argument("--head", action="store_true", help="HEAD in the place of GET")
    parser.add_argument("--octets", type=int, help="POST so many octets: the number of each, modulo 251")
    parser.add_argument("--unknown-length", action="store_true", help="do not announce how many")
    parser.add_argument("urls", nargs="+")
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
