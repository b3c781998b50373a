// Messages on their way out. What may be sent is decided where something has come in: by the answers to chunks, and by how much
// the browser still holds (`bufferedAmount`). Timers would be slowed down in background tabs.

import { MsrpError, failureOf } from './errors.js';
import { randomToken, request } from './frame.js';
import { RangeSet } from './ranges.js';

/** A file is read in pieces of this size, each of which costs the browser some work. */
const READ_BYTES = 1024 * 1024;

/** A message that is being sent. Events: `progress`, when `phase`, `hashed`, `sent` or `acknowledged` has changed. */
export class Outgoing extends EventTarget {
    #outbox;

    constructor(outbox, description) {
        super();
        this.#outbox = outbox;
        Object.assign(this, description);
        this.id = randomToken(16);
        /** waiting, hashing, sending, confirming, done, failed */
        this.phase = 'waiting';
        this.hashed = 0;
        this.sent = 0;
        this.acknowledged = 0;
        this.done = new Promise((resolve, reject) => {
            Object.defineProperty(this, 'settle', { value: { resolve, reject } });
        });
        this.done.catch(() => {});
    }

    /** Stops it. What has arrived of it is worth nothing to the other side, which is told so. */
    abort() {
        this.#outbox.fail(this, new MsrpError('aborted'), { tell: true });
    }

    tell(phase = this.phase) {
        this.phase = phase;
        this.dispatchEvent(new Event('progress'));
    }
}

export class Outbox {
    #session;
    #limits;
    #active = [];
    #byTid = new Map();
    #byId = new Map();
    #unanswered = 0;

    /**
     * @param {{transmit: (bytes: Uint8Array) => void, buffered: () => number, paths: () => [string, string][]}} session
     * @param {{chunkBytes: number, windowBytes: number, bufferBytes: number}} limits
     */
    constructor(session, limits) {
        this.#session = session;
        this.#limits = limits;
    }

    get busy() {
        return this.#byId.size > 0;
    }

    /** Queues a message whose content is there, or can be read. Returns at once. */
    begin(message, { blob, fields, successReport, failureReport }) {
        const work = {
            message,
            blob,
            fields,
            successReport,
            failureReport,
            at: 0,
            block: null,
            blockAt: 0,
            next: null,
            over: false,
            started: false,
            answered: new RangeSet(),
            reported: new RangeSet(),
            open: 0,
        };
        message.phase = 'sending';
        this.#byId.set(message.id, work);
        this.#active.push(work);
        this.pump();
    }

    /** Sends what may be sent now, a chunk of each message in turn. */
    pump() {
        while (this.#active.length > 0) {
            const ready = this.#active.findIndex((work) => this.#mayGo(work));
            if (ready < 0) return;
            const [work] = this.#active.splice(ready, 1);
            this.#chunk(work);
            if (!work.over) this.#active.push(work);
        }
    }

    #mayGo(work) {
        const { chunkBytes, windowBytes, bufferBytes } = this.#limits;
        const size = work.message.size;
        // Text of one chunk does not wait behind files.
        if (size > chunkBytes || work.message.name !== null) {
            const next = Math.min(chunkBytes, size - work.at);
            if (this.#unanswered > 0 && this.#unanswered + next > windowBytes) return false;
            if (this.#session.buffered() > bufferBytes) return false;
        }
        if (work.at === size || (work.block && work.at < work.blockAt + work.block.length)) return true;
        this.#read(work);
        return Boolean(work.block && work.at < work.blockAt + work.block.length);
    }

    /** Takes the block that was read ahead, and reads the next one. */
    #read(work) {
        if (work.ahead && work.ahead.bytes) {
            work.block = work.ahead.bytes;
            work.blockAt = work.ahead.at;
            work.ahead = null;
        }
        const from = work.block ? work.blockAt + work.block.length : 0;
        if (work.ahead || from >= work.message.size) return;
        const ahead = { at: from, bytes: null };
        work.ahead = ahead;
        const { blob } = work;
        const length = Math.min(READ_BYTES, work.message.size - from);
        if (blob instanceof Uint8Array) {
            ahead.bytes = blob.subarray(from, from + length);
            if (!work.block) this.#read(work);
            return;
        }
        blob.slice(from, from + length).arrayBuffer().then(
            (buffer) => {
                // A file that has become shorter is read as what is left of it.
                if (buffer.byteLength !== length) throw new Error('it has become shorter');
                ahead.bytes = new Uint8Array(buffer);
                this.pump();
            },
        ).catch((error) => {
            this.fail(work.message, new MsrpError('read', undefined, { cause: error }), { tell: true });
        });
    }

