// What a browser takes of the machine's memory, with all its processes.

import { readdirSync, readFileSync } from 'node:fs';

/** Bytes of anonymous and shared memory of a process and its descendants: what is on disk does not count. */
function memoryOf(root) {
    const processes = new Map();
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
        try {
            const status = readFileSync(`/proc/${pid}/status`, 'utf8');
            const field = (name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0);
            processes.set(pid, { parent: String(field('PPid')), kib: field('RssAnon') + field('RssShmem') });
        } catch {
            // It has ended meanwhile.
        }
    }
    const isOurs = (pid) => pid === root || (processes.has(pid) && isOurs(processes.get(pid).parent));
    let kib = 0;
    for (const [pid, process] of processes) if (isOurs(pid)) kib += process.kib;
    return kib * 1024;
}

/** Looks twice a second, from now to `stop`. */
export class MemoryWatch {
    #root;
    #timer;

    /** @param {string} root process id */
    constructor(root) {
        this.#root = root;
        this.first = memoryOf(root);
        this.peak = this.first;
        this.#timer = setInterval(() => this.#look(), 500);
    }

    #look() {
        this.peak = Math.max(this.peak, memoryOf(this.#root));
    }

    /** @returns {number} bytes by which it grew at most */
    stop() {
        clearInterval(this.#timer);
        this.#look();
        return this.peak - this.first;
    }
}
