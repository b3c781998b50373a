#!/usr/bin/env python3
"""A user of SIP SIMPLE's SDK behind a relay: sends or receives a file, or chats. scripts/interop-sdk.sh runs it.

MSRP, SDP, and SIP are the SDK's own. This makes the account, places or takes one call without a SIP server, and says what
came of it. With --no-sip the other side is no SIP client: the SDP that its path stands in is made here.
"""

import argparse
import hashlib
import os
import sys
import threading
import time

from application.notification import IObserver, NotificationCenter
from application.system import HostProperties
from zope.interface import implementer

LOOPBACK = '127.0.0.1'


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('role', choices=['send', 'receive', 'chat', 'answer'])
    parser.add_argument('--user', required=True, help='USER@DOMAIN, of SIP and at the relay')
    parser.add_argument('--password-file', required=True)
    parser.add_argument('--relay', required=True, help='HOST:PORT')
    parser.add_argument('--ca', required=True, help='the authorities to trust, PEM')
    parser.add_argument('--directory', required=True, help='for settings, the trace, and what is received')
    parser.add_argument('--address-file', required=True,
                        help='where the callee leaves its SIP URI for the caller; without SIP, the receiver its path')
    parser.add_argument('--file', help='what to send; without SIP also: what will come, for its name and hash')
    parser.add_argument('--text', default='', help='what to say')
    parser.add_argument('--direct', action='store_true', help='as caller: connect to the relay of the callee, use none')
    parser.add_argument('--no-sip', action='store_true', help='the other side is no SIP client')
    parser.add_argument('--stop-after', type=int, help='as sender: hang up when so many bytes are confirmed')
    parser.add_argument('--timeout', type=float, default=60, help='seconds, for all of it')
    return parser.parse_args()


# The SDK asks the system for the address that leads to the internet, and asks public name servers whether the DNS works.
# Neither is wanted here, and both must be replaced before the SDK is loaded.
HostProperties.default_ip = property(lambda self: LOOPBACK)

from sipsimple.lookup import DNSManager  # noqa: E402

DNSManager.start = lambda self: None

from sipsimple.account import Account, AccountManager  # noqa: E402
from sipsimple.application import SIPApplication  # noqa: E402
from sipsimple.configuration.datatypes import MSRPRelayAddress, Path, SIPTransportList  # noqa: E402
from sipsimple.configuration.settings import SIPSimpleSettings  # noqa: E402
from sipsimple.core import Engine, Route, SDPAttribute, SDPMediaStream, SIPURI, ToHeader  # noqa: E402
from sipsimple.session import Session  # noqa: E402
from sipsimple.storage import FileStorage  # noqa: E402
from sipsimple.streams.msrp.chat import ChatStream  # noqa: E402
from sipsimple.streams.msrp.filetransfer import FileSelector, FileTransferStream  # noqa: E402
from sipsimple.threading.green import run_in_green_thread  # noqa: E402


def digest_of(path, kind='sha256'):
    digest = hashlib.new(kind)
    with open(path, 'rb') as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest


def say(*words):
    # In one piece: several threads say something.
    sys.stdout.write(' '.join(str(word) for word in words) + '\n')
    sys.stdout.flush()


class Call:
    """What a stream needs of a session that no SIP has made."""

    def __init__(self, account):
        self.account = account


class Description:
    """The other side's SDP, as far as a stream looks at it."""

    def __init__(self, path, role):
        attributes = [('path', path), ('accept-types', '*'), ('setup', role), ('x-file-offset', '')]
        self.media = [SDPMediaStream(b'message', 2855, b'TCP/TLS/MSRP', formats=[b'*'], attributes=[
            SDPAttribute(name.encode(), value.encode()) for name, value in attributes])]


