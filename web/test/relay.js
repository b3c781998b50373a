// A relay in memory for the tests of sessions: it checks digests by node's crypto, forwards between its clients, and can be made
// to misbehave. What it sends is one frame a message.

import { createHash, randomBytes } from 'node:crypto';

import { header, headers, parseFrame, request, response } from '../lib/frame.js';
import { parseParameters } from '../lib/digest.js';

const NODE_NAMES = { 'SHA-256': 'sha256', MD5: 'md5' };

export class Relay {
    sessions = new Map();
    sockets = [];
    /** Frames from clients, in order. */
    seen = [];
    password = 'wonderland';
    algorithms = ['SHA-256', 'MD5'];
    expires = 600;
    protocol = 'msrp';
    /** false: it refuses; null: it says nothing. */
    opens = true;
    /** Called with each frame of a client; returns true if it has dealt with it. */
    intercept = () => false;
    /** Called with the body of each SEND that is forwarded: returns it as one or several. */
    cut = (body) => [body];

    /** The WebSocket of its clients. */
    get WebSocket() {
        const relay = this;
        return class {
            binaryType = 'blob';
            bufferedAmount = 0;
            protocol = '';

            constructor(url, protocols) {
                this.url = url;
                this.protocols = protocols;
                relay.sockets.push(this);
                queueMicrotask(() => {
                    if (relay.opens === null) return;
                    if (!relay.opens) return this.ended(1006);
                    this.protocol = relay.protocol;
                    this.onopen?.();
                });
            }

            send(bytes) {
                const copy = bytes.slice();
                queueMicrotask(() => relay.received(this, parseFrame(copy)));
            }

            deliver(bytes) {
                const { buffer } = new Uint8Array(bytes);
                queueMicrotask(() => this.onmessage?.({ data: buffer }));
            }

            close() {
                relay.gone(this);
            }

            /** The connection ends from the other side. */
            ended(code = 1006, reason = '') {
                relay.gone(this);
                this.onclose?.({ code, reason });
            }
        };
    }

    gone(socket) {
        for (const [id, other] of this.sessions) if (other === socket) this.sessions.delete(id);
    }

    received(socket, frame) {
        this.seen.push(frame);
        if (this.intercept(socket, frame)) return;
        if (frame.method === 'AUTH') this.auth(socket, frame);
        else if (frame.method) this.forward(socket, frame);
    }

    answer(socket, frame, status, comment, fields = []) {
        const to = header(frame, 'To-Path').split(' ')[0];
        const from = header(frame, 'From-Path');
        socket.deliver(response(frame.tid, status, comment, [['To-Path', from], ['From-Path', to], ...fields]));
    }

    auth(socket, frame) {
        const authorization = header(frame, 'Authorization');
        if (!authorization) {
            socket.nonce = randomBytes(16).toString('hex');
            this.answer(socket, frame, 401, 'Unauthorized', this.challenges(socket));
            return;
        }
        const given = parseParameters(authorization.replace(/^Digest /, ''));
        const hash = (text) => createHash(NODE_NAMES[given.get('algorithm')]).update(text).digest('hex');
        const uri = header(frame, 'To-Path').split(' ').at(-1);
        const ha1 = hash(`${given.get('username')}:example.com:${this.password}`);
        const keyed = (ha2) => hash([ha1, given.get('nonce'), given.get('nc'), given.get('cnonce'), 'auth', ha2].join(':'));
        const right = given.get('nonce') === socket.nonce && given.get('response') === keyed(hash(`AUTH:${uri}`));
        if (!right) {
            this.answer(socket, frame, 401, 'Unauthorized', this.challenges(socket));
            return;
        }
        socket.session ??= randomBytes(12).toString('hex');
        socket.client = header(frame, 'From-Path');
        socket.nonce = randomBytes(16).toString('hex');
        this.sessions.set(socket.session, socket);
        this.answer(socket, frame, 200, 'OK', [
            ['Use-Path', this.uriOf(socket)],
            ['Expires', String(this.expires)],
            ['Authentication-Info', `nextnonce="${socket.nonce}", rspauth="${this.proof ?? keyed(hash(`:${uri}`))}", qop=auth`],
        ]);
    }

    challenges(socket) {
        return this.algorithms.map((algorithm) => [
            'WWW-Authenticate', `Digest realm="example.com", nonce="${socket.nonce}", opaque="o", algorithm=${algorithm}, qop="auth"`,
        ]);
    }

    uriOf(socket) {
        return `msrps://relay.example.com:2855/${socket.session};tcp`;
    }

    forward(socket, frame) {
        const to = header(frame, 'To-Path').split(' ');
        const target = this.sessions.get(to[1]?.split('/').at(-1).replace(';tcp', ''));
        const send = frame.method === 'SEND';
        const wanted = (header(frame, 'Failure-Report') ?? 'yes') === 'yes';
        if (!target || socket.session === undefined) {
            if (send && wanted) this.answer(socket, frame, 481, 'No session');
            return;
        }
        if (send && wanted) this.answer(socket, frame, 200, 'OK');
        const paths = [['To-Path', to.slice(2).join(' ')], ['From-Path', [to[1], to[0], header(frame, 'From-Path')].join(' ')]];
        const others = frame.headers.filter(([name]) => !['To-Path', 'From-Path', 'Byte-Range'].includes(name));
        if (frame.body === null) {
            const range = headers(frame, 'Byte-Range').map((value) => ['Byte-Range', value]);
            target.deliver(request(frame.method, [...paths, ...range, ...others]).bytes);
            return;
        }
        const [, start, total] = /^(\d+)-[^/]*\/(.*)$/.exec(header(frame, 'Byte-Range'));
        let at = Number(start);
        const pieces = this.cut(frame.body);
        for (const [index, piece] of pieces.entries()) {
            const range = ['Byte-Range', `${at}-*/${total}`];
            const flag = index === pieces.length - 1 ? frame.flag : '+';
            target.deliver(request('SEND', [...paths, range, ...others], piece, flag).bytes);
            at += piece.length;
        }
    }
}
