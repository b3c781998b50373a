// What a file is called, how long it is and what it hashes to (RFC 2183, RFC 5547), and what is chat and what a file.

const NAME_LENGTH_MAX = 120;
const NOTICES = ['application/im-iscomposing+xml', 'message/imdn+xml', 'text/x-msrp-heartbeat'];

/** The media type of a Content-Type, or the type of a Content-Disposition, without its parameters. */
export function mediaType(value = '') {
    return value.split(';', 1)[0].trim().toLowerCase();
}

/** @returns {{kind: string, name: string|null, size: number|null, sha256: string|null}} what is missing or wrong is null */
export function parseDisposition(value = '') {
    const found = { kind: mediaType(value), name: null, size: null, sha256: null };
    let extended = null;
    for (const [, name, quoted, plain] of value.matchAll(/;\s*([\w*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"]*))/g)) {
        const text = quoted === undefined ? plain.trim() : quoted.replace(/\\(.)/g, '$1');
        switch (name.toLowerCase()) {
            case 'filename*':
                extended ??= fromExtended(text);
                break;
            case 'filename':
                found.name ??= text;
                break;
            case 'size':
                if (/^\d{1,15}$/.test(text)) found.size ??= Number(text);
                break;
            case 'hash':
                found.sha256 ??= fromHash(text);
                break;
        }
    }
    found.name = extended ?? found.name;
    return found;
}

function fromExtended(text) {
    const match = /^utf-8'[^']*'(.*)$/i.exec(text);
    try {
        return match && decodeURIComponent(match[1]);
    } catch {
        return null;
    }
}

function fromHash(text) {
    const match = /^sha-256:([0-9a-f:]+)$/i.exec(text);
    const digits = match?.[1].replaceAll(':', '').toLowerCase();
    return digits?.length === 64 ? digits : null;
}

/** `attachment; filename="…"; size=…; hash=sha-256:AB:CD…` */
export function formatDisposition({ name, size, sha256 }) {
    let value = `attachment; filename="${[...name].map(quotedLetter).join('')}"; size=${size}`;
    if (sha256) value += `; hash=sha-256:${sha256.toUpperCase().match(/../g).join(':')}`;
    return value;
}

function quotedLetter(letter) {
    if (/\p{Cc}/u.test(letter)) return '_';
    return letter === '"' || letter === '\\' ? `\\${letter}` : letter;
}

/** One visible component of a path, whatever was offered. */
export function safeName(offered, fallback = 'file') {
    const base = (offered ?? '').split(/[/\\]/).at(-1);
    // Control and formatting characters could disguise what kind of file it is.
    const plain = base.replace(/[\p{C}<>:"|?*]/gu, '_').replace(/^[.\s]+|[.\s]+$/g, '');
    const letters = [...plain];
    if (letters.length <= NAME_LENGTH_MAX) return plain || fallback;
    const dot = letters.lastIndexOf('.');
    const extension = dot > 0 && letters.length - dot <= 20 ? letters.slice(dot) : [];
    return [...letters.slice(0, NAME_LENGTH_MAX - extension.length), ...extension].join('');
}

/** Whether a message is for a chat window, or a notice for its program, and not a file. */
export function isTalk(contentType, disposition) {
    const kind = mediaType(contentType);
    if (disposition.kind === 'attachment' || disposition.name !== null) return false;
    return kind.startsWith('text/') || kind === 'message/cpim' || NOTICES.includes(kind);
}

/**
 * What a message of chat says; null for notices, which people do not read. Unwraps CPIM (RFC 3862).
 * @returns {{text: string, contentType: string, from: string|null}|null}
 */
export function spoken(contentType, bytes) {
    const text = new TextDecoder('utf-8').decode(bytes);
    let [kind, from, content] = [mediaType(contentType), null, text];
    if (kind === 'message/cpim') {
        const [outer, wrapped] = splitHead(text);
        const [inner, body] = splitHead(wrapped);
        from = field(outer, 'from');
        kind = mediaType(field(inner, 'content-type') ?? 'text/plain');
        content = body;
    }
    if (NOTICES.includes(kind) || !kind.startsWith('text/') || content.trim() === '') return null;
    return { text: content, contentType: kind, from };
}

function splitHead(text) {
    const match = /\r?\n\r?\n/.exec(text);
    return match ? [text.slice(0, match.index), text.slice(match.index + match[0].length)] : [text, ''];
}

function field(head, name) {
    const line = head.split(/\r?\n/).find((line) => line.toLowerCase().startsWith(`${name}:`));
    return line?.slice(name.length + 1).trim() ?? null;
}
