#!/usr/bin/env python3
"""What a backend does about a stale connection, with the standard library only.

It takes the current token from reauth and makes its call to Finch. When Finch
answers that the customer must log in again, it reports that, waits until the
customer has done so, takes the new token, and makes the call again.

    python3 backend.py <connection_id>

REAUTH_URL and REAUTH_API_KEY say where reauth is; the key needs the scopes
reports:write and tokens:read. FINCH_BASE_URL is needed only for another Finch
than the real one.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

REAUTH_URL = os.environ["REAUTH_URL"]
REAUTH_API_KEY = os.environ["REAUTH_API_KEY"]
FINCH_BASE_URL = os.environ.get("FINCH_BASE_URL") or "https://api.tryfinch.com"


def call(method, url, bearer, body=None, headers=None):
    """Makes one HTTP call and returns its status and the JSON of its answer."""
    request = urllib.request.Request(url, method=method)
    request.add_header("Authorization", "Bearer " + bearer)
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    data = None
    if body is not None:
        request.add_header("Content-Type", "application/json")
        data = json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, data, timeout=30) as response:
            status, text = response.status, response.read()
    except urllib.error.HTTPError as error:  # an answer, too
        status, text = error.code, error.read()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, {}


class Refused(Exception):
    """An answer of reauth that is not a success: an RFC 9457 problem."""

    def __init__(self, what, status, problem):
        super().__init__(f"{what} answers {status}: {problem.get('detail')}")
        self.status = status


def reauth(method, path, body=None):
    """Calls reauth and returns the JSON of its answer."""
    status, answer = call(method, REAUTH_URL + path, REAUTH_API_KEY, body)
    if status >= 300:
        raise Refused(f"{method} {path}", status, answer)
    return answer


def newest_case(path):
    """The newest case of a connection, or nothing where it has had none."""
    try:
        return reauth("GET", path + "/reauth")
    except Refused as error:
        if error.status != 404:
            raise
        return {}


def company(token):
    """A call to Finch, as a backend makes many."""
    return call("GET", FINCH_BASE_URL + "/employer/company", token, headers={"Finch-API-Version": "2020-09-17"})


def is_stale(status, answer):
    """Only this answer means that the customer must log in again."""
    return status == 401 and answer.get("finch_code") == "reauthenticate_user"


def bring_back(path, token):
    """Reports a stale connection and waits until its case has ended.

    That can take days: in a real backend, put the job aside and let the webhook
    start it again (webhook.py).
    """
    # Report it as often as you like: any number of reports make one case. The
    # fingerprint says which token failed, so that a call that was still under
    # way when the new token came does not open another case.
    report = reauth("POST", path + "/reauth", {
        "source": "api_error",
        "finch_code": "reauthenticate_user",
        "token_fingerprint": token["fingerprint"],
    })
    if report.get("token_superseded"):
        return  # there is a newer token already
    if report.get("suppressed"):
        raise RuntimeError(f"no case opens until {report['until']}: {report['reason']}")
    print(f"reported: case {report['case_id']}", flush=True)
    while True:
        case = newest_case(path)  # which for a moment may still be the last one
        if case.get("case_id") == report["case_id"] and case["outcome"]:
            break
        time.sleep(0.5)
    print(f"the case ended: {case['outcome']}", flush=True)
    if case["outcome"] not in ("recovered", "healed", "false_alarm"):
        raise RuntimeError(f"the connection stays stale: {case['outcome']}")


def main():
    if len(sys.argv) != 2:
        sys.exit("which connection? python3 backend.py <connection_id>")
    path = "/v1/connections/" + urllib.parse.quote(sys.argv[1], safe="")
    while True:
        token = reauth("GET", path + "/token")
        status, answer = company(token["access_token"])
        if not is_stale(status, answer):
            break
        print(f"generation {token['generation']}: 401 reauthenticate_user", flush=True)
        bring_back(path, token)
    if status != 200:
        sys.exit(f"Finch answers {status}: {answer.get('message')}")
    print(f"the call works: {answer['legal_name']}", flush=True)


if __name__ == "__main__":
    main()
