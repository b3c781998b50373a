#!/usr/bin/env python3
"""A client made with python3-msrplib, behind a relay, whose partner is a web page. scripts/demo-web.sh runs it.

It waits for the page, keeps the file that comes, says that it has it, and sends a file back. All MSRP is the library's.
"""

import argparse
import hashlib
import os
import sys

from twisted.internet import reactor
from eventlib.twistedutil import join_reactor  # noqa: F401: green threads are those of a running reactor

from application.system import host
from eventlib.api import spawn, timeout
from gnutls.crypto import X509Certificate
from gnutls.interfaces.twisted import X509Credentials
from msrplib.connect import MSRPRelaySettings, RelayConnection
from msrplib.protocol import URI, ContentDisposition, ContentDispositionHeader, ContentTypeHeader, SuccessReportHeader
from msrplib.session import GreenMSRPSession

# In the URI, as the host that a relay never asks for; the library would ask the system for one that leads to the internet.
type(host).default_ip = property(lambda self: '127.0.0.1')

CHUNK_BYTES = 65536


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--user', required=True, help='USER@DOMAIN; its password is in MSRP_PASSWORD')
    parser.add_argument('--relay', required=True, help='HOST:PORT')
    parser.add_argument('--ca', required=True, help='the authority to trust, PEM')
    parser.add_argument('--peer', required=True, help='the path of the page')
    parser.add_argument('--path-file', required=True, help='where its own path is written to')
    parser.add_argument('--out', required=True, help='where the file that comes is kept')
    parser.add_argument('--file', required=True, help='what is sent')
    parser.add_argument('--timeout', type=float, default=120, help='seconds, for all of it')
    return parser.parse_args()


def receive(session, path):
    """Keeps the one file that comes, and returns its SHA-256."""
    digest, received = hashlib.sha256(), 0
    with open(path, 'wb') as file:
        while True:
            chunk = session.receive_chunk()
            if chunk.method != 'SEND' or not chunk.content_type:
                continue
            start = chunk.byte_range.start - 1
            if start != received:
                raise ValueError(f'a chunk begins at byte {start}, not at {received}')
            data = chunk.data if isinstance(chunk.data, bytes) else chunk.data.encode()
            file.write(data)
            digest.update(data)
            received += len(data)
            if chunk.contflag == '$':
                return received, digest.hexdigest()


def send(session, path):
    """Sends a file, and waits until each byte of it is confirmed."""
    size, confirmed = os.path.getsize(path), 0
    message_id, name = 'msrplib%d' % os.getpid(), os.path.basename(path)
    with open(path, 'rb') as file:
        for start in range(1, size + 1, CHUNK_BYTES):
            data = file.read(CHUNK_BYTES)
            chunk = session.msrp.make_send_request(
                message_id=message_id, data=data, start=start, end=start + len(data) - 1, length=size)
            chunk.add_header(SuccessReportHeader('yes'))
            chunk.add_header(ContentDispositionHeader(ContentDisposition('attachment', {'filename': name, 'size': size})))
            chunk.add_header(ContentTypeHeader('application/octet-stream'))
            session.deliver_chunk(chunk)
    while confirmed < size:
        chunk = session.receive_chunk()
        if chunk.method == 'REPORT' and chunk.message_id == message_id:
            if chunk.status.code != 200:
                raise ValueError(f'the report says {chunk.status.code}')
            confirmed += chunk.byte_range.end - chunk.byte_range.start + 1
    return size


def run(options):
    with open(options.ca, encoding='utf-8') as file:
        authority = X509Certificate(file.read())
    credentials = X509Credentials(trusted=[authority])
    credentials.verify_peer = True
    name, domain = options.user.split('@', 1)
    host_name, port = options.relay.rsplit(':', 1)
    settings = MSRPRelaySettings(
        domain, name, os.environ['MSRP_PASSWORD'], host=host_name, port=int(port), use_tls=True)
    with timeout(options.timeout):
        connection = RelayConnection(settings, 'passive')
        path = connection.prepare(URI(host='127.0.0.1', port=0, use_tls=True, credentials=credentials))
        with open(options.path_file + '.new', 'w', encoding='utf-8') as file:
            file.write(' '.join(str(uri) for uri in path))
        os.rename(options.path_file + '.new', options.path_file)
        session = GreenMSRPSession(connection.complete([URI.parse(uri) for uri in options.peer.split()]))
        size, digest = receive(session, options.out)
        print(f'received {size} {digest}', flush=True)
        session.deliver_message('I have it: grüße'.encode(), 'text/plain; charset=utf-8')
        print(f'sent {send(session, options.file)}', flush=True)
        session.shutdown()


def main():
    options, status = arguments(), []

    def green():
        try:
            run(options)
            status.append(0)
        except BaseException as error:  # whatever it is, it is the result
            print(f'failed: {type(error).__name__}: {error}', file=sys.stderr)
            status.append(1)
        reactor.callLater(0, reactor.stop)

    reactor.callWhenRunning(spawn, green)
    reactor.run()
    sys.exit(status[0])


if __name__ == '__main__':
    main()
