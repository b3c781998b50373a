// The worker's side of desk.js: requests come as {id, operation, argument}, answers go back with the same id.

import { Files, hashBlob, pause } from './files.js';

const files = new Files();
const stopped = new Set();
// One after the other, so that chunks of a file are hashed in the order in which they came.
let turn = Promise.resolve();

self.onmessage = ({ data: { id, operation, argument } }) => {
    switch (operation) {
        case 'stop':
            stopped.add(argument);
            return;
        // These must not keep what is being received waiting.
        case 'hash':
            void answer(id, () => hash(id, argument));
            return;
        case 'pause':
            void answer(id, () => pause(argument));
            return;
        default:
            turn = turn.then(() => answer(id, () => files[operation](argument)));
    }
};

async function hash(id, blob) {
    let told = performance.now();
    const digest = await hashBlob(blob, (bytes) => {
        if (performance.now() - told > 100) {
            told = performance.now();
            self.postMessage({ id, progress: bytes });
        }
        return stopped.has(id);
    });
    stopped.delete(id);
    return digest;
}

async function answer(id, work) {
    try {
        self.postMessage({ id, result: await work() });
    } catch (error) {
        self.postMessage({ id, error: { name: error.name, message: error.message } });
    }
}
