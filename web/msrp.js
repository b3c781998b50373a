// An MSRP client for web pages: MSRP over WebSocket (RFC 7977) through a relay (RFC 4976). One session has one WebSocket, so
// that each has its own back-pressure. README.md says how to use it, msrp.d.ts has all types.

import { openDesk } from './lib/desk.js';
import { ALGORITHMS, answerChallenge, chooseChallenge, parseParameters } from './lib/digest.js';
import { formatDisposition } from './lib/disposition.js';
import { ERROR_CODES, failureOf, MsrpError } from './lib/errors.js';
import { byteRange, header, headers, parseFrame, parsePath, randomToken, request, response, sameUri } from './lib/frame.js';
import { Inbox } from './lib/inbox.js';
import { Outbox, Outgoing } from './lib/outbox.js';

export { ERROR_CODES, MsrpError };

const KIB = 1024;
const MIB = 1024 * KIB;

/** Times are in seconds, sizes in bytes. */
export const DEFAULTS = Object.freeze({
    /** The transport in the page's own URI: `tcp`, or `ws` as in RFC 7977, which some clients refuse. */
    transport: 'tcp',
    algorithms: ALGORITHMS,
    expires: null,
    acceptPeer: true,
    reconnect: false,
    reconnectAttemptsMax: 8,
    connectTimeout: 10,
    idleTimeout: 120,
    keepAlive: 20,
    chunkBytes: 128 * KIB,
    windowBytes: MIB,
    bufferBytes: MIB,
    fileBytesMax: 16 * 1024 * MIB,
    filesOpenMax: 16,
    unstoredBytesMax: 16 * MIB,
    answerEvery: 15,
    disk: true,
});

const NO_BODY_RANGE = ['Byte-Range', '1-0/0'];

let sharedDesk = null;

/** Opens a session; it is ready for `setPeer` then. */
export async function connect(options) {
    const session = new MsrpSession(options);
    await session.open();
    return session;
}

/**
 * A session at a relay. Events: `state`, `path`, `peer`, `message`, `file`, `warning`, `close`.
 */
export class MsrpSession extends EventTarget {
    #options;
    #socket = null;
    #state = 'new';
    #ownUri = '';
    #usePath = [];
    #peer = null;
    #grant = null;
    /** Requests of ours that are neither chunks nor REPORTs, by transaction id; and the WebSocket while it opens. */
    #asked = new Map();
    #outbox = null;
    #inbox = null;
    #lastIn = 0;
    #lastBuffered = 0;
    #timers = new Set();
    #retry = null;
    #attempts = 0;
    #closing = false;

    constructor(options) {
        super();
        this.#options = { ...DEFAULTS, ...options };
        const { url, user, password, transport, chunkBytes, windowBytes, bufferBytes } = this.#options;
        const scheme = /^(wss?):\/\/[^\s]+$/i.exec(url ?? '')?.[1].toLowerCase();
        if (!scheme) throw new MsrpError('usage', 'url must be that of a relay: wss://relay.example.com/');
        if (typeof user !== 'string' || user === '' || typeof password !== 'string') {
            throw new MsrpError('usage', 'user and password are needed');
        }
        if (transport !== 'tcp' && transport !== 'ws') throw new MsrpError('usage', 'transport must be tcp or ws');
        for (const [name, bytes] of Object.entries({ chunkBytes, windowBytes, bufferBytes })) {
            if (!(bytes >= KIB && bytes <= 64 * MIB)) throw new MsrpError('usage', `${name} must be from 1 KiB to 64 MiB`);
        }
        this.#options.scheme = scheme === 'wss' ? 'msrps' : 'msrp';
    }

    /** new, connecting, authenticating, open, waiting (to reconnect), closed */
    get state() {
        return this.#state;
    }

    /** What the other side must know, for SDP's `a=path`: the relay's URI, then the page's own. Empty until the session is open. */
    get path() {
        return this.#usePath.length > 0 ? [...this.#usePath, this.#ownUri].join(' ') : '';
    }

    /** The other side's path; null until it is known. */
    get peer() {
        return this.#peer?.join(' ') ?? null;
    }