@implementer(IObserver)
class Party:
    def __init__(self, options):
        self.options = options
        self.calls = options.role in ('send', 'chat')
        self.failure = 'it took too long'
        self.ended = threading.Event()
        self.trace = open(os.path.join(options.directory, 'msrp.trace'), 'a', encoding='utf-8')
        self.application = SIPApplication()
        self.session = self.stream = self.name = self.account = None
        self.complete = self.heard = self.delivered = self.over = False
        NotificationCenter().add_observer(self)

    def run(self):
        Engine.default_start_options['ip_address'] = LOOPBACK
        self.application.start(FileStorage(self.options.directory))
        self.ended.wait(self.options.timeout)
        if self.failure:
            say('failed:', self.failure)
        # Without an orderly end of its threads, which may take long and tells nothing.
        os._exit(1 if self.failure else 0)

    def finish(self, failure=None):
        if not self.ended.is_set():
            self.failure = None if self.complete else failure
            self.ended.set()

    def hang_up(self):
        if self.options.no_sip:
            self.stream.end()
        else:
            self.session.end()

    def handle_notification(self, notification):
        handler = getattr(self, f'on_{notification.name}', None)
        if handler is not None:
            handler(notification)

    def on_SIPApplicationWillStart(self, notification):
        settings = SIPSimpleSettings()
        settings.audio.input_device = settings.audio.output_device = settings.audio.alert_device = None
        settings.video.device = None
        settings.sip.transport_list = SIPTransportList(['udp'])
        settings.file_transfer.directory = Path(os.path.join(self.options.directory, 'received'))
        settings.tls.ca_list = Path(self.options.ca)
        settings.tls.verify_server = True
        settings.logs.trace_msrp = True
        settings.save()
        accounts = AccountManager()
        self.account = account = next(
            (known for known in accounts.get_accounts() if known.id == self.options.user), None) or Account(self.options.user)
        with open(self.options.password_file, encoding='utf-8') as file:
            account.auth.password = file.readline().rstrip('\n')
        host, port = self.options.relay.rsplit(':', 1)
        account.enabled = True
        account.sip.register = False
        account.xcap.enabled = account.presence.enabled = account.message_summary.enabled = False
        account.nat_traversal.msrp_relay = MSRPRelayAddress(host, port=int(port), transport='tls')
        account.nat_traversal.use_msrp_relay_for_outbound = not self.options.direct
        account.save()
        accounts.default_account = account

    @run_in_green_thread
    def on_SIPApplicationDidStart(self, notification):
        if self.options.no_sip:
            self.begin_without_sip()
        elif self.calls:
            self.call(self.file_stream() if self.options.role == 'send' else self.without_otr(ChatStream()))
        else:
            user = self.account.contact.username
            self.leave_address(f'sip:{user}@{LOOPBACK}:{Engine().udp_port}')

    def leave_address(self, address):
        with open(self.options.address_file + '.new', 'w', encoding='ascii') as file:
            file.write(address + '\n')
        os.rename(self.options.address_file + '.new', self.options.address_file)

    def address(self):
        with open(self.options.address_file, encoding='ascii') as file:
            return file.readline().strip()

    def call(self, stream):
        self.stream = stream
        target = SIPURI.parse(self.address())
        route = Route(LOOPBACK, port=target.port, transport='udp')
        self.session = Session(self.account)
        self.session.connect(ToHeader(target), routes=[route], streams=[stream])

    def file_stream(self):
        self.name = self.options.file
        return FileTransferStream(FileSelector.for_file(self.name), 'sendonly')

    def begin_without_sip(self):
        self.session = Call(self.account)
        if self.calls:
            self.stream = self.file_stream()
        else:
            expected = self.options.file
            selector = FileSelector(name=os.path.basename(expected), type='application/octet-stream',
                                    size=os.path.getsize(expected), hash=digest_of(expected, 'sha1'))
            self.stream = FileTransferStream(selector, 'recvonly')
        self.stream.initialize(self.session, 'outgoing' if self.calls else 'incoming')

    @staticmethod
    def without_otr(stream):
        stream.start_otr = False
        return stream

    def on_SIPSessionNewIncoming(self, notification):
        self.session = notification.sender
        self.stream = notification.data.streams[0]
        if self.stream.type == 'chat':
            self.without_otr(self.stream)
        self.session.accept([self.stream])

    def on_MediaStreamDidInitialize(self, notification):
        path = self.stream.local_media.attributes.getfirst(b'path').decode()
        say('path:', path)
        if not self.options.no_sip:
            return
        if self.calls:
            self.stream.start(None, Description(self.address(), 'passive'), 0)
        else:
            self.leave_address(path)
            # The sender's path is not known here. The SDK compares the nearest hop alone, and that is the relay.
            self.stream.start(None, Description(f'msrps://{LOOPBACK}:9/unknown;tcp', 'active'), 0)

    @run_in_green_thread
    def on_MediaStreamDidStart(self, notification):
        say('connected as', self.stream.local_role)
        if self.stream.type == 'chat':
            self.stream.send_message(self.options.text, 'text/plain')

    def on_FileTransferHandlerDidStart(self, notification):
        self.name = self.name or self.stream.file_selector.name

    def on_FileTransferHandlerProgress(self, notification):
        limit = self.options.stop_after
        if limit is not None and notification.data.transferred_bytes >= limit and not self.complete:
            say('hangs up after', notification.data.transferred_bytes)
            self.complete = True
            self.hang_up()

    def on_FileTransferHandlerDidEnd(self, notification):
        if not notification.data.error:
            say('file', os.path.getsize(self.name), digest_of(self.name).hexdigest())
            self.complete = True
            # In a call the sender hangs up: when it has got the last report.
            if self.calls or self.options.no_sip:
                self.hang_up()
            elif self.over:
                self.finish()
        elif not self.complete:
            threading.Thread(target=self.broken_off, args=[notification.data.reason], daemon=True).start()

    def broken_off(self, reason):
        # The SDK writes down, in a thread of its own, what it has of the file; the next transfer goes on from there.
        for _ in range(50):
            if self.calls or self.is_remembered():
                break
            time.sleep(0.1)
        size = os.path.getsize(self.name) if self.name and os.path.exists(self.name) else 0
        self.finish(f'{reason}, {size} bytes are here')

    def is_remembered(self):
        try:
            with open(os.path.join(self.options.directory, 'transfer_metadata'), 'rb') as file:
                return self.name is not None and self.name.encode() in file.read()
        except FileNotFoundError:
            return False

    def on_ChatStreamGotMessage(self, notification):
        content = notification.data.message.content
        say('heard:', content.decode() if isinstance(content, bytes) else content)
        self.heard = True
        self.end_of_chat()

    def on_ChatStreamDidDeliverMessage(self, notification):
        self.delivered = True
        self.end_of_chat()

    def end_of_chat(self):
        # The caller hangs up when it has heard and was heard; the callee may learn of that before its own confirmation.
        if self.heard and (self.delivered or not self.calls):
            self.complete = True
            if self.calls:
                self.hang_up()

    def on_SIPSessionDidEnd(self, notification):
        # The end of the call may be told before that of the file.
        self.over = True
        if self.complete or self.stream.type == 'chat':
            self.finish('the other side has hung up')

    def on_MediaStreamDidEnd(self, notification):
        if self.options.no_sip:
            self.finish('the stream has ended')

    def on_ChatStreamDidNotDeliverMessage(self, notification):
        self.finish(f'a message was not delivered: {notification.data.code} {notification.data.reason}')

    def on_SIPSessionDidFail(self, notification):
        self.finish(f'no call: {notification.data.code} {notification.data.failure_reason}')

    def on_MediaStreamDidFail(self, notification):
        say('the stream fails:', notification.data.reason)
        if self.options.no_sip:
            self.finish(notification.data.reason)

    def on_MediaStreamDidNotInitialize(self, notification):
        self.finish(f'no stream: {notification.data.reason}')

    def on_SIPApplicationGotFatalError(self, notification):
        self.finish(f'the SDK has failed: {notification.data}')

    def on_MSRPTransportTrace(self, notification):
        # Bodies of files are left out by the SDK.
        self.write_trace(f'{notification.data.direction}:\n{notification.data.data}')

    def on_MSRPLibraryLog(self, notification):
        self.write_trace(f'log: {notification.data.message}')

    def write_trace(self, text):
        self.trace.write(text + '\n')
        self.trace.flush()


if __name__ == '__main__':
    Party(arguments()).run()
