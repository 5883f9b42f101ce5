"""An object store far away: reads of a folder's files over S3's protocol, each after a wait.

    with SlowStore(folder, seconds=0.04) as store:
        Storage(store.options).read(f"{store.root}/tile.tif")

In a process of its own, so that it takes no turns of the reader's interpreter.
"""

import asyncio
import contextlib
import hashlib
import subprocess
import sys
from pathlib import Path

from satray.config.base import StorageOptions


class SlowStore:
    """The store as a context manager; `root` and `options` are known once it is entered."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._arguments = [str(folder), str(seconds)]
        self.root = "s3://far"
        self.most = 0
        """Most requests under way at once; known when it is left."""

    def __enter__(self) -> "SlowStore":
        self._process = subprocess.Popen(
            [sys.executable, __file__, *self._arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        endpoint = self._process.stdout.readline().strip()
        self.options = StorageOptions(endpoint=endpoint, region="us-east-1", unsigned=True)
        return self

    def __exit__(self, *_: object) -> None:
        said, _ = self._process.communicate("")
        self.most = int(said)


async def serve(folder: Path, seconds: float) -> None:
    """Answer GET and HEAD of `/far/KEY` until the standard input ends; then say what came."""
    under_way = most = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await talk(reader, writer)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        while (line := await reader.readline()).strip():
            while (await reader.readline()).strip():
                pass
            method, path, _ = line.decode().split(" ", 2)
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(seconds)
            under_way -= 1
            file = folder / path.partition("?")[0].removeprefix("/far/")
            data = file.read_bytes() if file.is_file() else b""
            status = "200 OK" if file.is_file() else "404 Not Found"
            etag = hashlib.md5(data).hexdigest()
            writer.write(
                f'HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\nETag: "{etag}"\r\n'
                "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n".encode()
            )
            writer.write(b"" if method == "HEAD" else data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    sys.stdout.write(str(most))
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), float(sys.argv[2])))
