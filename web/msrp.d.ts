/** An MSRP client for web pages: MSRP over WebSocket (RFC 7977), through a relay (RFC 4976). */

export type ErrorCode =
    | 'usage' | 'connect' | 'credentials' | 'forbidden' | 'auth' | 'protocol' | 'timeout' | 'lost'
    | 'no-session' | 'unreachable' | 'refused' | 'unsupported-type' | 'too-large'
    | 'aborted' | 'aborted-by-peer' | 'read' | 'storage' | 'size' | 'hash';

/** What each code means, in words. */
export const ERROR_CODES: Readonly<Record<ErrorCode, string>>;

/** All errors of this library are of this class. */
export class MsrpError extends Error {
    constructor(code: ErrorCode, message?: string, more?: { status?: number; comment?: string; cause?: unknown });
    readonly name: 'MsrpError';
    readonly code: ErrorCode;
    /** The status of the response or REPORT that told it, if one did. */
    readonly status: number | null;
    readonly comment: string;
}

export interface SessionOptions {
    /** The relay's WebSocket: `wss://relay.example.com/`. */
    url: string;
    /** `alice` or `alice@example.com`: what stands before the @ is the name in the digest. */
    user: string;
    password: string;
    /** What AUTH is addressed to. Default: `msrps://NAME@HOST:PORT;ws`, from `user` and `url`. The SIP domain, for one: `msrps://example.com;tcp`. */
    authUri?: string;
    /** The transport in the page's own URI. `ws` is RFC 7977's; some clients accept no other than `tcp`. Default: `tcp`. */
    transport?: 'tcp' | 'ws';
    /** The digests that may be used; the first that the relay offers, too, is. Default: both. */
    algorithms?: readonly ('SHA-256' | 'MD5')[];
    /** How long the session is to last without renewal, in seconds. It is renewed when half of it is over. Default: as the relay has it. */
    expires?: number | null;
    /** The first that writes is the other side, if `setPeer` has named none. Default: true. */
    acceptPeer?: boolean;
    /** Open the session anew when the connection is lost: with another path, which the other side must be told. Default: false. */
    reconnect?: boolean;
    /** Default: 8. */
    reconnectAttemptsMax?: number;
    /** Seconds for the WebSocket, and for each answer to AUTH. Default: 10. */
    connectTimeout?: number;
    /** Seconds in which nothing moves until messages on the way are given up. Default: 120. */
    idleTimeout?: number;
    /** Seconds between two SENDs without a body, by which the end of the other side is noticed. Default: 20. */
    keepAlive?: number;
    /** The longest body of a frame that is sent. Default: 128 KiB. */
    chunkBytes?: number;
    /** Bytes of files that may wait for their answers. Default: 1 MiB. */
    windowBytes?: number;
    /** Bytes that the browser may hold (`bufferedAmount`) when a chunk of a file is added. Default: 1 MiB. */
    bufferBytes?: number;
    /** The longest file that is received. Default: 16 GiB. */
    fileBytesMax?: number;
    /** Messages that may be arriving at the same time. Default: 16. */
    filesOpenMax?: number;
    /** Bytes that have come and are not stored yet. A relay with a window never gets there. Default: 16 MiB. */
    unstoredBytesMax?: number;
    /** Files of 4 MiB and more go to the origin private file system where there is one. Default: true. */
    disk?: boolean;
    /**
     * Seconds between two answers to a sender whose file `accept` has not decided about. A relay gives a client up that answers
     * nothing for 30 s. Default: 15.
     */
    answerEvery?: number;
    /**
     * Whether a file is wanted. The sender waits meanwhile: for an hour, as what comes in each `answerEvery` is kept in memory
     * until it is more than `unstoredBytesMax`. Default: each is.
     */
    accept?: (file: Incoming) => boolean | Promise<boolean>;
    /** Makes the worker, where the library comes from another origin than the page. */
    startWorker?: () => Worker;
    /** For tests. */
    WebSocket?: typeof WebSocket;
}

export const DEFAULTS: Readonly<Partial<SessionOptions>>;

export type SessionState = 'new' | 'connecting' | 'authenticating' | 'open' | 'waiting' | 'closed';

