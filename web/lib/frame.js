// MSRP frames and URIs (RFC 4975, 7.1 and 9). Over WebSocket a frame is a message of its own (RFC 7977, 5.1), so its end-line
// is at the end of the message and need not be searched for.

import { MsrpError } from './errors.js';

const HEAD_BYTES_MAX = 64 * 1024;
const HEADERS_MAX = 128;
const TOKEN_LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789';
const CR = 13;
const LF = 10;
const HYPHEN = 45;
const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8');

/** Letters and digits, each worth 5.9 bits, from the browser's source of secrets. */
export function randomToken(length) {
    let token = '';
    while (token.length < length) {
        for (const byte of crypto.getRandomValues(new Uint8Array(length))) {
            // Those above would favour the first letters.
            if (byte < 248 && token.length < length) token += TOKEN_LETTERS[byte % 62];
        }
    }
    return token;
}

/**
 * @typedef {object} Frame
 * @property {string} tid
 * @property {string|null} method null for a response
 * @property {number|null} status null for a request
 * @property {string} comment
 * @property {[string, string][]} headers
 * @property {Uint8Array|null} body null if there is none, which is not the same as an empty one
 * @property {'$'|'+'|'#'} flag
 */

/**
 * Reads the one frame of a WebSocket message. The body is a part of `bytes`, not a copy.
 * @param {Uint8Array} bytes
 * @returns {Frame|null} null for line ends alone, which keep a connection alive
 */
export function parseFrame(bytes) {
    if (bytes.every((byte) => byte === CR || byte === LF)) return null;
    let at = 0;
    const line = () => {
        const end = bytes.indexOf(LF, at);
        if (end <= 0 || bytes[end - 1] !== CR || end > HEAD_BYTES_MAX) throw malformed('a line has no end');
        const text = decoder.decode(bytes.subarray(at, end - 1));
        at = end + 1;
        return text;
    };
    const start = /^MSRP ([!-~]{1,128}) (?:([A-Z_]+)|(\d{3})(?: (.*))?)$/.exec(line());
    if (!start) throw malformed('no start line');
    const [, tid, method = null, digits, comment = ''] = start;
    const frame = { tid, method, status: digits ? Number(digits) : null, comment, headers: [], body: null, flag: '$' };
    const endLine = `-------${tid}`;
    for (;;) {
        const from = at;
        const text = line();
        if (text === '') {
            const tail = encoder.encode(`\r\n${endLine}`);
            const end = bytes.length - tail.length - 3;
            if (end < at || !tail.every((byte, index) => bytes[end + index] === byte)) throw malformed('no end-line');
            frame.body = bytes.subarray(at, end);
            frame.flag = flagOf(decoder.decode(bytes.subarray(end + 2, -2)), endLine);
            if (bytes.at(-2) !== CR || bytes.at(-1) !== LF) throw malformed('no end-line');
            return frame;
        }
        if (text.startsWith(endLine)) {
            frame.flag = flagOf(text, endLine);
            break;
        }
        const colon = text.indexOf(':');
        if (colon <= 0 || frame.headers.length === HEADERS_MAX) throw malformed(`a header at byte ${from}`);
        frame.headers.push([text.slice(0, colon), text.slice(colon + 1).trim()]);
    }
    if (at !== bytes.length) throw malformed('something follows the frame');
    return frame;
}

function flagOf(line, endLine) {
    const flag = line.slice(endLine.length);
    if (flag !== '$' && flag !== '+' && flag !== '#') throw malformed('no flag');
    return flag;
}

function malformed(what) {
    return new MsrpError('protocol', `What came is no MSRP frame: ${what}`);
}

/** The value of the first header of that name, or undefined. */
export function header(frame, name) {
    const wanted = name.toLowerCase();
    return frame.headers.find(([found]) => found.toLowerCase() === wanted)?.[1];
}

export function headers(frame, name) {
    const wanted = name.toLowerCase();
    return frame.headers.filter(([found]) => found.toLowerCase() === wanted).map(([, value]) => value);
}

