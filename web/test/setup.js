// What node 18, which Debian 12 has, does not offer under the names of browsers.

import { File as BufferFile } from 'node:buffer';
import { webcrypto } from 'node:crypto';

globalThis.crypto ??= webcrypto;
globalThis.File ??= BufferFile;
globalThis.CustomEvent ??= class CustomEvent extends Event {
    constructor(type, { detail = null } = {}) {
        super(type);
        this.detail = detail;
    }
};
