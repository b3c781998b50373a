// The page's side of the worker: a promise for each request. Without workers the same work is done in the page.

import { Files, hashBlob, pause } from './files.js';

const WORKER = new URL('./worker.js', import.meta.url);

/** Does the work in a worker, which is started with the first request. */
class WorkerDesk {
    #worker;
    #waiting = new Map();
    #last = 0;

    constructor(worker) {
        this.#worker = worker;
        worker.onmessage = ({ data: { id, result, error, progress } }) => {
            const request = this.#waiting.get(id);
            if (!request) return;
            if (progress !== undefined) {
                request.progress?.(progress);
                return;
            }
            this.#waiting.delete(id);
            if (error) request.reject(Object.assign(new Error(error.message), { name: error.name }));
            else request.resolve(result);
        };
        worker.onerror = (event) => {
            event.preventDefault?.();
            this.#close(new Error(event.message || 'the worker could not be started'));
        };
    }

    get ended() {
        return this.#worker === null;
    }

    ask(operation, argument, { transfer = [], progress, signal } = {}) {
        if (!this.#worker) return Promise.reject(new Error('the worker has ended'));
        const id = ++this.#last;
        return new Promise((resolve, reject) => {
            this.#waiting.set(id, { resolve, reject, progress });
            signal?.addEventListener('abort', () => this.#worker?.postMessage({ operation: 'stop', argument: id }));
            this.#worker.postMessage({ id, operation, argument }, transfer);
        });
    }

    #close(error) {
        this.#worker?.terminate();
        this.#worker = null;
        for (const { reject } of this.#waiting.values()) reject(error);
        this.#waiting.clear();
    }
}

/** Does the work here. */
class LocalDesk {
    #files = new Files();
    #turn = Promise.resolve();

    ask(operation, argument, { progress, signal } = {}) {
        if (operation === 'hash') {
            return hashBlob(argument, (bytes) => (progress?.(bytes), signal?.aborted ?? false));
        }
        if (operation === 'pause') return pause(argument);
        const done = this.#turn.then(() => this.#files[operation](argument));
        this.#turn = done.catch(() => {});
        return done;
    }
}

/** @param {(() => Worker)} [start] for pages that load this library from another origin, where workers may not come from */
export function openDesk(start) {
    if (start) return new WorkerDesk(start());
    if (typeof Worker === 'undefined') return new LocalDesk();
    return new WorkerDesk(new Worker(WORKER, { type: 'module', name: 'msrp' }));
}
