// Messages on their way in. A chunk is answered when it is stored, and not before: a WebSocket cannot be told to wait, so the
// relay takes the answers for it, and keeps no more than its window on the way (the relay's `websocket.window`).

import { isTalk, mediaType, parseDisposition, safeName, spoken } from './disposition.js';
import { MsrpError } from './errors.js';
import { byteRange, header } from './frame.js';
import { RangeSet } from './ranges.js';

const REFUSED_MAX = 256;
/** Longer text is a file. */
const TALK_BYTES_MAX = 64 * 1024;
let lastFile = 0;

/** A file that is arriving. Events: `progress`. */
export class Incoming extends EventTarget {
    #inbox;
    #key;

    constructor(inbox, key, description) {
        super();
        this.#inbox = inbox;
        this.#key = key;
        Object.assign(this, description);
        this.received = 0;
        this.done = new Promise((resolve, reject) => {
            Object.defineProperty(this, 'settle', { value: { resolve, reject } });
        });
        // The page may look at it later, or never.
        this.done.catch(() => {});
    }

    /** Gives it up: the sender is told 413 when its next chunk comes. */
    abort() {
        this.#inbox.giveUp(this.#key, new MsrpError('aborted'), { refuse: true });
    }
}

export class Inbox {
    #open = new Map();
    #refused = new Set();
    #unstored = 0;
    #desk;
    #limits;
    #hooks;

    /**
     * @param {{fileBytesMax: number, filesOpenMax: number, unstoredBytesMax: number, answerEvery: number, disk: boolean}} limits
     * @param {{desk: () => object, file: (file: Incoming) => void, talk: (said: object) => void,
     *     answer: (frame: object, status: number, comment: string) => void,
     *     report: (subject: object, status: number, comment: string) => void,
     *     accept: (file: object) => boolean | Promise<boolean>}} hooks
     */
    constructor(limits, hooks) {
        this.#limits = limits;
        this.#hooks = hooks;
        this.#desk = hooks.desk;
    }

    get busy() {
        return this.#open.size > 0;
    }

    /** A chunk that is for us. */
    chunk(frame) {
        const from = header(frame, 'From-Path').split(/\s+/).at(-1);
        const key = `${header(frame, 'Message-ID') ?? ''} ${from}`;
        if (this.#refused.has(key)) {
            this.#hooks.answer(frame, 413, 'Given up');
            return;
        }
        const range = byteRange(frame);
        let message = this.#open.get(key);
        if (!message) {
            const { refusal, begun } = this.#begin(key, frame, range);
            if (refusal) {
                this.#refuse(key);
                this.#hooks.answer(frame, 413, refusal);
                return;
            }
            message = begun;
        }
        if (frame.flag === '#' && message.waiting) {
            // Nothing is left to decide about.
            this.#hooks.answer(frame, 200, 'OK');
            this.giveUp(key, new MsrpError('aborted-by-peer'));
            return;
        }
        const start = range ? range.start : message.ranges.end;
        const end = start + frame.body.length;
        if (message.total !== null && end > message.total) {
            this.#fail(key, frame, new MsrpError('size'), 'Not the announced size');
        } else if (end > this.#limits.fileBytesMax) {
            this.#fail(key, frame, new MsrpError('too-large'), 'Too large');
        } else if (this.#unstored > 0 && this.#unstored + frame.body.length > this.#limits.unstoredBytesMax) {
            this.#fail(key, frame, new MsrpError('storage', 'It comes faster than it can be stored'), 'Too fast');
        } else {
            void this.#store(message, frame, start, end);
        }
    }

    #begin(key, frame, range) {
        const contentType = header(frame, 'Content-Type') ?? 'application/octet-stream';
        const disposition = parseDisposition(header(frame, 'Content-Disposition'));
        const total = range?.total ?? null;
        if (total !== null && disposition.size !== null && total !== disposition.size) {
            return { refusal: 'Not the announced size' };
        }
        const size = total ?? disposition.size;
        const fits = size === null ? frame.flag === '$' : size <= TALK_BYTES_MAX;
        const talk = fits && isTalk(contentType, disposition);
        if (!talk && (size ?? 0) > this.#limits.fileBytesMax) return { refusal: 'Too large' };
        if (this.#open.size >= this.#limits.filesOpenMax) return { refusal: 'Too many messages at once' };
        const message = {
            key,
            total: size,
            ranges: new RangeSet(),
            ended: false,
            contentType,
            announced: disposition.sha256,
            report: {
                back: header(frame, 'From-Path'),
                messageId: header(frame, 'Message-ID') ?? '',
                success: header(frame, 'Success-Report')?.toLowerCase() === 'yes',
                failure: header(frame, 'Failure-Report')?.toLowerCase() !== 'no',
            },
        };
        if (talk) {
            message.held = new Uint8Array(size ?? frame.body.length);
        } else {
            message.id = `${++lastFile}`;
            message.waiting = [];
            message.file = new Incoming(this, key, {
                id: message.id,
                name: safeName(disposition.name, contentType.startsWith('text/') ? 'message.txt' : 'message.bin'),
                type: mediaType(contentType),
                size,
                sha256: disposition.sha256,
            });
            message.ready = this.#prepare(message);
            // It is looked at where the first chunk is stored.
            message.ready.catch(() => {});
        }
        this.#open.set(key, message);
        return { begun: message };
    }

    async #prepare(message) {
        const { id, file } = message;
        const wanted = this.#hooks.accept(file);
        if (typeof wanted?.then === 'function') void this.#answerMeanwhile(message).catch(() => {});
        if (!(await wanted)) throw new MsrpError('refused', 'This file was not accepted here');
        message.waiting = null;
        await this.#desk().ask('open', { id, type: file.type, size: file.size, disk: this.#limits.disk });
        if (this.#open.get(message.key) === message) this.#hooks.file(file);
    }

    /**
     * A relay gives up a client that answers nothing for 30 s (RFC 4976, 6.4.1). As long as it is not decided whether a file
     * is wanted, one chunk is answered now and then; what has come waits in memory.
     */
    async #answerMeanwhile(message) {
        for (;;) {
            await this.#desk().ask('pause', { seconds: this.#limits.answerEvery });
            if (!message.waiting || this.#open.get(message.key) !== message) return;
            const frame = message.waiting.shift();
            if (frame) {
                this.#hooks.answer(frame, 200, 'OK');
                frame.answered = true;
                message.answeredEarly = true;
            }
        }
    }

    #answer(frame, status, comment) {
        if (!frame.answered) this.#hooks.answer(frame, status, comment);
    }

