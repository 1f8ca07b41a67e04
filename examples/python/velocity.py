"""A client of Velocity's decision API, in Python's standard library.

    client = Client("http://localhost:3000", token="...")
    if not client.check("alice")["allowed"]:
        ...

One client serves one thread: it keeps its connection. The API is described by /openapi.yaml.
"""

import http.client
import json
import urllib.parse


class Problem(Exception):
    """An answer of RFC 9457 in place of a decision."""

    def __init__(self, status, body):
        super().__init__(f"{status} {body.get('title', '')}: {body.get('detail', '')}")
        self.status = status
        self.body = body


class Unavailable(Exception):
    """There is no decision. The tokens may have been taken all the same, so the question must not be asked again."""


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

    def check(self, key, cost=1, policy="default", attributes=None):
        """Take the tokens if all limits allow, else none. Returns the decision; cost 0 looks and takes nothing."""
        return self._post("/v1/check", _question(key, cost, policy, attributes))

    def checks(self, questions):
        """Decide many in one call, in order; each question has the parameters of check. A problem may stand in an answer's place."""
        return self._post("/v1/checks", {"checks": [_question(**q) for q in questions]})["results"]

    def refund(self, key, cost=1, policy="default", attributes=None):
        """Give tokens back, never above the capacity."""
        return self._post("/v1/refund", _question(key, cost, policy, attributes))

    def charge(self, key, cost=1, policy="default", attributes=None):
        """Take tokens unconditionally; the balance may go below zero."""
        return self._post("/v1/charge", _question(key, cost, policy, attributes))

    def close(self):
        self._connection.close()

    def _post(self, path, question):
        try:
            self._connection.request("POST", path, json.dumps(question), self._headers)
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as e:
            self._connection.close()  # the next question opens a new one
            raise Unavailable(str(e)) from e
        try:
            body = json.loads(text)
        except ValueError as e:
            raise Unavailable(f"{response.status}: the answer is not JSON") from e
        if response.status == 503:
            raise Unavailable(body.get("detail", ""))
        if response.status != 200:
            raise Problem(response.status, body)
        return body


def _question(key, cost=1, policy="default", attributes=None):
    question = {"key": key, "cost": cost, "policy": policy}
    if attributes:
        question["attributes"] = attributes
    return question
