// MD5 (RFC 1321), for digest authentication against accounts of which nothing else is stored. It protects nothing else here.

const SHIFTS = [7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21];
const CONSTANTS = Int32Array.from({ length: 64 }, (_, i) => Math.floor(Math.abs(Math.sin(i + 1)) * 2 ** 32) | 0);

/**
 * @param {Uint8Array} data
 * @returns {Uint8Array} 16 bytes
 */
export function md5(data) {
    const padded = new Uint8Array((((data.length + 8) >>> 6) + 1) * 64);
    padded.set(data);
    padded[data.length] = 0x80;
    const words = new DataView(padded.buffer);
    words.setUint32(padded.length - 8, (data.length * 8) % 2 ** 32, true);
    words.setUint32(padded.length - 4, Math.floor((data.length * 8) / 2 ** 32), true);
    const state = Int32Array.of(0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476);
    for (let block = 0; block < padded.length; block += 64) {
        let [a, b, c, d] = state;
        for (let i = 0; i < 64; i++) {
            const round = i >> 4;
            let mixed, word;
            if (round === 0) mixed = (b & c) | (~b & d), word = i;
            else if (round === 1) mixed = (d & b) | (~d & c), word = (5 * i + 1) & 15;
            else if (round === 2) mixed = b ^ c ^ d, word = (3 * i + 5) & 15;
            else mixed = c ^ (b | ~d), word = (7 * i) & 15;
            const sum = (a + mixed + CONSTANTS[i] + words.getInt32(block + word * 4, true)) | 0;
            const shift = SHIFTS[round * 4 + (i & 3)];
            a = d, d = c, c = b, b = (b + ((sum << shift) | (sum >>> (32 - shift)))) | 0;
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    }
    const digest = new Uint8Array(16);
    const view = new DataView(digest.buffer);
    state.forEach((word, index) => view.setInt32(index * 4, word, true));
    return digest;
}
