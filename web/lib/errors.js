// All that can go wrong, as a closed set of codes.

export const ERROR_CODES = Object.freeze({
    usage: 'The library was called in a way that cannot work',
    connect: 'The WebSocket could not be opened; browsers do not say why',
    credentials: 'The relay does not accept user and password',
    forbidden: 'The relay refuses this user',
    auth: 'The relay did not grant a session for another reason',
    protocol: 'What came is not MSRP',
    timeout: 'Nothing came in time',
    lost: 'The connection ended',
    'no-session': 'There is no such session, or another client has it',
    unreachable: 'A relay on the way could not deliver it',
    refused: 'The other side does not want it',
    'unsupported-type': 'The other side does not accept this kind of content',
    'too-large': 'It is larger than it may be',
    aborted: 'It was aborted on this side',
    'aborted-by-peer': 'The other side aborted it',
    read: 'The file to be sent could not be read',
    storage: 'What came could not be stored',
    size: 'It does not have the announced size',
    hash: 'It does not have the announced SHA-256',
});

export class MsrpError extends Error {
    /**
     * @param {keyof typeof ERROR_CODES} code
     * @param {string} [message]
     * @param {{status?: number, comment?: string, cause?: unknown}} [more]
     */
    constructor(code, message = ERROR_CODES[code], { status = null, comment = '', cause } = {}) {
        super(message, cause === undefined ? undefined : { cause });
        this.name = 'MsrpError';
        this.code = code;
        this.status = status;
        this.comment = comment;
    }
}

const BY_STATUS = {
    403: 'refused',
    408: 'unreachable',
    413: 'refused',
    415: 'unsupported-type',
    481: 'no-session',
    506: 'no-session',
};

/** What a status other than 200 means for a message. */
export function failureOf(status, comment) {
    const code = BY_STATUS[status] ?? 'refused';
    return new MsrpError(code, `${ERROR_CODES[code]} (${status}${comment ? ` ${comment}` : ''})`, { status, comment });
}