/** Byte-Range with its first byte counted from 0: `{start, end, total}`, null where there is a star; null without the header. */
export function byteRange(frame) {
    const value = header(frame, 'Byte-Range');
    if (value === undefined) return null;
    const match = /^([1-9]\d{0,15})-(\*|\d{1,16})\/(\*|\d{1,16})$/.exec(value);
    if (!match) throw malformed('its Byte-Range');
    const number = (text) => (text === '*' ? null : Number(text));
    const range = { start: Number(match[1]) - 1, end: number(match[2]), total: number(match[3]) };
    if ([range.start, range.end, range.total].some((value) => value > Number.MAX_SAFE_INTEGER)) {
        throw malformed('its Byte-Range');
    }
    return range;
}

/**
 * A request as bytes. Header values must be free of line ends: what comes from outside is checked where it comes in.
 * @param {string} method
 * @param {[string, string][]} fields
 * @param {Uint8Array|null} body needs a Content-Type, last among the headers
 * @param {'$'|'+'|'#'} flag
 */
export function request(method, fields, body = null, flag = '$') {
    let tid = randomToken(16);
    // The body is there before the id is chosen, so no body can be made to hold it; yet chance can.
    while (body && holdsEndLine(body, tid)) tid = randomToken(16);
    return { tid, bytes: assemble(`MSRP ${tid} ${method}\r\n`, tid, fields, body, flag) };
}

export function response(tid, status, comment, fields) {
    return assemble(`MSRP ${tid} ${status} ${comment}\r\n`, tid, fields, null, '$');
}

function assemble(start, tid, fields, body, flag) {
    let head = start;
    for (const [name, value] of fields) {
        if (/[\r\n\0]/.test(value)) throw new MsrpError('usage', `${name} must not hold line ends`);
        head += `${name}: ${value}\r\n`;
    }
    const end = `-------${tid}${flag}\r\n`;
    if (body === null) return encoder.encode(head + end);
    const front = encoder.encode(`${head}\r\n`);
    const back = encoder.encode(`\r\n${end}`);
    const bytes = new Uint8Array(front.length + body.length + back.length);
    bytes.set(front);
    bytes.set(body, front.length);
    bytes.set(back, front.length + body.length);
    return bytes;
}

/** Whether `-------TID` stands anywhere in the body. */
export function holdsEndLine(body, tid) {
    // Of seven hyphens in a row one is at a place that seven divides.
    for (let at = 6; at < body.length; at += 7) {
        if (body[at] !== HYPHEN) continue;
        let first = at;
        while (first > 0 && body[first - 1] === HYPHEN) first--;
        let last = at;
        while (body[last + 1] === HYPHEN) last++;
        if (last - first >= 6 && startsWith(body, last + 1, tid)) return true;
        at = last;
    }
    return false;
}

function startsWith(body, at, text) {
    for (let index = 0; index < text.length; index++) {
        if (body[at + index] !== text.charCodeAt(index)) return false;
    }
    return true;
}

const URI = /^(msrps?):\/\/(?:[^@/;\s]+@)?(\[[0-9a-f:.]+\]|[\w.~%-]+)(?::(\d{1,5}))?(?:\/([\w.~+=/-]+))?;([a-z0-9]+)((?:;[^\s;]+)*)$/i;

/** @returns {{scheme, host, port, session, transport}|null} */
export function parseUri(text) {
    const match = URI.exec(text);
    if (!match || !isAscii(text)) return null;
    const [, scheme, host, port, session, transport] = match;
    return {
        scheme: scheme.toLowerCase(),
        host: host.toLowerCase(),
        port: port === undefined ? null : Number(port),
        session: session ?? null,
        transport: transport.toLowerCase(),
    };
}

function isAscii(text) {
    return /^[!-~]*$/.test(text);
}

/** Whether two URIs are the same (RFC 4975, 6.1). */
export function sameUri(a, b) {
    const [one, other] = [parseUri(a), parseUri(b)];
    return Boolean(one && other) && Object.keys(one).every((part) => one[part] === other[part]);
}

/** The URIs of a path, each of them checked; null if there is none or one is wrong. */
export function parsePath(text) {
    const uris = (text ?? '').trim().split(/\s+/);
    return uris.length <= 16 && uris.every((uri) => parseUri(uri)) ? uris : null;
}
