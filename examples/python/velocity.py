"""A client of Velocity's decision API, in Python's standard library.

    client = Client("http://localhost:3000", token="...")
    if not client.check("alice")["allowed"]:
        ...

Use one client per thread: it keeps its connection open. /openapi.yaml describes the API.
"""

import http.client
import json
import urllib.parse


class Problem(Exception):
    """A problem detail (RFC 9457) that the service returned instead of a decision."""

    def __init__(self, status, body):
        super().__init__(f"{status} {body.get('title', '')}: {body.get('detail', '')}")
        self.status = status
        self.body = body


class Unavailable(Exception):
    """There is no decision. The tokens may have been taken, so do not repeat the check."""


class Client:
    def __init__(self, url, token=None, timeout=1.0):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url: {url!r}: must be http://host:port or https://host:port")
        connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = connect(parts.hostname, parts.port, timeout=timeout)
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def check(self, key, cost=1, policy="default", attributes=None, max_wait_ms=None):
        """Take the tokens if all limits allow it, or else none, and return the decision. A cost of 0 takes nothing.

        With max_wait_ms, a decision that is allowed may have wait_ms: wait that long before you go on."""
        return self._post("/v1/check", _body(key, cost, policy, attributes, max_wait_ms=max_wait_ms))

    def checks(self, checks):
        """Decide several checks in one call, in order. Each is a dict of check's parameters. An answer may be a problem."""
        return self._post("/v1/checks", {"checks": [_body(**c) for c in checks]})["results"]

    def refund(self, key, cost=1, policy="default", attributes=None, taken_at_us=None):
        """Give tokens back, up to the capacity. taken_at_us is that of the check that took them."""
        return self._post("/v1/refund", _body(key, cost, policy, attributes, taken_at_us))

    def charge(self, key, cost=1, policy="default", attributes=None, taken_at_us=None):
        """Take tokens unconditionally. The level may fall below zero. taken_at_us is that of the check they belong to."""
        return self._post("/v1/charge", _body(key, cost, policy, attributes, taken_at_us))

    def release(self, permit, cost=None):
        """End the permit of a check. cost is what the request cost in the end. Safe to send again, also after Unavailable."""
        return self._post("/v1/release", {"permit": permit} if cost is None else {"permit": permit, "cost": cost})["released"]

    def renew(self, permit):
        """Give a permit a new lease, and return how long it is, in milliseconds. Safe to send again."""
        return self._post("/v1/renew", {"permit": permit})["permit_expires_after_ms"]

    def close(self):
        self._connection.close()

    def _post(self, path, body):
        try:
            self._connection.request("POST", path, json.dumps(body), self._headers)
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as e:
            self._connection.close()  # the next call opens a new one
            raise Unavailable(str(e)) from e
        try:
            answer = json.loads(text)
        except ValueError as e:
            raise Unavailable(f"{response.status}: the answer is not JSON") from e
        if response.status == 503:
            raise Unavailable(answer.get("detail", ""))
        if response.status != 200:
            raise Problem(response.status, answer)
        return answer


def _body(key, cost=1, policy="default", attributes=None, taken_at_us=None, max_wait_ms=None):
    body = {"key": key, "cost": cost, "policy": policy}
    if attributes:
        body["attributes"] = attributes
    if taken_at_us is not None:
        body["taken_at_us"] = taken_at_us
    if max_wait_ms is not None:
        body["max_wait_ms"] = max_wait_ms
    return body