    async #store(message, frame, start, end) {
        const { key } = message;
        const length = frame.body.length;
        this.#unstored += length;
        try {
            if (message.held) {
                message.held.set(frame.body, start);
            } else {
                message.waiting?.push(frame);
                await message.ready;
                // A message of the WebSocket is a buffer of its own: it goes to the worker as it is.
                const argument = { id: message.id, at: start, bytes: frame.body };
                await this.#desk().ask('write', argument, { transfer: [frame.body.buffer] });
            }
        } catch (error) {
            const ours = error instanceof MsrpError;
            const failure = ours ? error : new MsrpError('storage', error.message, { cause: error });
            this.#fail(key, frame, failure, ours ? 'Not accepted' : 'The receiver cannot store it');
            return;
        } finally {
            this.#unstored -= length;
        }
        if (this.#open.get(key) !== message) {
            this.#answer(frame, 413, 'Given up');
            return;
        }
        this.#stored(message, frame, start, end);
    }

    #stored(message, frame, start, end) {
        const { key, ranges, file } = message;
        if (!ranges.add(start, end)) {
            this.#fail(key, frame, new MsrpError('storage', 'Its chunks are scattered too widely'), 'Too scattered');
            return;
        }
        if (frame.flag === '$') {
            message.total ??= end;
            if (message.total !== end) {
                this.#fail(key, frame, new MsrpError('size'), 'Not the announced size');
                return;
            }
            message.ended = true;
        }
        this.#answer(frame, 200, 'OK');
        if (frame.flag === '#') {
            this.giveUp(key, new MsrpError('aborted-by-peer'));
            return;
        }
        if (file) {
            file.received = ranges.bytes;
            file.dispatchEvent(new Event('progress'));
        }
        if (message.ended && ranges.covers(message.total)) void this.#complete(message);
    }

    async #complete(message) {
        const { key, total, report, file } = message;
        this.#open.delete(key);
        const subject = { ...report, bytes: total };
        if (message.held) {
            if (report.success) this.#hooks.report(subject, 200, 'OK');
            const said = spoken(message.contentType, message.held);
            if (said) this.#hooks.talk(said);
            return;
        }
        try {
            const { blob, sha256 } = await this.#desk().ask('finish', { id: message.id, size: total });
            if (message.announced !== null && message.announced !== sha256) throw new MsrpError('hash');
            if (report.success) this.#hooks.report(subject, 200, 'OK');
            const discard = () => this.#desk().ask('discard', { id: message.id }).then(() => {});
            const verified = message.announced !== null;
            file.settle.resolve({ blob, name: file.name, type: file.type, size: total, sha256, verified, discard });
        } catch (error) {
            const wrong = error instanceof MsrpError;
            const comment = wrong ? 'Not the announced hash' : 'The receiver cannot store it';
            if (report.failure) this.#hooks.report(subject, 413, comment);
            this.#discard(message);
            file.settle.reject(wrong ? error : new MsrpError('storage', error.message, { cause: error }));
        }
    }

    #fail(key, frame, error, comment) {
        this.#answer(frame, 413, comment);
        const message = this.#open.get(key);
        // The sender may have an answer for all of it already.
        if (message?.answeredEarly && message.report.failure) {
            this.#hooks.report({ ...message.report, bytes: message.total }, 413, comment);
        }
        this.giveUp(key, error, { refuse: true });
    }

    /** Ends a message that is arriving. With `refuse`, what else comes of it is answered 413. */
    giveUp(key, error, { refuse = false } = {}) {
        const message = this.#open.get(key);
        if (!message) return;
        this.#open.delete(key);
        if (refuse) this.#refuse(key);
        this.#discard(message);
        message.file?.settle.reject(error);
    }

    /** The connection has ended, and with it all that was arriving. */
    close(error) {
        for (const key of [...this.#open.keys()]) this.giveUp(key, error);
        this.#refused.clear();
    }

    #discard(message) {
        if (message.file) this.#desk().ask('discard', { id: message.id }).catch(() => {});
    }

    #refuse(key) {
        this.#refused.add(key);
        if (this.#refused.size > REFUSED_MAX) this.#refused.delete(this.#refused.values().next().value);
    }
}
