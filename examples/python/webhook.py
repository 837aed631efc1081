#!/usr/bin/env python3
"""Receives reauth's webhooks and checks their signature, with the standard
library only.

    REAUTH_WEBHOOK_SECRET=whsec_… python3 webhook.py [PORT]

The signature is that of Standard Webhooks (https://www.standardwebhooks.com):
HMAC-SHA256 over "{webhook-id}.{webhook-timestamp}.{body}".
"""

import base64
import hashlib
import hmac
import http.server
import json
import os
import sys
import threading
import time

# How far a webhook's timestamp may be from our clock, in seconds. It is the
# time of the delivery, so an old one is somebody's recording.
TOLERANCE = 300


def verify(secret, headers, body, now=None):
    """Returns the event of a webhook, or raises ValueError if it is not ours.

    secret is REAUTH_WEBHOOK_SECRET, headers a mapping that does not mind case,
    body the bytes as they came, before anything has parsed them.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    message_id = headers.get("webhook-id") or ""
    timestamp = headers.get("webhook-timestamp") or ""
    signatures = headers.get("webhook-signature") or ""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 20):
        raise ValueError("the timestamp is missing or malformed")
    if abs((time.time() if now is None else now) - int(timestamp)) > TOLERANCE:
        raise ValueError("the timestamp is too far from now")
    signed = b".".join([message_id.encode(), timestamp.encode(), body])
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    # There may be several, with spaces between them, while a secret is replaced.
    for signature in signatures.split(" "):
        version, _, value = signature.partition(",")
        if version == "v1" and hmac.compare_digest(value.encode(), expected):
            return json.loads(body)
    raise ValueError("no signature is right")


class Receiver(http.server.BaseHTTPRequestHandler):
    secret = ""
    seen = set()  # in a real backend: in the database, for good
    lock = threading.Lock()  # several webhooks may arrive at once

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            event = verify(self.secret, self.headers, body)
        except ValueError as error:
            print(f"refused: {error}", flush=True)
            self.answer(401)
            return
        with self.lock:
            # A webhook can come more than once; a repeat has the same ID.
            if self.headers["webhook-id"] not in self.seen:
                self.seen.add(self.headers["webhook-id"])
                data = event["data"]
                print(f"{event['type']} {data.get('connection_id')} {data.get('outcome', '')}".rstrip(), flush=True)
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def main():
    Receiver.secret = os.environ["REAUTH_WEBHOOK_SECRET"]
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