    #chunk(work) {
        const { message } = work;
        const from = work.at - work.blockAt;
        const body = work.block ? work.block.subarray(from, from + this.#limits.chunkBytes) : new Uint8Array(0);
        const start = work.at;
        const end = start + body.length;
        const last = end === message.size;
        const { tid, bytes } = request('SEND', this.#head(work, start, end), body, last ? '$' : '+');
        work.started = true;
        work.at = end;
        work.over = last;
        message.sent = end;
        if (work.failureReport === 'yes') {
            this.#byTid.set(tid, { work, start, end });
            this.#unanswered += body.length;
            work.open += 1;
        }
        this.#session.transmit(bytes);
        message.tell(last ? 'confirming' : 'sending');
        if (last) this.#settle(work);
    }

    #head(work, start, end) {
        const { message, successReport, failureReport, fields } = work;
        const head = [...this.#session.paths(), ['Message-ID', message.id]];
        if (successReport) head.push(['Success-Report', 'yes']);
        if (failureReport !== 'yes') head.push(['Failure-Report', failureReport]);
        // Without content only an empty message has an end; the end of one that is given up is not known.
        const until = end > start || message.size === 0 ? end : '*';
        head.push(['Byte-Range', `${start + 1}-${until}/${message.size}`]);
        return [...head, ...fields];
    }

    /** A response. Returns whether it was for a chunk of ours. */
    answered(tid, status, comment) {
        const chunk = this.#byTid.get(tid);
        if (!chunk) return false;
        const { work, start, end } = chunk;
        this.#byTid.delete(tid);
        this.#unanswered -= end - start;
        work.open -= 1;
        if (this.#byId.get(work.message.id) === work) {
            if (status >= 200 && status < 300) {
                work.answered.add(start, end);
                work.message.acknowledged = work.answered.bytes;
                work.message.tell();
                this.#settle(work);
            } else {
                // 413 and its like come from who has stopped listening: nothing more is said to it.
                this.fail(work.message, failureOf(status, comment));
            }
        }
        this.pump();
        return true;
    }

    /** A REPORT. */
    reported(messageId, status, comment, range) {
        const work = this.#byId.get(messageId);
        if (!work) return;
        if (status < 200 || status >= 300) {
            this.fail(work.message, failureOf(status, comment));
            return;
        }
        work.reported.add(range?.start ?? 0, range?.end ?? range?.total ?? work.message.size);
        work.confirmed = true;
        this.#settle(work);
    }

    #settle(work) {
        const { message } = work;
        if (!work.over || work.open > 0) return;
        if (work.successReport && !(work.confirmed && work.reported.covers(message.size))) return;
        this.#byId.delete(message.id);
        message.tell('done');
        message.settle.resolve({ bytes: message.size, sha256: message.sha256, confirmed: work.successReport });
    }

    /** Ends a message. With `tell`, the other side gets to know that no more of it comes. */
    fail(message, error, { tell = false } = {}) {
        if (message.phase === 'done' || message.phase === 'failed') return;
        message.cancel?.abort();
        const work = this.#byId.get(message.id);
        this.#byId.delete(message.id);
        this.#active = this.#active.filter((other) => other !== work);
        if (work && tell && work.started && !work.over) {
            const { bytes } = request('SEND', [...this.#head(work, work.at, work.at)], new Uint8Array(0), '#');
            this.#session.transmit(bytes);
        }
        if (work) work.over = true;
        message.tell('failed');
        message.settle.reject(error);
        this.pump();
    }

    /** The connection has ended. */
    close(error) {
        for (const { message } of [...this.#byId.values()]) this.fail(message, error);
        this.#byTid.clear();
        this.#unanswered = 0;
    }
}
