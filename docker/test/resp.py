"""The little of redis's protocol that the test's clients need: commands out, replies in, each in bounded time."""

import socket


class ErrorReply(Exception):
    """An error that the server answered with."""


class Client:
    """One connection to a proxy on this machine."""

    def __init__(self, port, timeout=20):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.reader = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.close()
        self.socket.close()

    def __call__(self, *words):
        """One command's reply; an error reply is raised."""
        (reply,) = self.pipeline([words])
        if isinstance(reply, ErrorReply):
            raise reply
        return reply

    def pipeline(self, commands):
        """The replies to commands that are sent together; error replies are returned among them."""
        self.socket.sendall(b"".join(map(encode, commands)))
        return [self.read() for _ in commands]

    def read(self):
        line = self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the proxy closed the connection")
        kind, text = line[:1], line[1:-2].decode()
        if kind == b"+":
            return text
        if kind == b"-":
            return ErrorReply(text)
        if kind == b":":
            return int(text)
        if kind == b"$":
            if text == "-1":
                return None
            data = self.reader.read(int(text) + 2)
            if len(data) != int(text) + 2:
                raise ConnectionError("the proxy closed the connection")
            return data[:-2].decode()
        if kind == b"*":
            return [self.read() for _ in range(int(text))]
        raise ConnectionError(f"no reply of redis's: {line!r}")


def encode(words):
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