    /** What the relay granted: `{algorithm, realm, expires, proved}`; null until the session is open. */
    get grant() {
        return this.#grant && { ...this.#grant.told };
    }

    // -- opening and closing ----------------------------------------------------------------------

    async open() {
        if (this.#state !== 'new' && this.#state !== 'closed' && this.#state !== 'waiting') {
            throw new MsrpError('usage', 'the session is open already');
        }
        this.#closing = false;
        this.#peer = null;
        this.#usePath = [];
        const { scheme, transport } = this.#options;
        // RFC 7977, appendix A: a page does not know its address. The id must be hard to guess (RFC 4975, 14.1).
        this.#ownUri = `${scheme}://${randomToken(12).toLowerCase()}.invalid:2855/${randomToken(20)};${transport}`;
        this.#become('connecting');
        const attempt = ++this.#attempts;
        try {
            await this.#connect();
            this.#become('authenticating');
            await this.#authenticate();
        } catch (error) {
            // It may have been closed and opened again meanwhile.
            if (attempt === this.#attempts) this.#end(error, { announce: false });
            throw error;
        }
        this.#become('open');
        this.dispatchEvent(new Event('path'));
        this.#every(this.#options.keepAlive, () => this.#keepAlive());
        this.#every(Math.min(5, this.#options.idleTimeout / 4), () => this.#watch());
        this.#scheduleRenewal();
    }

    /** Gives up the connection, and opens a session anew: with another path, which the other side has to be told. */
    async reconnect() {
        if (this.#state !== 'closed') this.#end(new MsrpError('lost', 'The session is opened anew'), { announce: false });
        await this.open();
    }

    /** Ends the session, and all that is on the way in it. */
    close() {
        this.#closing = true;
        if (this.#state === 'closed') return;
        this.#end(new MsrpError('aborted', 'The session was closed'));
    }

    #connect() {
        const { url, connectTimeout } = this.#options;
        const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
        return new Promise((resolve, reject) => {
            let socket;
            try {
                socket = new Socket(url, ['msrp']);
            } catch (error) {
                reject(new MsrpError('usage', `url: ${error.message}`, { cause: error }));
                return;
            }
            this.#socket = socket;
            socket.binaryType = 'arraybuffer';
            const timer = setTimeout(() => fail('timeout', 'The relay does not answer'), connectTimeout * 1000);
            const fail = (code, words) => over() || reject(new MsrpError(code, words));
            const over = () => {
                clearTimeout(timer);
                this.#asked.delete(socket);
            };
            this.#asked.set(socket, { reject: (error) => over() || reject(error) });
            socket.onopen = () => {
                over();
                if (socket.protocol !== 'msrp') {
                    fail('protocol', 'The server does not speak MSRP: it did not choose the subprotocol msrp');
                    return;
                }
                resolve();
            };
            socket.onclose = (event) => {
                fail('connect', ERROR_CODES.connect);
                if (this.#socket === socket) this.#lost(event);
            };
            socket.onmessage = (event) => {
                if (this.#socket === socket) this.#received(event.data);
            };
            this.#outbox = new Outbox(
                {
                    transmit: (bytes) => this.#transmit(bytes),
                    buffered: () => socket.bufferedAmount,
                    paths: () => this.#paths(),
                },
                this.#options,
            );
            this.#inbox = new Inbox(this.#options, {
                desk: () => this.#openDesk(),
                file: (file) => this.#emit('file', { file }),
                talk: (said) => this.#emit('message', said),
                answer: (frame, status, comment) => {
                    if (this.#socket === socket) this.#answer(frame, status, comment);
                },
                report: (subject, status, comment) => {
                    if (this.#socket === socket) this.#report(subject, status, comment);
                },
                accept: this.#options.accept ?? (() => true),
            });
        });
    }

    #lost({ code, reason }) {
        const words = `The connection ended${code ? ` (${code}${reason ? ` ${reason}` : ''})` : ''}`;
        const wasOpen = this.#state === 'open';
        this.#end(new MsrpError('lost', words));
        if (wasOpen && this.#options.reconnect && !this.#closing) void this.#comeBack();
    }

    /** Ends what goes on over the connection, and tells all that wait. */
    #end(error, { announce = true } = {}) {
        const socket = this.#socket;
        this.#socket = null;
        this.#retry?.();
        for (const cancel of this.#timers) cancel();
        this.#timers.clear();
        if (socket) {
            socket.onopen = socket.onmessage = null;
            socket.onclose = null;
            socket.close(1000);
        }
        for (const { reject } of this.#asked.values()) reject(error);
        this.#asked.clear();
        this.#outbox?.close(error);
        this.#inbox?.close(error);
        this.#usePath = [];
        this.#become('closed');
        if (announce) this.#emit('close', { error });
    }

    async #comeBack() {
        for (let attempt = 0; attempt < this.#options.reconnectAttemptsMax; attempt++) {
            this.#become('waiting');
            await this.#pause(Math.min(30, 0.5 * 2 ** attempt) * (0.5 + Math.random()));
            if (this.#closing || this.#state !== 'waiting') return;
            try {
                await this.open();
                return;
            } catch (error) {
                this.#emit('warning', { error });
                if (!['connect', 'timeout', 'lost'].includes(error.code)) return;
            }
        }
    }

    /** Some seconds, or until the network is back. */
    #pause(seconds) {
        return new Promise((resolve) => {
            const go = () => {
                clearTimeout(timer);
                globalThis.removeEventListener?.('online', go);
                this.#retry = null;
                resolve();
            };
            const timer = setTimeout(go, seconds * 1000);
            globalThis.addEventListener?.('online', go);
            this.#retry = go;
        });
    }

    // -- AUTH -------------------------------------------------------------------------------------

    async #authenticate() {
        const { url, user, password, scheme } = this.#options;
        const name = user.split('@', 1)[0];
        const { hostname, port } = new URL(url);
        const implied = port || (scheme === 'msrps' ? 443 : 80);
        const uri = this.#options.authUri ?? `${scheme}://${encodeURIComponent(name)}@${hostname}:${implied};ws`;
        await this.#ask(uri, name, password, null);
    }

    async #ask(uri, user, password, challenge) {
        let answer = challenge ? null : await this.#auth(uri, null);
        for (let attempt = 0; ; attempt++) {
            if (answer?.status === 200) {
                this.#granted(answer, challenge);
                return;
            }
            if (answer && answer.status !== 401) throw this.#authRefused(answer);
            if (answer) {
                const next = chooseChallenge(headers(answer, 'WWW-Authenticate'), this.#options.algorithms);
                if (!next) throw new MsrpError('auth', 'The relay asks for a proof that cannot be given here', { status: 401 });
                // One answer to a challenge is right or wrong; only an old nonce deserves another one.
                if (attempt > 0 && !next.stale) throw this.#authRefused(answer);
                if (attempt > 2) throw this.#authRefused(answer);
                challenge = next;
            }
            const { authorization, proof } = answerChallenge(challenge, { user, password, uri });
            answer = await this.#auth(uri, authorization);
            if (answer.status === 200) challenge = { ...challenge, proof };
        }
    }

    #auth(uri, authorization) {
        const fields = [['To-Path', uri], ['From-Path', this.#ownUri]];
        if (authorization) {
            fields.push(['Authorization', authorization]);
            if (this.#options.expires !== null) fields.push(['Expires', String(this.#options.expires)]);
        }
        return this.#exchange('AUTH', fields, this.#options.connectTimeout);
    }

    #authRefused({ status, comment }) {
        const code = status === 401 ? 'credentials' : status === 403 ? 'forbidden' : 'auth';
        return new MsrpError(code, `${ERROR_CODES[code]} (${status} ${comment})`, { status, comment });
    }

    #granted(answer, challenge) {
        const usePath = parsePath(header(answer, 'Use-Path'));
        if (!usePath) throw new MsrpError('auth', 'The relay granted no path');
        const info = parseParameters(header(answer, 'Authentication-Info') ?? '');
        const proved = challenge?.proof !== undefined && info.get('rspauth')?.toLowerCase() === challenge.proof;
        if (info.has('rspauth') && challenge && !proved) {
            throw new MsrpError('auth', 'The relay does not know the password itself');
        }
        const expires = /^\d{1,9}$/.test(header(answer, 'Expires') ?? '') ? Number(header(answer, 'Expires')) : null;
        const moved = this.#usePath.length > 0 && this.#usePath.join(' ') !== usePath.join(' ');
        const next = challenge && info.has('nextnonce') ? { ...challenge, nonce: info.get('nextnonce') } : null;
        const { algorithm = null, realm = null } = challenge ?? {};
        this.#usePath = usePath;
        this.#grant = { next, told: { algorithm, realm, expires, proved } };
        if (moved) this.dispatchEvent(new Event('path'));
    }

    /** Sessions end when their time is over, unless their client asks for more. */
    #scheduleRenewal() {
        const { expires } = this.#grant.told;
        if (expires !== null) this.#after(Math.max(10, expires / 2), () => void this.#renew());
    }

    async #renew() {
        const { user, password } = this.#options;
        try {
            const [uri] = this.#usePath.slice(-1);
            await this.#ask(uri, user.split('@', 1)[0], password, this.#grant.next);
            this.#scheduleRenewal();
        } catch (error) {
            if (this.#state === 'open') this.#emit('warning', { error });
        }
    }

    // -- the other side ---------------------------------------------------------------------------

    /**
     * Names the other side by its path, and asks it for a sign of life: with it the relay binds the two.
     * @returns {Promise<void>} settles when the relay has accepted that
     */
    async setPeer(path) {
        this.#mustBeOpen();
        const uris = parsePath(path);
        if (!uris) throw new MsrpError('usage', 'This is no path: URIs like msrps://HOST:PORT/ID;tcp, with spaces between');
        if (uris.some((uri) => sameUri(uri, this.#ownUri))) throw new MsrpError('usage', 'This is the path of this side');
        this.#peer = uris;
        try {
            await this.#greet();
        } catch (error) {
            if (this.#peer === uris) this.#peer = null;
            throw error;
        }
        this.#emit('peer', { path: this.peer });
    }

    async #greet() {
        const fields = [...this.#paths(), ['Message-ID', randomToken(16)], NO_BODY_RANGE];
        const answer = await this.#exchange('SEND', fields, this.#options.idleTimeout);
        if (answer.status !== 200) throw failureOf(answer.status, answer.comment);
    }

    #keepAlive() {
        if (!this.#peer || this.#greeting) return;
        this.#greeting = true;
        this.#greet().catch((error) => {
            // A session that has ended brings no more of what is arriving.
            if (error.code === 'no-session' || error.code === 'unreachable') {
                this.#inbox.close(error);
                this.#outbox.close(error);
                this.#peer = null;
                this.#emit('peer', { path: null, error });
            }
        }).finally(() => {
            this.#greeting = false;
        });
    }
    #greeting = false;

    // -- sending ----------------------------------------------------------------------------------

    /**
     * Sends a message. Text is sent as it is, anything else needs a `contentType`.
     * @param {string|Uint8Array|Blob} content
     */
    send(content, { contentType = 'text/plain; charset=utf-8', successReport = false, failureReport = 'yes', signal } = {}) {
        this.#mustHavePeer();
        if (!['yes', 'no', 'partial'].includes(failureReport)) throw new MsrpError('usage', 'failureReport: yes, no or partial');
        const blob = typeof content === 'string' ? new TextEncoder().encode(content) : content;
        const size = blob instanceof Uint8Array ? blob.length : blob.size;
        if (failureReport !== 'yes' && size > this.#options.chunkBytes) {
            throw new MsrpError('usage', 'What is longer than chunkBytes needs failureReport yes: its answers pace it');
        }
        const message = new Outgoing(this.#outbox, { name: null, type: contentType, size, sha256: null });
        this.#bySignal(message, signal);
        this.#outbox.begin(message, { blob, fields: [['Content-Type', contentType]], successReport, failureReport });
        return message;
    }

    /**
     * Sends a file. Its SHA-256 is told to the other side beforehand, unless `announceHash` is false.
     * @param {Blob} file
     */
    sendFile(file, { name = file.name ?? 'file', type = file.type, announceHash = true, successReport = true, signal } = {}) {
        this.#mustHavePeer();
        const contentType = type || 'application/octet-stream';
        const message = new Outgoing(this.#outbox, { name, type: contentType, size: file.size, sha256: null });
        message.cancel = new AbortController();
        this.#bySignal(message, signal);
        void this.#offer(message, file, contentType, announceHash, successReport);
        return message;
    }

    async #offer(message, file, contentType, announceHash, successReport) {
        const outbox = this.#outbox;
        if (announceHash) {
            message.tell('hashing');
            try {
                message.sha256 = await this.#openDesk().ask('hash', file, {
                    signal: message.cancel.signal,
                    progress: (bytes) => {
                        message.hashed = bytes;
                        message.tell();
                    },
                });
            } catch (error) {
                outbox.fail(message, new MsrpError('read', undefined, { cause: error }));
            }
            message.hashed = file.size;
        }
        if (message.phase === 'failed') return;
        if (this.#outbox !== outbox || this.#state !== 'open') {
            outbox.fail(message, new MsrpError('lost'));
            return;
        }
        const { name, size, sha256 } = message;
        const fields = [['Content-Disposition', formatDisposition({ name, size, sha256 })], ['Content-Type', contentType]];
        outbox.begin(message, { blob: file, fields, successReport, failureReport: 'yes' });
    }

    #bySignal(message, signal) {
        if (signal?.aborted) queueMicrotask(() => message.abort());
        signal?.addEventListener('abort', () => message.abort(), { once: true });
    }

    #openDesk() {
        // One for all sessions of the page: what has been received must outlive them.
        if (!sharedDesk || sharedDesk.ended) sharedDesk = openDesk(this.#options.startWorker);
        return sharedDesk;
    }

    // -- frames -----------------------------------------------------------------------------------

    #paths() {
        return [['To-Path', [...this.#usePath, ...this.#peer].join(' ')], ['From-Path', this.#ownUri]];
    }

    #transmit(bytes) {
        this.#socket?.send(bytes);
    }

    #exchange(method, fields, seconds) {
        const { tid, bytes } = request(method, fields);
        return new Promise((resolve, reject) => {
            const done = (settle) => (value) => {
                cancel();
                this.#asked.delete(tid);
                settle(value);
            };
            const cancel = this.#after(seconds, () => done(reject)(new MsrpError('timeout', 'No answer came')));
            this.#asked.set(tid, { resolve: done(resolve), reject: done(reject) });
            this.#transmit(bytes);
        });
    }

    #received(data) {
        this.#lastIn = now();
        let frame;
        try {
            frame = parseFrame(typeof data === 'string' ? new TextEncoder().encode(data) : new Uint8Array(data));
            if (frame) this.#dispatch(frame);
        } catch (error) {
            if (!(error instanceof MsrpError)) throw error;
            this.#lostTo(frame, error);
        }
        this.#outbox?.pump();
    }

