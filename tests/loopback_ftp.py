"""An FTP server on this machine with one file, which breaks off its first transfers half-way."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class FtpFile:
    """What is served, and what was asked for."""

    def __init__(self, path: str, body: bytes, num_broken: int) -> None:
        self.path, self.body, self.num_broken = path, body, num_broken
        self.rests: list[int] = []
        self.address = ""


@contextmanager
def serve_ftp(path: str, body: bytes, *, num_broken: int = 0) -> Iterator[FtpFile]:
    served = FtpFile(path, body, num_broken)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            rest, passive = 0, None
            self.say("220 ready")
            while line := self.rfile.readline().decode().strip():
                command, _, argument = line.partition(" ")
                if command == "USER":
                    self.say("331 password")
                elif command == "PASS":
                    self.say("230 in")
                elif command == "TYPE":
                    self.say("200 binary")
                elif command == "SIZE":
                    known = argument == served.path
                    self.say(f"213 {len(served.body)}" if known else "550 no such file")
                elif command == "PASV":
                    passive = socket.create_server(("127.0.0.1", 0))
                    port = passive.getsockname()[1]
                    self.say(f"227 passive (127,0,0,1,{port >> 8},{port & 255})")
                elif command == "REST":
                    rest = int(argument)
                    self.say("350 restarting")
                elif command == "RETR":
                    assert passive is not None
                    self.send(passive, rest)
                    rest = 0
                elif command == "QUIT":
                    self.say("221 bye")
                else:
                    self.say("502 unknown")

        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

        def send(self, passive: socket.socket, rest: int) -> None:
            served.rests.append(rest)
            part = served.body[rest:]
            is_broken = served.num_broken > 0
            served.num_broken -= is_broken
            self.say("150 here it comes")
            connection, _ = passive.accept()
            with passive, connection:
                connection.sendall(part[: len(part) // 2] if is_broken else part)
            self.say("426 broken" if is_broken else "226 done")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.address = f"ftp://127.0.0.1:{server.server_address[1]}{path}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