export interface Grant {
    algorithm: 'SHA-256' | 'MD5' | null;
    realm: string | null;
    expires: number | null;
    /** Whether the relay has shown that it knows the password, too. */
    proved: boolean;
}

export interface SendOptions {
    /** Default: `text/plain; charset=utf-8`. */
    contentType?: string;
    /** Ask the other side to confirm it, and wait for that. Default: false. */
    successReport?: boolean;
    /** `no` and `partial` are for what fits into one chunk. Default: `yes`. */
    failureReport?: 'yes' | 'no' | 'partial';
    signal?: AbortSignal;
}

export interface SendFileOptions {
    /** Default: the file's own. */
    name?: string;
    /** Default: the file's own, or `application/octet-stream`. */
    type?: string;
    /** Compute the SHA-256 first, and tell it the other side. Default: true. */
    announceHash?: boolean;
    /** Default: true. */
    successReport?: boolean;
    signal?: AbortSignal;
}

interface SessionEventMap {
    /** `session.state` has changed. */
    state: Event;
    /** `session.path` is there, or another one: the other side must be told. */
    path: Event;
    /** The other side is known, or gone. */
    peer: CustomEvent<{ path: string | null; error?: MsrpError }>;
    /** A message of chat. */
    message: CustomEvent<{ text: string; contentType: string; from: string | null }>;
    /** A file that was accepted begins to arrive. */
    file: CustomEvent<{ file: Incoming }>;
    /** Something failed, and the session goes on. */
    warning: CustomEvent<{ error: MsrpError }>;
    /** The session has ended. */
    close: CustomEvent<{ error: MsrpError }>;
}

export class MsrpSession extends EventTarget {
    constructor(options: SessionOptions);
    readonly state: SessionState;
    /** For SDP's `a=path`; empty until the session is open. */
    readonly path: string;
    readonly peer: string | null;
    readonly grant: Grant | null;
    open(): Promise<void>;
    /** Names the other side, and binds the session to it. */
    setPeer(path: string): Promise<void>;
    send(content: string | Uint8Array | Blob, options?: SendOptions): Outgoing;
    sendFile(file: Blob, options?: SendFileOptions): Outgoing;
    reconnect(): Promise<void>;
    close(): void;
    addEventListener<Name extends keyof SessionEventMap>(
        name: Name, listener: (event: SessionEventMap[Name]) => void, options?: boolean | AddEventListenerOptions): void;
    addEventListener(name: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void;
}

/** `new MsrpSession(options)`, opened. */
export function connect(options: SessionOptions): Promise<MsrpSession>;

export interface Delivery {
    bytes: number;
    /** Hexadecimal; null if it was not computed. */
    sha256: string | null;
    /** Whether the other side has said that all of it has arrived. */
    confirmed: boolean;
}

/** A message on its way out. The event `progress` says that something below has changed. */
export interface Outgoing extends EventTarget {
    /** The Message-ID. */
    readonly id: string;
    /** Of a file. */
    readonly name: string | null;
    readonly type: string;
    readonly size: number;
    readonly sha256: string | null;
    readonly phase: 'waiting' | 'hashing' | 'sending' | 'confirming' | 'done' | 'failed';
    /** Bytes that were read for the SHA-256. */
    readonly hashed: number;
    /** Bytes that were handed to the browser. */
    readonly sent: number;
    /** Bytes that the relay has answered for. */
    readonly acknowledged: number;
    readonly done: Promise<Delivery>;
    abort(): void;
}

export interface Received {
    /** On disk, or held by the browser. Good until `discard`, or until the page goes. */
    blob: Blob;
    /** One visible component of a path, whatever was offered. */
    name: string;
    type: string;
    size: number;
    sha256: string;
    /** Whether the sender had announced that hash. */
    verified: boolean;
    /** Frees the space on disk. */
    discard(): Promise<void>;
}

/** A file on its way in. The event `progress` says that `received` has changed. */
export interface Incoming extends EventTarget {
    readonly id: string;
    readonly name: string;
    readonly type: string;
    /** Null if the sender has not said it. */
    readonly size: number | null;
    /** As the sender has announced it. */
    readonly sha256: string | null;
    /** Bytes that are stored. */
    readonly received: number;
    readonly done: Promise<Received>;
    abort(): void;
}
