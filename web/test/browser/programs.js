// Programs and files of the tests in a browser.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';

export async function hashOf(path) {
    const hash = createHash('sha256');
    for await (const piece of createReadStream(path)) hash.update(piece);
    return hash.digest('hex');
}

export function check(value, what) {
    if (!value) throw new Error(what);
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export async function until(what, limit, condition) {
    for (const end = Date.now() + limit * 1000; Date.now() < end; await pause(50)) {
        const value = condition();
        if (value) return value;
    }
    throw new Error(`${what}: not within ${limit} s`);
}

const children = new Set();
let programs = [];

/** Starts a program; what it says is in `output`. */
export function start(program, options, password) {
    const child = spawn(program, options, { env: { ...process.env, MSRP_PASSWORD: password }, stdio: ['ignore', 'pipe', 'pipe'] });
    const running = { name: program, output: '', status: null };
    for (const stream of [child.stdout, child.stderr]) {
        stream.on('data', (data) => {
            running.output += data;
        });
    }
    running.stop = () => child.kill();
    running.ended = new Promise((resolve) => {
        child.on('close', (status) => {
            children.delete(child);
            running.status = status;
            resolve(status);
        });
    });
    children.add(child);
    programs.push(running);
    return running;
}

/** Those that were started since the last call. */
export function takePrograms() {
    const taken = programs;
    programs = [];
    return taken;
}

export function stopPrograms() {
    for (const child of children) child.kill();
}
