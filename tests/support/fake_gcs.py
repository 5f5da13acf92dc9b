"""A fake Google Cloud Storage on loopback: the part of its JSON API that the package uses.

Objects are stored in a dict. gcsfs finds the server by STORAGE_EMULATOR_HOST; tensorstore, with
which Orbax writes arrays, finds it by TENSORSTORE_GCS_HTTP_URL.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from support.loopback_server import LoopbackServer


class Storage:
    """The buckets, served until `close`.

    Attributes:
      objects: (bucket, name) to (bytes, generation).
      requests: method and path of each, in their order.
      refuse: whether every request is forbidden.
    """

    def __init__(self, *buckets):
        self.buckets = set(buckets)
        self.objects, self.requests, self.uploads = {}, [], {}
        self.refuse = False
        self.lock = threading.Lock()
        self.generation = 1000
        handler = type("Handler", (_Handler,), {"storage": self})
        self._server = LoopbackServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def environment(self):
        """By which clients find it, and need no account."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "FSSPEC_GCS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def names(self, bucket):
        return sorted(name for own, name in self.objects if own == bucket)

    def put(self, bucket, name, data):
        with self.lock:
            self.generation += 1
            self.objects[bucket, name] = (data, self.generation)
        return self.describe(bucket, name)

    def describe(self, bucket, name):
        data, generation = self.objects[bucket, name]
        return {
            "kind": "storage#object", "id": f"{bucket}/{name}/{generation}", "name": name,
            "bucket": bucket, "size": str(len(data)), "generation": str(generation),
            "metageneration": "1", "contentType": "application/octet-stream",
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "timeCreated": "2024-01-01T00:00:00.000Z", "updated": "2024-01-01T00:00:00.000Z",
        }  # fmt: skip

    def list(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start = query.get("startOffset", "")
        items, prefixes = [], set()
        for name in self.names(bucket):
            if not name.startswith(prefix) or name < start:
                continue
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if cut:
                prefixes.add(prefix + head + cut)
            else:
                items.append(self.describe(bucket, name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    storage: Storage

    def log_message(self, format, *args):
        pass

    def answer(self, status, body=b"", headers=()):
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def fail(self, status, message):
        self.answer(status, {"error": {"code": status, "message": message}})

    def read(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_any(self):
        with contextlib.suppress(ConnectionError):  # the other may have been killed
            self.handle_request(self.read())

    def handle_request(self, body):
        self.storage.requests.append((self.command, self.path))
        if self.storage.refuse:
            return self.fail(403, "the account has no access")
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.path.startswith("/batch/"):
            return self.batch(body)
        if found := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", parts.path):
            return self.upload(unquote(found[1]), query, body)
        found = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.*))?)?", parts.path)
        if not found or unquote(found[1]) not in self.storage.buckets:
            return self.fail(404, "The specified bucket does not exist.")
        bucket = unquote(found[1])
        if found[2] is None:
            if parts.path.endswith("/o"):
                return self.answer(200, self.storage.list(bucket, query))
            return self.answer(200, {"kind": "storage#bucket", "name": bucket, "id": bucket})
        if copied := re.fullmatch(r"(.+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.+)", found[2]):
            return self.copy(bucket, *map(unquote, copied.groups()))
        media = query.get("alt") == "media" or parts.path.startswith("/download")
        return self.one(bucket, unquote(found[2]), media, query)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any  # noqa: N815

    def one(self, bucket, name, media, query):
        if (bucket, name) not in self.storage.objects:
            return self.fail(404, f"No such object: {bucket}/{name}")
        if self.command == "DELETE":
            self.storage.objects.pop((bucket, name), None)
            return self.answer(204)
        data, generation = self.storage.objects[bucket, name]
        headers = {"x-goog-generation": str(generation), "ETag": f'"{generation}"'}
        if not media:
            return self.answer(200, self.storage.describe(bucket, name), headers)
        if query.get("ifGenerationNotMatch") == str(generation):
            return self.answer(304)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.answer(200, data, headers)
        first = int(wanted[1])
        last = min(int(wanted[2] or len(data)), len(data) - 1)
        if first >= len(data):
            return self.fail(416, "range")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self.answer(206, data[first : last + 1], headers)

    def copy(self, bucket, name, target_bucket, target):
        if (bucket, name) not in self.storage.objects:
            return self.fail(404, f"No such object: {bucket}/{name}")
        made = self.storage.put(target_bucket, target, self.storage.objects[bucket, name][0])
        return self.answer(200, {"kind": "storage#rewriteResponse", "done": True, "resource": made})

    def upload(self, bucket, query, body):
        if bucket not in self.storage.buckets:
            return self.fail(404, "The specified bucket does not exist.")
        kind, name = query.get("uploadType"), query.get("name")
        if kind == "resumable":
            return self.upload_in_parts(bucket, query, body)
        if kind == "multipart":
            described, data = _multipart(self.headers["Content-Type"], body)[:2]
            name, body = name or json.loads(described)["name"], data
        known = self.storage.objects.get((bucket, name))
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != (known or (0, 0))[1]:
            return self.fail(412, "conditionNotMet")
        return self.answer(200, self.storage.put(bucket, name, body))

    def upload_in_parts(self, bucket, query, body):
        number = query.get("upload_id")
        uploads = self.storage.uploads
        if number is None:
            number = str(len(uploads))
            uploads[number] = (query.get("name") or json.loads(body)["name"], bytearray())
            place = f"{self.storage.url}{self.path}&upload_id={number}"
            return self.answer(200, headers={"Location": place})
        name, data = uploads[number]
        data += body
        if self.headers.get("Content-Range", "/*").endswith("/*"):
            return self.answer(308, headers={"Range": f"bytes=0-{len(data) - 1}"})
        return self.answer(200, self.storage.put(bucket, name, bytes(data)))

    def batch(self, body):
        """Deletions, several in a request."""
        kind = self.headers["Content-Type"]
        answers = []
        for number, part in enumerate(_multipart(kind, body), 1):
            line = part.decode().strip().split("\r\n")[0].split("\n")[0]
            method, path, *_ = line.split(" ")
            found = re.search(r"/b/([^/]+)/o/([^?]+)", path)
            gone = self.storage.objects.pop(tuple(map(unquote, found.groups())), None)
            assert method == "DELETE"
            status = "204 No Content" if gone else "404 Not Found"
            answers.append(
                f"--batch\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>"
                f"\r\n\r\nHTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n\r\n"
            )
        text = "".join(answers) + "--batch--"
        self.send_response(200)
        self.send_header("Content-Type", "multipart/mixed; boundary=batch")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


def _multipart(kind, body):
    """The bodies of the parts, without their headers."""
    boundary = re.search(r'boundary="?([^";]+)', kind)[1].encode()
    parts = body.split(b"--" + boundary)[1:-1]
    bodies = [re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in parts]
    return [re.sub(rb"\r?\n$", b"", body) for body in bodies]
