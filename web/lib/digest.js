// Digest authentication as RFC 4976, 5.1 and 9.1 have it: the method is AUTH, the URI is the last of To-Path, there is no
// `uri` parameter. SHA-256 (RFC 7616) before MD5, where the relay offers both.

import { hex, Sha256 } from './sha256.js';
import { md5 } from './md5.js';
import { randomToken } from './frame.js';

const HASHES = {
    'SHA-256': (bytes) => new Sha256().update(bytes).digest(),
    MD5: md5,
};
/** Strongest first. */
export const ALGORITHMS = Object.freeze(Object.keys(HASHES));

/** `name=value, name="value"` as a map with names in lower case; the first of a name counts. */
export function parseParameters(text) {
    const found = new Map();
    const pattern = /([\w*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))/g;
    for (const [, name, quoted, plain] of text.matchAll(pattern)) {
        const key = name.toLowerCase();
        if (!found.has(key)) found.set(key, quoted === undefined ? plain : quoted.replace(/\\(.)/g, '$1'));
    }
    return found;
}

/**
 * The strongest challenge that can be answered, or null.
 * @param {string[]} values of the WWW-Authenticate headers
 * @param {readonly string[]} allowed algorithms
 */
export function chooseChallenge(values, allowed = ALGORITHMS) {
    let best = null;
    for (const value of values) {
        const scheme = /^\s*digest\s+/i.exec(value);
        if (!scheme) continue;
        const parameters = parseParameters(value.slice(scheme[0].length));
        const wanted = (parameters.get('algorithm') ?? 'MD5').toUpperCase();
        const rank = ALGORITHMS.indexOf(wanted);
        const qops = (parameters.get('qop') ?? '').split(',').map((qop) => qop.trim().toLowerCase());
        if (rank < 0 || !allowed.includes(wanted) || !qops.includes('auth')) continue;
        if (!parameters.has('realm') || !parameters.has('nonce')) continue;
        if (best && best.rank <= rank) continue;
        best = {
            rank,
            algorithm: wanted,
            realm: parameters.get('realm'),
            nonce: parameters.get('nonce'),
            opaque: parameters.get('opaque'),
            stale: parameters.get('stale')?.toLowerCase() === 'true',
        };
    }
    return best;
}

/** One answer to a challenge: the Authorization header, and the proof that the relay must give in return. */
export function answerChallenge(challenge, { user, password, uri, cnonce = randomToken(20), nc = '00000001' }) {
    const hash = (text) => hex(HASHES[challenge.algorithm](new TextEncoder().encode(text)));
    const ha1 = hash(`${user}:${challenge.realm}:${password}`);
    const keyed = (ha2) => hash([ha1, challenge.nonce, nc, cnonce, 'auth', ha2].join(':'));
    const parts = [
        `username=${quoted(user)}`,
        `realm=${quoted(challenge.realm)}`,
        `nonce=${quoted(challenge.nonce)}`,
        `response="${keyed(hash(`AUTH:${uri}`))}"`,
    ];
    if (challenge.opaque !== undefined) parts.push(`opaque=${quoted(challenge.opaque)}`);
    parts.push(`cnonce="${cnonce}"`, 'qop=auth', `nc=${nc}`, `algorithm=${challenge.algorithm}`);
    return { authorization: `Digest ${parts.join(', ')}`, proof: keyed(hash(`:${uri}`)) };
}

function quoted(text) {
    return `"${text.replace(/["\\]/g, '\\$&')}"`;
}
