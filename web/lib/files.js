// Where received files are kept, and hashed while they come. It runs in a worker, so that the page does not stand still; where
// there are no workers, in the page.
//
// Large files go to the origin private file system, which browsers have on disk. Without it, as in some private windows, they
// are kept as Blobs, which browsers may move to disk. A file is read a second time only if its chunks came out of order.

import { hex, Sha256 } from './sha256.js';

const DIRECTORY = 'msrp';
/** Blobs are made of pieces of this size: each costs the browser some work. */
const PART_BYTES = 1024 * 1024;
const READ_BYTES = 1024 * 1024;
/** What is smaller is not worth a file. */
const DISK_BYTES_MIN = 4 * 1024 * 1024;

/** SHA-256 of a Blob, as hexadecimal digits. `progress` is told the bytes read; it returns true to stop. */
export async function hashBlob(blob, progress = () => false) {
    const hash = new Sha256();
    for (let at = 0; at < blob.size; at += READ_BYTES) {
        hash.update(new Uint8Array(await blob.slice(at, at + READ_BYTES).arrayBuffer()));
        if (progress(Math.min(at + READ_BYTES, blob.size))) return null;
    }
    return hex(hash.digest());
}

/** Browsers slow down the timers of pages in the background, and leave those of workers alone. */
export function pause({ seconds }) {
    return new Promise((resolve) => {
        const timer = setTimeout(resolve, seconds * 1000);
        // It is no reason for node to stay.
        timer.unref?.();
    });
}

/** The files that one page receives. */
export class Files {
    #open = new Map();
    #room = null;

    /** @param {{id: string, type: string, size: number|null, disk: boolean}} file */
    async open({ id, type, size, disk }) {
        const onDisk = disk && (size === null || size >= DISK_BYTES_MIN) ? await this.#create(id) : null;
        this.#open.set(id, { hash: new Sha256(), hashed: 0, store: onDisk ?? new Parts(type) });
        return onDisk !== null;
    }

    /** Stores bytes at a place, counted from 0. */
    write({ id, at, bytes }) {
        const file = this.#open.get(id);
        if (!file) throw new Error('this file is not open');
        file.store.write(at, bytes);
        if (at === file.hashed) {
            file.hash.update(bytes);
            file.hashed += bytes.length;
        }
    }

    /** @returns {Promise<{blob: Blob, sha256: string}>} */
    async finish({ id, size }) {
        const file = this.#open.get(id);
        if (!file) throw new Error('this file is not open');
        this.#open.delete(id);
        const blob = await file.store.finish(size);
        if (blob.size !== size) throw new Error('not all bytes are there');
        return { blob, sha256: file.hashed === size ? hex(file.hash.digest()) : await hashBlob(blob) };
    }

    /** Gives a file up that is being received, or that was. */
    async discard({ id }) {
        const file = this.#open.get(id);
        this.#open.delete(id);
        file?.store.close();
        const room = await this.#room;
        await room?.removeEntry(id).catch(() => {});
    }

    async #create(id) {
        try {
            this.#room ??= makeRoom();
            const room = await this.#room;
            const handle = await room.getFileHandle(id, { create: true });
            return new DiskFile(handle, await handle.createSyncAccessHandle());
        } catch {
            // No such file system here, or no more room in it: memory may do.
            return null;
        }
    }
}

/** A directory for this page. What pages left behind that are gone is removed: each page holds a lock on its own. */
async function makeRoom() {
    const root = await navigator.storage.getDirectory();
    const all = await root.getDirectoryHandle(DIRECTORY, { create: true });
    const name = crypto.randomUUID();
    await new Promise((resolve, reject) => {
        navigator.locks.request(`${DIRECTORY}/${name}`, () => (resolve(), new Promise(() => {}))).catch(reject);
    });
    const room = await all.getDirectoryHandle(name, { create: true });
    for await (const other of all.keys()) {
        if (other === name) continue;
        await navigator.locks.request(`${DIRECTORY}/${other}`, { ifAvailable: true }, async (lock) => {
            if (lock) await all.removeEntry(other, { recursive: true }).catch(() => {});
        });
    }
    return room;
}

class DiskFile {
    #handle;
    #access;

    constructor(handle, access) {
        this.#handle = handle;
        this.#access = access;
    }

    write(at, bytes) {
        if (this.#access.write(bytes, { at }) !== bytes.length) throw new Error('the disk took only a part');
    }

    async finish() {
        this.#access.flush();
        this.close();
        return this.#handle.getFile();
    }

    close() {
        this.#access.close();
    }
}

/** A file as Blobs. */
class Parts {
    #type;
    #parts = [];
    #pending = [];
    #pendingAt = 0;
    #pendingBytes = 0;

    constructor(type) {
        this.#type = type;
    }

    write(at, bytes) {
        if (at !== this.#pendingAt + this.#pendingBytes) this.#seal();
        if (this.#pendingBytes === 0) this.#pendingAt = at;
        this.#pending.push(bytes);
        this.#pendingBytes += bytes.length;
        if (this.#pendingBytes >= PART_BYTES) this.#seal();
    }

    #seal() {
        if (this.#pendingBytes === 0) return;
        this.#parts.push({ at: this.#pendingAt, blob: new Blob(this.#pending) });
        this.#pending = [];
        this.#pendingBytes = 0;
    }

    async finish() {
        this.#seal();
        const pieces = [];
        let end = 0;
        for (const { at, blob } of this.#parts.sort((one, other) => one.at - other.at)) {
            if (at > end) throw new Error('a part is missing');
            if (at + blob.size <= end) continue;
            pieces.push(blob.slice(end - at));
            end = at + blob.size;
        }
        return new Blob(pieces, { type: this.#type });
    }

    close() {
        this.#parts = [];
        this.#pending = [];
    }
}