    /** What is no frame ends the connection; a frame whose headers are wrong is answered. */
    #lostTo(frame, error) {
        if (frame?.method && header(frame, 'From-Path') && header(frame, 'To-Path')) {
            this.#answer(frame, 400, 'Bad Request');
        } else if (!frame) {
            this.#end(error);
        }
    }

    #dispatch(frame) {
        if (frame.status !== null) {
            const asked = this.#asked.get(frame.tid);
            if (asked) asked.resolve(frame);
            else this.#outbox.answered(frame.tid, frame.status, frame.comment);
            return;
        }
        const to = parsePath(header(frame, 'To-Path'));
        const from = parsePath(header(frame, 'From-Path'));
        if (!to || !from) throw new MsrpError('protocol', 'A request without a path');
        const ours = to.length === 1 && sameUri(to[0], this.#ownUri);
        if (frame.method === 'REPORT') {
            if (ours) this.#reportCame(frame);
            return;
        }
        if (!ours || this.#state !== 'open' || !this.#isFromPeer(from)) {
            this.#answer(frame, 481, 'No such session');
        } else if (frame.method !== 'SEND') {
            this.#answer(frame, 501, 'Not Implemented');
        } else if (frame.body === null) {
            this.#answer(frame, 200, 'OK');
        } else {
            this.#inbox.chunk(frame);
        }
    }

    #reportCame(frame) {
        const status = /^000\s+(\d{3})(?:\s+(.*))?$/.exec(header(frame, 'Status') ?? '');
        const id = header(frame, 'Message-ID');
        if (status && id) this.#outbox.reported(id, Number(status[1]), status[2] ?? '', byteRange(frame));
    }

    /** The last URI tells who it is; those before it are relays, which may be renewed. */
    #isFromPeer(from) {
        if (this.#peer) return sameUri(from.at(-1), this.#peer.at(-1));
        if (!this.#options.acceptPeer) return false;
        const relays = this.#usePath.length;
        const behind = from.length > relays ? from.slice(relays) : from;
        this.#peer = behind;
        this.#emit('peer', { path: this.peer });
        return true;
    }

    #answer(frame, status, comment) {
        const wanted = (header(frame, 'Failure-Report') ?? 'yes').toLowerCase();
        if (frame.method === 'REPORT') return;
        if (frame.method === 'SEND' && (wanted === 'no' || (wanted === 'partial' && status === 200))) return;
        const from = header(frame, 'From-Path').trim();
        // To a SEND each hop answers for itself; other answers go all the way (RFC 4975, 7.2).
        const back = frame.method === 'SEND' ? from.split(/\s+/)[0] : from;
        const own = header(frame, 'To-Path').trim().split(/\s+/)[0];
        this.#transmit(response(frame.tid, status, comment, [['To-Path', back], ['From-Path', own]]));
    }

    #report({ back, messageId, bytes }, status, comment) {
        const { bytes: frame } = request('REPORT', [
            ['To-Path', back],
            ['From-Path', this.#ownUri],
            ['Message-ID', messageId],
            ['Byte-Range', `1-${bytes ?? '*'}/${bytes ?? '*'}`],
            ['Status', `000 ${status} ${comment}`],
        ]);
        this.#transmit(frame);
    }

    // -- time -------------------------------------------------------------------------------------

    /** Gives up what does not move. As messages pace themselves, it needs no exact clock. */
    #watch() {
        const buffered = this.#socket?.bufferedAmount ?? 0;
        if (buffered !== this.#lastBuffered || !this.#outbox.busy) this.#lastIn = now();
        this.#lastBuffered = buffered;
        if (now() - this.#lastIn > this.#options.idleTimeout * 1000) {
            this.#outbox.close(new MsrpError('timeout', `Nothing moved for ${this.#options.idleTimeout} s`));
        }
        this.#outbox.pump();
    }

    #after(seconds, action) {
        const timer = setTimeout(() => {
            this.#timers.delete(cancel);
            action();
        }, Math.min(seconds * 1000, 2 ** 31 - 1));
        const cancel = () => {
            clearTimeout(timer);
            this.#timers.delete(cancel);
        };
        this.#timers.add(cancel);
        return cancel;
    }

    #every(seconds, action) {
        const timer = setInterval(action, seconds * 1000);
        this.#timers.add(() => clearInterval(timer));
    }

    // -- telling the page -------------------------------------------------------------------------

    #become(state) {
        if (this.#state === state) return;
        this.#state = state;
        this.dispatchEvent(new Event('state'));
    }

    #emit(name, detail) {
        this.dispatchEvent(new CustomEvent(name, { detail }));
    }

    #mustBeOpen() {
        if (this.#state !== 'open') throw new MsrpError('usage', 'the session is not open');
    }

    #mustHavePeer() {
        this.#mustBeOpen();
        if (!this.#peer) throw new MsrpError('usage', 'the other side is not known: setPeer first');
    }
}

function now() {
    return performance.now();
}
